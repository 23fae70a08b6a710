"""A package of tasks that does not import what is in it."""

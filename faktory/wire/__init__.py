"""The protocol without a connection: no socket, clock, thread or environment in here."""

"""`python -m faktory`: the tools around a server."""

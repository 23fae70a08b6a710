"""How Go reads and writes values, and so the real server."""

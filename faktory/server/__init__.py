"""The embedded server, for development and tests; production is the real Faktory server."""

from .listener import EmbeddedServer

__all__ = ["EmbeddedServer"]

"""The embedded server, for development and tests; production is the real Faktory server."""

from .embedded import EmbeddedServer

__all__ = ["EmbeddedServer"]

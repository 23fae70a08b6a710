"""Who says it: a blocking client, a pool of them, and where this process pushes to."""

from .client import Client, connection, get_client
from .pool import Pool
from .producer import Producer

__all__ = ["Client", "Pool", "Producer", "connection", "get_client"]

"""The blocking client, pools and producers of it, and this process's default pool."""

try:
    from ..wire.types import (
        BatchStatus,
        FaktoryInfo,
        FetchedJob,
        JobFailure,
        JobPayload,
        JobProgress,
        ProcessInfo,
        ServerInfo,
    )
    from .client import Client
    from .factory import connection, get_client
    from .pool import Pool
    from .producer import Producer
except ImportError as error:
    if getattr(error, "name", None) != "faktory.exceptions":
        raise
    # The package `faktory` 1.0.0 has the same import name; installed later, it replaces files.
    raise ImportError(
        "files of another package, `faktory`, have replaced some of faktory-worker's. The remedy: "
        "pip uninstall faktory, then pip install --force-reinstall --no-deps faktory-worker.",
        name="faktory",
    ) from error

__all__ = [
    "BatchStatus",
    "Client",
    "FaktoryInfo",
    "FetchedJob",
    "JobFailure",
    "JobPayload",
    "JobProgress",
    "Pool",
    "ProcessInfo",
    "Producer",
    "ServerInfo",
    "connection",
    "get_client",
]

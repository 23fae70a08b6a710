"""Who says it: a blocking client, a pool of them, and where this process pushes to."""

try:
    from .client import Client, get_client
    from .pool import Pool
    from .producer import Producer
except ImportError as error:
    if getattr(error, "name", None) != "faktory.exceptions":
        raise
    # The package `faktory` 1.0.0 has the same import name; installed later, its files replace ours.
    raise ImportError(
        "files of another package, `faktory`, have replaced some of faktory-worker's. To mend it: "
        "pip uninstall faktory, then pip install --force-reinstall --no-deps faktory-worker.",
        name="faktory",
    ) from error

__all__ = ["Client", "Pool", "Producer", "get_client"]

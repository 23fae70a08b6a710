"""Find the package `faktory` beside this one: both have the same import name, so the same files.

Only the commands look for it: every import of the package would take longer by it.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

OTHER = "faktory"
"""The other distribution; ours is `faktory-worker`."""

REMEDY = f"pip uninstall {OTHER}, then pip install --force-reinstall --no-deps faktory-worker."


def describe() -> str | None:
    """Return a description of the conflict, or None if the other package is not installed."""
    try:
        installed = version(OTHER)
    except PackageNotFoundError:
        return None
    return (
        f"the package {OTHER} {installed} is installed beside faktory-worker. Both have their "
        "files in the same folder, and the one installed last has replaced some of the other's."
    )


def find() -> str | None:
    """Return the description and the remedy, or None if the other package is not installed."""
    return f"{found} To fix it: {REMEDY}" if (found := describe()) is not None else None


def warn() -> None:
    """Print what `find` returns to standard error."""
    if (found := find()) is not None:
        print(f"faktory-worker: warning: {found}", file=sys.stderr)

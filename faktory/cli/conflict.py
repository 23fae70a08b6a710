"""The package `faktory` beside this one: both have the import name, and so the files, in common.

Only commands look for it: an import of the package would pay for it each time.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

OTHER = "faktory"
"""The distribution whose import name is ours too; ours is `faktory-worker`."""


REMEDY = f"pip uninstall {OTHER}, then pip install --force-reinstall --no-deps faktory-worker."


def fault() -> str | None:
    """Say what is wrong, if the other package is installed."""
    try:
        installed = version(OTHER)
    except PackageNotFoundError:
        return None
    return (
        f"the package {OTHER} {installed} is installed beside faktory-worker. Both keep their "
        "files in the same folder, and the one installed last has replaced some of the other's."
    )


def find() -> str | None:
    """Say what is wrong and what to do, if the other package is installed."""
    return f"{found} To mend it: {REMEDY}" if (found := fault()) is not None else None


def warn() -> None:
    """Print what `find` says on standard error."""
    if (found := find()) is not None:
        print(f"faktory-worker: warning: {found}", file=sys.stderr)

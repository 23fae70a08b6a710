"""The one program: `faktory-worker`, and `python -m faktory`, which is the same.

Rules: the first argument is a tool's name, or the worker gets them all. Only what is needed is
imported, in this module too: a worker handles signals as soon as it can, and a probe takes no time.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

AS_MODULE: Final = "python -m faktory"

_COMPLETION: Final = "--print-completion"

_ABOUT_ITSELF: Final = ("-h", "--help", "-V", "--version")


def main(argv: Sequence[str] | None = None, prog: str = "faktory-worker") -> int:
    """Run a tool or the worker; return its exit code. `prog` is what the user has typed for it."""
    given = sys.argv[1:] if argv is None else list(argv)
    first = given[0] if given else ""
    if first == "health":  # a probe
        from .tools import health

        return health.main(given[1:], prog)
    from .names import TOOLS, WORKER

    overview = prog == AS_MODULE and (not given or first in _ABOUT_ITSELF)
    if first in TOOLS or overview:
        from . import conflict
        from .tools.main import main as run_tool

        if first != "doctor":  # which reports that itself
            conflict.warn()
        return run_tool(given or ["--help"], prog)
    if _COMPLETION in (each.partition("=")[0] for each in given):
        from . import completion

        return completion.main(given, prog)
    from .worker.main import main as run_worker

    if first != WORKER:
        return run_worker(argv)
    if argv is None:  # as a command, which the worker is without arguments of the caller
        del sys.argv[1]
        return run_worker()
    return run_worker(given[1:])


if __name__ == "__main__":
    sys.exit(main())

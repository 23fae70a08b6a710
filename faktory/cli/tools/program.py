"""The user's program, for a look at it: its modules imported, and what they declare.

Rules: what they print goes to standard error, for standard output is the tool's; the traceback of
an import error is theirs, so it is shown.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

from ..exits import Exit


class CannotImport(Exception):
    """What -r names cannot be imported; `code` tells whether it is there at all."""

    def __init__(self, name: str, why: object, code: Exit) -> None:
        super().__init__(f"-r {name}: cannot be imported: {why}")
        self.code = code


def load(names: Sequence[str]) -> None:
    """Import what -r names, as faktory-worker does; CannotImport for the first that fails."""
    from .. import loading  # needs the core

    if "" not in sys.path:
        sys.path.insert(0, "")
    for name in names:
        try:
            with redirect_stdout(sys.stderr):
                loading._load(name)
        except KeyboardInterrupt:
            raise
        except loading._Unfit as unfit:
            raise CannotImport(name, unfit, unfit.code) from None
        except BaseException as error:  # SystemExit of a script, too
            if loading._is_missing(name.rstrip("."), error):
                raise CannotImport(name, error, Exit.MISSING) from None
            traceback.print_exception(type(error), error, loading._of_user(error.__traceback__))
            raise CannotImport(name, repr(error), Exit.IMPORT) from None


def declared_queues() -> dict[str, str]:
    """Return the queue that each registered job type goes to unless its push says otherwise."""
    from ...jobs import push, registry

    queues = {}
    for jobtype in registry.names():
        found: Any = registry.find(jobtype)
        # A class is registered through what runs it.
        declared = push.declared(found) or push.declared(getattr(found, "_class", None))
        if declared is not None:
            queues[jobtype] = declared._fields().get("queue", "default")
    return queues

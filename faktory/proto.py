"""Select the implementation of the protocol core; no other module depends on which one runs, but
for `client.transport`, which selects an exchange with it.

`FAKTORY_IMPL` is read once, at the first import: `cython`, `python`, or `auto` (the default: the
compiled core if it was built, else pure Python).
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ._proto import (
        MAX_BULK,
        MAX_LINE,
        NEED_DATA,
        JobTemplate,
        NeedData,
        ReplyParser,
        dump_json,
        encode_command,
        encode_push,
        encode_push_bulk,
        load_json,
        new_jid,
    )
    from ._proto import (
        complete_job as complete_job,
    )

__all__ = [
    "MAX_BULK",
    "MAX_LINE",
    "NEED_DATA",
    "JobTemplate",
    "NeedData",
    "ReplyParser",
    "dump_json",
    "encode_command",
    "encode_push",
    "encode_push_bulk",
    "implementation",
    "implementation_info",
    "load_json",
    "new_jid",
]


def _choose() -> tuple[str, str, str]:
    """Return the implementation's name, its module, and the reason for it."""
    wanted = os.environ.get("FAKTORY_IMPL", "") or "auto"
    if wanted == "python":
        return "python", "faktory._proto_py", "FAKTORY_IMPL=python asks for it"
    if wanted not in ("auto", "cython"):
        raise ImportError(f"FAKTORY_IMPL is {wanted!r}. Set it to auto, cython or python.")
    try:
        core = importlib.import_module("faktory._proto")
        if not hasattr(core, "encode_push"):  # a file of the package faktory 1.0.0
            raise ImportError("faktory/_proto.py belongs to another package, `faktory`")
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == "faktory._proto"
        why = "it was not built" if absent else f"it does not load: {error}"
        if wanted == "cython":
            raise ImportError(
                f"FAKTORY_IMPL=cython asks for the compiled core, but {why}. "
                "Install a wheel for this platform, or build with a C compiler and "
                "FAKTORY_REQUIRE_EXTENSIONS=1 to see what fails.",
                name="faktory._proto",
            ) from error
        return "python", "faktory._proto_py", f"no compiled core: {why}"
    asked = wanted == "cython"
    reason = "FAKTORY_IMPL=cython asks for it" if asked else "the compiled core is available"
    return "cython", "faktory._proto", reason


_name, _module, _reason = _choose()

implementation: Final = _name
"""`"cython"` or `"python"`."""


def implementation_info() -> dict[str, str]:
    """Return a dict with `implementation`, the `reason` for it, and its `module`."""
    return {"implementation": _name, "reason": _reason, "module": _module}


if not TYPE_CHECKING:
    _core = importlib.import_module(_module)
    for _name_of_core in {*__all__, "complete_job"} - {"implementation", "implementation_info"}:
        globals()[_name_of_core] = getattr(_core, _name_of_core)

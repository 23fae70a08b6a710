"""What -r names: a module, a file, or with a dot at the end every jobs.py and tasks.py below.

Rules: a name that is not there is told apart from a module that is there and fails; of the
second the traceback is shown, from the user's first line on.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Final

from .exits import Exit
from .worker.logs import complain

DISCOVERED: Final = ("jobs", "tasks")
"""The modules that `-r package.` looks for."""


class _Unfit(Exception):
    """-r names what is not there, or what cannot have the module name it would have."""

    def __init__(self, code: Exit, fault: str) -> None:
        super().__init__(fault)
        self.code = code


def load(names: Sequence[str]) -> Exit | None:
    """Import the modules of -r; return the exit code if that did not go well, having told why."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    for name in names:
        try:
            _load(name)
        except KeyboardInterrupt:
            raise
        except _Unfit as unfit:
            complain(f"-r {name}: cannot be imported: {unfit}")
            return unfit.code
        except BaseException as error:
            if _is_missing(name.rstrip("."), error):
                complain(f"-r {name}: cannot be imported: {error}")
                return Exit.MISSING
            error.__traceback__ = _of_user(error.__traceback__)
            complain(f"-r {name}: cannot be imported: {error!r}", error)
            return Exit.IMPORT
    return None


def _load(name: str) -> None:
    if name.endswith(".py"):
        _import_file(Path(name))
    elif name.endswith("."):
        package = importlib.import_module(name.rstrip("."))
        found = list(_below(package))
        if not found:
            raise _Unfit(Exit.MISSING, f"there is no {' and no '.join(DISCOVERED)} below it")
        for module in found:
            importlib.import_module(module)
    elif name.strip():
        importlib.import_module(name)
    else:
        raise _Unfit(Exit.MISSING, "that is no name")


def _below(package: ModuleType) -> Iterator[str]:
    """The modules to discover below a package, by name, without an import of any other.

    Folders without __init__.py are packages, too.
    """
    found = set()
    for root in map(Path, getattr(package, "__path__", ())):
        for path in root.rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            if parts[-1] == "__init__":
                parts = parts[:-1]
            if parts and parts[-1] in DISCOVERED and all(map(str.isidentifier, parts)):
                found.add(".".join((package.__name__, *parts)))
    yield from sorted(found)


def _is_missing(name: str, error: BaseException) -> bool:
    """Tell whether what -r names is not there, rather than something that it needs."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{name}.".startswith(f"{error.name}.")
    return False


def _of_user(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without its beginning, which is ours and Python's."""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file not in (__file__, importlib.__file__) and not file.startswith("<frozen importlib"):
            break
        trace = trace.tb_next
    return trace


def _import_file(path: Path) -> None:
    name = path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise _Unfit(Exit.MISSING, f"there is no file {path}")
    taken = sys.modules.get(name)
    if taken is not None or name in sys.stdlib_module_names:
        origin = getattr(taken, "__file__", None)
        if origin is not None and path.resolve() == Path(origin).resolve():
            return
        raise _Unfit(
            Exit.IMPORT,
            f"the module name {name} is taken, by {origin or 'a module of Python'}. "
            "Rename the file, or name it as part of a package: -r package.module",
        )
    sys.path.insert(0, str(path.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)

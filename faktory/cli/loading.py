"""Import what -r names: a module, a file, or with a dot at the end all jobs.py and tasks.py below.

Rules: a name that does not exist and a module that raises an error have different exit codes. The
error of a module keeps its traceback, from the first line of the user's code on.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Final

from .exits import Exit, ExitError

DISCOVERED: Final = ("jobs", "tasks")
"""The modules that `-r package.` looks for."""


class CannotImport(ExitError):
    """What -r names cannot be imported; `__cause__` is the error of the user's module, or None."""

    def __init__(self, name: str, code: Exit, reason: object) -> None:
        super().__init__(code, f"-r {name}: cannot be imported: {reason}")


def load(names: Iterable[str]) -> None:
    """Import what -r names, in this order; raise CannotImport for the first that fails."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    for name in names:
        try:
            _import(name)
        except (KeyboardInterrupt, CannotImport):
            raise
        except BaseException as error:  # SystemExit of a script, too
            if _is_missing(name.rstrip("."), error):
                raise CannotImport(name, Exit.MISSING, error) from None
            error.__traceback__ = _from_user_code(error.__traceback__)
            raise CannotImport(name, Exit.IMPORT, repr(error)) from error


def _import(name: str) -> None:
    if name.endswith(".py"):
        _import_file(name)
    elif name.endswith("."):
        package = importlib.import_module(name.rstrip("."))
        found = _discover(package)
        if not found:
            none_of = " and no ".join(DISCOVERED)
            raise CannotImport(name, Exit.MISSING, f"there is no {none_of} below it")
        for module in found:
            importlib.import_module(module)
    elif name.strip():
        importlib.import_module(name)
    else:
        raise CannotImport(name, Exit.MISSING, "the name is empty")


def _discover(package: ModuleType) -> list[str]:
    """Return the names of the modules to import below a package, without importing any other.

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
    return sorted(found)


def _is_missing(name: str, error: BaseException) -> bool:
    """Return whether the module of that name does not exist, rather than one that it imports."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{name}.".startswith(f"{error.name}.")
    return False


def _from_user_code(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback without its beginning in this file and in Python's import system."""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file not in (__file__, importlib.__file__) and not file.startswith("<frozen importlib"):
            break
        trace = trace.tb_next
    return trace


def _import_file(name: str) -> None:
    path = Path(name)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise CannotImport(name, Exit.MISSING, f"there is no file {path}")
    existing = sys.modules.get(path.stem)
    if existing is not None or path.stem in sys.stdlib_module_names:
        origin = getattr(existing, "__file__", None)
        if origin is not None and path.resolve() == Path(origin).resolve():
            return
        raise CannotImport(
            name,
            Exit.IMPORT,
            f"the module name {path.stem} is taken, by {origin or 'a module of Python'}. "
            "Rename the file, or name it as part of a package: -r package.module",
        )
    sys.path.insert(0, str(path.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)

"""Import what -r names: a module, a file, or with a dot at the end all jobs.py and tasks.py below.

Rules: a name that does not exist and a module that raises an error have different exit codes. The
error of a module keeps its traceback, from the first line of the user's code on.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Final

from .exits import Exit, ExitError

DISCOVERED: Final = ("jobs", "tasks")
"""The modules that `-r package.` looks for."""


class CannotImport(ExitError):
    """What -r names cannot be imported; `__cause__` is the error of the user's module, or None."""

    def __init__(self, name: str, code: Exit, reason: object) -> None:
        shown = name if name.isprintable() else repr(name)
        super().__init__(code, f"-r {shown}: cannot be imported: {reason}")


def load(names: Iterable[str]) -> None:
    """Import what -r names, in this order; raise CannotImport for the first that fails."""
    with suppress(FileNotFoundError):  # the working folder was deleted
        folder = os.getcwd()  # not "", which would be another folder when a job calls chdir
        if folder not in sys.path:
            sys.path.insert(0, folder)
    for name in names:
        try:
            _import(name)
        except (KeyboardInterrupt, CannotImport):
            raise
        except BaseException as error:  # SystemExit of a script, too
            if _is_missing(name.rstrip("."), error):
                raise CannotImport(name, Exit.MISSING, error) from None
            error.__traceback__ = _from_user_code(error.__traceback__)
            hint = _package_hint(name, error)
            raise CannotImport(name, Exit.IMPORT, f"{error!r}{hint}") from error


def _import(name: str) -> None:
    if name.endswith(".py") and name.strip(".") != "py":
        _import_file(name)
        return
    if not name.strip():
        raise CannotImport(name, Exit.MISSING, "the name is empty")
    module_name = name.removesuffix(".")
    if "" in module_name.split(".") or not module_name.isprintable() or _is_path(name):
        raise CannotImport(name, Exit.MISSING, f"that is not a module's name. {_spelling(name)}")
    module = importlib.import_module(module_name)
    if name.endswith("."):
        found = _discover(module)
        if not found:
            none_of = " and no ".join(DISCOVERED)
            raise CannotImport(name, Exit.MISSING, f"there is no {none_of} below it")
        for each in found:
            importlib.import_module(each)


def _is_path(name: str) -> bool:
    return os.sep in name or (os.altsep is not None and os.altsep in name)


def _spelling(name: str) -> str:
    """Say how to name the module that a path, or a name with too many dots, probably means."""
    relative = os.path.relpath(name) if _is_path(name) else name
    parts = [part for part in relative.replace(os.sep, ".").split(".") if part]
    if not parts or not all(map(str.isidentifier, parts)):
        return "Name a module, -r app.jobs, all of a package, -r app., or a file, -r jobs.py"
    meant = ".".join(parts)
    return f"Is it -r {meant}, or -r {meant}. for all {' and '.join(DISCOVERED)} below it?"


def _package_hint(name: str, error: BaseException) -> str:
    """Return the remedy for a file that was loaded alone though it is part of a package."""
    if not (name.endswith(".py") and isinstance(error, ImportError) and "relative" in str(error)):
        return ""
    parts = Path(os.path.relpath(name)).with_suffix("").parts
    module = ".".join(parts) if all(map(str.isidentifier, parts)) else f"package.{parts[-1]}"
    return f". A file is loaded without its package. Name it as part of that: -r {module}"


def _discover(package: ModuleType) -> list[str]:
    """Return the names of the modules to import below a package, without importing any other.

    Folders without __init__.py are packages, too.
    """
    found = set()
    for root in map(Path, getattr(package, "__path__", ())):
        names = _in_folder(root) if root.is_dir() else _in_archive(str(root), ())
        for parts in names:
            if parts and parts[-1] in DISCOVERED and all(map(str.isidentifier, parts)):
                found.add(".".join((package.__name__, *parts)))
    return sorted(found)


def _in_folder(root: Path) -> Iterator[tuple[str, ...]]:
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        yield parts[:-1] if parts[-1] == "__init__" else parts


def _in_archive(root: str, above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the modules of a zip: a zipapp, or whatever else Python imports from."""
    for module in pkgutil.iter_modules([root]):
        yield (*above, module.name)
        if module.ispkg:
            yield from _in_archive(os.path.join(root, module.name), (*above, module.name))


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
    path = Path(name).absolute()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise CannotImport(name, Exit.MISSING, f"there is no file {name}")
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

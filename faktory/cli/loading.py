"""Import what -r names: a module or a package, a file, a folder.

Rules: a package brings along each module below it that is called jobs or tasks, without those in
folders of tests. A folder that only has packages in it (src) is meant as a path. What a path names
is imported under the name by which the program itself would import it: from the folder above its
packages. A name that does not exist and a module that raises an error have different exit codes.
The error of a module keeps its traceback, from the first line of the user's code on.
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
from typing import Any, Final

from ..wire.failure import name_of, text_of, traceback_of
from ..wire.log import MAX_ARGUMENT, cut
from . import hints
from .exits import Exit, ExitError, UsageError
from .hints import DISCOVERED, INIT, SKIPPED, shown

_NONE: Final = "there is no " + " and no ".join(f"{name}.py" for name in DISCOVERED)


class CannotImport(ExitError):
    """What -r names cannot be imported; `__cause__` is the error of the user's module, or None."""

    def __init__(self, name: str, code: Exit, reason: object) -> None:
        super().__init__(code, f"-r {shown(name)}: cannot be imported: {reason}")


def load(names: Iterable[str]) -> dict[str, list[ModuleType]]:
    """Import what -r names, in this order; raise CannotImport for the first that fails.

    Returns the modules of each name, a package before what is below it.
    """
    with suppress(FileNotFoundError):  # the working folder was deleted
        _search_in(os.getcwd())  # not "", which would be another folder when a job calls chdir
    loaded = {}
    for name in names:
        try:
            loaded[name] = _import(name)
        except (KeyboardInterrupt, CannotImport):
            raise
        except BaseException as error:  # SystemExit of a script, too
            if (missing := _missing(name.rstrip("."), error)) is not None:
                about = f"{error}{hints.near(name)}{hints.searched(missing)}"
                raise CannotImport(name, Exit.MISSING, about) from None
            error.__traceback__ = _from_user_code(error)
            about = f"{_described(error)}{_package_hint(name, error)}"
            raise CannotImport(name, Exit.IMPORT, about) from error
    return loaded


def find_loop_factory(name: str | None) -> Any:
    """Return the function that --loop-factory names, None without a name."""
    if name is None:
        return None
    module, _, attribute = name.partition(":")
    where = f"--loop-factory {name}"
    if not (module and attribute):
        raise UsageError(f"{where} is not MODULE:NAME, such as uvloop:new_event_loop")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError) as error:
        raise UsageError(f"{where} cannot be had: {error}") from None
    if not callable(factory):
        raise UsageError(f"{where} is {factory!r}: it must be a function that makes an event loop")
    return factory


def place(name: str) -> Path | None:
    """Return the folder of what a path of -r names, with its package; None for a module's name."""
    if _is_file(name):
        folder = Path(name).resolve().parent
    elif _is_folder(name):
        folder = Path(name).resolve()
    else:
        return None
    top, packages = _split(folder)
    return top / packages[0] if packages else folder


def _import(name: str) -> list[ModuleType]:
    if not name.strip():
        raise CannotImport(name, Exit.MISSING, "the name is empty")
    if _is_file(name):
        return [_import_file(name)]
    if _is_folder(name):
        return _import_folder(name)
    module_name = name.removesuffix(".")
    if "" in module_name.split(".") or not module_name.isprintable() or _is_path(name):
        what = (
            "there is no such file or folder" if _is_path(name) else "that is not a module's name"
        )
        raise CannotImport(name, Exit.MISSING, f"{what}{_spelling(name)}")
    module = importlib.import_module(module_name)
    found = _import_package(module)
    is_namespace = getattr(module, "__file__", None) is None and hasattr(module, "__path__")
    if (name.endswith(".") or is_namespace) and not found:
        below = f"below {', '.join(map(shown, module.__path__))}" if is_namespace else "below it"
        raise CannotImport(name, Exit.MISSING, f"{_NONE} {below}")
    return [module, *found]


def _is_file(name: str) -> bool:
    return name.endswith(".py") and name.strip(".") != "py"


def _is_folder(name: str) -> bool:
    """Return whether a name is that of a folder, and cannot be that of a module, or is not meant.

    A bare name is a module's; but a folder like src, which has packages in it and neither modules
    nor an __init__.py, is not a package of the program, though Python would import it as one.
    """
    try:
        if not os.path.isdir(name):
            return False
        if _is_path(name) or not name.replace(".", "_").isidentifier():
            return True
        return (
            name not in sys.modules
            and any(Path(name).glob(f"*/{INIT}"))
            and not any(Path(name).glob("*.py"))
        )
    except ValueError:  # a zero in it
        return False


def _is_path(name: str) -> bool:
    separators = (os.sep, os.altsep or os.sep)
    return not name.strip(".") or any(separator in name for separator in separators)


def _spelling(name: str) -> str:
    """Say how to name the module that a path, or a name with too many dots, probably means."""
    relative = os.path.relpath(name) if _is_path(name) and name.strip(".") else name
    parts = [part for part in relative.replace(os.sep, ".").split(".") if part]
    if not parts or not all(map(str.isidentifier, parts)):
        return ". Name a module or package, -r app, a file, -r app/jobs.py, or a folder, -r ./app"
    path = Path(*parts)
    if path.is_dir() or path.with_suffix(".py").is_file():
        return f". Is it -r {'.'.join(parts)}?"
    return f" in {os.getcwd()}{hints.near(name)}" if _is_path(name) else ""


def _package_hint(name: str, error: BaseException) -> str:
    """Return the remedy for a file that was loaded alone, and is meant as part of a package."""
    if not (isinstance(error, ImportError) and "relative import" in str(error)):
        return ""
    if _is_file(name):
        path = Path(os.path.relpath(name)).with_suffix("")
    elif _is_folder(name):
        path = Path(os.path.relpath(name))
    else:
        return ""
    named = all(map(str.isidentifier, path.parts))
    module = ".".join(path.parts) if named else f"package.{path.name}"
    if path.is_dir():
        module += "."
    return (
        f". A file is loaded without its package where that has no {INIT}. Name it as part of "
        f"that: -r {module}"
    )


def _import_package(package: ModuleType) -> list[ModuleType]:
    """Import the jobs and tasks below a package, if it is one; return them."""
    found = _discover(package.__name__, getattr(package, "__path__", ()))
    return [importlib.import_module(each) for each in found]


def _discover(package: str, roots: Iterable[str]) -> list[str]:
    """Return the names of the modules to import below a package, without importing any other.

    Folders without __init__.py are packages, too.
    """
    found = set()
    for root in map(Path, roots):
        names = _in_folder(root) if root.is_dir() else _in_archive(str(root), ())
        for parts in names:
            if (
                parts
                and parts[-1] in DISCOVERED
                and all(map(str.isidentifier, parts))
                and not set(parts) & set(SKIPPED)
            ):
                found.add(".".join((package, *parts)))
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


def _missing(name: str, error: BaseException) -> str | None:
    """Return the module that does not exist if it is of that name, not one that it imports."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return error.name if f"{name}.".startswith(f"{error.name}.") else None
    return None


def _described(error: BaseException) -> str:
    """Return an error's class and its text, of which the lines after the first are indented."""
    text = cut(text_of(error), MAX_ARGUMENT).replace("\n", "\n    ")
    return f"{name_of(error)}: {text}" if text else name_of(error)


def _from_user_code(error: BaseException) -> TracebackType | None:
    """Return a traceback from the user's first line on, without Python's import system."""
    trace = traceback_of(error)
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file not in (__file__, importlib.__file__) and not file.startswith("<frozen importlib"):
            break
        trace = trace.tb_next
    return trace


# Files and folders


def _import_file(name: str) -> ModuleType:
    """Import a file: as part of the packages that it is in, else alone."""
    path = Path(name).absolute()
    if not path.is_file():
        where = "" if os.path.isabs(name) else f" in {os.getcwd()}"
        about = f"there is no file {name}{where}{hints.near(name)}"
        raise CannotImport(name, Exit.MISSING, about)
    top, packages = _split(path.parent)
    if packages:
        stem = () if path.name == INIT else (path.stem,)
        return _import_part(name, top, (*packages, *stem), path)
    return _import_alone(name, path)


def _import_folder(name: str) -> list[ModuleType]:
    """Import a package, or the jobs and tasks in a folder and in the packages in it."""
    folder = Path(name).absolute()
    top, packages = _split(folder)
    if packages:
        package = _import_part(name, top, packages, folder / INIT)
        return [package, *_import_package(package)]
    files = [folder / f"{each}.py" for each in DISCOVERED if (folder / f"{each}.py").is_file()]
    below = []
    for each in sorted(folder.iterdir()):
        is_package = each.name.isidentifier() and (each / INIT).is_file()
        if is_package and each.name not in SKIPPED:
            if each.name in DISCOVERED:
                below.append(each.name)
            below += _discover(each.name, [str(each)])
    if not (files or below):
        others = [
            path.parent for each in DISCOVERED for path in sorted(folder.glob(f"*/{each}.py"))
        ]
        if folder.name in DISCOVERED:  # as a file, or as a package, it would be imported
            others += sorted(folder.glob("*.py"))
        hint = f". Is it -r {os.path.relpath(others[0])}?" if others else ""
        what = f"in {shown(folder)}, nor in a package (a folder with {INIT}) in it{hint}"
        raise CannotImport(name, Exit.MISSING, f"{_NONE} {what}")
    loaded = [_import_alone(name, file) for file in files]
    for module in below:
        parts = module.split(".")
        path = folder.joinpath(*parts)
        is_folder = (path / INIT).is_file()
        file = path / INIT if is_folder else path.with_suffix(".py")
        loaded.append(_import_part(name, folder, parts, file))
    return loaded


def _split(folder: Path) -> tuple[Path, list[str]]:
    """Return the folder that a program would be started in, and the packages from there on."""
    packages: list[str] = []
    folder = Path(os.path.abspath(folder))  # without "..", and with its links
    while (folder / INIT).is_file() and folder.name.isidentifier():
        packages.insert(0, folder.name)
        folder = folder.parent
    return folder, packages


def _import_part(name: str, top: Path, parts: Iterable[str], path: Path) -> ModuleType:
    """Import a module by its name below a folder; raise if that is another one."""
    _search_in(str(top))
    module_name = ".".join(parts)
    module = importlib.import_module(module_name)
    origin = getattr(module, "__file__", None)
    if origin is None or Path(origin).resolve() != path.resolve():
        raise _taken(name, module_name, origin)
    return module


def _import_alone(name: str, path: Path) -> ModuleType:
    existing = sys.modules.get(path.stem)
    if existing is not None or path.stem in sys.stdlib_module_names:
        origin = getattr(existing, "__file__", None)
        is_loaded = origin is not None and path.resolve() == Path(origin).resolve()
        if existing is not None and is_loaded:
            return existing
        raise _taken(name, path.stem, origin)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    sys.path.insert(0, str(path.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _taken(name: str, module_name: str, origin: str | None) -> CannotImport:
    return CannotImport(
        name,
        Exit.IMPORT,
        f"the module name {module_name} is taken, by {origin or 'a module of Python'}. "
        "Rename the file, or name it as part of a package: -r package.module",
    )


def _search_in(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)

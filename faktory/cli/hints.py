"""What is said where -r finds nothing, or no job: the searched folders, what is near or loaded.

Rules: nothing is imported for it. The search for near files is bounded, and nothing here raises.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Final

DISCOVERED: Final = ("jobs", "tasks")
"""The modules that are looked for below packages and in folders."""

SKIPPED: Final = ("test", "tests")
"""Folders in which they are not."""

INIT: Final = "__init__.py"

NO_JOBS: Final = "no job type is registered, so every job would fail"

_DEPTH: Final = 3
"""Folders below the working folder in which something near is looked for."""

_ENTRIES: Final = 5000
"""Files and folders that are looked at, at most."""

_LISTED: Final = 5
"""Names of a list that are shown."""


def shown(folder: str | Path) -> str:
    """Return a folder's or file's name as it is shown in a line."""
    text = str(folder)
    return text if text.isprintable() else repr(text)


def searched(missing: str) -> str:
    """Say in which folders a module was looked for: those of its package, else of Python's path.

    Without those of the standard library, and of the program that runs.
    """
    from sysconfig import get_path  # takes long

    package = sys.modules.get(missing.rpartition(".")[0])
    places = list(getattr(package, "__path__", ())) if package is not None else sys.path
    own = {get_path("stdlib"), get_path("platstdlib"), os.path.dirname(sys.argv[0])}
    inside = tuple(os.path.join(folder, "lib-dynload") for folder in own if folder)
    named = [
        each
        for each in dict.fromkeys(map(str, places))
        if each and each not in own and each not in inside and os.path.isdir(each)
    ]
    return f". Searched: {_listed(map(shown, named))}" if named else ""


def near(name: str) -> str:
    """Say which files or packages may be meant by a name or a path that does not exist.

    The first that has the same name, else a similar one, else one in which jobs are by convention.
    """
    path = name.removesuffix(".py").rstrip(f".{os.sep}")
    stem = path.replace(os.sep, ".").rpartition(".")[2]
    best: tuple[int, int, str] | None = None
    try:
        for depth, found in _modules(Path.cwd()):
            of_found = found.stem
            if of_found == stem:
                rank = 0
            elif stem and get_close_matches(stem, [of_found], 1, 0.75):
                rank = 1
            elif of_found in DISCOVERED and depth < 2:
                rank = 2
            else:
                continue
            shown_path = os.path.relpath(found)
            if shown_path.isprintable():
                best = min(best or (9, 0, ""), (rank, depth, shown_path))
    except (OSError, ValueError):  # the working folder was deleted
        return ""
    if best is None:
        return ""
    _, depth, what = best
    there = f"{what} is here" if depth == 0 else f"there is {what}"
    return f". {there}: -r {what if ' ' not in what else repr(what)}"


def _modules(folder: Path) -> Iterator[tuple[int, Path]]:
    """Yield files and packages below a folder, and beside it, each with its depth."""
    looked = 0
    folders = [(0, folder)]
    while folders:
        depth, folder = folders.pop(0)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            looked += 1
            if looked > _ENTRIES:
                return
            path = Path(entry.path)
            if entry.name.endswith(".py") and entry.name != INIT:
                yield depth, path
            elif entry.name.isidentifier() and entry.name not in SKIPPED and entry.is_dir():
                if (path / INIT).is_file():
                    yield depth, path
                if depth < _DEPTH and not (path / "pyvenv.cfg").exists():
                    folders.append((depth + 1, path))


def no_jobs(loaded: Mapping[str, Sequence[ModuleType]]) -> tuple[str, str]:
    """Return what is wrong where `loaded`, what -r names, declares no job; and the remedy."""
    if not loaded:
        return NO_JOBS, "Name the module that defines jobs: -r app.jobs"
    what = "; ".join(f"-r {shown(name)} is {_described(each)}" for name, each in loaded.items())
    modules = {module.__name__ for each in loaded.values() for module in each}
    hint = _classes({name.partition(".")[0] for name in modules})
    return f"{NO_JOBS}: {what}, without a job", hint or _remedy(loaded)


def _described(modules: Sequence[ModuleType]) -> str:
    if not modules:
        return "nothing"
    first, *others = modules
    kind = "package" if hasattr(first, "__path__") else "module"
    place = getattr(first, "__file__", None)
    text = f"the {kind} {first.__name__}{f' ({shown(place)})' if place else ''}"
    names = [module.__name__ for module in others]
    if kind == "module":
        return f"{text}, and {_listed(names)}" if names else text
    if names:
        return f"{text} with {_listed(names)}"
    return f"{text} with no module called {' or '.join(DISCOVERED)} below it"


def _remedy(loaded: Mapping[str, Sequence[ModuleType]]) -> str:
    """Name a module of a package that was imported alone, or how jobs are declared."""
    for modules in loaded.values():
        if len(modules) == 1:
            package = modules[0]
            found = [
                ".".join((package.__name__, path.stem))
                for root in getattr(package, "__path__", ())
                for path in sorted(Path(root).glob("[!_]*.py"))
                if path.stem.isidentifier()
            ]
            if found:
                return f"Name the module that defines jobs, of {_listed(found)}: -r {found[0]}"
    return "Put @faktory.job above a function, or name another module: -r app.jobs"


def _classes(packages: Iterable[str]) -> str:
    """Name the classes below `faktory.Job` in these packages that have no `perform`."""
    from ..jobs import definition, validation

    found = []
    for cls in definition.without_perform():
        if cls.__module__.partition(".")[0] in packages:
            meant = validation.meant_perform(cls)
            found.append(f"the class {cls.__module__}.{cls.__qualname__} has no perform.{meant}")
    return " ".join(f"{text[0].upper()}{text[1:]}" for text in found[:_LISTED])


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    more = len(found) - _LISTED
    return ", ".join(found[:_LISTED]) + (f" and {more} more" if more > 0 else "")

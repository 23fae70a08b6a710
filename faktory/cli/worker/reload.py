"""`--reload`: who watches the files, and says that the program has changed.

Rules: a process of its own does it, for watchfiles has threads and the parent must have none.
Nothing is said of a program with a syntax error: what runs goes on until the next save.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NoReturn

log = logging.getLogger("faktory.reload")

LOOK_EVERY: Final = 1000
"""Milliseconds between two looks whether the parent is still there."""


def available() -> bool:
    """Tell whether the extra is installed."""
    try:
        return importlib.util.find_spec("watchfiles") is not None
    except ValueError:  # somebody has put None in its place
        return False


@contextmanager
def watched(required: Sequence[str]) -> Iterator[int]:
    """Yield a descriptor that can be read after each change, for a `with` block.

    Watched are the Python files below the current folder, and beside the files of -r.
    """
    parent = os.getpid()
    changes, teller = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(changes)
        _watch(_folders(required), teller, parent)
    os.close(teller)
    try:
        yield changes
    finally:
        if os.getpid() == parent:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)


def _folders(required: Sequence[str]) -> list[Path]:
    here = Path.cwd()
    beside = {Path(name).resolve().parent for name in required if name.endswith(".py")}
    return [here, *sorted(path for path in beside if not path.is_relative_to(here))]


def _watch(folders: Sequence[Path], teller: int, parent: int) -> NoReturn:
    """Write a byte to `teller` for each change, until the parent is gone; end the process."""
    try:
        for number in (signal.SIGINT, signal.SIGTSTP, signal.SIGTTIN):
            signal.signal(number, lambda *_: None)
        logging.getLogger("watchfiles").setLevel(logging.WARNING)
        from watchfiles import PythonFilter, watch

        unfit: set[Path] = set()
        for changes in watch(
            *folders,
            watch_filter=PythonFilter(),
            rust_timeout=LOOK_EVERY,
            yield_on_timeout=True,
        ):
            if os.getppid() != parent:
                break
            if changes:
                unfit = _unfit({Path(path) for _, path in changes} | unfit)
                if not unfit:
                    log.info("changed: %s", _named(path for _, path in changes))
                    os.write(teller, b"c")
    except BaseException as error:
        log.error("the files cannot be watched: %r", error)
    finally:
        os._exit(1)


def _unfit(files: Iterable[Path]) -> set[Path]:
    """Return those that are no Python, having told why."""
    found = set()
    for file in files:
        try:
            compile(file.read_bytes(), str(file), "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None)
            where = f"{_named([str(file)])}{f', line {line}' if line else ''}"
            what = getattr(error, "msg", error)
            log.error("%s: %s; what runs goes on until the next save", where, what)
            found.add(file)
        except OSError:  # it is gone
            continue
    return found


def _named(paths: Iterable[str]) -> str:
    return ", ".join(sorted(os.path.relpath(path) for path in paths))

"""`--reload`: watch the program's files and signal each change.

Rules: a process of its own watches, since watchfiles starts threads and the supervisor, which
forks, must have none. A file with a syntax error does not restart the workers: they go on with
the old code until the next save.
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

from ...wire.log import Log
from .. import loading

log = Log(logging.getLogger("faktory.reload"))

PARENT_CHECK_INTERVAL: Final = 1000
"""Milliseconds between two checks whether the parent process is still alive."""


def available() -> bool:
    """Return whether watchfiles is installed."""
    try:
        return importlib.util.find_spec("watchfiles") is not None
    except ValueError:  # sys.modules has None in its place
        return False


@contextmanager
def watched(required: Sequence[str]) -> Iterator[int]:
    """Yield a file descriptor that becomes readable after each change, for a `with` block.

    Watches the Python files below the current folder, and below what paths of -r name.
    """
    parent = os.getpid()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _watch(_folders(required), writer, parent)
    os.close(writer)
    try:
        yield reader
    finally:
        if os.getpid() == parent:
            with suppress(ChildProcessError):  # it has ended, and the supervisor has seen that
                if not os.waitpid(pid, os.WNOHANG)[0]:
                    os.kill(pid, signal.SIGKILL)  # it has nothing to lose
                    os.waitpid(pid, 0)


def _folders(required: Sequence[str]) -> list[Path]:
    here = Path.cwd()
    places = {place for name in required if (place := loading.place(name)) is not None}
    return [here, *sorted(path for path in places if not path.is_relative_to(here))]


def _watch(folders: Sequence[Path], writer: int, parent: int) -> NoReturn:
    """Write a byte to `writer` for each change until the parent is gone, then end the process."""
    try:
        for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGTSTP", "SIGTTIN"):
            signal.signal(getattr(signal, name), lambda *_: None)
        logging.getLogger("watchfiles").setLevel(logging.WARNING)
        from watchfiles import PythonFilter, watch

        broken: set[Path] = set()
        for changes in watch(
            *folders,
            watch_filter=PythonFilter(),
            rust_timeout=PARENT_CHECK_INTERVAL,
            yield_on_timeout=True,
        ):
            if os.getppid() != parent:
                break
            if changes:
                broken = _find_broken({Path(path) for _, path in changes} | broken)
                if not broken:
                    log.info("changed: %s", _relative(path for _, path in changes))
                    os.write(writer, b"c")
    except BaseException as error:
        log.error("the files cannot be watched: %s", repr(error))
    finally:
        os._exit(1)


def _find_broken(files: Iterable[Path]) -> set[Path]:
    """Return the files that do not compile, and log why."""
    broken = set()
    for file in files:
        try:
            compile(file.read_bytes(), str(file), "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None)
            where = f"{_relative([str(file)])}{f', line {line}' if line else ''}"
            what = getattr(error, "msg", error)
            log.error("%s: %s; the old code goes on running until the next save", where, what)
            broken.add(file)
        except OSError:  # it was deleted
            continue
    return broken


def _relative(paths: Iterable[str]) -> str:
    return ", ".join(sorted(os.path.relpath(path) for path in paths))

"""The standard streams of a command: those that are missing, and what is left in them at the end.

Rules: the descriptors 0, 1 and 2 are never another file: where one is missing, /dev/null is. What
cannot be written at the end changes no exit code.
"""

from __future__ import annotations

import os
import sys
from threading import Thread
from typing import Any, Final

FLUSH_TIMEOUT: Final = 1.0
"""Seconds that what is buffered has to be written at the end."""


def open_missing() -> None:
    """Put /dev/null where standard input, output or error was closed when the process began."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def flush(*streams: Any, timeout: float | None = FLUSH_TIMEOUT) -> bool:
    """Write what streams have buffered; return False if a reader does not take it in time.

    What cannot be written at all is given up: Python would end with an exit code of its own.
    """
    if timeout is None:
        _flush(streams)
        return True
    flushing = Thread(target=_flush, args=(streams,), daemon=True)
    try:
        flushing.start()
    except RuntimeError:  # the system has no more threads
        return False
    flushing.join(timeout)
    return not flushing.is_alive()


def _flush(streams: tuple[Any, ...]) -> None:
    for stream in streams:
        try:
            stream.flush()
        except Exception:
            discard(stream)


def discard(stream: Any) -> None:
    """Have what a stream has buffered, and all that comes, go to /dev/null."""
    try:
        descriptor = stream.fileno()
        opened = os.open(os.devnull, os.O_WRONLY)
        os.dup2(opened, descriptor)
        os.close(opened)
    except Exception:
        pass

"""The standard streams of a command: those that are missing, and what is left in them at the end.

Rules: the descriptors 0, 1 and 2 are never another file: where one is missing, /dev/null is. What
cannot be written at the end changes no exit code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
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


def show_all_characters() -> None:
    """Have what the encoding of standard output or error lacks escaped: it would be an error."""
    stream: Any
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", "") in ("strict", "surrogateescape"):
            with suppress(AttributeError, ValueError, OSError):
                stream.reconfigure(errors="backslashreplace")


class Output:
    """A stream whose first error is kept and not raised: what a command does is done all the same.

    What is written after that is thrown away.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: Any) -> int:
        """Write, if that works."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, if that works."""
        self._try(self._stream.flush)

    @property
    def buffer(self) -> Output:
        """The stream's buffer, for bytes."""
        inner = Output(self._stream.buffer)
        inner._fail = self._fail  # type: ignore[method-assign]
        return inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, function: Callable[[], object]) -> None:
        try:
            if self.error is None:
                function()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.error = error
        discard(self._stream)


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

"""Turns among the processes that write one log: long lines would mix in a pipe.

Rules: a process that ends, however it does, or keeps its turn, silences no other for more than a
second; a descriptor that a job has closed, and that is another file now, is left alone.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from tempfile import TemporaryFile
from time import monotonic, sleep
from typing import Final

from ...client.descriptors import copy_high

if sys.platform != "win32":
    import fcntl

MAX_WAIT: Final = 1.0
"""Seconds to wait for a turn."""

PAUSE: Final = 10.0
"""Seconds without turns after a process that kept its own."""


class Turns:
    """A lock that this process and its children share, for one thread of each."""

    def __init__(self) -> None:
        self.descriptor = _shared_file()
        self._id = _file_id(self.descriptor)
        self._next = 0.0
        """When to take turns again (`time.monotonic`)."""

    def acquire(self) -> None:
        """Wait for a turn, a second at most."""
        # A lock of fcntl belongs to a process: it is released when that ends, however it does. A
        # process that is stopped keeps it.
        if (file := self._file()) is None:
            return
        until = monotonic() + MAX_WAIT
        with suppress(OSError):
            while monotonic() >= self._next:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                except (BlockingIOError, PermissionError):
                    if monotonic() >= until:
                        self._next = until + PAUSE
                    sleep(0.001)

    def release(self) -> None:
        """Let another process have its turn."""
        if (file := self._file()) is not None:
            with suppress(OSError):
                fcntl.lockf(file, fcntl.LOCK_UN)

    def _file(self) -> int | None:
        """Return the descriptor of the file to lock, None if there is none, or none any more."""
        return self.descriptor if _file_id(self.descriptor) == self._id else None


def _file_id(descriptor: int | None) -> tuple[int, int] | None:
    with suppress(OSError):
        if descriptor is not None:
            found = os.fstat(descriptor)
            return found.st_dev, found.st_ino
    return None


def _shared_file() -> int | None:
    """Return the descriptor of a file that only this process and its children have, to lock."""
    if not hasattr(os, "fork"):
        return None
    try:
        if hasattr(os, "memfd_create"):
            low = os.memfd_create("faktory-log")
        else:
            with TemporaryFile() as file:
                low = os.dup(file.fileno())
        if (high := copy_high(low)) is None:
            return low
        os.close(low)
        return high
    except OSError:  # no folder can be written to, say
        return None

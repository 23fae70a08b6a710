"""A data file has one server at a time: a lock file beside it, which holds the server's pid.

The system releases the lock when the process ends, however that happens; the lock file may stay.
SQLite's own locks do not do: they let other programs read the file, and make backups of it.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress

_ours: dict[str, int] = {}
"""The lock files that servers of this process hold, and its pid, which a forked child has not:
locks of the system hold between processes only, and are not inherited."""


class Locked(Exception):
    """Another server has the lock; `pid` is None if it cannot be read."""

    def __init__(self, pid: int | None) -> None:
        super().__init__(pid)
        self.pid = pid


class Lock:
    """The lock of one data file, held from the beginning until `release`."""

    def __init__(self, data: str) -> None:
        """Lock the file `data`; Locked if a server has it, OSError if no lock can be made."""
        self._path = os.path.realpath(data) + ".lock"
        if _ours.get(self._path) == os.getpid():
            raise Locked(os.getpid())
        while True:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | _CLOEXEC, 0o600)
            try:
                _lock(self._file)
            except OSError as error:
                pid = _pid_in(self._file)
                os.close(self._file)
                if error.errno not in _TAKEN:
                    raise
                raise Locked(pid) from None
            with suppress(OSError):
                if os.path.samestat(os.fstat(self._file), os.stat(self._path)):
                    break
            os.close(self._file)  # its last holder has deleted it in between
        _ours[self._path] = os.getpid()
        os.ftruncate(self._file, 0)
        os.write(self._file, b"%d\n" % os.getpid())

    def release(self) -> None:
        """Let others have it."""
        _ours.pop(self._path, None)
        with suppress(OSError):  # Windows deletes no open file
            os.unlink(self._path)
        os.close(self._file)


def holder(data: str) -> int | None:
    """Return the pid of the server that has a data file, None without one."""
    path = os.path.realpath(data) + ".lock"
    if _ours.get(path) == os.getpid():
        return os.getpid()
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        _lock(file)
    except OSError:
        return _pid_in(file)
    finally:
        os.close(file)
    return None


def _pid_in(file: int) -> int | None:
    os.lseek(file, 0, os.SEEK_SET)
    text = os.read(file, 32).strip()
    return int(text) if text.isdigit() else None


_CLOEXEC = getattr(os, "O_CLOEXEC", 0)

_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
"""What the system says of a lock that another process has."""

if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        os.lseek(file, 1 << 20, os.SEEK_SET)  # a byte that nobody reads: Windows guards it
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)
else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

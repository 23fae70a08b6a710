"""Sockets with descriptors of high numbers, each with a number of its own for a long time.

A job may close all descriptors of its process, and those of other threads with them. Numbers that
are free are given out again, the lowest first: then a thread would go on with another's connection,
and read its answers. With these numbers it gets an error, and connects again.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from itertools import count
from typing import Final

try:
    import fcntl
except ImportError:  # as on Windows
    fcntl = None  # type: ignore[assignment]

_LEAST: Final = 512
_MOST: Final = 999
"""Below 1024, which is the limit of open files by default, and of `select`."""

_turns: Final = count()  # not a cycle, which Python 3.13 without a GIL must not share among threads


def copy_high(descriptor: int) -> int | None:
    """Copy a descriptor to a high number that no program inherits; None where that fails."""
    number = _LEAST + next(_turns) % (_MOST - _LEAST + 1)
    for least in (number, number // 4):  # the limit of open files may be 256
        with suppress(OSError):
            return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, least)
    return None


def move_high(sock: socket.socket) -> socket.socket:
    """Return a socket with a descriptor of a high number in place of this one, if there is one."""
    if fcntl is None or (high := copy_high(sock.fileno())) is None:
        return sock
    moved = sock
    try:
        moved = type(sock)(sock.family, sock.type, sock.proto, fileno=high)
        moved.settimeout(sock.gettimeout())
        sock.close()
    except BaseException:  # a job has closed all descriptors just now
        for each in (moved, sock):
            with suppress(OSError):
                each.close()
        raise
    return moved

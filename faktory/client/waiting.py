"""A socket whose every wait ends at a deadline, at the least cost in CPU.

Rules: a short wait is the kernel's, since Python would poll before each step; a longer one is
Python's, since a signal makes the kernel begin again (a profiler sends 100 a second). A deadline
that has passed is DeadlinePassed and nothing else: any other error without an errno was raised by
a signal handler and comes out as it is.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Final

KERNEL_WAIT: Final = 0.005
"""Seconds for which a socket blocks in the kernel, longer than most answers take."""


class DeadlinePassed(TimeoutError):
    """Nothing could be received, or sent, in time."""


class TimedSocket:
    """The waits of a connected socket; one thread at a time may use it."""

    def __init__(self, sock: socket.socket, *, tls: bool, kernel_wait: float = KERNEL_WAIT) -> None:
        self._socket = sock
        self._timeout = -1.0
        self._nothing_there: type[OSError] = BlockingIOError
        if tls:
            from ssl import SSLWantReadError

            self._nothing_there = SSLWantReadError
        self.kernel_waits = not tls and _let_kernel_wait(sock, kernel_wait)
        """Whether `set_timeout` has no effect, as the kernel waits first."""
        self._waits_for_more = self.kernel_waits and _can_wait_for_more(sock)
        self.can_read = _readiness(sock)
        """Whether there may be something to read; much faster than reading."""

    def set_timeout(self, seconds: float) -> None:
        """Let Python end each wait after that long, where the kernel does not wait."""
        if seconds != self._timeout:
            self._timeout = seconds
            self._socket.settimeout(seconds)

    def receive(self, buffer: memoryview, deadline: float, more_than: int = 0) -> int | None:
        """Return how many bytes were received, 0 at the end; None if there are some now.

        Where the system can do that, wait at first for more than `more_than` bytes.
        """
        if monotonic() > deadline:
            raise DeadlinePassed
        sock = self._socket
        try:
            if not more_than or not self._waits_for_more:
                return sock.recv_into(buffer)
            # Only while the kernel waits, which ends it: the last bytes of an answer may come
            # alone, and a poll would not see them.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, more_than + 1)
            try:
                return sock.recv_into(buffer)
            finally:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        except BlockingIOError as error:
            self._wait_on(error, select.POLLIN, deadline)
            return None
        except TimeoutError:
            if monotonic() < deadline - 0.05:  # a signal handler's
                raise
            raise DeadlinePassed from None

    def receive_now(self, buffer: memoryview) -> int | None:
        """Return how many bytes were received, 0 at the end; None if there are none."""
        self._timeout = 0.0
        self._socket.settimeout(0)
        try:
            return self._socket.recv_into(buffer)
        except self._nothing_there:
            return None
        finally:
            if self.kernel_waits:
                self._socket.settimeout(None)

    def send(self, data: bytes | memoryview, deadline: float) -> int:
        """Return how many bytes were sent; 0 if some can be sent now."""
        try:
            return self._socket.send(data)
        except BlockingIOError as error:
            self._wait_on(error, select.POLLOUT, deadline)
            return 0
        except TimeoutError:
            if monotonic() < deadline - 0.05:  # a signal handler's
                raise
            raise DeadlinePassed from None

    def _wait_on(self, error: BlockingIOError, event: int, deadline: float) -> None:
        """Wait in Python after the kernel has; raise the error if a signal handler raised it."""
        if error.errno is None:
            raise error
        poll = select.poll()
        poll.register(self._socket, event)
        if not poll.poll(max(0.0, deadline - monotonic()) * 1000):
            raise DeadlinePassed from None


def _readiness(sock: socket.socket) -> Callable[[], object]:
    """Return a function whose value is true if a socket may have something to read."""
    if not hasattr(select, "poll"):  # as on Windows
        return lambda: True
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return partial(poll.poll, 0)


def _let_kernel_wait(sock: socket.socket, seconds: float) -> bool:
    """Make a socket block for so long at most; return False where that does not work.

    On Windows a socket is of no use after such a timeout, and TLS would begin its read again.
    """
    if sys.platform == "win32":
        return False
    sock.settimeout(None)
    limit = struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    return True


def _can_wait_for_more(sock: socket.socket) -> bool:
    """Return whether a socket's reader can sleep until there is more than a byte.

    Only Linux is known to return what came within the timeout all the same.
    """
    if sys.platform != "linux":
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    except OSError:
        return False
    return True

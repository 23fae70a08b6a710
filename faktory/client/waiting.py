"""A socket whose every wait ends, at the least cost in CPU.

Rules: a short wait is the kernel's, since Python would poll before each step; a longer one is
Python's, since a signal makes the kernel begin again (a profiler sends 100 a second). A wait is
over when nothing has moved for `timeout` seconds: the clock starts with the wait, what the peer's
system acknowledges is progress, and what has arrived is read first, however late this process is.
That is DeadlinePassed and nothing else: any other error without an errno was raised by a signal
handler and comes out as it is.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
from collections.abc import Callable
from functools import partial
from math import inf
from time import monotonic
from typing import Final

if sys.platform == "linux":  # not later, when a fork may copy the import's lock
    from fcntl import ioctl
    from termios import TIOCOUTQ

KERNEL_WAIT: Final = 0.005
"""Seconds for which a socket blocks in the kernel, longer than most answers take."""

PROGRESS_INTERVAL: Final = 0.05
"""Seconds between two looks at how much the peer has acknowledged."""

MAX_TIMEOUTS: Final = 60
"""How many timeouts an answer may take that arrives byte by byte."""


class DeadlinePassed(TimeoutError):
    """Nothing could be received, or sent, in time."""


class TimedSocket:
    """The waits of a connected socket; one thread at a time may use it."""

    def __init__(self, sock: socket.socket, *, tls: bool, kernel_wait: float = KERNEL_WAIT) -> None:
        self._socket = sock
        self.kernel_waits = not tls and _let_kernel_wait(sock, kernel_wait)
        """Whether the socket blocks, for a moment."""
        self._would_block: tuple[type[OSError], ...] = (BlockingIOError,)
        if tls:
            from ssl import SSLWantReadError, SSLWantWriteError

            self._would_block = (SSLWantReadError, SSLWantWriteError)
        if not self.kernel_waits:
            sock.settimeout(0)
        self._waits_for_more = self.kernel_waits and _can_wait_for_more(sock)
        self._unacknowledged = unacknowledged(sock)
        self._ready = _readiness(sock)
        self.can_read = readability(sock)
        """Whether there is something to read; much faster than reading."""
        self.timeout = 0.0
        """Seconds without progress that end a wait; infinite for a wait that only the peer ends."""
        self.deadline: float | None = None
        """When the wait is over (`time.monotonic`); None: `timeout` after it has begun."""
        self._limit = inf

    def start(self, timeout: float) -> None:
        """Start the clock of the next wait."""
        self.timeout = timeout
        self.deadline = None
        self._limit = inf

    @property
    def is_at_limit(self) -> bool:
        """Whether a wait that is over has ended by MAX_TIMEOUTS, though something moved."""
        return self.deadline is not None and self.deadline >= self._limit

    def receive(self, buffer: memoryview, more_than: int = 0) -> int | None:
        """Return how many bytes were received, 0 at the end; None if there may be some now.

        Where the system can do that, wait at first for more than `more_than` bytes.
        """
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
        except self._would_block as error:
            self._wait(error, to_send=False)
            return None

    def receive_now(self, buffer: memoryview) -> int | None:
        """Return how many bytes were received, 0 at the end; None if there are none."""
        try:
            if self.kernel_waits:
                return self._socket.recv_into(buffer, 0, socket.MSG_DONTWAIT)
            return self._socket.recv_into(buffer)
        except self._would_block:
            return None

    def send(self, data: bytes | memoryview) -> int:
        """Return how many bytes were sent; 0 if some can be sent now."""
        try:
            return self._socket.send(data)
        except self._would_block as error:
            self._wait(error, to_send=True)
            return 0

    def _wait(self, error: OSError, to_send: bool) -> None:
        """Wait in Python after the kernel has; raise the error if a signal handler raised it."""
        if error.errno is None:
            raise error
        if not isinstance(error, BlockingIOError):
            to_send = type(error) is self._would_block[1]  # of TLS, which may read to write
        now = monotonic()
        if self.deadline is None:
            self._limit = min(self._limit, now + MAX_TIMEOUTS * self.timeout)
            self.deadline = min(self._limit, now + self.timeout)
        unacknowledged = self._unacknowledged() if self.deadline < inf else 0
        while not self._ready(
            to_send,
            min(self.deadline - now, PROGRESS_INTERVAL) if unacknowledged else self.deadline - now,
        ):
            now = monotonic()
            if unacknowledged and (left := self._unacknowledged()) < unacknowledged:
                unacknowledged = left
                self.deadline = max(self.deadline, now + self.timeout)
            elif now >= self.deadline:
                raise DeadlinePassed


def readability(sock: socket.socket) -> Callable[[], object]:
    """Return a function whose value is true if a socket can be read, or is closed."""
    if not hasattr(select, "poll"):  # as on Windows, and with eventlet
        return lambda: select.select([sock], [], [], 0)[0]
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return partial(poll.poll, 0)


def _readiness(sock: socket.socket) -> Callable[[bool, float], object]:
    """Return a function that waits until a socket can be read, or sent to, for so many seconds.

    Its value is false if that takes longer.
    """

    def poll(to_send: bool, seconds: float) -> object:
        poll = select.poll()
        poll.register(sock, select.POLLOUT if to_send else select.POLLIN)
        return poll.poll(None if seconds == inf else max(0.0, seconds) * 1000)

    def choose(to_send: bool, seconds: float) -> object:
        limit = None if seconds == inf else max(0.0, seconds)
        reading, writing, _ = select.select(*([], [sock]) if to_send else ([sock], []), [], limit)
        return reading or writing

    return poll if hasattr(select, "poll") else choose


def unacknowledged(sock: socket.socket) -> Callable[[], int]:
    """Return a function that counts the bytes that the peer's system has not acknowledged.

    Only Linux is known to count: elsewhere it returns 0, and what the system has taken counts as
    sent.
    """
    if sys.platform != "linux":
        return lambda: 0

    def count() -> int:
        return int(struct.unpack("@i", ioctl(sock, TIOCOUTQ, bytes(4)))[0])

    return count


def _let_kernel_wait(sock: socket.socket, seconds: float) -> bool:
    """Make a socket block for so long at most; return False where that does not work.

    On Windows a socket is of no use after such a timeout, TLS would begin its read again, and
    gevent and eventlet leave every socket of theirs non-blocking.
    """
    if sys.platform == "win32":
        return False
    sock.settimeout(None)
    if not os.get_blocking(sock.fileno()):
        return False
    limit = struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    return True


def is_plain(sock: socket.socket) -> bool:
    """Return whether a socket's methods are the system's, not those of a proxy or a profiler."""
    kind, plain = type(sock), socket.SocketType
    return all(
        getattr(kind, name) is getattr(plain, name)
        for name in ("fileno", "send", "recv", "recv_into")
    )


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

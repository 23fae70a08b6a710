"""How a socket to a server is opened, kept alive, and reset.

Rules: a peer that is gone is noticed by the system, by TCP's keepalive and its limit for data that
is not acknowledged: a server that is frozen, but whose machine answers, is not gone. A socket that
is given up is reset: closed in the ordinary way, the system would keep what it has not delivered
yet, and deliver it when the network is back. No socket has the program's default timeout.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from math import ceil
from typing import Any, Final, NamedTuple

from ..exceptions import (
    FaktoryConnectionError,
    FaktoryConnectionResetError,
    FaktoryError,
    FaktoryHandshakeError,
    FaktoryProtocolError,
    FaktoryServerError,
    FaktoryTimeout,
)
from ..wire.validate import check_timeout
from .descriptors import move_high
from .waiting import DeadlinePassed

TCP_KEEPALIVE: Final = 15.0
"""Seconds without traffic after which the system asks whether the peer is there. Load balancers
forget a connection that is idle for 240 s (Azure) or 350 s (AWS), others much sooner."""

MAX_KEEPALIVE: Final = 32767.0
"""Seconds that Linux accepts at most (`include/net/tcp.h: MAX_TCP_KEEPIDLE`)."""

PROBES: Final = 3
"""How many questions without an answer mean that the peer is gone, a third of that time apart."""

_TCP: Final = socket.IPPROTO_TCP

_LIMIT: Final = 0x80 if sys.platform == "darwin" else getattr(socket, "TCP_USER_TIMEOUT", None)
"""The system's limit for what is not acknowledged: on macOS TCP_RXT_CONNDROPTIME, which Python does
not name. Linux takes it for its questions, too."""

_UNITS: Final = 1 if sys.platform == "darwin" else 1000
"""How many of it are a second."""


def check_keepalive(name: str, value: float | timedelta) -> float:
    """Return the seconds of a keepalive; ValueError for what the system does not accept."""
    seconds = check_timeout(name, value, allow_zero=False)
    if seconds > MAX_KEEPALIVE:
        raise ValueError(f"{name} is {value}: it must be {MAX_KEEPALIVE:g} seconds or less.")
    return seconds


class Route(NamedTuple):
    """One of the addresses of a host, as `getaddrinfo` returns it."""

    family: int
    kind: int
    protocol: int
    name: str
    address: Any


def resolve(host: str, port: int) -> list[Route]:
    """Return the addresses of a host; OSError or UnicodeError if there are none."""
    # As bytes, since `getaddrinfo` imports a codec for text, whose import lock a fork may copy.
    name = host.encode("ascii") if host.isascii() else host
    return [Route(*found) for found in socket.getaddrinfo(name, port, 0, socket.SOCK_STREAM)]


def create(route: Route, keepalive: float) -> socket.socket:
    """Return a socket for one address, not connected yet.

    `keepalive` is the seconds without traffic after which the system asks whether the peer is
    there; it takes a peer for gone after twice that time without an answer.
    """
    sock = move_high(socket.socket(route.family, route.kind, route.protocol))
    try:
        with suppress(OSError):  # a connection that is dead already fails when it is read
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for level, option, value in _liveness(keepalive):
            with suppress(OSError):
                sock.setsockopt(level, option, value)
        return sock
    except BaseException:
        with suppress(OSError):  # a job has closed all descriptors
            sock.close()
        raise


def connect(
    route: Route, timeout: float, keepalive: float, begun: Callable[[socket.socket], object]
) -> socket.socket:
    """Return a socket that is connected within `timeout` seconds, see `create`; OSError if not.

    `begun` is called with it before it connects; it may raise.
    """
    sock = create(route, keepalive)
    try:
        begun(sock)
        sock.settimeout(max(timeout, 0.001))
        sock.connect(route.address)
        return sock
    except BaseException:
        with suppress(OSError):  # a job has closed all descriptors
            sock.close()
        raise


def _liveness(keepalive: float) -> list[tuple[int, int, int]]:
    """Return the socket options by which the system notices that a peer is gone."""
    idle = ceil(keepalive)
    interval = max(1, ceil(keepalive / PROBES))
    found = [
        (_TCP, getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None)), idle),
        (_TCP, getattr(socket, "TCP_KEEPINTVL", None), interval),
        (_TCP, getattr(socket, "TCP_KEEPCNT", None), PROBES),
        (_TCP, _LIMIT, (idle + PROBES * interval) * _UNITS),
    ]
    return [(level, option, value) for level, option, value in found if option is not None]


def double_limit(sock: socket.socket) -> None:
    """Take the peer for gone twice as late, where the system has a limit for that.

    After a hole of 30 s the peer's system sends what it had to say 51 s after the hole's beginning:
    at 0.2 s, 0.6 s, 1.4 s... from the first attempt on. That may be a job, the answer to FETCH. A
    connection without a FETCH is worth no such wait: the next push should find a new one.
    """
    if _LIMIT is not None:
        with suppress(OSError):
            sock.setsockopt(_TCP, _LIMIT, 2 * sock.getsockopt(_TCP, _LIMIT))


def reset_on_close(sock: socket.socket, on: bool) -> None:
    """Have a close, also that of a killed process, throw away what the peer has not got."""
    # Windows has two shorts there, other systems two ints.
    value = struct.pack("HH" if sys.platform == "win32" else "ii", on, 0)
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, value)


def abort(sock: socket.socket, process: int) -> None:
    """Close, and reset; in another process than this one, which has forked, only close."""
    if os.getpid() == process:
        reset_on_close(sock, True)
    with suppress(OSError):  # the program has closed the descriptor itself
        sock.close()


def end_reading(sock: socket.socket) -> None:
    """Wake the thread that waits for a socket, which finds its end. From any thread.

    On Linux also one that waits for it to connect, which is reset by that.
    """
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RD)  # not TLS's own, which the thread may use


_OWN_CODE: Final = re.compile(
    r"faktory\.(client\.(transport|opening|waiting|sockets|tls)$|wire\.|_proto|_exchange)|ssl$"
)
"""Modules whose code runs during an exchange; any other's runs in a signal handler."""


def is_own(error: Exception) -> bool:
    """Return False for an error that a signal handler raised in the middle of an exchange."""
    step = error.__traceback__
    while step is not None:
        if not _OWN_CODE.match(step.tb_frame.f_globals.get("__name__", "")):
            return False
        step = step.tb_next
    if isinstance(error, OSError) and not isinstance(error, (FaktoryError, DeadlinePassed)):
        return error.errno is not None
    return True


def explain(error: Exception, place: str, timeout: float) -> FaktoryError:
    """Return an error of this package, with the remedy and its cause, for one of the system."""
    if isinstance(error, FaktoryError):
        return error
    explained = _explained(error, place, timeout)
    explained.__cause__ = error
    return explained


def _explained(error: Exception, place: str, timeout: float) -> FaktoryError:
    if isinstance(error, ConnectionRefusedError):
        return FaktoryConnectionError(
            f"nothing listens on {place} (connection refused). "
            "Is the Faktory server running? For development: faktory-worker server."
        )
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return FaktoryConnectionError(
            f"the host of {place} is not known ({getattr(error, 'strerror', error)}). "
            "Is it spelt right in FAKTORY_URL?"
        )
    if isinstance(error, TimeoutError):
        if error.errno is None:
            return FaktoryTimeout(f"no connection to {place} within {timeout:g} s")
        return FaktoryTimeout(
            f"{place} is gone: its machine does not answer (the system's keepalive: {error})"
        )
    reset = isinstance(error, (ConnectionResetError, BrokenPipeError, ConnectionAbortedError))
    kind = FaktoryConnectionResetError if reset else FaktoryConnectionError
    return kind(f"the connection to {place} broke: {error}")


def given_up(place: str) -> FaktoryTimeout:
    """Return the error for a connection that was interrupted before it was there."""
    return FaktoryTimeout(f"connecting to {place} was given up")


def closed(place: str) -> FaktoryConnectionResetError:
    """Return the error for a connection that the peer has closed."""
    return FaktoryConnectionResetError(f"{place} closed the connection")


def closing(place: str, reply: object) -> FaktoryConnectionResetError:
    """Return the error for a server that is about to close the connection."""
    error = FaktoryConnectionResetError(f"{place} closes the connection: {reply}")
    if isinstance(reply, FaktoryServerError):
        error.__cause__ = reply
    return error


def unsolicited(place: str, reply: object) -> FaktoryProtocolError:
    """Return the error for data that nobody has asked for."""
    return FaktoryProtocolError(f"{place} sent unsolicited data ({reply!r:.100})")


def late(place: str, seconds: float) -> FaktoryTimeout:
    """Return the error for an answer that does not come."""
    return FaktoryTimeout(
        f"no answer from {place}, or no more of it, within {seconds:g} s; the connection is dropped"
    )


def trickled(place: str, seconds: float) -> FaktoryTimeout:
    """Return the error for an answer that comes, but does not end."""
    return FaktoryTimeout(
        f"no whole answer from {place} within {seconds:g} s, "
        "though some of it came; the connection is dropped"
    )


TLS_HINT: Final = "Does the server use TLS? Then use tcp+tls://."
"""Where a plain connection ends without a word of Faktory."""


def no_handshake(
    error: Exception, cause: FaktoryError, place: str, tls: bool, greeted: bool
) -> FaktoryError:
    """Return the error, with the remedy, for a handshake that `error` has ended."""
    kind = FaktoryHandshakeError if isinstance(error, FaktoryProtocolError) else type(cause)
    plain = not greeted and not tls
    hint = f" {TLS_HINT}" if plain else ""
    if plain and isinstance(cause, FaktoryTimeout):
        hint = f" Does the server stand still?{hint}"
    return kind(f"the handshake with {place} failed: {cause}.{hint}")

"""How a connection is opened: the host's addresses in turn, TLS, the handshake.

Rules: connecting has one budget of time, which no progress prolongs. Each of the host's addresses
has its share of what is left. What fails leaves nothing open.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from ..exceptions import (
    FaktoryAuthenticationError,
    FaktoryConnectionError,
    FaktoryError,
    FaktoryHandshakeError,
    FaktoryProtocolError,
)
from ..proto import NEED_DATA
from ..wire.address import Address
from ..wire.session import ClientSession
from . import sockets
from .waiting import DeadlinePassed, TimedSocket

if TYPE_CHECKING:
    from ssl import SSLContext


class Opened(NamedTuple):
    """A connection past the handshake."""

    socket: socket.socket
    timed: TimedSocket
    session: ClientSession


def open_session(
    address: Address,
    identity: Mapping[str, object],
    timeout: float,
    ssl_context: SSLContext | None,
    keepalive: float,
    kernel_wait: float,
    begun: Callable[[socket.socket], object],
) -> Opened:
    """Open a connection to the first of the host's addresses that answers as it should.

    `begun` is called with each socket before it waits, so that another thread can end that; it may
    raise.
    """
    process = os.getpid()
    place = address.place
    try:
        routes = sockets.resolve(address.host, address.port)
    except (OSError, UnicodeError) as error:  # UnicodeError: no host can have such a name
        raise sockets.explain(error, place, timeout) from error
    failure: FaktoryConnectionError | None = None
    until = monotonic() + timeout
    for tried, route in enumerate(routes):
        now = monotonic()
        deadline = now + max(0.0, until - now) / (len(routes) - tried)
        try:
            sock = _connect(route, address, timeout, ssl_context, keepalive, deadline, begun)
            try:
                timed = TimedSocket(sock, tls=address.tls, kernel_wait=kernel_wait)
                session = ClientSession()
                _Handshake(timed, session, address, timeout, deadline).shake_hands(identity)
                return Opened(sock, timed, session)
            except BaseException:
                sockets.abort(sock, process)
                raise
        except FaktoryAuthenticationError:
            raise
        except FaktoryConnectionError as error:
            if not isinstance(failure, FaktoryHandshakeError):
                failure = error
        except OSError as error:  # the socket was closed by other code of this process
            if not sockets.is_own(error):
                raise
            failure = FaktoryConnectionError(str(sockets.explain(error, place, timeout)))
    raise failure or sockets.explain(OSError("the host has no address"), place, timeout)


def _connect(
    route: sockets.Route,
    address: Address,
    timeout: float,
    ssl_context: SSLContext | None,
    keepalive: float,
    deadline: float,
    begun: Callable[[socket.socket], object],
) -> socket.socket:
    try:
        sock = sockets.connect(route, deadline - monotonic(), keepalive, begun)
        if not address.tls:
            return sock
        from . import tls  # takes long, and most connections do without

        sock.settimeout(max(deadline - monotonic(), 0.001))
        return tls.secure(sock, address, ssl_context, deadline, begun)
    except FaktoryError:  # an OSError, too; it has its cause
        raise
    except OSError as error:
        raise sockets.explain(error, address.place, timeout) from error


class _Handshake(NamedTuple):
    """HI, HELLO and its answer, until `deadline` (`time.monotonic`)."""

    timed: TimedSocket
    session: ClientSession
    address: Address
    timeout: float
    deadline: float

    def shake_hands(self, identity: Mapping[str, object]) -> None:
        place = self.address.place
        hi = None
        try:
            hi = self._receive_reply()
            hello = self.session.hello(hi, identity, self.address.username, self.address.password)
            while hello:
                hello = hello[self._send(hello) :]
            self.session.welcome(self._receive_reply())
        except (FaktoryHandshakeError, FaktoryAuthenticationError):
            raise
        except (OSError, FaktoryProtocolError) as error:
            if not sockets.is_own(error):
                raise
            cause = sockets.explain(error, place, self.timeout)
            raise sockets.no_handshake(
                error, cause, place, self.address.tls, hi is not None
            ) from error

    def _send(self, hello: bytes) -> int:
        self._start_step()
        return self.timed.send(hello)

    def _receive_reply(self) -> object:
        parser = self.session.parser
        late = False
        while (reply := parser.next()) is NEED_DATA:
            if late:  # it trickles, or this process stood still
                raise sockets.late(self.address.place, self.timeout)
            self._start_step()
            try:
                received = self.timed.receive(parser.get_buffer())
            except DeadlinePassed:
                raise sockets.late(self.address.place, self.timeout) from None
            if received:
                parser.buffer_updated(received)
            elif received is not None:
                raise sockets.closed(self.address.place)
            late = monotonic() > self.deadline
        return reply

    def _start_step(self) -> None:
        """Start a wait that no progress prolongs."""
        self.timed.start(0.0)
        self.timed.deadline = self.deadline

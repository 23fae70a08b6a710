"""How a connection is opened on an event loop: the host's addresses in turn, TLS, the handshake.

Rules: connecting has one budget of time. Each of the host's addresses has its share of what is
left. No step blocks the loop, and one that is cancelled leaves nothing open.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from ..client import sockets
from ..client.settings import Endpoint
from ..exceptions import (
    FaktoryAuthenticationError,
    FaktoryConnectionError,
    FaktoryError,
    FaktoryHandshakeError,
    FaktoryProtocolError,
)
from .transport import Transport

if TYPE_CHECKING:
    from ssl import SSLContext

_TLS_END: Final = 2.0
"""Seconds for the peer to end TLS after END."""


async def open_transport(to: Endpoint, on_job: Callable[[Any], object]) -> Transport:
    """Open a connection to the first of the host's addresses that answers as it should."""
    loop = asyncio.get_running_loop()
    until = loop.time() + to.timeout
    try:
        routes = await _resolve(loop, to)
    except (OSError, UnicodeError) as error:  # UnicodeError: no host can have such a name
        raise _explain(error, to) from error
    failure: FaktoryError | None = None
    for tried, route in enumerate(routes):
        now = loop.time()
        deadline = now + max(0.0, until - now) / (len(routes) - tried)
        try:
            return await _open(loop, route, to, on_job, deadline)
        except FaktoryAuthenticationError:
            raise
        except FaktoryConnectionError as error:
            if not isinstance(failure, FaktoryHandshakeError):
                failure = error
        except OSError as error:  # the socket was closed by other code of this process
            failure = FaktoryConnectionError(str(_explain(error, to)))
    raise failure or _explain(OSError("the host has no address"), to)


async def _resolve(loop: asyncio.AbstractEventLoop, to: Endpoint) -> list[sockets.Route]:
    host, port = to.address.host, to.address.port
    try:  # an address needs no thread
        found = socket.getaddrinfo(
            host, port, 0, socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        )
    except (OSError, UnicodeError):
        return await loop.run_in_executor(None, sockets.resolve, host, port)
    return [sockets.Route(*each) for each in found]


async def _open(
    loop: asyncio.AbstractEventLoop,
    route: sockets.Route,
    to: Endpoint,
    on_job: Callable[[Any], object],
    deadline: float,
) -> Transport:
    place = to.address.place
    sock = sockets.create(route, to.keepalive)
    try:
        sock.setblocking(False)
        async with asyncio.timeout_at(deadline):
            await loop.sock_connect(sock, route.address)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            raise _explain(error, to) from error
        raise
    transport = Transport(place, to.timeout, sock, on_job)
    if to.address.tls:
        await _secure(loop, transport, sock, to, deadline)
    else:
        await loop.create_connection(lambda: transport, sock=sock)
    try:
        await _shake_hands(transport, to, deadline)
    except BaseException:
        transport.abort()
        raise
    return transport


async def _secure(
    loop: asyncio.AbstractEventLoop,
    transport: Transport,
    sock: socket.socket,
    to: Endpoint,
    deadline: float,
) -> None:
    """Begin TLS, which ends with the transport."""
    import ssl  # takes long, and most connections do without

    from ..client import tls

    peer = sock.getpeername()
    context: SSLContext = to.ssl_context or tls.make_context(to.address)
    try:
        async with asyncio.timeout_at(deadline):
            await loop.create_connection(
                lambda: transport,
                sock=sock,
                ssl=context,
                server_hostname=to.address.host,
                ssl_handshake_timeout=to.timeout + 1,
                ssl_shutdown_timeout=_TLS_END,
            )
    except (ssl.SSLError, ConnectionResetError) as error:
        until = monotonic() + max(0.0, deadline - loop.time())
        raise await loop.run_in_executor(
            None, tls.explain, error, to.address, sock.family, peer, until
        ) from error
    except OSError as error:
        raise _explain(error, to) from error


async def _shake_hands(transport: Transport, to: Endpoint, deadline: float) -> None:
    address, session = to.address, transport.session
    hi = None
    try:
        async with asyncio.timeout_at(deadline):
            hi = await transport.next_reply()
            transport.write(session.hello(hi, to.hello(), address.username, address.password))
            session.welcome(await transport.next_reply())
    except (FaktoryHandshakeError, FaktoryAuthenticationError):
        raise
    except (OSError, FaktoryProtocolError) as error:
        cause = _explain(error, to)
        if type(error) is TimeoutError and error.errno is None:
            cause = sockets.late(address.place, to.timeout)
        raise sockets.no_handshake(
            error, cause, address.place, address.tls, hi is not None
        ) from error
    transport.start()


def _explain(error: Exception, to: Endpoint) -> FaktoryError:
    return sockets.explain(error, to.address.place, to.timeout)

"""The port of the embedded server: its address, and TLS if asked to; accepts connections.

Rule: everything here happens in the loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from ..wire.log import Log
from .connection import ServerConnection
from .state import ServerState

if TYPE_CHECKING:
    import ssl

MAX_OPEN: Final = 4000
"""Connections at once, those that have not said HELLO among them: twice `MAX_CONNECTIONS`."""

_log = Log(logging.getLogger("faktory.server"))


class Listener:
    """Open or closed; can be opened again."""

    def __init__(
        self, state: ServerState, tls: ssl.SSLContext | None, kind: type[ServerConnection]
    ) -> None:
        self._state = state
        self._tls = tls
        self._kind = kind
        self._socket: socket.socket | None = None
        self._connecting: set[asyncio.Task[None]] = set()
        """Connections on their way: TLS has a handshake of its own."""

    @property
    def is_open(self) -> bool:
        """Whether connections are accepted."""
        return self._socket is not None

    def open(self, sock: socket.socket) -> None:
        """Accept connections from a socket that listens."""
        sock.setblocking(False)
        self._socket = sock
        self._state.loop.add_reader(sock, self._accept)

    def close(self) -> None:
        """Close the port; connections stay."""
        if self._socket is not None:
            self._state.loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    async def shut_down(self) -> None:
        """Close the port and all connections."""
        self.close()
        await asyncio.sleep(0)  # a task that has not started could not close its socket
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        while self._state.peers:
            for peer in list(self._state.peers):
                peer.abort()
            await asyncio.sleep(0)

    def _accept(self) -> None:
        """Accept one connection; the loop calls again if there are more."""
        assert self._socket is not None
        loop = self._state.loop
        try:
            sock, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            # Out of file descriptors, most likely: an attempt at once would fail, too.
            _log.error("cannot accept a connection: %s", error)
            loop.remove_reader(self._socket)
            loop.call_later(self._state.timing.accept_interval, self._accept_again, self._socket)
            return
        if len(self._state.peers) + len(self._connecting) >= MAX_OPEN:
            sock.close()
            return
        task = loop.create_task(self._connect(sock))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def _accept_again(self, sock: socket.socket) -> None:
        if self._socket is sock:
            self._state.loop.add_reader(sock, self._accept)

    async def _connect(self, sock: socket.socket) -> None:
        """Make a connection of an accepted socket."""
        timeout = None if self._tls is None else self._state.timing.handshake_timeout
        try:
            await self._state.loop.connect_accepted_socket(
                lambda: self._kind(self._state),
                sock,
                ssl=self._tls,
                ssl_handshake_timeout=timeout,
            )
        except OSError:
            sock.close()  # the client does not speak TLS, or not in time


def parse_bind(bind: str) -> tuple[str, int]:
    """Split host:port; ValueError if it is something else."""
    host, colon, port = bind.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"bind is {bind!r}: write host:port, for example 127.0.0.1:7419.")
    return host.removeprefix("[").removesuffix("]"), int(port)


def bind(host: str, port: int) -> socket.socket:
    """Listen at an address; OSError if that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=1024)


def reachable(host: str) -> str:
    """Return where this machine connects to a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can connect."""
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name, or nothing: all addresses
        return host == "localhost"


def tls_context(cert: str | None, key: str | None) -> ssl.SSLContext | None:
    """Read certificate and key, None without them; ValueError for one alone."""
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise ValueError("TLS needs both tls_cert and tls_key.")
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key)
    return context

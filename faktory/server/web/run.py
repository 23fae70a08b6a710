"""Serves the pages by uvicorn, in the thread that calls `run`, on a socket that is bound already.

Rules: a client that sends or reads too slowly is cut, and so are those beyond a number, also before
TLS is agreed on: they take the descriptors that clients of the job port need. `stop` ends open
streams, and what has not ended soon after is cut. uvicorn writes nothing into the log.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from typing import Any, Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ...wire.log import Log
from .security import HEADERS, Guard

MAX_CONNECTIONS: Final = 500
"""Browsers take six each."""

READ_TIMEOUT: Final = 10.0
"""Seconds in which the head of a request must have come, and before it the handshake of TLS."""

WRITE_TIMEOUT: Final = 30.0
"""Seconds in which a client that reads nothing must go on."""

_ACCEPT_AGAIN: Final = 1.0
"""Seconds until the next attempt when the system has no descriptors left."""

_GRACE: Final = 1
"""Seconds for answers that are on their way, when it stops."""

_log = Log(logging.getLogger("faktory.server"))


class Runner:
    """The pages on a port."""

    def __init__(
        self,
        app: Guard,
        sock: socket.socket,
        tls_cert: str | None = None,
        tls_key: str | None = None,
    ) -> None:
        """`sock` listens; `run` closes it in the end."""
        self._app = app
        self._socket = sock
        self._loop = asyncio.SelectorEventLoop()
        self._connecting: set[asyncio.Task[None]] = set()
        """Connections on their way: TLS has a handshake of its own."""
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                interface="asgi3",
                http=_Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                forwarded_allow_ips="127.0.0.1,::1",
                timeout_graceful_shutdown=_GRACE,
                ssl_certfile=tls_cert,
                ssl_keyfile=tls_key,
            )
        )

    def run(self) -> None:
        """Serve until `stop`."""
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            self._loop.set_exception_handler(_on_error)
            runner.run(self._serve())

    def stop(self) -> None:
        """Have `run` return soon; may be called from any thread, at any time."""
        with suppress(RuntimeError):  # it has returned
            self._loop.call_soon_threadsafe(self._stop)

    async def _serve(self) -> None:
        self._server.config.load()
        accepting = asyncio.ensure_future(self._accept())
        try:
            await self._server.serve(sockets=[])
        finally:
            accepting.cancel()
            await asyncio.gather(accepting, *self._connecting, return_exceptions=True)
            self._socket.close()
        for connection in list(self._server.server_state.connections):
            transport: Any = connection.transport
            transport.abort()
        await asyncio.sleep(0)

    async def _accept(self) -> None:
        """Accept connections; uvicorn does not count those that are in the handshake of TLS."""
        self._socket.setblocking(False)
        try:
            while not self._server.should_exit:
                try:
                    sock, _ = await self._loop.sock_accept(self._socket)
                except ConnectionAbortedError:
                    continue
                except OSError as error:
                    _log.error("cannot accept a connection to the pages: %s", error)
                    await asyncio.sleep(_ACCEPT_AGAIN)
                    continue
                if len(self._server.server_state.connections) + len(self._connecting) >= (
                    MAX_CONNECTIONS
                ):
                    sock.close()
                    continue
                task = self._loop.create_task(self._connect(sock))
                self._connecting.add(task)
                task.add_done_callback(self._connecting.discard)
        finally:
            for task in self._connecting:
                task.cancel()

    async def _connect(self, sock: socket.socket) -> None:
        config, state = self._server.config, self._server.server_state
        with suppress(OSError):  # the client does not speak TLS, or not in time
            # asyncio sets it only where a socket says its protocol. Without it the body of an
            # answer waits 40 ms, until the client has acknowledged the head.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(
                lambda: _Protocol(config=config, server_state=state, app_state={}),
                sock,
                ssl=config.ssl,
                ssl_handshake_timeout=READ_TIMEOUT if config.ssl else None,
            )

    def _stop(self) -> None:
        self._server.should_exit = True
        self._app.close()


class _Protocol(H11Protocol):
    """A connection: with limits, and with our headers also where it is not HTTP."""

    _waits: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None
    _refused = False
    """What still comes is read and dropped, until the client closes the connection."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._waits, self._stuck):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._refused:
            super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stuck is None:
            self._stuck = self.loop.call_later(WRITE_TIMEOUT, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def send_400_response(self, msg: str) -> None:
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"connection", b"close"),
            *HEADERS.items(),
        ]
        try:
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=msg.encode("ascii", "replace")),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:  # in the middle of another answer
            self.transport.abort()
            return
        if self.transport.can_write_eof():
            # Closed at once, with more to be read, the connection is reset, and the answer gone.
            self.transport.write_eof()
            self._refused = True
        else:
            self.transport.close()

    def _watch(self) -> None:
        """Have the client send its next request in time; keeping the connection has its own."""
        answers = self.cycle is not None and not self.cycle.response_complete
        if answers or self.transport.is_closing():
            if self._waits is not None:
                self._waits.cancel()
                self._waits = None
        elif self._waits is None:
            self._waits = self.loop.call_later(READ_TIMEOUT, self.transport.abort)


def _on_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    _log.debug("a connection to the pages: %s", context.get("exception") or context["message"])

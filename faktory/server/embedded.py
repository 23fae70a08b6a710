"""The embedded server of the Faktory protocol: for development, demos and tests.

It keeps all in memory and is one process on one machine. Production is the real Faktory server:
the same clients and workers, another address.

Rules: everything happens in one thread of its own, in an asyncio loop; what users call hands its
work to that thread and waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from threading import RLock, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ..proto import load_json
from ..wire.address import Address
from .connection import HANDSHAKE_TIMEOUT, Connection
from .faults import Fault
from .go import time as go_time
from .go.time import SECOND
from .job import Job
from .state import MAX_COMMAND, MAX_CONNECTIONS, Core

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")

ACCEPT_AGAIN: float = 1.0
"""Seconds to wait when the system has no more files for connections."""

_log = logging.getLogger("faktory.server")


class EmbeddedServer:
    """A Faktory server in this process, in memory: for development and tests, not for production.

    A context manager. `start` returns when it listens; after `stop` it can be started again, on
    the same port and with what it held. All methods may be called from any thread.
    """

    def __init__(
        self,
        bind: str = "127.0.0.1:0",
        password: str | None = None,
        *,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        max_connections: int = MAX_CONNECTIONS,
        max_command: int = MAX_COMMAND,
        enterprise: bool = False,
    ) -> None:
        """`bind` is host:port, port 0 takes a free one; `tls_cert` and `tls_key` are PEM files.

        `enterprise` adds batches, tracking, unique and expiring jobs, approximately as they are.
        """
        self._host, self._port = _parse(bind)
        self._password = password or None
        self._tls = _tls_context(tls_cert, tls_key)
        self._max_connections = max_connections
        self._core = Core(self._password, max_connections, max_command, enterprise=enterprise)
        self._lock = RLock()
        """Held while the loop comes, goes or is asked for something."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Thread | None = None
        self._socket: socket.socket | None = None
        self._greetings: set[asyncio.Task[None]] = set()
        """Connections in the making."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; OSError where the address cannot be had."""
        with self._lock:
            if self._thread is not None:
                raise RuntimeError("the server is running already.")
            sock = self._bind()
            self._loop = loop = asyncio.SelectorEventLoop()
            self._thread = Thread(target=loop.run_forever, name="faktory-server", daemon=True)
            self._thread.start()
            self._call(self._core.attach, loop)
            self._call(self._listen, sock)
        _log.info("an embedded server for development and tests listens on %s", self.address)

    def stop(self) -> None:
        """Close the port and all connections; what the server holds is kept."""
        with self._lock:
            if self._thread is None or self._loop is None:
                return
            asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._loop = self._thread = None

    @property
    def port(self) -> int:
        """The port it listens on; 0 before the first start where it was to take a free one."""
        return self._port

    @property
    def address(self) -> Address:
        """Where to connect, with the password."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self._host, self._host)
        return Address(host, self._port, tls=self._tls is not None, password=self._password)

    @property
    def url(self) -> str:
        """The address as `FAKTORY_URL` has it, the password percent-encoded."""
        return self.address.url

    # Time.

    def travel(self, seconds: float) -> None:
        """Move the server's clock forward; what became due has happened when this returns.

        That goes for scheduled jobs, retries, reservations, and for workers that were silent for
        a minute of it. A FETCH that waits does so by the real clock.
        """
        if seconds < 0:
            raise ValueError("time goes forward only.")
        self._call(self._core.travel, round(seconds * SECOND))

    def reset(self) -> None:
        """Be as new, for the next test: no jobs, no plans, no commands, and the clock set back."""
        self._call(self._core.reset)
        self.accept_connections()

    # Faults.

    def drop_before(self, verb: str, times: int = 1) -> None:
        """Close the connection in place of the next `times` commands of this verb."""
        self._plan(verb, Fault("drop before"), times)

    def drop_after(self, verb: str, times: int = 1) -> None:
        """Execute the next `times` commands of this verb, then close without an answer."""
        self._plan(verb, Fault("drop after"), times)

    def delay(self, verb: str, seconds: float, times: int = 1) -> None:
        """Wait before the next `times` commands of this verb are executed."""
        self._plan(verb, Fault("delay", seconds=seconds), times)

    def answer_error(self, verb: str, message: str, times: int = 1) -> None:
        """Answer the next `times` commands of this verb with an error; they are not executed."""
        self._plan(verb, Fault("error", message=message), times)

    def hold(self, verb: str) -> None:
        """Let commands of this verb wait, unexecuted, until `release`."""
        self._call(self._core.faults.held.add, verb.encode())

    def release(self, verb: str) -> None:
        """Execute what `hold` made wait, and hold no more."""
        self._call(self._core.release, verb.encode())

    def clear_faults(self) -> None:
        """Forget faults that were planned and did not happen."""
        self._call(self._core.faults.clear)

    def refuse_connections(self) -> None:
        """Close the port, not the connections, until `accept_connections`."""
        self._call(self._close_port)

    def limit_connections(self, count: int = 0) -> None:
        """Answer "too many connections" to whoever connects beyond `count`."""
        self._core.max_connections = count

    def begin_shutdown(self) -> None:
        """Do as the real server in its last moments: the port is closed, and the next command of
        each connection is answered with "shutdown in progress" and a close."""
        self._core.shutting_down = True
        self.refuse_connections()

    def accept_connections(self) -> None:
        """End what the three methods above began."""
        self._core.shutting_down = False
        self._core.max_connections = self._max_connections
        if self._loop is not None and self._socket is None:
            self._call(self._listen, self._bind())

    def disconnect(self, wid: str | None = None) -> None:
        """Cut all connections, or those of one worker."""
        self._call(self._disconnect, wid)

    def quiet(self, wid: str) -> None:
        """Tell a worker, with its next BEAT, to fetch no more; KeyError if it is not there."""
        self._call(lambda: self._core.state.workers.table[wid].signal("quiet"))

    def terminate(self, wid: str) -> None:
        """Tell a worker, with its next BEAT, to end; KeyError if it is not there."""
        self._call(lambda: self._core.state.workers.table[wid].signal("terminate"))

    # Views: copies, oldest or soonest first.

    @property
    def commands(self) -> list[tuple[str, str]]:
        """What clients sent, oldest first, as verb and the text after it; the last 16 MiB."""
        lines = self._call(lambda: list(self._core.records))
        return [
            (verb.decode(errors="replace"), line[len(verb) + 1 :].decode(errors="replace"))
            for verb, line in lines
        ]

    def clear_commands(self) -> None:
        """Forget what clients sent."""
        self._call(self._core.clear_records)

    @property
    def queues(self) -> dict[str, list[dict[str, Any]]]:
        """The jobs of each queue."""
        store = self._core.state.store
        found = self._call(
            lambda: {name: [job.payload for job in jobs] for name, jobs in store.queues.items()}
        )
        return {name: [load_json(payload) for payload in jobs] for name, jobs in found.items()}

    @property
    def scheduled(self) -> list[dict[str, Any]]:
        """Jobs whose time has not come."""
        return self._members(lambda: self._core.state.store.scheduled)

    @property
    def retries(self) -> list[dict[str, Any]]:
        """Jobs that failed and will be tried again."""
        return self._members(lambda: self._core.state.store.retries)

    @property
    def dead(self) -> list[dict[str, Any]]:
        """Jobs that failed too often."""
        return self._members(lambda: self._core.state.store.dead)

    @property
    def working(self) -> list[dict[str, Any]]:
        """Jobs in workers' hands: `job`, `wid`, `reserved_at`, `expires_at`."""
        entries = self._call(lambda: [entry for _, _, entry in self._core.state.store.working])
        return [
            {
                "job": load_json(entry.job.payload),
                "wid": entry.wid,
                "reserved_at": go_time.write(entry.reserved_at),
                "expires_at": go_time.write(entry.expires_at),
            }
            for entry in entries
        ]

    @property
    def workers(self) -> list[dict[str, Any]]:
        """Workers: `wid`, `hostname`, `pid`, `labels`, `rss_kb`, `state`, `connections`."""
        return self._call(
            lambda: [
                {
                    "wid": worker.wid,
                    "hostname": worker.hostname,
                    "pid": worker.pid,
                    "labels": list(worker.labels),
                    "rss_kb": worker.rss_kb,
                    "state": worker.state or "running",
                    "connections": len(worker.connections),
                }
                for worker in self._core.state.workers.table.values()
            ]
        )

    @property
    def processed(self) -> int:
        """How many jobs ended, in success or failure, as INFO counts them."""
        return self._core.state.store.processed

    @property
    def failures(self) -> int:
        """How many times jobs failed."""
        return self._core.state.store.failures

    # Inside.

    def _members(
        self, jobs: Callable[[], Iterable[tuple[int, bytes, Job]]]
    ) -> list[dict[str, Any]]:
        payloads = self._call(lambda: [payload for _, payload, _ in jobs()])
        return [load_json(payload) for payload in payloads]

    def _plan(self, verb: str, fault: Fault, times: int) -> None:
        self._call(self._core.faults.plan, verb, fault, times)

    def _disconnect(self, wid: str | None) -> None:
        if wid is None:
            connections = set(self._core.connections)
        else:
            connections = set(self._core.state.workers.table[wid].connections)
        for connection in connections:
            connection.close()

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        sock = socket.create_server((self._host, self._port), family=family, backlog=1024)
        self._port = sock.getsockname()[1]
        return sock

    def _listen(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        assert self._loop is not None
        self._loop.add_reader(sock, self._accept)

    def _accept(self) -> None:
        """Take one connection; what else waits makes the loop call again."""
        assert self._loop is not None
        assert self._socket is not None
        try:
            sock, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            # No more files, most likely: that may pass, and trying at once does not help.
            _log.error("cannot accept a connection: %s", error)
            self._loop.remove_reader(self._socket)
            self._loop.call_later(ACCEPT_AGAIN, self._accept_again, self._socket)
            return
        greeting = self._loop.create_task(self._greet(sock))
        self._greetings.add(greeting)
        greeting.add_done_callback(self._greetings.discard)

    def _accept_again(self, sock: socket.socket) -> None:
        if self._loop is not None and self._socket is sock:
            self._loop.add_reader(sock, self._accept)

    async def _greet(self, sock: socket.socket) -> None:
        """Make a connection of a socket, after the handshake of TLS if there is one."""
        assert self._loop is not None
        try:
            await self._loop.connect_accepted_socket(
                lambda: Connection(self._core),
                sock,
                ssl=self._tls,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT if self._tls is not None else None,
            )
        except OSError:
            sock.close()  # no TLS was spoken, or not in time

    def _close_port(self) -> None:
        if self._socket is not None and self._loop is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    async def _shut_down(self) -> None:
        self._close_port()
        await asyncio.sleep(0)  # tasks that did not start could not clean up
        for greeting in self._greetings:
            greeting.cancel()
        await asyncio.gather(*self._greetings, return_exceptions=True)
        while self._core.connections:
            for connection in list(self._core.connections):
                connection.abort()
            await asyncio.sleep(0)

    def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in the loop's thread, or here if there is none."""
        with self._lock:
            if self._loop is None:
                return function(*arguments)
            future: Future[T] = Future()

            def run() -> None:
                try:
                    future.set_result(function(*arguments))
                except BaseException as error:
                    future.set_exception(error)

            self._loop.call_soon_threadsafe(run)
            return future.result()


def _parse(bind: str) -> tuple[str, int]:
    host, colon, port = bind.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"bind is {bind!r}: write host:port, for example 127.0.0.1:7419.")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _tls_context(cert: str | None, key: str | None) -> ssl.SSLContext | None:
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise ValueError("TLS needs both tls_cert and tls_key.")
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key)
    return context

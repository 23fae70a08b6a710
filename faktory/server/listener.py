"""The embedded server of the Faktory protocol: for development, demos and tests.

It keeps all in memory and is one process on one machine. Production is the real Faktory server:
the same clients and workers, another address.

Rules: everything happens in one thread of its own, in an asyncio loop; what users call hands its
work to that thread and waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from ..proto import load_json
from ..wire.address import Address
from . import gotime
from .connection import HANDSHAKE_TIMEOUT, Connection
from .dispatch import State
from .faults import Fault, Faults
from .gotime import SECOND
from .stored import Job
from .workers import Worker

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")

MAX_CONNECTIONS: Final = 2000
"""Connections at once [Go: server/config.go, DefaultMaxPoolSize]."""

MAX_COMMAND: Final = 128 * 1024 * 1024
"""Bytes of a command line; the real server knows no limit."""

MAX_RECORDED: Final = 16 * 1024 * 1024
"""Bytes of commands that are kept for `EmbeddedServer.commands`."""

MAX_RECORDS: Final = 100_000
"""Commands that are kept for `EmbeddedServer.commands`."""

_LONGEST_SLEEP: Final = 30.0
"""Seconds after which to look at the clock anyway: it may have been set."""

_log = logging.getLogger("faktory.server")


class Core:
    """What connections share; lives in the loop's thread, apart from the state it outlives it."""

    def __init__(self, password: str | None, max_connections: int, max_command: int) -> None:
        self.password = password
        self.max_connections = max_connections
        self.max_command = max_command
        self.offset = 0
        """Nanoseconds by which our clock is ahead of the machine's."""
        self.state = State(self.clock)
        self.faults = Faults()
        self.shutting_down = False
        self.connections: set[Connection] = set()
        self.records: deque[tuple[bytes, bytes]] = deque()
        self._recorded = 0
        self._held: dict[bytes, list[tuple[Connection, bytes]]] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0
        self._serving = False

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to work in a loop."""
        self.loop = loop
        self.state.started_at = self.clock()
        self.state.commands = self.state.connections = 0
        self._alarm = None
        self._serving = False
        self.settle()

    def clock(self) -> int:
        return time.time_ns() + self.offset

    def challenge(self) -> tuple[str, int]:
        """Return salt and iterations for a greeting, or nothing where there is no password."""
        if not self.password:
            return "", 0
        return f"{secrets.randbits(63):x}", 4000 + secrets.randbelow(4096)

    def join(self, connection: Connection, worker: Worker) -> None:
        self.state.connections += 1
        self.state.workers.join(worker, connection, self.clock())

    def leave(self, connection: Connection, worker: Worker) -> None:
        self.state.connections -= 1
        self.state.workers.leave(worker, connection)

    def record(self, verb: bytes, line: bytes) -> None:
        records = self.records
        records.append((verb, line))
        self._recorded += len(line)
        while self._recorded > MAX_RECORDED or len(records) > MAX_RECORDS:
            self._recorded -= len(records.popleft()[1])

    def clear_records(self) -> None:
        self.records.clear()
        self._recorded = 0

    def hold(self, verb: bytes, connection: Connection, line: bytes) -> None:
        self._held.setdefault(verb, []).append((connection, line))

    def release(self, verb: bytes) -> None:
        self.faults.held.discard(verb)
        for connection, line in self._held.pop(verb, ()):
            connection.proceed(line)

    def settle(self) -> None:
        """After commands: see to those who wait, and be awake when something is due.

        Jobs are handed over after all that has already arrived on the other connections, so that
        one which was closed before the job came gets none.
        """
        if self.state.store.ripe and not self._serving:
            self._serving = True
            self.loop.call_soon(self._serve)
        due = self._next_due()
        if due is not None and (self._alarm is None or due < self._alarm_at):
            self._set_alarm(due)

    def _serve(self) -> None:
        self._serving = False
        self.state.store.serve()

    def _next_due(self) -> int | None:
        times = (self.state.store.next_due(), self.state.workers.next_due())
        return min((at for at in times if at is not None), default=None)

    def _set_alarm(self, due: int) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        seconds = min(max((due - self.clock()) / SECOND, 0.0), _LONGEST_SLEEP)
        self._alarm_at = due
        self._alarm = self.loop.call_later(seconds, self._wake)

    def _wake(self) -> None:
        self._alarm = None
        self.sweep()
        self.settle()

    def sweep(self) -> None:
        """Do what is due."""
        self.state.store.sweep()
        for connection in self.state.workers.reap(self.clock()):
            connection.close()

    def travel(self, nanoseconds: int) -> None:
        """Move the clock forward, stopping wherever something is due."""
        target = self.offset + nanoseconds
        while (due := self._next_due()) is not None:
            ahead = due - time.time_ns()
            if ahead > target:
                break
            self.offset = max(self.offset, ahead)
            self.sweep()
        self.offset = target
        self.state.store.serve()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self.settle()


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
    ) -> None:
        """`bind` is host:port, port 0 takes a free one; `tls_cert` and `tls_key` are PEM files."""
        self._host, self._port = _parse(bind)
        self._password = password or None
        self._tls = _tls_context(tls_cert, tls_key)
        self._core = Core(self._password, max_connections, max_command)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Thread | None = None
        self._listener: asyncio.Server | None = None

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
        if self._thread is not None:
            raise RuntimeError("the server is running already.")
        sock = self._bind()
        self._loop = loop = asyncio.new_event_loop()
        self._thread = Thread(target=loop.run_forever, name="faktory-server", daemon=True)
        self._thread.start()
        self._call(self._core.attach, loop)
        self._await(self._listen(sock))
        _log.info("an embedded server for development and tests listens on %s", self.address)

    def stop(self) -> None:
        """Close the port and all connections; what the server holds is kept."""
        if self._thread is None or self._loop is None:
            return
        self._await(self._shut_down())
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
        self._await(self._close_port())

    def shut_down_softly(self) -> None:
        """Answer all further commands with "shutdown in progress" and close, as the real server
        does in its last moments; the port is closed, until `accept_connections`."""
        self._core.shutting_down = True
        self.refuse_connections()

    def accept_connections(self) -> None:
        """Be open again."""
        self._core.shutting_down = False
        if self._loop is not None and self._listener is None:
            self._await(self._listen(self._bind()))

    def limit_connections(self, count: int = 0) -> None:
        """Answer "too many connections" to whoever connects while there are `count` or more."""
        self._core.max_connections = count

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
                "reserved_at": gotime.write(entry.reserved_at),
                "expires_at": gotime.write(entry.expires_at),
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

    def _members(self, jobs: Callable[[], Iterable[tuple[int, bytes, Job]]]) -> list[dict[str, Any]]:
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

    async def _listen(self, sock: socket.socket) -> None:
        assert self._loop is not None
        self._listener = await self._loop.create_server(
            lambda: Connection(self._core),
            sock=sock,
            backlog=1024,
            ssl=self._tls,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT if self._tls is not None else None,
        )

    async def _close_port(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _shut_down(self) -> None:
        await self._close_port()
        # A connection that was just accepted shows itself one turn of the loop later.
        await asyncio.sleep(0)
        while self._core.connections:
            for connection in list(self._core.connections):
                connection.abort()
            await asyncio.sleep(0)

    def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in the loop's thread, or here if there is none."""
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

    def _await(self, coroutine: Any) -> None:
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


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

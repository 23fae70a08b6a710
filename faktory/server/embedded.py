"""The embedded server of the Faktory protocol: for development, demos and tests.

It keeps everything in memory and is one process on one machine. Production is the real Faktory
server: the same clients and workers, another address.

Rule: the state is used only by the thread of an asyncio loop. Each method here passes a function to
that thread and waits for its result.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from ipaddress import ip_address
from threading import RLock, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ..proto import load_json
from ..wire.address import Address
from ..wire.log import Log
from .clock import check_travel, monotonic
from .faults import Fault
from .go import time as go_time
from .go.time import SECOND
from .job import StoredJob
from .listener import Listener
from .state import DEFAULT_TIMING, MAX_COMMAND, MAX_CONNECTIONS, ServerState, Timing
from .store import Store

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")

_log = Log(logging.getLogger("faktory.server"))


class EmbeddedServer:
    """A Faktory server in this process, in memory: for development and tests, not for production.

    A context manager. `start` returns when it listens; after `stop` it can be started again, on
    the same port and with the jobs that it had. All methods may be called from any thread.
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
        max_memory: int | None = None,
        enterprise: bool = False,
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        """`bind` is host:port, port 0 takes a free one; `tls_cert` and `tls_key` are PEM files.

        `max_memory` is for the stored jobs, in MiB, estimated; a job beyond it is refused.
        `enterprise` adds batches, tracking, unique and expiring jobs, approximately as they are.
        `timing` is there for this project's own tests: it shortens FETCH and the timeouts.
        """
        self._host, self._port = _parse(bind)
        if max_memory is not None and max_memory < 1:
            raise ValueError(f"max_memory is {max_memory}: it must be 1 MiB or more.")
        self._password = password or None
        tls = _tls_context(tls_cert, tls_key)
        self._uses_tls = tls is not None
        self._max_connections = max_connections
        self._state = ServerState(
            enterprise=enterprise,
            password=self._password,
            max_connections=max_connections,
            max_command=max_command,
            max_memory=None if max_memory is None else max_memory << 20,
            timing=timing,
        )
        self._listener = Listener(self._state, tls)
        self._lock = RLock()
        """Held while the loop starts, stops or is called."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Thread | None = None

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
        """Listen; OSError if the address cannot be bound."""
        with self._lock:
            if self._thread is not None:
                raise RuntimeError("the server is running already.")
            sock = self._bind()
            self._loop = loop = _Loop()
            self._thread = Thread(target=loop.run_forever, name="faktory-server", daemon=True)
            self._thread.start()
            self._call(lambda state: state.attach(loop))
            self._call(lambda _: self._listener.open(sock))
        _log.info("an embedded server for development and tests listens on %s", self.address)
        if self.is_exposed:
            _log.warning(
                "the embedded server listens on %s without a password: other machines can push "
                "and take jobs",
                self._host or "all addresses",
            )

    def stop(self) -> None:
        """Close the port and all connections; the jobs stay."""
        with self._lock:
            if self._thread is None or self._loop is None:
                return
            asyncio.run_coroutine_threadsafe(self._listener.shut_down(), self._loop).result()
            self._call(lambda state: state.detach())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._loop = self._thread = None

    @property
    def port(self) -> int:
        """The port it listens on; 0 before the first start if it is to take a free one."""
        return self._port

    @property
    def address(self) -> Address:
        """Where to connect, with the password."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self._host, self._host)
        return Address(host, self._port, tls=self._uses_tls, password=self._password)

    @property
    def is_exposed(self) -> bool:
        """Whether other machines can connect, and need no password."""
        return self._password is None and not _is_loopback(self._host)

    @property
    def url(self) -> str:
        """The address for `FAKTORY_URL`, the password percent-encoded."""
        return self.address.url

    # Time.

    def travel(self, seconds: float) -> None:
        """Move the server's clock forward; what became due has happened when this returns.

        That includes scheduled jobs, retries, reservations, and workers without a BEAT for a
        minute of that time. A FETCH waits by the real clock.
        """
        check_travel(seconds, self._call(lambda state: state.clock()))
        with self._lock:
            steps = self._state.travel(round(seconds * SECOND))
            # One step a call, so that clients are served in between.
            while not self._call(lambda _: next(steps, "done")):
                pass

    def reset(self) -> None:
        """Be as new, for the next test: no jobs, faults and commands, and the clock set back."""
        self._call(lambda state: state.reset())
        self.accept_connections()

    # Faults.

    def drop_before(self, verb: str, times: int = 1) -> None:
        """Close the connection in place of the next `times` commands of this verb."""
        self._plan(verb, Fault("drop before"), times)

    def drop_after(self, verb: str, times: int = 1) -> None:
        """Execute the next `times` commands of this verb, then close without a reply."""
        self._plan(verb, Fault("drop after"), times)

    def delay(self, verb: str, seconds: float, times: int = 1) -> None:
        """Wait before the next `times` commands of this verb are executed."""
        self._plan(verb, Fault("delay", seconds=seconds), times)

    def answer_error(self, verb: str, message: str, times: int = 1) -> None:
        """Answer the next `times` commands of this verb with an error; they are not executed."""
        self._plan(verb, Fault("error", message=message), times)

    def hold(self, verb: str) -> None:
        """Let commands of this verb wait, unexecuted, until `release`."""
        self._call(lambda state: state.faults.held.add(verb.encode()))

    def release(self, verb: str) -> None:
        """Execute the commands that `hold` made wait, and hold no more."""
        self._call(lambda state: state.release(verb.encode()))

    def clear_faults(self) -> None:
        """Forget faults that were planned and did not happen."""
        self._call(lambda state: state.faults.clear())

    def refuse_connections(self) -> None:
        """Close the port, not the connections, until `accept_connections`."""
        self._call(lambda _: self._listener.close())

    def limit_connections(self, count: int = 0) -> None:
        """Answer "too many connections" to clients that connect beyond `count`."""

        def limit(state: ServerState) -> None:
            state.max_connections = count

        self._call(limit)

    def begin_shutdown(self) -> None:
        """Do as the real server in its last moments: the port is closed, and the next command of
        each connection is answered with "shutdown in progress" and a close."""

        def begin(state: ServerState) -> None:
            state.shutting_down = True
            self._listener.close()

        self._call(begin)

    def accept_connections(self) -> None:
        """End what the three methods above began."""

        def accept(state: ServerState) -> None:
            state.shutting_down = False
            state.max_connections = self._max_connections
            if self._loop is not None and not self._listener.is_open:
                self._listener.open(self._bind())

        self._call(accept)

    def disconnect(self, wid: str | None = None) -> None:
        """Cut all connections, or those of one worker."""

        def cut(state: ServerState) -> None:
            peers = state.peers if wid is None else state.workers.table[wid].peers
            for peer in list(peers):
                peer.close()

        self._call(cut)

    def quiet(self, wid: str) -> None:
        """Answer a worker's next BEAT with "quiet"; KeyError if it is not connected."""
        self._call(lambda state: state.workers.table[wid].signal("quiet"))

    def terminate(self, wid: str) -> None:
        """Answer a worker's next BEAT with "terminate"; KeyError if it is not connected."""
        self._call(lambda state: state.workers.table[wid].signal("terminate"))

    # Views: copies, oldest or soonest first.

    @property
    def commands(self) -> list[tuple[str, str]]:
        """What clients sent, oldest first, as verb and the text after it; the last 16 MiB."""
        lines = self._call(lambda state: list(state.log.entries))
        return [
            (verb.decode(errors="replace"), line[len(verb) + 1 :].decode(errors="replace"))
            for verb, line in lines
        ]

    def clear_commands(self) -> None:
        """Forget what clients sent."""
        self._call(lambda state: state.log.clear())

    @property
    def queues(self) -> dict[str, list[dict[str, Any]]]:
        """The jobs of each queue."""

        def copy(state: ServerState) -> dict[str, list[bytes]]:
            return {
                name: [job.payload for job in jobs] for name, jobs in state.store.queues.items()
            }

        payloads = self._call(copy)
        return {name: [load_json(payload) for payload in jobs] for name, jobs in payloads.items()}

    @property
    def scheduled(self) -> list[dict[str, Any]]:
        """Jobs whose time has not come."""
        return self._members(lambda store: store.scheduled)

    @property
    def retries(self) -> list[dict[str, Any]]:
        """Jobs that failed and will be tried again."""
        return self._members(lambda store: store.retries)

    @property
    def dead(self) -> list[dict[str, Any]]:
        """Jobs that failed too often."""
        return self._members(lambda store: store.dead)

    @property
    def working(self) -> list[dict[str, Any]]:
        """Jobs that workers have: `job`, `wid`, `reserved_at`, `expires_at`."""

        def copy(state: ServerState) -> list[tuple[bytes, str, int, int]]:
            return [
                (each.job.payload, each.wid, each.reserved_at, each.expires_at)
                for _, _, each in state.store.working
            ]

        return [
            {
                "job": load_json(payload),
                "wid": wid,
                "reserved_at": go_time.write(reserved_at),
                "expires_at": go_time.write(expires_at),
            }
            for payload, wid, reserved_at, expires_at in self._call(copy)
        ]

    @property
    def workers(self) -> list[dict[str, Any]]:
        """Workers: `wid`, `hostname`, `pid`, `labels`, `rss_kb`, `state`, `connections`."""
        return self._call(
            lambda state: [
                {
                    "wid": worker.wid,
                    "hostname": worker.hostname,
                    "pid": worker.pid,
                    "labels": list(worker.labels),
                    "rss_kb": worker.rss_kb,
                    "state": worker.state or "running",
                    "connections": len(worker.peers),
                }
                for worker in state.workers.table.values()
            ]
        )

    @property
    def processed(self) -> int:
        """How many jobs ended, in success or failure, as INFO counts them."""
        return self._call(lambda state: state.store.processed)

    @property
    def failures(self) -> int:
        """How many times jobs failed."""
        return self._call(lambda state: state.store.failures)

    # Inside.

    def _members(
        self, jobs: Callable[[Store], Iterable[tuple[int, bytes, StoredJob]]]
    ) -> list[dict[str, Any]]:
        payloads = self._call(lambda state: [payload for _, payload, _ in jobs(state.store)])
        return [load_json(payload) for payload in payloads]

    def _plan(self, verb: str, fault: Fault, times: int) -> None:
        self._call(lambda state: state.faults.plan(verb, fault, times))

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        sock = socket.create_server((self._host, self._port), family=family, backlog=1024)
        self._port = sock.getsockname()[1]
        return sock

    def _call(self, function: Callable[[ServerState], T]) -> T:
        """Call a function with the state in the loop's thread, or in this one without a loop."""
        with self._lock:
            if self._loop is None:
                return function(self._state)
            future: Future[T] = Future()

            def run() -> None:
                try:
                    future.set_result(function(self._state))
                except BaseException as error:
                    future.set_exception(error)

            self._loop.call_soon_threadsafe(run)
            return future.result()


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose clock goes on where a test has stopped the time."""

    def time(self) -> float:
        return monotonic()


def _parse(bind: str) -> tuple[str, int]:
    host, colon, port = bind.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"bind is {bind!r}: write host:port, for example 127.0.0.1:7419.")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name, or nothing: all addresses
        return host == "localhost"


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

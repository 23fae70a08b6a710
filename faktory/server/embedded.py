"""The embedded server of the Faktory protocol: for development, tests and one small machine.

It keeps everything in memory, and in a file if it is given one; it is one process on one machine.
Beyond that: the real Faktory server, the same clients and workers, another address.

Rule: the state is used only by the thread of an asyncio loop. Each method here passes a function to
that thread and waits for its result.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from threading import RLock, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from ..wire.address import Address
from ..wire.log import Log
from .clock import check_travel, monotonic
from .connection import ServerConnection
from .faults import Fault
from .go.time import SECOND
from .listener import Listener, bind, is_loopback, parse_bind, reachable, tls_context
from .slices import Steps
from .state import DEFAULT_TIMING, MAX_COMMAND, MAX_CONNECTIONS, ServerState, Timing
from .views import Views
from .work import Work

if TYPE_CHECKING:
    from .disk.state import DurableState

T = TypeVar("T")

_log = Log(logging.getLogger("faktory.server"))


class EmbeddedServer(Views):
    """A Faktory server in this process: for development, tests and one small machine.

    A context manager. `start` returns when it listens; after `stop` it can be started again, on
    the same port and with the jobs that it had. All methods may be called from any thread. With
    `data` the server keeps its jobs in that file, from `start` to `stop`, and OK means on disk.
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
        data: str | os.PathLike[str] | None = None,
        sync: Literal["full", "normal"] = "full",
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        """Make a server; `start`, or a `with` block, has it listen.

        Args:
            bind: host:port, port 0 takes a free one.
            password: What clients need, by default none.
            tls_cert: A PEM file; with `tls_key` the server uses TLS.
            tls_key: A PEM file.
            max_connections: Connections at most; others are closed, with the reason.
            max_command: Bytes of a command at most.
            max_memory: For the stored jobs, in MiB, estimated; a job beyond it is refused.
            enterprise: Add batches, tracking, unique and expiring jobs, approximately as they are.
            data: The file for all of that, made if it is not there.
            sync: With "full" what was answered survives a power cut, with "normal", which is
                faster, the end of the process.
            timing: For this project's own tests: it shortens FETCH and the timeouts.
        """
        self._host, self._port = parse_bind(bind)
        if max_memory is not None and max_memory < 1:
            raise ValueError(f"max_memory is {max_memory}: it must be 1 MiB or more.")
        self._password = password or None
        tls = tls_context(tls_cert, tls_key)
        self._uses_tls = tls is not None
        self._max_connections = max_connections
        options: dict[str, Any] = {
            "enterprise": enterprise,
            "password": self._password,
            "max_connections": max_connections,
            "max_command": max_command,
            "max_memory": None if max_memory is None else max_memory << 20,
            "timing": timing,
        }
        if sync not in ("full", "normal"):
            raise ValueError(f'sync is {sync!r}: it must be "full" or "normal".')
        self.on_failure: Callable[[Exception], object] | None = None
        """Called, in the server's thread, when the file cannot be written: the server has closed
        its port and its connections, `stop` is still to be called, nothing can be looked at."""
        self._durable: DurableState | None = None
        kind = ServerConnection
        if data is not None:
            from .disk.state import DurableConnection, DurableState

            kind = DurableConnection
            self._durable = DurableState(os.fspath(data), sync, **options)
            self._durable.on_failure = self._on_failure
        self._state = self._durable or ServerState(**options)
        self._listener = Listener(self._state, tls, kind)
        self._lock = RLock()
        """Held while the loop starts, stops or is called."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Thread | None = None
        self._failure: Exception | None = None
        self._works: set[Work[Any]] = set()
        """What `perform` has begun, and is not done."""

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

    def __repr__(self) -> str:
        state = "running" if self.is_running else "not running"
        return f"<faktory.server.EmbeddedServer {self.address}, {state}>"

    def start(self) -> Self:
        """Listen, and return itself.

        OSError if the address cannot be bound, or the file not be used.
        """
        with self._lock:
            if self._thread is not None:
                raise RuntimeError("the server is running already.")
            self._failure = None
            durable = self._durable
            if durable is not None:
                durable.open()
            try:
                sock = self._bind()
            except BaseException:
                if durable is not None:
                    durable.close()
                raise
            self._loop = loop = _Loop()
            self._thread = Thread(target=loop.run_forever, name="faktory-server", daemon=True)
            self._thread.start()
            self._call(lambda state: state.attach(loop))
            self._call(lambda _: self._listener.open(sock))
        kept = (
            "for development and tests" if durable is None else f"with its jobs in {durable.path}"
        )
        _log.info("an embedded server %s listens on %s", kept, self.address)
        if self.is_exposed:
            _log.warning(
                "the embedded server listens on %s without a password: other machines can push "
                "and take jobs",
                self._host or "all addresses",
            )
        return self

    def stop(self) -> None:
        """Close the port and all connections; the jobs stay. With a file: they are in it."""
        with self._lock:
            if self._thread is None or self._loop is None:
                return
            durable = self._durable
            if durable is not None:
                self._run(lambda _: durable.commit())  # answers what has been done
            asyncio.run_coroutine_threadsafe(self._listener.shut_down(), self._loop).result()
            self._run(lambda state: state.detach())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._loop = self._thread = None
            for work in list(self._works):
                work.fail(RuntimeError("the server was stopped."))
            if durable is not None:
                durable.close()

    @property
    def is_running(self) -> bool:
        """Whether it has been started, and not stopped."""
        return self._thread is not None

    @property
    def failure(self) -> Exception | None:
        """Why it has ended by itself: its file could not be written."""
        return self._failure

    @property
    def port(self) -> int:
        """The port it listens on; 0 before the first start if it is to take a free one."""
        return self._port

    @property
    def address(self) -> Address:
        """Where to connect, with the password."""
        return Address(
            reachable(self._host), self._port, tls=self._uses_tls, password=self._password
        )

    @property
    def is_exposed(self) -> bool:
        """Whether other machines can connect, and need no password."""
        return self._password is None and not is_loopback(self._host)

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

    # Work of others.

    def perform(self, function: Callable[[ServerState], Steps[T]]) -> Future[T]:
        """Do long work in the server's thread, in slices, so that clients are answered meanwhile.

        `function` makes of the state a generator that yields after a millisecond at most, and
        returns the result: see `slices`. With a file the result is there when all that it has
        changed is on disk; RuntimeError if that fails, or the server is stopped. Never waits while
        the server runs; `cancel` of the future ends the work at its next pause, and undoes nothing.
        """
        work = Work(self._state, function)
        self._works.add(work)
        work.future.add_done_callback(lambda _: self._works.discard(work))
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # it was closed just now
                loop.call_soon_threadsafe(work.begin)
                return work.future
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(work.begin)
            elif self._durable is not None:
                work.fail(RuntimeError("the server is stopped, and its file closed: start it."))
            else:
                work.do()
        return work.future

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

    # Inside.

    def _plan(self, verb: str, fault: Fault, times: int) -> None:
        self._call(lambda state: state.faults.plan(verb, fault, times))

    def _bind(self) -> socket.socket:
        sock = bind(self._host, self._port)
        self._port = sock.getsockname()[1]
        return sock

    def _on_failure(self, error: Exception) -> None:
        self._failure = error
        self._listener.close()
        if self.on_failure is not None:
            self.on_failure(error)

    def _call(self, function: Callable[[ServerState], T]) -> T:
        """As `_run`; RuntimeError when the server has ended: its jobs are ahead of the file."""

        def checked(state: ServerState) -> T:
            if state.failure is not None:
                raise RuntimeError(str(state.failure)) from state.failure
            return function(state)

        return self._run(checked)

    def _run(self, function: Callable[[ServerState], T]) -> T:
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

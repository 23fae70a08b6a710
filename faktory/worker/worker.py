"""The worker: processors, a heartbeat, and one thread that manages them.

Rules: the thread that manages does everything, as functions that others put into one inbox; signal
handlers may do so at any moment. It is the thread that calls `run`, and another one while that one
calls handlers of events (`handlers`). A fetched job is always reported: by its processor,
or, when the grace period is over and the job does not end, by `run`. `manager` has what is done
with processors; this module decides when.
"""

from __future__ import annotations

import logging
import sys
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..client import Client
from ..client.settings import CONFIGURED
from ..jobs import registry
from ..jobs.options import check_time_limit
from ..jobs.runner import JobRunner
from ..jobs.ticks import schedules
from ..wire.log import Log, keep_enabled
from ..wire.validate import check_duration, clip
from . import counts, events, texts, timing
from .backends.base import NEEDS_THREADS, Backends, check_can_fork
from .backends.loop import AsyncJobs, LoopFactory
from .burst import Burst
from .events import Events
from .handlers import HandlerCalls
from .heartbeat import Heartbeat
from .lifecycle import Lifecycle, State
from .manager import CannotStart, JobTable, Manager
from .orders import SignalOrders
from .queues import Limits, Queue, Queues
from .scheduler import Scheduler
from .signals import handled
from .status import Status
from .task import Task, make_task
from .timing import Timing

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from ssl import SSLContext


class Worker:
    """Fetches jobs from `queues` and runs up to `concurrency` of them at a time.

    What runs a job is what was registered on this worker, else what `faktory.job` declared. Jobs
    run on threads, async jobs, declared by `async def`, on one event loop in a thread of its own,
    which starts with the first of them; they count for `concurrency`, as others do. The defaults
    are those of faktory 1.0.0; the command `faktory-worker` has 10 jobs at a time, and 25 s.

    Args:
        faktory: The server's address; without it that of `faktory.configure`.
        queues: A list (strict order) or a mapping of weights; a weight may be a `Queue`, which can
            have a limit, and an item of the list such a mapping.
        concurrency: How many jobs run at a time.
        labels: What the server's pages show of this worker.
        disconnect_wait: The grace period: seconds that jobs may go on when the worker stops.
        log: Gets the worker's records; by default the logger `faktory.worker`.
        worker_id: What the server knows this worker by; by default a random one.
        timeout: As that of `Client`, for its clients.
        buffer_size: Accepted, as in faktory 1.0.0, without effect.
        use_threads: With False jobs run on processes, forked when `run` begins: what is declared or
            registered until then is known there. Handlers of errors and of "exhausted" are called
            in the worker's own process.
        executor: A class of executors, called with `max_workers=concurrency`, whose `submit` runs
            the jobs; it wins over `use_threads`.
        burst: Stop when the queues are empty and no job of this worker runs. Scheduled jobs,
            retries and paused queues do not count; for a server that is away it waits, as ever.
        time_limit: Seconds for jobs that have no limit, neither declared nor pushed.
        give_back: Jobs that the worker interrupts as it stops do not fail by that: they are run
            again a few seconds later, and use up no attempt. Those of batches, and unique or
            tracked ones, fail all the same.
        loop_factory: What makes the event loop of async jobs, by default `asyncio.new_event_loop`.
        periodic: Push the jobs of the schedules that `faktory.periodic` has declared, until the
            worker stops, also while it is quiet; not with `burst`.
        ssl_context: As that of `Client`, for its clients.
        tcp_keepalive: As that of `Client`, for its clients.
        timing: For tests.
    """

    send_heartbeat_every: float = 15
    """Seconds between two heartbeats; the server gives a silent worker up after 60."""

    def __init__(
        self,
        faktory: str | None = None,
        *,
        queues: Sequence[str | Mapping[str, int | Queue]] | Mapping[str, int | Queue] = (
            "default",
        ),
        concurrency: int = 1,
        labels: Sequence[str] | None = ("python",),
        disconnect_wait: float | timedelta = 15,
        log: logging.Logger | None = None,
        worker_id: str | None = None,
        timeout: float | timedelta | None = None,
        buffer_size: int = 4096,  # noqa: ARG002
        use_threads: bool | None = None,
        executor: Callable[..., Executor] | None = None,
        burst: bool = False,
        time_limit: float | timedelta | None = None,
        give_back: bool = False,
        loop_factory: LoopFactory | None = None,
        periodic: bool = False,
        ssl_context: SSLContext | None = None,
        tcp_keepalive: float | timedelta | None = None,
        timing: Timing = timing.DEFAULT,
    ) -> None:
        if not isinstance(concurrency, int) or isinstance(concurrency, bool) or concurrency < 1:
            raise ValueError(
                f"concurrency is {concurrency!r}: it must be a whole number of 1 or more."
            )
        if isinstance(labels, str):
            raise ValueError(f"labels is the text {labels!r}: pass a list, [{labels!r}].")
        for name, switch in (
            ("burst", burst),
            ("give_back", give_back),
            ("periodic", periodic),
        ):
            if not isinstance(switch, bool):
                raise ValueError(f"{name} is {switch!r}: it is True or False.")
        if (grace := check_duration("disconnect_wait", disconnect_wait)) < 0:
            raise ValueError(f"disconnect_wait is {disconnect_wait}: it must be 0 or more.")
        self.concurrency = concurrency
        self.labels = list(labels or ())
        self.disconnect_wait = grace
        self.log = log or logging.getLogger("faktory.worker")
        self._queues = Queues(queues)
        self.worker_id = worker_id or self.get_worker_id()
        self._client_options: dict[str, Any] = {
            "worker_id": self.worker_id,
            "labels": self.labels,
        }
        self._timing = timing
        self._own_client = client = Client(
            faktory,
            timeout=CONFIGURED if timeout is None else timeout,
            ssl_context=ssl_context,
            tcp_keepalive=tcp_keepalive,
            **self._client_options,
        )
        # A later `configure` is for others.
        for name in ("timeout", "ssl_context", "tcp_keepalive"):
            self._client_options[name] = getattr(client, name)
        self.faktory = client.faktory
        self._make_backends = self._choose_backends(use_threads, executor)
        self._runs_async = executor is None and use_threads is not False
        if loop_factory is not None and not callable(loop_factory):
            raise ValueError(
                f"loop_factory is {loop_factory!r}: pass a function that makes an event loop, such "
                "as uvloop.new_event_loop."
            )
        self._tasks: dict[str, Task] = {}
        self._events = Events(events.of_process)
        self.on = self._events.on
        self.error_handlers = self._events.error_handlers
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._manager = Manager(
            JobRunner(self._tasks, time_limit=check_time_limit(time_limit), log=self.log),
            self.get_queues,
            self._make_client,
            self._events,
            self._inbox.put,
            self._on_server_state,
            self._give_up,
            self.log,
            timing,
        )
        self._manager.outage.place = self.faktory.place
        if self._queues.limits:
            self._manager.limits = Limits(self._queues.limits)
        if burst:
            self._manager.burst = Burst(self._wake)
        self._manager.give_back = give_back
        self._make_async_jobs = partial(AsyncJobs, loop_factory, self.log, timing, self._wake)
        self._manager.async_jobs = self._make_async_jobs()
        self._periodic = periodic and not burst
        self._scheduler: Scheduler | None = None
        self._status: Status | None = None
        self._lifecycle: Lifecycle = self._manager.lifecycle
        self._orders = SignalOrders(
            self._lifecycle,
            self.log,
            self._on_stop_signal,
            partial(self._on_stop_signal, interrupts=True),
            self._terminate,
            self._become_quiet,
            self._manager.log_threads,
        )
        self._calls = HandlerCalls(
            self._events, self.log, self._manage, self._wake, timing.shutdown_grace
        )
        self._stopped_at = 0.0
        self._deadline: float | None = None
        self._ending = False
        self._ended = False
        self._drained = False
        self._fatal: BaseException | None = None
        self._started = False
        self._number: int | None = None
        """Which of several workers it is, if a supervisor has started it."""
        self._introduce: Callable[[], None] | None = None
        """Logs what this worker does, when it is connected or waits for that; None: what faktory
        1.0.0 logs, before that."""
        self._after_quiet = texts.QUIET
        """What the log says of a worker that fetches no more."""
        self.abandoned: list[str] = []
        """The threads whose job did not end in time, or whose report was not delivered."""

    def __repr__(self) -> str:
        state = self._lifecycle.state.name.lower() if self._started else "not started"
        queues = clip(str(self._queues), 200)
        return (
            f"<faktory.Worker {self.faktory}, queues: {queues}, concurrency: {self.concurrency}, "
            f"{'ended' if self._ended else state}>"
        )

    @property
    def _log(self) -> Log:
        return Log(self.log)

    def register(self, name: str, func: Callable[..., object], bind: bool = False) -> None:
        """Let `func` run the jobs of type `name` on this worker; the last one registered wins.

        It may be async. ValueError if it is not callable, or async where jobs run on no threads.
        """
        if not callable(func):
            raise ValueError("task func is not callable")
        task = make_task(name, func, bind)
        if task.is_async and not self._runs_async:
            raise ValueError(f"{name}: {NEEDS_THREADS}")
        self._tasks[name] = task
        self._log.info("Registered task: %s", name)

    def deregister(self, name: str) -> None:
        """Forget what was registered under a name on this worker, if anything was."""
        if self._tasks.pop(name, None) is not None:
            self._log.debug("Removed registered task: %s", name)

    def get_registered_task(self, name: str) -> Task:
        """Return what was registered under a name on this worker; ValueError if nothing was."""
        try:
            return self._tasks[name]
        except KeyError:
            raise ValueError(f"'{name}' is not a registered task") from None

    def get_queues(self) -> Sequence[str]:
        """Return the queues of the next FETCH, in order; may be overridden.

        Of what it returns the worker leaves out queues whose limit is reached.
        """
        return self._queues.order()

    def get_worker_id(self) -> str:
        """Make this worker's id; may be overridden."""
        return uuid.uuid4().hex

    @property
    def is_quiet(self) -> bool:
        """Whether it fetches no more."""
        return not self._lifecycle.fetches

    @property
    def is_disconnecting(self) -> bool:
        """Whether it stops, or has stopped."""
        return self._lifecycle.state is State.TERMINATE

    @property
    def is_drained(self) -> bool:
        """Whether it stops, or has stopped, because no job was left: see `burst`."""
        return self._drained

    @property
    def busy(self) -> int:
        """How many jobs run."""
        return self._manager.busy

    @property
    def replaced(self) -> int:
        """How many threads were replaced, because their job was past its reservation."""
        return self._manager.replaced

    @property
    def grace_ends(self) -> float:
        """When the grace period of a worker that stops is over (`time.monotonic`)."""
        return min(self._deadline or 0.0, self._stopped_at + self.disconnect_wait)

    def record_jobs(self, table: JobTable) -> None:
        """Write the ids of the running jobs into a table that a supervisor reads."""
        self._manager.job_table = table

    def quiet(self) -> None:
        """Fetch no more; running jobs go on, and the worker stays. From any thread."""
        self._inbox.put(self._become_quiet)

    def stop(self) -> None:
        """Stop as the server or a TERM would have it; `run` returns then. From any thread."""
        self._inbox.put(self._terminate)

    def disconnect(self, force: bool = False, wait: float | timedelta = 30) -> None:
        """Stop with `wait` seconds of grace, or at once with `force`. From any thread.

        A worker that stops already gets less time by this, never more.
        """
        grace = 0.0 if force else check_duration("wait", wait)

        def disconnect() -> None:
            if self._deadline is None:
                self.disconnect_wait = grace
            self._shorten(grace)
            self._terminate()

        self._inbox.put(disconnect)

    def run(self) -> None:
        """Work until stopped: by `stop`, by TERM or INT in the main thread, or by the server.

        Waits for a server that cannot be reached. Raises ValueError where jobs run on no threads,
        and an async one is declared for one of its queues, FaktoryAuthenticationError where the
        password is wrong, CannotStart where the system has too few threads. Returns when every
        job is reported; threads whose jobs do not end within the grace period are abandoned, and
        named in the log.
        """
        if self._started:
            raise RuntimeError("a worker runs once: make a new one.")
        self._started = True
        if not self._runs_async:
            self._check_no_async_job()
        keep_enabled()
        backends = self._manager.backends = self._make_backends()
        if counts.current is not None:
            self._status = Status(counts.current, self._manager)
            self._manager.outage.on_change = self._wake
            counts.current.declare(self._tasks, self._queues.names)
        try:
            self._run()
        finally:
            if self._status is not None:
                self._status.end()
            if backends is not None:
                backends.close()
        if self._fatal is not None:
            raise self._fatal

    def _check_no_async_job(self) -> None:
        queues = registry.queues()
        for name in registry.names():
            task = self._tasks.get(name) or registry.find(name)
            if task is not None and task.is_async and queues.get(name) in self._queues.names:
                raise ValueError(f"{name}: {NEEDS_THREADS}")

    def _run(self) -> None:
        if self._introduce is None:
            overridden = getattr(self.get_queues, "__func__", None) is not Worker.get_queues
            self._log.info("Queues: %s", "as get_queues() says" if overridden else self._queues)
            self._log.info("Labels: %s", ", ".join(self.labels))
        heartbeat = Heartbeat(
            self._manager,
            self._make_client(),
            self.send_heartbeat_every,
            self._timing,
            connections=self.concurrency + 1,
            on_connected=self._log_connected,
            on_tried=self._wake,
        )
        with handled(self._posted(self._orders.always), self._posted(self._orders.unless_used)):
            try:
                self._calls.fire("startup")
                self._start_threads(heartbeat)
                self._manage(self._is_over)
                if not self._ended:
                    self._manager.interrupt_jobs()  # those that are overdue are not waited for
                    self._abandon([])
            finally:
                self._lifecycle.advance(State.TERMINATE)  # if by an error: nobody fetches more
                self._manager.stop()
                if self._scheduler is not None:
                    self._scheduler.stop()
                heartbeat.stop()
                self._own_client.close()
                self._end_async_jobs()

    def _start_threads(self, heartbeat: Heartbeat) -> None:
        if self._status is not None:
            self._status.heartbeat = heartbeat
        starts: list[Callable[[], object]] = [
            heartbeat.start,
            partial(self._introduce_after, heartbeat),
            *[self._manager.start_processor] * self.concurrency,
        ]
        for start in starts:
            while not (self.is_disconnecting or self._inbox.empty()):
                self._step(None)  # a TERM need not wait until all have started
            if self.is_disconnecting:
                return
            try:
                start()
            except RuntimeError as error:  # the system gives no more threads
                started = len(self._manager.processors)
                self._give_up(CannotStart(started, self.concurrency, error))
                return
        if self._periodic and (declared := schedules()):
            self._scheduler = Scheduler(self._make_client(), declared, self.log)
            try:
                self._scheduler.start()
            except RuntimeError as error:
                self._scheduler = None
                self._log.error("no thread for periodic jobs, so they are not pushed: %s", error)

    def _introduce_after(self, heartbeat: Heartbeat) -> None:
        """Wait a moment for the first heartbeat, so that its line is the first one."""
        until = monotonic() + self._timing.connect_notice
        while not (heartbeat.has_tried or self.is_disconnecting) and monotonic() < until:
            self._step(until)
        if self.is_disconnecting:
            return
        if not heartbeat.has_tried:
            self._log.info("connecting to %s: no answer yet", self._where)
        if self._introduce is not None:
            self._introduce()

    @property
    def _where(self) -> str:
        return f"{self.faktory.place} ({'tcp+tls' if self.faktory.tls else 'tcp'})"

    def _log_connected(self, info: object) -> None:
        """Log that the server was reached first; `info` is its INFO. From any thread."""
        self._log.info(
            "%sconnected to %s at %s",
            "" if self._number is None else f"worker {self._number}: ",
            texts.server_of(info),
            self._where,
            event="back" if self._manager.outage.was_lost else "other",
        )

    def _manage(self, until: Callable[[], bool]) -> None:
        """Do what is in the inbox until that is true, or the grace period is over."""
        while not (self._ended or until()):
            self._step(self._next_check())
            self._manager.check_jobs()
            self._end_burst()
            if self._status is not None:
                self._status.publish()
            if self._deadline is not None and monotonic() >= self._deadline and not self._ended:
                self._calls.end()
                self._end_jobs()

    def _end_burst(self) -> None:
        """With `burst`, stop if nothing is left to do; a quiet worker, when its jobs have ended."""
        if self._manager.burst is None or self.is_disconnecting:
            return
        if self._manager.is_drained():
            self._drained = True
            text = "burst: no job waits in these queues, and none runs here"
            self._log.info(text, event="stop")
            self._terminate()
        elif self.is_quiet and not self._manager.processors:
            self._terminate()

    def _is_over(self) -> bool:
        return self.is_disconnecting and not self._manager.processors

    def _make_client(self) -> Client:
        return Client(self.faktory.url, **self._client_options)

    def _choose_backends(
        self, use_threads: bool | None, executor: Callable[..., Executor] | None
    ) -> Callable[[], Backends | None]:
        """Return what makes the backends when the worker runs; None where jobs run on threads."""
        if executor is not None:
            from .backends import futures

            return futures.backends(executor, self.concurrency, self.log, self._timing)
        if use_threads is None or use_threads:
            return lambda: None
        check_can_fork()
        from .backends import children

        shared = ("timeout", "ssl_context", "tcp_keepalive")
        options = {k: v for k, v in self._client_options.items() if k in shared}
        return lambda: children.ProcessBackends(
            self._manager.runner,
            lambda: Client(self.faktory.url, **options),
            lambda error: self._inbox.put(lambda: self._give_up(error)),
            self.log,
            self._timing,
        )

    def _step(self, deadline: float | None) -> None:
        """Do the next thing in the inbox; nothing if it stays empty until the deadline."""
        timeout = None
        if deadline is not None:
            timeout = min(max(0.0, deadline - monotonic()), threading.TIMEOUT_MAX)
        try:
            function = self._inbox.get(timeout=timeout)
        except Empty:
            return
        function()

    def _become_quiet(self) -> None:
        if self._lifecycle.advance(State.QUIET):
            after = self._after_quiet if self._manager.burst is None else texts.ENDS
            self._log.warning("quiet: fetches no more jobs; %s", after, event="quiet")
            self._manager.close_burst()
            self._calls.fire("quiet")

    def _terminate(self, interrupts: bool = False) -> None:
        was_quiet = self.is_quiet
        if not self._lifecycle.advance(State.TERMINATE):
            return
        self._stopped_at = monotonic()
        self._deadline = self._stopped_at + self.disconnect_wait
        self._log_stop(interrupts and texts.is_terminal(sys.stderr))
        self._manager.stop()
        self._calls.fire(*(() if was_quiet else ("quiet",)), "shutdown")

    def _log_stop(self, hint: bool) -> None:
        running = self._manager.running()
        if not running:
            if self._fatal is None and not self._drained:  # both have a line of their own
                self._log.info("stopping", event="stop")
            return
        self._log.info("%s", texts.of_stop(running, self.disconnect_wait, hint), event="stop")

    def _next_check(self) -> float:
        """When to check the jobs again, or to stop waiting for them (`time.monotonic`)."""
        check = monotonic() + self._timing.check_interval
        times = (check, self._deadline, self._manager.next_due())
        return min(at for at in times if at is not None)

    def _wake(self) -> None:
        """Have the thread that manages look at its conditions. From any thread."""
        self._inbox.put(lambda: None)

    def _posted(self, signals: Mapping[str, Callable[[], None]]) -> dict[str, Callable[[], object]]:
        return {name: partial(self._inbox.put, do) for name, do in signals.items()}

    def _on_stop_signal(self, interrupts: bool = False) -> None:
        """Stop; the second signal ends the grace period. `interrupts`: it may be Ctrl-C."""
        self._shorten(0.0)
        self._terminate(interrupts)

    def _shorten(self, grace: float) -> None:
        """End the grace period so many seconds from now, unless it ends earlier or has ended."""
        if self._deadline is not None and not self._ending:
            self._deadline = min(self._deadline, monotonic() + grace)

    def _on_server_state(self, state: str) -> None:
        if not (self.is_disconnecting or (state == "quiet" and self.is_quiet)):
            self._log.info("the server asks this worker to %s", state)
        if state == "quiet":
            self._become_quiet()
        else:
            self._terminate()

    def _give_up(self, error: BaseException) -> None:
        if self._fatal is None:
            self._fatal = error
        self._terminate()

    def _end_jobs(self) -> None:
        """Interrupt the running jobs, wait a little longer, then report those that go on."""
        self._ending = True
        is_cut = self.grace_ends < self._stopped_at + self.disconnect_wait
        if running := self._manager.running():
            text = texts.of_interrupt(running, is_cut, self._manager.give_back)
            self._log.warning("%s", text, event="stop")
        waited = round(monotonic() - self._stopped_at, 1) if is_cut else self.disconnect_wait
        self._manager.interrupt_jobs()
        jobs_until = monotonic() + self._timing.shutdown_grace
        self._deadline = max(jobs_until, self._stopped_at + self._timing.fetch_grace)
        while (left := self._manager.processors) and (now := monotonic()) < self._deadline:
            if now >= jobs_until and all(processor.running.current for processor in left):
                break  # no FETCH is under way, and no report
            self._step(min(jobs_until if now < jobs_until else self._deadline, self._next_check()))
            self._manager.check_jobs()
        message = f"the worker stopped and the job did not end within {waited:g} s"
        self._abandon(self._manager.abandon(self._own_client, message))

    def _end_async_jobs(self) -> None:
        """End the loop of async jobs; its hooks have the rest of the grace period."""
        jobs, least = self._manager.async_jobs, self._timing.loop_grace
        while (until := jobs.stop(max(self.grace_ends - monotonic(), least))) is not None:
            self._step(until)  # a signal may end the grace period

    def _abandon(self, names: list[str]) -> None:
        self.abandoned += [*names, *(processor.name for processor in self._manager.overdue)]
        self._ended = True

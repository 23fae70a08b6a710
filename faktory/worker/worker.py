"""The worker: job threads, a heartbeat, and one thread that watches over them.

Rules: `run` does everything in the thread that calls it, told what to do by messages in one
inbox, which signal handlers may write to at any moment. A fetched job is always answered: by its
thread, or, when the grace period is over and the job does not end, by `run`. What the threads do
is looked after in `crew`; here is when.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..client import Client
from ..exceptions import FaktoryAuthenticationError, FaktoryError
from ..jobs import registry
from ..jobs.context import JobContext
from ..wire.validate import check_duration
from . import events
from .crew import CannotStart, Crew
from .events import Event, Events
from .heartbeat import Heartbeat
from .jobthread import JobThread
from .lifecycle import Lifecycle, State
from .outage import Outage
from .outside import check_can_fork
from .queues import Queues
from .signals import answered
from .task import Task

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from ssl import SSLContext

    from .foreign import Foreign
    from .processes import Processes

LOOK_EVERY = 1.0
"""Seconds between two looks at the jobs that run; a reservation lasts 60 at least."""

LAST_WORDS = 1.0
"""Seconds that jobs have to end, and reports to go out, after the grace period."""

LAST_BEAT = 0.5
"""Seconds that a beat which is under way has to be answered when all else has ended."""

FETCH_PATIENCE = 5.0
"""Seconds after the worker was told to stop in which a FETCH that is under way may still bring a
job: the server gives itself as long for a command (`server/server.go: processLines`)."""


class Worker:
    """Fetches jobs from `queues` and runs up to `concurrency` of them at a time.

    `faktory` is the server's address, None the environment's. `queues` is a list (strict order)
    or a mapping of weights. `disconnect_wait` is the grace period: how long jobs may go on when
    the worker stops. What runs a job is what was registered on this worker, else what
    `faktory.job` declared.

    Jobs run on threads; with `use_threads=False` on processes, forked when `run` begins: what is
    declared or registered until then is known there. `executor`, which wins over that, is a class
    of executors, called with `max_workers=concurrency`, whose `submit` runs the jobs. In both,
    error handlers and "exhausted" are told in the worker.

    `buffer_size` is accepted, as in faktory 1.0.0, and has no effect.
    """

    send_heartbeat_every: float = 15
    """Seconds between two heartbeats; the server gives a silent worker up after 60."""

    def __init__(
        self,
        faktory: str | None = None,
        *,
        queues: Sequence[str] | Mapping[str, int] = ("default",),
        concurrency: int = 1,
        labels: Sequence[str] | None = ("python",),
        disconnect_wait: float | timedelta = 15,
        log: logging.Logger | None = None,
        worker_id: str | None = None,
        timeout: float | timedelta | None = None,
        buffer_size: int = 4096,  # noqa: ARG002
        use_threads: bool | None = None,
        executor: Callable[..., Executor] | None = None,
        ssl_context: SSLContext | None = None,
    ) -> None:
        if not isinstance(concurrency, int) or isinstance(concurrency, bool) or concurrency < 1:
            raise ValueError(
                f"concurrency is {concurrency!r}: it must be a whole number of 1 or more."
            )
        if isinstance(labels, str):
            raise ValueError(f"labels is the text {labels!r}: pass a list, [{labels!r}].")
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
            "ssl_context": ssl_context,
            **({} if timeout is None else {"timeout": timeout}),
        }
        self._begin_outside = self._how_outside(use_threads, executor)
        self._own_client = Client(faktory, **self._client_options)
        self.faktory = self._own_client.faktory
        self._tasks: dict[str, Task] = {}
        self._events = Events(events.of_process)
        self.on = self._events.on
        self.error_handlers = self._events.error_handlers
        self._lifecycle = Lifecycle()
        self._outage = Outage(self.log)
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._crew = Crew(self._make_thread, self._failed, self.log)
        self._outside: Processes | Foreign | None = None
        self._stopped_at = 0.0
        self._deadline: float | None = None
        self._fatal: BaseException | None = None
        self._started = False
        self.abandoned: list[str] = []
        """The threads whose job did not end in time, or whose report was not delivered."""

    def register(self, name: str, func: Callable[..., object], bind: bool = False) -> None:
        """Let `func` run the jobs of type `name` on this worker; the last one registered wins."""
        if not callable(func):
            raise ValueError("task func is not callable")
        self._tasks[name] = Task(name, func, bind)
        self.log.info("Registered task: %s", name)

    def deregister(self, name: str) -> None:
        """Forget what was registered under a name on this worker, if anything was."""
        if self._tasks.pop(name, None) is not None:
            self.log.debug("Removed registered task: %s", name)

    def get_registered_task(self, name: str) -> Task:
        """Return what was registered under a name on this worker; ValueError if nothing was."""
        try:
            return self._tasks[name]
        except KeyError:
            raise ValueError(f"'{name}' is not a registered task") from None

    def get_queues(self) -> Sequence[str]:
        """Return the queues of the next FETCH, in order; may be overridden."""
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
    def busy(self) -> int:
        """How many jobs run."""
        return self._crew.busy

    @property
    def replaced(self) -> int:
        """How many threads were replaced, since their job outlived its reservation."""
        return self._crew.replaced

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

        def leave() -> None:
            if self._deadline is None:
                self.disconnect_wait = grace
            else:
                self._deadline = min(self._deadline, monotonic() + grace)
            self._terminate()

        self._inbox.put(leave)

    def run(self) -> None:
        """Work until stopped: by `stop`, by TERM or INT in the main thread, or by the server.

        Waits for a server that cannot be reached. Raises FaktoryAuthenticationError where the
        password is wrong, CannotStart where the system has too few threads. Returns when every
        job is answered; threads whose jobs would not end within the grace period are left behind,
        and named in the log.
        """
        if self._started:
            raise RuntimeError("a worker runs once: make a new one.")
        self._started = True
        if self._begin_outside is not None:
            self._outside = self._begin_outside()
        try:
            self._run()
        finally:
            if self._outside is not None:
                self._outside.close()
        self.abandoned += [thread.name for thread in self._crew.outlived]
        if self._fatal is not None:
            raise self._fatal

    def _run(self) -> None:
        overridden = getattr(self.get_queues, "__func__", None) is not Worker.get_queues
        self.log.info("Queues: %s", "as get_queues() says" if overridden else self._queues)
        self.log.info("Labels: %s", ", ".join(self.labels))
        heartbeat = Heartbeat(
            Client(self.faktory.url, **self._client_options),
            self.send_heartbeat_every,
            self._lifecycle,
            self._server_wants,
            self._heartbeat_fails,
            self._outage.ends,
            self._crew.connect_anew,
            self._crew.running,
            self.log,
        )
        signals = {
            "SIGTERM": self._interrupted,
            "SIGINT": self._interrupted,
            "SIGTSTP": self._become_quiet,
            "SIGTTIN": self._crew.show,
        }
        with answered({name: partial(self._inbox.put, do) for name, do in signals.items()}):
            self._tell("startup")
            try:
                self._start_threads(heartbeat)
                self._watch()
            finally:
                self._lifecycle.advance(State.TERMINATE)  # if by an error: nobody fetches more
                self._crew.stop()
                heartbeat.stop()
                if heartbeat.is_alive():
                    heartbeat.join(LAST_BEAT)
                self._own_client.close()

    def _start_threads(self, heartbeat: Heartbeat) -> None:
        starts = [heartbeat.start, *[self._crew.start_one] * self.concurrency]
        for start in starts:
            while not self._inbox.empty():  # a TERM need not wait until all have started
                self._step(None)
            if self.is_disconnecting:
                return
            try:
                start()
            except RuntimeError as error:  # no more threads to be had
                started = len(self._crew.threads)
                self._give_up(CannotStart(started, self.concurrency, error))

    def _watch(self) -> None:
        """Do what is asked for until every thread has ended, or the grace period has."""
        while not (self.is_disconnecting and not self._crew.threads):
            self._step(self._next_look())
            self._look_after_jobs()
            if self._deadline is not None and monotonic() >= self._deadline:
                self._end_jobs()
                return
        self._crew.interrupt()  # whose job outlived its reservation is not waited for

    def _make_thread(self, name: str) -> JobThread:
        return JobThread(
            name,
            Client(self.faktory.url, **self._client_options),
            self._lifecycle,
            self.get_queues,
            self._find,
            self._outage,
            self._failed,
            partial(self._inbox.put, self._look_after_jobs),
            lambda thread, error: self._inbox.put(lambda: self._ended(thread, error)),
            self.log,
            None if self._outside is None else self._outside.make(),
        )

    def _how_outside(
        self, use_threads: bool | None, executor: Callable[..., Executor] | None
    ) -> Callable[[], Processes | Foreign] | None:
        """Return what begins the place where jobs run, None if that is the job threads."""
        if executor is not None:
            from .foreign import begin

            return begin(executor, self.concurrency, self.log)
        if use_threads is None or use_threads:
            return None
        check_can_fork()
        from . import processes

        options = {k: v for k, v in self._client_options.items() if k in ("timeout", "ssl_context")}
        return lambda: processes.Processes(
            self._find,
            {name: self._find(name) for name in {*self._tasks, *registry.names()}},
            lambda: Client(self.faktory.url, **options),
            lambda error: self._inbox.put(lambda: self._give_up(error)),
            self.log,
        )

    def _find(self, jobtype: str) -> registry.Runnable:
        job = self._tasks.get(jobtype) or registry.find(jobtype)
        if job is None:
            raise registry.unknown(jobtype, sorted({*self._tasks, *registry.names()}))
        return job

    def _step(self, deadline: float | None) -> None:
        """Do what the next message says, or nothing if none comes before the deadline."""
        timeout = None
        if deadline is not None:
            timeout = min(max(0.0, deadline - monotonic()), threading.TIMEOUT_MAX)
        try:
            message = self._inbox.get(timeout=timeout)
        except Empty:
            return
        message()

    def _become_quiet(self) -> None:
        if self._lifecycle.advance(State.QUIET):
            self.log.warning("quiet: no more jobs are fetched")
            self._tell("quiet")

    def _terminate(self) -> None:
        was_quiet = self.is_quiet
        if not self._lifecycle.advance(State.TERMINATE):
            return
        self._stopped_at = monotonic()
        self._deadline = self._stopped_at + self.disconnect_wait
        running = self._crew.running()
        self.log.info(
            "Shutdown: waiting up to %g seconds for %d jobs to finish%s",
            self.disconnect_wait,
            len(running),
            ": " + ", ".join(running) if running else "",
        )
        self._crew.stop()
        if not was_quiet:
            self._tell("quiet")
        self._tell("shutdown")

    def _next_look(self) -> float:
        """When to look after the jobs again, or to stop waiting for them (`time.monotonic`)."""
        look = monotonic() + LOOK_EVERY
        return min(at for at in (look, self._deadline, self._crew.next_due()) if at is not None)

    def _look_after_jobs(self) -> None:
        self._crew.look_after(replace=not self.is_quiet)

    def _tell(self, event: Event, *args: object) -> None:
        self._events.fire(self.log, event, *args)

    def _failed(self, job: JobContext, error: BaseException) -> None:
        """A job raised, in its own thread, or does not end; this is not reported yet."""
        self._events.report(self.log, error, job.payload)
        if job.failures_left == 0:
            self._tell("exhausted", job, error)

    def _interrupted(self) -> None:
        """A signal to stop; the second one means at once."""
        if self.is_disconnecting:
            self._deadline = monotonic()
        self._terminate()

    def _server_wants(self, state: str) -> None:
        self._inbox.put(self._become_quiet if state == "quiet" else self._terminate)

    def _heartbeat_fails(self, error: FaktoryError) -> None:
        if isinstance(error, FaktoryAuthenticationError):
            self._inbox.put(lambda: self._give_up(error))
        else:
            self._outage.begins(error)

    def _ended(self, thread: JobThread, error: BaseException | None) -> None:
        self._crew.ended(thread)
        if error is not None:
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        if self._fatal is None:
            self._fatal = error
        self._terminate()

    def _end_jobs(self) -> None:
        """Interrupt what still runs, wait for what may still come, and answer for the rest."""
        if running := self._crew.running():
            self.log.warning(
                "the grace period is over: interrupting %d jobs, which fail by that and use up an "
                "attempt (one with retry 0 is dropped): %s",
                len(running),
                ", ".join(running),
            )
        self._crew.interrupt()
        last_words = monotonic() + LAST_WORDS
        self._deadline = max(last_words, self._stopped_at + FETCH_PATIENCE)
        while (threads := self._crew.threads) and (now := monotonic()) < self._deadline:
            if now >= last_words and all(thread.slot.job for thread in threads):
                break  # no FETCH is under way, and no report
            self._step(min(last_words if now < last_words else self._deadline, self._next_look()))
            self._look_after_jobs()
        message = f"the worker stopped and the job did not end within {self.disconnect_wait:g} s"
        self.abandoned += self._crew.leave_behind(self._own_client, message)

"""The worker: job threads, a heartbeat, and one thread that watches over them.

Rules: `run` does everything in the thread that calls it, told what to do by messages in one
inbox, which signal handlers may write to at any moment. A fetched job is always answered: by its
thread, or, when the grace period is over and the job does not end, by `run`.
"""

from __future__ import annotations

import itertools
import logging
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from ..client import Client
from ..exceptions import FaktoryAuthenticationError, FaktoryError, Shutdown
from ..jobs import registry
from ..jobs.context import JobContext
from ..wire import commands
from ..wire.payload import seconds
from . import events
from .events import Event, Events
from .heartbeat import Heartbeat
from .jobthread import JobThread
from .lifecycle import Lifecycle, State
from .outage import Outage
from .queues import Queues
from .signals import answered
from .stacks import stack

if TYPE_CHECKING:
    from ssl import SSLContext

LOOK_EVERY = 10.0
"""Seconds between two looks at the jobs that run; a reservation lasts 60 at least."""

LAST_WORDS = 2.0
"""Seconds that jobs have to end, and reports to go out, after the grace period."""

LAST_TRY = 0.5
"""Seconds that threads which could not deliver their report have for one more attempt."""

FETCH_PATIENCE = 5.0
"""Seconds after the worker was told to stop in which a FETCH that is under way may still bring a
job: the server gives itself as long for a command (`server/server.go: processLines`)."""


class CannotStart(RuntimeError):
    """The system gives no more threads; `started` job threads were had before."""

    def __init__(self, started: int, concurrency: int, reason: object) -> None:
        super().__init__(
            f"only {started} of {concurrency} job threads could be started: {reason}. "
            "Use a lower concurrency, or more processes with fewer threads each."
        )
        self.started = started


class Task(NamedTuple):
    """A function registered on one worker; with `bind` it gets the jid as first argument."""

    name: str
    func: Callable[..., object]
    bind: bool

    @property
    def origin(self) -> str:
        """What it is in a message."""
        return f"{self.name} of a worker"

    @property
    def time_limit(self) -> float | None:
        """None: it may take as long as it likes."""
        return None

    def run(self, job: JobContext) -> object:
        """Call the function with a job's arguments."""
        return self.func(job.jid, *job.args) if self.bind else self.func(*job.args)


class Worker:
    """Fetches jobs from `queues` and runs up to `concurrency` of them at a time, on threads.

    `faktory` is the server's address, None the environment's. `queues` is a list (strict order)
    or a mapping of weights. `disconnect_wait` is the grace period: how long jobs may go on when
    the worker stops. What runs a job is what was registered on this worker, else what
    `faktory.job` declared. `buffer_size` is accepted, as in faktory 1.0.0, and has no effect.
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
        executor: object = None,
        ssl_context: SSLContext | None = None,
    ) -> None:
        if executor is not None or use_threads not in (None, True):
            raise ValueError(
                "jobs run on threads, and on nothing else yet: leave out executor= and "
                "use_threads=False. For more processes start more workers."
            )
        if not isinstance(concurrency, int) or isinstance(concurrency, bool) or concurrency < 1:
            raise ValueError(
                f"concurrency is {concurrency!r}: it must be a whole number of 1 or more."
            )
        if isinstance(labels, str):
            raise ValueError(f"labels is the text {labels!r}: pass a list, [{labels!r}].")
        if (grace := seconds("disconnect_wait", disconnect_wait)) < 0:
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
        self._own_client = Client(faktory, **self._client_options)
        self.faktory = self._own_client.faktory
        self._tasks: dict[str, Task] = {}
        self._events = Events(events.of_process)
        self.on = self._events.on
        self.error_handlers = self._events.error_handlers
        self._lifecycle = Lifecycle()
        self._outage = Outage(self.log)
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._threads: list[JobThread] = []
        self._numbers = itertools.count(1)
        self._outlived: list[JobThread] = []
        """Threads whose job outlived its reservation, and goes on."""
        self._stopped_at = 0.0
        self._deadline: float | None = None
        self._fatal: BaseException | None = None
        self._started = False
        self.left_behind: list[str] = []
        self.replaced = 0
        """How many threads were replaced, since their job outlived its reservation."""

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
        return sum(thread.slot.job is not None for thread in self._threads.copy())

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
        grace = 0.0 if force else seconds("wait", wait)

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
        self.log.info("Queues: %s", self._queues)
        self.log.info("Labels: %s", ", ".join(self.labels))
        heartbeat = Heartbeat(
            Client(self.faktory.url, **self._client_options),
            self.send_heartbeat_every,
            self._lifecycle,
            self._server_wants,
            self._heartbeat_fails,
            self._outage.ends,
            self._connect_anew,
            self._running,
            self.log,
        )
        signals = {
            "SIGTERM": self._interrupted,
            "SIGINT": self._interrupted,
            "SIGTSTP": self._become_quiet,
            "SIGTTIN": self._show_threads,
        }
        with answered({name: partial(self._inbox.put, do) for name, do in signals.items()}):
            self._tell("startup")
            heartbeat.start()
            try:
                self._start_threads()
                while not (self.is_disconnecting and not self._threads):
                    self._step(self._next_look())
                    self._look_after_jobs()
                    if self._deadline is not None and monotonic() >= self._deadline:
                        self._end_jobs()
                        break
            finally:
                heartbeat.stop()
                heartbeat.join(LAST_WORDS)
                self._own_client.close()
        self.left_behind += [thread.name for thread in self._outlived]
        if self._fatal is not None:
            raise self._fatal

    def _start_threads(self) -> None:
        for _ in range(self.concurrency):
            while not self._inbox.empty():  # a TERM need not wait until all have started
                self._step(None)
            if self.is_disconnecting or not self._start_thread():
                return

    def _start_thread(self) -> bool:
        thread = JobThread(
            f"faktory-{next(self._numbers)}",
            Client(self.faktory.url, **self._client_options),
            self._lifecycle,
            self.get_queues,
            self._find,
            self._outage,
            self._failed,
            partial(self._inbox.put, self._look_after_jobs),
            lambda thread, error: self._inbox.put(lambda: self._ended(thread, error)),
            self.log,
        )
        try:
            thread.start()
        except RuntimeError as error:  # no more threads to be had
            self._give_up(CannotStart(len(self._threads), self.concurrency, error))
            return False
        self._threads.append(thread)
        return True

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
        running = self._running()
        self.log.info(
            "Shutdown: waiting up to %g seconds for %d jobs to finish%s",
            self.disconnect_wait,
            len(running),
            ": " + ", ".join(running) if running else "",
        )
        for thread in self._threads:
            thread.stopping.set()
        if not was_quiet:
            self._tell("quiet")
        self._tell("shutdown")

    def _next_look(self) -> float:
        """When to look after the jobs again, or to stop waiting for them (`time.monotonic`)."""
        look = monotonic() + LOOK_EVERY
        ends = [thread.slot.ends for thread in self._threads]
        return min(at for at in (look, self._deadline, *ends) if at is not None)

    def _look_after_jobs(self) -> None:
        """See to jobs whose time limit or reservation is over."""
        now = monotonic()
        for thread in self._threads.copy():
            thread.slot.enforce_limit(now)
            job = thread.slot.job
            if job is not None and job.remaining() < 0 and thread.slot.disown(job):
                self._replace(thread, job)

    def _replace(self, thread: JobThread, job: JobContext) -> None:
        """Start another thread in place of one whose job is not ours any more."""
        self.replaced += 1
        self._threads.remove(thread)
        self._outlived.append(thread)
        thread.retire()
        self.log.error(
            "%s has outlived its reservation on thread %s, so the server has failed it and may "
            "give it out again. It goes on, unreported, and another thread takes its place "
            "(replaced so far: %d). It stands at:\n%s",
            job,
            thread.name,
            self.replaced,
            stack(thread),
        )
        if not self.is_disconnecting:
            self._start_thread()

    def _running(self) -> list[str]:
        """The jobs that run, with how long they have."""
        now = monotonic()
        slots = [thread.slot for thread in self._threads]
        jobs = [(slot.job, slot.since) for slot in slots]
        return [f"{job} ({now - since:.0f} s)" for job, since in jobs if job is not None]

    def _show_threads(self) -> None:
        """Log where every thread stands, and with which job."""
        jobs = {thread: thread.slot.job for thread in (*self._threads, *self._outlived)}
        for thread in threading.enumerate():
            job = jobs.get(thread)  # type: ignore[call-overload]
            runs = f", running {job}" if job is not None else ""
            self.log.warning("thread %s%s:\n%s", thread.name, runs, stack(thread))

    def _connect_anew(self) -> None:
        """The server has forgotten this worker: let every connection say HELLO again."""
        for thread in self._threads.copy():
            thread.connect_anew()

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
        thread.join()  # it said so as its last act
        if thread in self._outlived:
            self._outlived.remove(thread)
        else:
            self._threads.remove(thread)
        if error is not None:
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        if self._fatal is None:
            self._fatal = error
        self._terminate()

    def _end_jobs(self) -> None:
        """Interrupt what still runs, wait for what may still come, and answer for the rest."""
        if running := self._running():
            self.log.warning(
                "the grace period is over: interrupting %d jobs, which fail by that and use up an "
                "attempt (one with retry 0 is dropped): %s",
                len(running),
                ", ".join(running),
            )
        for thread in self._threads:
            thread.slot.close(Shutdown)
        last_words = monotonic() + LAST_WORDS
        self._deadline = max(last_words, self._stopped_at + FETCH_PATIENCE)
        while self._threads and (now := monotonic()) < self._deadline:
            if now < last_words:
                self._step(last_words)
            elif all(thread.slot.job for thread in self._threads):
                break  # no FETCH is under way, and no report
            else:
                self._step(self._deadline)
        self._leave_behind()

    def _leave_behind(self) -> None:
        """Report the jobs that do not end as failed, in their threads' place."""
        message = f"the worker stopped and the job did not end within {self.disconnect_wait:g} s"
        stuck: list[JobContext] = []
        for thread in self._threads:
            thread.giving_up.set()
            self.left_behind.append(thread.name)
            job = thread.slot.disown()
            if job is None:
                continue
            stuck.append(job)
            self.log.warning(
                "%s does not end: left behind on thread %s and reported as failed",
                job,
                thread.name,
            )
            if thread.slot.told is not job:
                self._failed(job, Shutdown(message))
        if stuck:
            self._fail(stuck, message)
        until = monotonic() + LAST_TRY
        for thread in self._threads:
            if thread.slot.job is None:
                thread.join(max(0.0, until - monotonic()))

    def _fail(self, jobs: list[JobContext], message: str) -> None:
        try:
            answers = self._own_client.exchange(
                *[commands.fail(job.jid, "Shutdown", message, []) for job in jobs]
            )
            refusals = [answer.error for answer in answers]
        except FaktoryError as error:
            refusals = [error] * len(jobs)
        for job, refusal in zip(jobs, refusals, strict=True):
            if refusal is not None:
                self.log.error("%s could not be reported: %s", job, refusal)

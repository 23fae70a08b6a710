"""The processors of a worker: started, checked, replaced, interrupted, abandoned.

Rules: any thread may call `busy`, `running`, `reconnect`, and what processors and the heartbeat
call (`ProcessorManager`, `HeartbeatManager`); all else is called by the thread that runs the
worker. A processor whose job is overdue, that is past its reservation, is replaced, and the late
outcome is never reported: the server has failed that job, and may have given it out again.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from time import monotonic
from typing import Final, Protocol

from ..client import Client
from ..exceptions import FaktoryAuthenticationError, FaktoryError, Shutdown
from ..jobs.context import JobContext, run_in
from ..jobs.registry import ExhaustedHandler, UnknownJob
from ..jobs.retries import FAIL
from ..jobs.runner import JobRunner
from ..wire.log import Log
from .backends.base import Backends, Report
from .backends.loop import AsyncJobs
from .burst import Burst
from .counts import BEAT_AT, REPLACED, Counts
from .delivery import Delivery, ServerClock, deliver, give_back, report_of
from .events import Events
from .lifecycle import Lifecycle
from .outage import Outage
from .processor import Processor
from .queues import Limits
from .stacks import stack
from .texts import fields_of, of_failure
from .timing import Timing

DUMP_INTERVAL: Final = 1.0
"""Seconds between two dumps of all stacks."""


class CannotStart(RuntimeError):
    """The system gives no more threads; `started` processors were started before."""

    def __init__(self, started: int, concurrency: int, reason: object) -> None:
        super().__init__(
            f"only {started} of {concurrency} threads for jobs could be started: {reason}. "
            "Use a lower concurrency, or more processes with fewer threads each."
        )
        self.started = started


class JobTable(Protocol):
    """Where the ids of the running jobs are written for the supervisor of this process."""

    def write(self, owner: str, jid: str | None, until: float = ..., ack: bool = ...) -> None:
        """Note which job `owner` has until then, None for none; whether it is to be ACKed."""


class Manager:
    """`post` has a function called in the thread that runs the worker, from any thread."""

    def __init__(
        self,
        runner: JobRunner,
        get_queues: Callable[[], Sequence[str]],
        make_client: Callable[[], Client],
        events: Events,
        post: Callable[[Callable[[], None]], None],
        on_server_state: Callable[[str], None],
        on_error: Callable[[BaseException], None],
        log: logging.Logger,
        timing: Timing,
    ) -> None:
        self.runner = runner
        self.get_queues = get_queues
        self.limits: Limits | None = None
        self.lifecycle = Lifecycle()
        self.outage = Outage(log)
        self.timing = timing
        self.log = log
        self._log = Log(log)
        self.backends: Backends | None = None
        self.async_jobs = AsyncJobs(None, log, timing, lambda: None)
        self.job_table: JobTable | None = None
        self.counts: Counts | None = None
        """The counters of this process, if something reads them."""
        self.burst: Burst | None = None
        self.give_back = False
        """Whether jobs that are interrupted as the worker stops are not counted as failed."""
        self.server_clock = ServerClock()
        self._make_client = make_client
        self._events = events
        self._post = post
        self._on_server_state = on_server_state
        self._on_error = on_error
        self._numbers = itertools.count(1)
        self.missing = 0
        self._dump_from = 0.0
        self.processors: list[Processor] = []
        self.overdue: list[Processor] = []
        """Processors whose job is overdue, and goes on."""
        self.replaced = 0
        self._interrupts_at: float | None = None

    # From any thread

    @property
    def busy(self) -> int:
        """How many jobs run."""
        return sum(each.running.current is not None for each in self.processors.copy())

    def running(self) -> list[str]:
        """The running jobs, with how long they have run."""
        now = monotonic()
        jobs = [(each.running.current, each.running.since) for each in self.processors.copy()]
        return [f"{job} ({now - since:.0f} s)" for job, since in jobs if job is not None]

    def reconnect(self) -> None:
        """Have every processor say HELLO again: the server does not know this worker any more."""
        for processor in self.processors.copy():
            processor.reconnect()

    def record(self, processor: Processor, job: JobContext | None) -> None:
        """Write into the job table, if there is one, which job a processor has."""
        if self.job_table is not None and not processor.running.disowned:
            if job is None:
                self.job_table.write(processor.name, None)
            else:
                self.job_table.write(processor.name, job.jid, job._ends)
                job.on_more_time = lambda _: self._record_again(processor, job)

    def mark(self, processor: Processor, job: JobContext, ack: bool, until: float | None) -> None:
        """Write into the job table what is to be done with a job; see `delivery.Mark`."""
        if self.job_table is not None:
            jid = None if until is None else job.jid
            self.job_table.write(processor.name, jid, until or 0.0, ack)

    def on_time_limit(self) -> None:
        """Have the worker's thread look when the next job is due to be interrupted."""
        self._post(self.check_jobs)

    def on_no_job(self, asked_at: float, queues: Collection[str]) -> None:
        """Note, for `burst`, that a FETCH for these queues that was sent then brought no job."""
        if self.burst is not None:
            self.burst.found_empty(asked_at, queues, self.processors.copy())

    def waited(self, processor: Processor, queues: Collection[str]) -> bool:
        """With `burst`, have a processor wait for what others push, if all of these are empty."""
        burst = self.burst
        return burst is not None and burst.waited(processor, queues, self.processors.copy())

    def on_failure(self, job: JobContext, error: BaseException, buried: bool = False) -> None:
        """Call the error handlers, and after the last attempt those of "exhausted"."""
        self._events.report(self.log, error, job.payload)
        if buried or job.retries_remaining == 0:
            own: Sequence[ExhaustedHandler] = ()
            with suppress(UnknownJob):
                own = self.runner.find(job.jobtype).exhausted_handlers
            self._events.fire(self.log, "exhausted", job, error, own=own)

    def on_beat(self, asked_at: float, state: str | None) -> None:
        """The server answered a heartbeat; have the worker get into the state that it wants."""
        self.outage.ends(asked_at)
        if self.counts is not None:
            self.counts.page.head[BEAT_AT] = monotonic()
        if state is not None:
            self._post(partial(self._on_server_state, state))

    def on_beat_error(self, asked_at: float, error: FaktoryError) -> None:
        """A heartbeat did not reach the server."""
        if isinstance(error, FaktoryAuthenticationError):
            self._post(partial(self._on_error, error))
        else:
            self.outage.begins(error, asked_at)

    def on_exit(self, processor: Processor, error: BaseException | None) -> None:
        """Have a processor removed that ends."""
        self._post(partial(self._remove, processor, error))

    # From the thread that runs the worker

    def make_processor(self, name: str) -> Processor:
        """Make a processor with a connection, and where there are backends one of those."""
        backend = None if self.backends is None else self.backends.make()
        processor = Processor(name, self, self._make_client(), backend)
        if self.counts is not None:
            processor.tally = self.counts.tally()
        return processor

    def start_processor(self) -> None:
        """Start a processor; RuntimeError if the system gives no more threads."""
        processor = self.make_processor(f"faktory-{next(self._numbers)}")
        processor.start()
        self.processors.append(processor)

    def next_due(self) -> float | None:
        """When a job is due to be interrupted next (`time.monotonic`)."""
        due = [processor.running.due for processor in self.processors]
        if self._interrupts_at is not None and self._interrupts_at > monotonic():
            due.append(self._interrupts_at)  # after that, each check ends waits
        return min((at for at in due if at is not None), default=None)

    def check_jobs(self) -> None:
        """Interrupt jobs at their time limit, replace processors whose job is overdue.

        While the worker stops, end waits for a server that does not answer.
        """
        now = monotonic()
        if self._interrupts_at is not None:
            self._end_waits(self.timing.fetch_grace if now >= self._interrupts_at else inf)
        self.async_jobs.check(now)
        for processor in self.processors.copy():
            processor.running.check(now)
            job = processor.running.current
            if job is not None and job.time_remaining() < 0 and processor.running.disown(job):
                self._set_aside(processor, job)
        while self.lifecycle.fetches and self.missing:
            try:
                self.start_processor()
            except RuntimeError as error:
                self._log.error("no thread in place of one that hangs, trying again: %s", error)
                return
            self.missing -= 1

    def is_drained(self) -> bool:
        """Return whether nothing is left to do, with `burst`: no job waits, and none runs."""
        return self.burst is not None and self.burst.is_over(self.processors)

    def close_burst(self) -> None:
        """With `burst`, have processors go on that wait for a job: no more are fetched."""
        if self.burst is not None:
            self.burst.close()

    def log_threads(self) -> None:
        """Log the stack of every thread of the process, and its job; once a second at most.

        A job that reads from the terminal gets SIGTTIN each time it tries.
        """
        now = monotonic()
        if now < self._dump_from:
            return
        self._dump_from = now + DUMP_INTERVAL
        jobs = {each: each.running.current for each in (*self.processors, *self.overdue)}
        for thread in threading.enumerate():
            job = jobs.get(thread)  # type: ignore[call-overload]
            runs = f", running {job}" if job is not None else ""
            where = self.async_jobs.stack_of(job) or stack(thread)
            self._log.warning("thread %s%s:\n%s", thread.name, runs, where)

    def stop(self) -> None:
        """End the pauses of processors that wait for the server, and the waits to connect.

        Those for an answer end after `fetch_grace`.
        """
        self.close_burst()
        if self.backends is not None:
            self.backends.stop()
        for processor in (*self.processors, *self.overdue):
            processor.running.stop()
        self._interrupts_at = monotonic() + self.timing.fetch_grace
        if self.limits is not None:
            self.limits.close()
        for processor in self.processors:
            processor.stopping.set()
        self._end_waits(inf)

    def interrupt_jobs(self) -> None:
        """Raise Shutdown in every job, and in each that comes from now on."""
        for processor in (*self.processors, *self.overdue):
            processor.running.close(Shutdown)

    def abandon(self, client: Client, message: str) -> list[str]:
        """Report the jobs that do not end as failed, in place of their processors.

        Returns the names of the processors that have one, or could not deliver their report.
        """
        stuck: list[tuple[Processor, JobContext]] = []
        deliveries: list[Delivery] = []
        failed: list[JobContext] = []
        names: list[str] = []
        self._end_waits(0.0)
        for processor in self.processors:
            processor.giving_up.set()
            job = processor.running.disown()
            if job is None:
                continue
            stuck.append((processor, job))
            names.append(processor.name)
            has_failed = processor.running.failed is not None
            verdict = give_back(job) if self.give_back and not has_failed else FAIL
            event, what = "retried", "returned"
            if verdict.outcome != "again":
                event, words = of_failure(job, verdict)
                what = f"reported as failed ({words})"
            text = "%s does not end: abandoned on thread %s and %s"
            about = partial(self._log.warning, text, job, processor.name, what)
            run_in(job, partial(about, **fields_of(job, event)))
            self._settle(processor, verdict.outcome)
            if verdict.outcome == "fail" and not has_failed:
                failed.append(job)
            mark = partial(self.mark, processor, job)
            report: Report = ("Shutdown", message, [])
            given_back = verdict.outcome == "again"
            deliveries.append(
                report_of(
                    job,
                    verdict,
                    report,
                    mark,
                    self._log,
                    given_back=given_back,
                    clock=self.server_clock,
                )
            )
        if failed:
            self._handle_failures(failed, message)
        if stuck:
            self._report_abandoned(stuck, deliveries, client)
        until = monotonic() + self.timing.report_grace
        for processor in self.processors:
            if processor.name not in names:
                processor.join(max(0.0, until - monotonic()))
                # Only with a connection it may have been given a job that it has not begun.
                is_at_work = processor.is_connected and processor.waits_since is None
                if processor.has_report or (is_at_work and processor.is_alive()):
                    processor.give_up_report()
                    names.append(processor.name)
        return names

    def _end_waits(self, after: float) -> None:
        """Interrupt processors that wait for the server, and forget those that do not notice.

        A wait for an answer is interrupted `after` so many seconds. Those that are forgotten hold
        neither a job nor a report, and their threads end when the system lets them.
        """
        now = monotonic()
        for processor in self.processors.copy():
            if (since := processor.waits_since) is None:
                continue
            interrupted_at = processor.interrupted_at
            if interrupted_at is None:
                connects = not (processor.is_connected or processor.has_report)
                if connects or now - since >= after:
                    processor.interrupt()
            elif not processor.has_report and now - interrupted_at >= self.timing.report_grace:
                self.processors.remove(processor)  # the system looks for the host's addresses, say

    def _remove(self, processor: Processor, error: BaseException | None) -> None:
        processor.join()  # that it ends was its last call
        for processors in (self.processors, self.overdue):
            if processor in processors:
                processors.remove(processor)
        if self.counts is not None and (tally := processor.tally) is not None:
            self.counts.release(tally)
        if error is not None:
            self._on_error(error)

    def _record_again(self, processor: Processor, job: JobContext) -> None:
        if processor.running.current is job:  # not for a thread of a job that has ended
            self.record(processor, job)

    def _set_aside(self, processor: Processor, job: JobContext) -> None:
        self.missing += 1
        self.replaced += 1
        self.processors.remove(processor)
        self.overdue.append(processor)
        self._settle(processor, "fail")
        if self.counts is not None:
            self.counts.page.head[REPLACED] += 1
        if self.job_table is not None:
            self.job_table.write(processor.name, None)
        killed = processor.backend is not None and processor.backend.kill()
        self._log.error(
            "%s is overdue on thread %s: its reservation is over, so the server has failed it and "
            "may give it out again. It %s, unreported, and another thread takes its place "
            "(replaced so far: %d). It stands at:\n%s",
            job,
            processor.name,
            "is killed" if killed else "goes on",
            self.replaced,
            self.async_jobs.stack_of(job) or stack(processor),
        )

    def _settle(self, processor: Processor, outcome: str) -> None:
        """Count the run whose report was taken from its processor, which counts no more."""
        tally, processor.tally = processor.tally, None
        if self.counts is not None and tally is not None:
            tally.settle(outcome)
            self.counts.release(tally)

    def _handle_failures(self, failed: list[JobContext], message: str) -> None:
        """Call the program's handlers of abandoned jobs; they do not delay the reports for long."""

        def handle() -> None:
            for job in failed:
                self.on_failure(job, Shutdown(message))

        thread = threading.Thread(target=handle, name="faktory-failures", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no more threads
            self._log.error("no thread to call the handlers of failed jobs in: they are not called")
            return
        thread.join(self.timing.shutdown_grace)
        if thread.is_alive():
            self._log.error(
                "a handler of failed jobs does not end; it stands at:\n%s", stack(thread)
            )

    def _report_abandoned(
        self,
        stuck: list[tuple[Processor, JobContext]],
        deliveries: list[Delivery],
        client: Client,
    ) -> None:
        for (processor, job), left in zip(
            stuck, deliver(client, deliveries, self._log), strict=True
        ):
            if left is not None:
                self._log.error("%s could not be reported: %s", job, left[1])
            elif self.job_table is not None:
                self.job_table.write(processor.name, None)

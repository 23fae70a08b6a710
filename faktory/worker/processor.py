"""A processor: one thread that fetches a job, runs it and reports it, one after the other.

Rules: a processor has a connection of its own. The report of a job is sent in one write with the
next FETCH. It is kept until the server has answered it, over as many connections as that takes:
ACK and FAIL may be sent again. A FETCH that is under way is waited for as long as the server's
machine is there; its job is run, or failed if it comes too late. A job that ends after its
reservation is not reported: the server has failed it, and may have given it out again. Whatever a
job raises becomes a report, SystemExit and KeyboardInterrupt too, and so does what goes wrong
around it: in a filter of the log, in the error's own methods. A processor whose job was disowned
ends with that job: another one has its place. A connection that breaks is replaced at once; only
when that fails is the server unreachable.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache, partial
from math import inf
from random import random
from threading import Event, Thread
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol

from ..client import Client
from ..exceptions import (
    Discard,
    FaktoryAuthenticationError,
    FaktoryError,
    FaktoryJSONError,
    Retry,
    Shutdown,
)
from ..jobs import chains
from ..jobs.context import JobContext
from ..jobs.expiry import has_expired
from ..jobs.registry import Runnable
from ..jobs.retries import FAIL, Verdict, judge
from ..jobs.runner import JobRunner, in_context
from ..wire import commands, failure
from ..wire.commands import Command
from ..wire.log import Log
from ..wire.payload import INVALID_JOB, find_fault, usable_jid
from ..wire.validate import brief, clip
from . import texts
from .backends.base import NEEDS_THREADS, Backend, RemoteError, Report
from .backends.loop import AsyncJobs
from .burst import Burst
from .counts import Tally
from .delivery import Delivery, PushNext, ServerClock, deliver, give_back, report_of
from .interrupts import RunningJob
from .lifecycle import Lifecycle
from .logs import JobLog
from .lost import SKIPPED, log_lost_fetch
from .outage import Outage
from .queues import Limits
from .timing import Timing


class _End(NamedTuple):
    """How a job ended."""

    outcome: str
    """"done", "discarded", or that of the verdict."""
    report: Report = ("", "", [])
    verdict: Verdict = FAIL
    is_wanted: bool = False
    """Whether the job asks to be run again, so that it has not failed."""
    given_back: bool = False
    """Whether it was interrupted as the worker stops, and that does not count."""
    following: Delivery | None = None
    """How the next job of its chain is pushed, and this one reported."""

    @property
    def reason(self) -> str:
        """Why it was discarded."""
        errtype, message, _ = self.report
        return message if errtype == Discard.__name__ else f"{errtype}: {message}"


_DONE: Final = _End("done")


class ProcessorManager(Protocol):
    """What a processor needs of its manager."""

    lifecycle: Lifecycle
    limits: Limits | None
    outage: Outage
    server_clock: ServerClock
    runner: JobRunner
    async_jobs: AsyncJobs
    timing: Timing
    log: logging.Logger
    burst: Burst | None

    def get_queues(self) -> Sequence[str]:
        """Return the queues of the next FETCH, in order."""

    @property
    def give_back(self) -> bool:
        """Whether jobs that are interrupted as the worker stops are not counted as failed."""

    def record(self, processor: Processor, job: JobContext | None) -> None:
        """Note which job a processor has fetched and not reported yet."""

    def mark(self, processor: Processor, job: JobContext, ack: bool, until: float | None) -> None:
        """Note what is to be done with that job if this process dies; see `delivery.Mark`."""

    def on_time_limit(self) -> None:
        """A job with a time limit begins."""

    def on_failure(self, job: JobContext, error: BaseException, buried: bool = False) -> None:
        """A job raised; its failure, which may bury it at once, is not reported yet."""

    def on_no_job(self, asked_at: float, queues: Collection[str]) -> None:
        """A FETCH for these queues that was sent then brought no job."""

    def waited(self, processor: Processor, queues: Collection[str]) -> bool:
        """Return whether it has waited, since nothing is left to do in these queues."""

    def on_exit(self, processor: Processor, error: BaseException | None) -> None:
        """A processor ends, by an error or because it has nothing left to do: its last call."""


@lru_cache(maxsize=64)  # more orders than that, of many queues with weights, are encoded each time
def _fetch(queues: tuple[str, ...]) -> Command[Any]:
    return commands.fetch(queues, skip_check=True)


class Processor(Thread):
    """A thread that works until its manager's lifecycle ends and nothing is left to report."""

    def __init__(
        self, name: str, manager: ProcessorManager, client: Client, backend: Backend | None = None
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.backend = backend
        """Where its jobs run, if not on this thread."""
        self.running = RunningJob(manager.on_time_limit, backend)
        self.stopping = Event()
        """Ends its pauses: the worker stops."""
        self.giving_up = Event()
        """Ends its attempts to deliver a report."""
        self.interrupted_at: float | None = None
        """When its wait for the server was ended (`time.monotonic`)."""
        self.waits_since: float | None = None
        """Since when it waits for the server: to connect, or for an answer (`time.monotonic`)."""
        self.due = monotonic()
        """By when it goes on, unless it runs a job or waits for the server (`time.monotonic`)."""
        self.tally: Tally | None = None
        """Its counters, where something reads them."""
        self._failed_at = 0.0
        self.held: JobContext | None = None
        """The job that it was given and whose report the server has not answered."""
        self._manager = manager
        self._client = client
        self._log = Log(manager.log)
        job_log = manager.log.getChild("job")
        self._job_log = Log(job_log)
        job_lines = JobLog(job_log)
        self._log_job, self._log_info = job_lines.log, job_lines.info
        self._reconnect = False
        self._delivery: Delivery | None = None
        self._asked: tuple[str, ...] = ()
        """The queues of the last FETCH."""

    @property
    def has_report(self) -> bool:
        """Whether there is a report that the server has not answered, or will be one."""
        return self._delivery is not None or self.held is not None

    @property
    def is_connected(self) -> bool:
        """Whether it has a connection, which may be broken."""
        return self._client.is_connected

    def interrupt(self) -> None:
        """End its wait for the server: to connect, or for an answer. From any thread."""
        self.interrupted_at = monotonic()
        self._client.interrupt()

    def give_up_report(self) -> None:
        """Log that there is no more time for its report, if its thread has not done so."""
        if self.is_alive():
            self._log_undelivered(TimeoutError("no answer from the server in time"))

    def reconnect(self) -> None:
        """Greet the server again before the next command. From any thread."""
        self._reconnect = True

    def run(self) -> None:
        """Fetch, run and report jobs until there is nothing left to do."""
        error: BaseException | None = None
        try:
            self._process()
        except BaseException as caught:
            error = caught
            self._report_once_more()
        self._release_permits()
        self._client.close()
        if self.backend is not None:
            self.backend.close()
        self._manager.on_exit(self, error)

    def _process(self) -> None:
        """Fetch a job, run it, report it together with the next FETCH, and so on."""
        manager = self._manager
        failures = 0
        while True:
            delivery = self._delivery
            # What is to be sent may depend on the time when the connection is there.
            connects = delivery is not None and delivery.is_timed and not self._client.is_connected
            sent = [] if connects else self._next_commands()
            if not (sent or connects):
                return
            if self._reconnect:  # it may have been asked for in a pause of that
                self._reconnect = False
                self._client.disconnect()
                continue
            if manager.burst is not None and sent and sent[-1].name == "FETCH":
                manager.burst.end(self)
            self.due = asked_at = monotonic()
            try:
                self.waits_since = asked_at
                try:
                    if connects:
                        self._client.connect()
                        continue
                    answers = self._client.exchange(*sent)
                finally:
                    self.waits_since = None
            except FaktoryAuthenticationError:
                raise
            except (FaktoryError, MemoryError) as error:
                failures += 1
                if self._delivery is not None:
                    self._delivery.on_error(error)
                self._release_permits()
                if sent and sent[-1].name == "FETCH":
                    log_lost_fetch(error, self._client, self._log)
                if self.giving_up.is_set():
                    self._log_undelivered(error)
                    return
                self._pause(error, failures, asked_at)
                continue
            failures = 0
            manager.outage.ends(asked_at)
            if (delivery := self._delivery) is not None:
                count = len(delivery.commands)
                following = delivery.on_answers(answers[:count], self._log)
                if following is not None and self.tally is not None:
                    self.tally.follow(following)
                self._follow(following)
                del answers[:count]
            for fetched in answers:
                self._release_permits(fetched.value)
                if fetched.error is not None:
                    self._on_no_job(fetched.error)
                elif fetched.value is not None:
                    if (invalid := find_fault(fetched.value)) is not None:
                        self._refuse(invalid, usable_jid(fetched.value), brief(fetched.value, 200))
                        continue
                    self.held = job = JobContext(fetched.value, self._client)
                    manager.record(self, job)
                    if self.tally is not None:
                        self.tally.begin(job)
                    if manager.burst is not None:
                        manager.burst.begin(self)
                    self._follow(self.run_job(job))
                else:
                    manager.on_no_job(asked_at, self._asked)

    def _on_no_job(self, error: FaktoryError) -> None:
        """FETCH was answered with an error, or with a job that cannot be read."""
        if isinstance(error, FaktoryJSONError):
            self._refuse(str(error), error.jid, f"{error.excerpt!r}")
            return
        self._manager.outage.refused(error)
        self.stopping.wait(self._manager.timing.refused_fetch_interval)

    def _refuse(self, fault: str, jid: str | None, excerpt: str) -> None:
        """Fail a job that cannot be run; without a jid to name it by, skip it."""
        if jid is not None:
            if self.tally is not None:
                self.tally.refuse()
            text = "the job %s fails, since it cannot be run: %s"
            self._log.error(text, clip(jid), fault, event="failed")
            report = failure.describe(None, INVALID_JOB, fault)
            self._delivery = Delivery(commands.fail(jid, *report))
            return
        text = "the answer to FETCH is not a job that can be run or failed: %s. %s. It begins: %s"
        self._log.error(text, fault, SKIPPED, excerpt)
        self.stopping.wait(self._manager.timing.refused_fetch_interval)

    def run_job(self, job: JobContext) -> Delivery | None:
        """Run a job; return how it is reported, None if it is not: it was disowned, say."""
        return in_context(job, lambda: self._run_job(job))

    def _run_job(self, job: JobContext) -> Delivery | None:
        if job.payload.get("custom") and self._has_expired(job):
            if self.tally is not None:
                self.tally.end("discarded", None)
            return Delivery(commands.ack(job.jid))
        self._log_info("start", "%s start", job)
        try:
            end = self._perform(job)
        except BaseException as error:  # raised by the error's own methods, say
            self.running.end()
            end = _End("fail", failure.describe(error))
            text = "%s fail, and its error cannot be handled"
            event, _ = texts.of_failure(job, FAIL)
            self._log_job(logging.ERROR, event, text, job, exc_info=sys.exc_info())
        if not self.running.report():
            self._log_job(logging.WARNING, "other", "%s ended, too late to be reported", job)
            return None
        if job.time_remaining() < 0:
            if self.tally is not None:
                self.tally.end("fail", monotonic() - self.running.since)
            self._log_late(job, end.outcome, end.report)
            return None
        if end.outcome in ("done", "discarded"):
            seconds = monotonic() - self.running.since
            if self.tally is not None:
                self.tally.end(end.outcome, seconds)
            reason = f": {end.reason}" if end.outcome == "discarded" else ""
            text = "%s %s in %.3f s%s"
            self._log_info(end.outcome, text, job, end.outcome, seconds, reason, seconds=seconds)
            return end.following or Delivery(commands.ack(job.jid))
        if self.tally is not None:
            self.tally.end(end.outcome, max(0.0, self._failed_at - self.running.since))
        delivery = report_of(
            job,
            end.verdict,
            end.report,
            partial(self._manager.mark, self, job),
            self._job_log,
            is_wanted=end.is_wanted,
            given_back=end.given_back,
            clock=self._manager.server_clock,
        )
        if self.tally is not None:
            self.tally.follow(delivery)
        return delivery

    def _has_expired(self, job: JobContext) -> bool:
        try:
            expired = has_expired(job.payload, datetime.now(UTC))
        except ValueError as error:
            text = "%s is run whenever it comes: %s"
            self._log_job(logging.WARNING, "other", text, job, error)
            return False
        if expired:
            self._log_info("discarded", "%s expired: it is not run", job)
        return expired

    def _perform(self, job: JobContext) -> _End:
        """Find what runs a job, and call it; return how it ended.

        The error itself does not leave this function: it would keep the job's variables alive.
        """
        running, runner = self.running, self._manager.runner
        task: Runnable | None = None
        following: Delivery | None = None
        done = False
        try:
            try:
                running.begin(job)
                if job.payload.get("custom"):
                    following = self._next_of_chain(job)
                task = runner.find(job.jobtype)
                running.set_time_limit(runner.time_limit(task, job))
                if task.is_async:
                    if self.backend is not None:
                        task = None  # its policy is not for this
                        raise TypeError(f"{job.jobtype}: {NEEDS_THREADS}")
                    self._manager.async_jobs.run(task, job, running, runner)
                elif self.backend is None:
                    runner.call(task, job)
                else:
                    self.backend.run(task, job)
                done = True
            finally:
                running.ending = True  # from here on one interrupt is under way at most
                running.end(None if done else job)
        except BaseException as error:
            running.end(None if done else job)  # an interrupt may have cut the first one short
            if not done:
                return self._on_failure(task, job, error)
        return _DONE if following is None else _DONE._replace(following=following)

    def _next_of_chain(self, job: JobContext) -> Delivery | None:
        """Return how the next job of the chain is pushed, None if there is none.

        Found before the job runs: one whose chain cannot go on is not run.
        """
        if (following := chains.next_job(job.as_fetched())) is None:
            return None
        try:
            return PushNext(job, following, partial(self._manager.mark, self, job), self._log)
        except ValueError as error:
            raise chains.ChainBroken(f"custom.{chains.KEY}[0] cannot be pushed: {error}") from None

    def _on_failure(self, task: Runnable | None, job: JobContext, error: BaseException) -> _End:
        """Log a failure and call the handlers of it; return how the job ended."""
        self._failed_at = monotonic()
        kind = type(error)  # not by isinstance, which asks the error for its __class__
        verdict = self._judge(task, job, error)
        if verdict.outcome == "discard":
            return _End("discarded", failure.describe(error))
        traceback = None
        report: Report
        if issubclass(kind, RemoteError):
            report = error.report  # type: ignore[attr-defined]
        else:
            report = failure.describe(error, backtrace=job.payload.get("backtrace") or 0)
            traceback = failure.traceback_of(error)
        again = verdict.outcome == "again"
        given_back = again and issubclass(kind, Shutdown)
        is_wanted = issubclass(kind, Retry) and (again or job.retries_remaining > 0)
        is_wanted = is_wanted and not verdict.is_fault
        if self.running.failed is not None:
            if not (is_wanted or given_back):
                is_shown = traceback is not None or issubclass(kind, RemoteError)
                exc_info = (kind, error, traceback) if is_shown else None
                self._log_failure(job, verdict, report, exc_info)
                self._manager.on_failure(job, error, verdict.outcome == "bury")
            if verdict.note:
                text = "%s is failed as by default: %s"
                self._log_job(logging.WARNING, "other", text, job, verdict.note)
        return _End(verdict.outcome, report, verdict, is_wanted, given_back)

    def _log_failure(
        self, job: JobContext, verdict: Verdict, report: Report, exc_info: Any
    ) -> None:
        seconds = monotonic() - self.running.since
        event, what = texts.of_failure(job, verdict)
        text = "%s fail in %.3f s (%s): %s: %s"
        args = job, seconds, what, *report[:2]
        self._log_job(logging.WARNING, event, text, *args, seconds=seconds, exc_info=exc_info)

    def _judge(self, task: Runnable | None, job: JobContext, error: BaseException) -> Verdict:
        kind = type(error)
        if issubclass(kind, Shutdown) and self.running.is_closed and self._manager.give_back:
            return give_back(job)
        if issubclass(kind, RemoteError):
            return error.verdict  # type: ignore[attr-defined,no-any-return]
        if self.backend is not None and issubclass(kind, self.backend.own_errors):
            return FAIL
        return judge(task, job, error)

    # Reporting

    def _next_commands(self) -> list[Command[Any]]:
        sent: list[Command[Any]] = []
        if (delivery := self._delivery) is not None:
            if (now := delivery.advance()) is not delivery:
                if now is None and self.tally is not None:
                    self.tally.lose()
                self._follow(now)
            if now is not None:
                sent.extend(now.commands)
                if not now.is_last:
                    self._release_permits()
                    return sent
        if (queues := self._next_queues()) is not None:
            self._asked = tuple(queues)
            sent.append(_fetch(self._asked))
        return sent

    def _follow(self, delivery: Delivery | None) -> None:
        """Go on with what is to be reported now; None: the job is not this processor's any more."""
        self._delivery = delivery
        if delivery is None:
            if self.tally is not None:
                self.tally.count()
            self.held = None
            self._manager.record(self, None)

    def _next_queues(self) -> Sequence[str] | None:
        """Return the queues of a FETCH, without those whose limit is reached; None for no FETCH.

        Where all are full it waits for one, but with a report it does not.
        """
        manager, limits = self._manager, self._manager.limits
        while self._fetches():
            queues = manager.get_queues()
            if self._delivery is None and manager.burst is not None:
                self._release_permits()
                manager.burst.end(self)
                self.due = inf
                if manager.waited(self, queues):
                    continue
            if limits is None or not queues:
                return queues
            if available := limits.acquire(self, queues):
                return available
            if self._delivery is not None:
                return None
            self.due = monotonic() + manager.timing.check_interval
            limits.wait(queues, manager.timing.check_interval)
        self._release_permits()
        return None

    def _release_permits(self, job: Mapping[str, Any] | None = None) -> None:
        """Release the permits of queues with a limit, but not that of the job."""
        if self._manager.limits is not None:
            self._manager.limits.release(self, None if job is None else job.get("queue"))

    def _fetches(self) -> bool:
        """Return whether to fetch, after the pause of a backend that keeps failing.

        Meanwhile no job is reserved, and no time limit begins; a report does not wait.
        """
        if self.backend is not None and (pause := self.backend.pause()):
            if self._delivery is not None:
                return False
            self.due = monotonic() + pause
            self.stopping.wait(pause)
        return self._manager.lifecycle.fetches and not self.running.disowned

    def _pause(self, error: FaktoryError | MemoryError, failures: int, asked_at: float) -> None:
        """Wait before the next attempt to reach the server; the first one is made at once."""
        if failures == 1:
            self._log.debug("reconnecting: %s", error)
            return
        timing = self._manager.timing
        if self.interrupted_at is None:  # else the worker stops, and ended that wait
            self._manager.outage.begins(error, asked_at)
        seconds = timing.backoff(failures - 1, random())
        self.due = monotonic() + seconds
        if not self.stopping.is_set():
            self.stopping.wait(seconds)
        elif self._delivery is not None:
            self.giving_up.wait(min(seconds, timing.report_interval))

    def _report_once_more(self) -> None:
        """Deliver the report that is left when the thread ends by an error."""
        if self._delivery is not None:
            try:
                (left,) = deliver(self._client, [self._delivery], self._log)
            except Exception as error:
                self._log_undelivered(error)
            else:
                self._follow(None if left is None else left[0])
                if left is not None:
                    self._log_undelivered(left[1])

    def _log_undelivered(self, error: Exception) -> None:
        delivery, job = self._delivery, self.held  # the processor may end both meanwhile
        if delivery is not None:
            text = "%s could not be delivered: %s; %s"
            self._log.error(text, delivery, error, delivery.if_lost)
        elif job is not None:
            text = "how %s ended could not be reported: %s; it runs again after its reservation"
            self._log.error(text, job, error)

    def _log_late(self, job: JobContext, outcome: str, report: Report) -> None:
        # Under doubt a job is reported. This clock began after the server's, by which a job may be
        # over a little earlier; but then it waits 15 s at least for its next attempt, and until
        # then an ACK or FAIL is about this one, or does nothing.
        text = (
            "%s ended too late, %.0f s after its reservation (%s in %.3f s%s): the server has "
            "failed it and may give it out again, so it is not reported"
        )
        seconds = monotonic() - self.running.since
        reason = f": {report[0]}: {report[1]}" if outcome != "done" else ""
        args = job, -job.time_remaining(), outcome, seconds, reason
        self._log_job(logging.WARNING, "other", text, *args, seconds=seconds)

"""A processor: one thread that fetches a job, runs it and reports it, one after the other.

Rules: a processor has a connection of its own. The report of a job is sent in one write with the
next FETCH. It is kept until the server has answered it, over as many connections as that takes:
ACK and FAIL may be sent again. A FETCH that is under way is waited for as long as the server's
machine is there; its job is run, or failed if it comes too late. Whatever a job raises becomes a
report, SystemExit and KeyboardInterrupt too, and so does what goes wrong around it: in a filter of
the log, in the error's own methods. A processor whose job was disowned ends with that job: another
one has its place. A connection that breaks is replaced at once; only when that fails is the server
unreachable.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from random import random
from threading import Event, Thread
from time import monotonic
from typing import Any, Final, Protocol

from ..client import Client
from ..exceptions import (
    Discard,
    FaktoryAuthenticationError,
    FaktoryError,
    FaktoryOutcomeUnknown,
    FaktoryTimeout,
)
from ..jobs.context import JobContext
from ..jobs.runner import JobRunner, in_context
from ..wire import commands, failure, recovery
from ..wire.commands import Command
from ..wire.session import Answer
from .backends.base import Backend, RemoteError, Report
from .interrupts import RunningJob
from .lifecycle import Lifecycle
from .outage import Outage
from .timing import Timing

_NO_FAILURE: Final[Report] = ("", "", [])


class ProcessorManager(Protocol):
    """What a processor needs of its manager."""

    lifecycle: Lifecycle
    outage: Outage
    runner: JobRunner
    timing: Timing
    log: logging.Logger

    def get_queues(self) -> Sequence[str]:
        """Return the queues of the next FETCH, in order."""

    def record(self, processor: Processor, job: JobContext | None) -> None:
        """Note which job a processor has fetched and not reported yet."""

    def on_time_limit(self) -> None:
        """A job with a time limit begins."""

    def on_failure(self, job: JobContext, error: BaseException) -> None:
        """A job raised; its failure is not reported yet."""

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
        self._manager = manager
        self._client = client
        self._log = manager.log
        self._job_log = manager.log.getChild("job")
        self._reconnect = False
        self._report: Command[None] | None = None
        self._resent = False

    @property
    def has_report(self) -> bool:
        """Whether there is a report that the server has not answered."""
        return self._report is not None

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
        self._client.close()
        if self.backend is not None:
            self.backend.close()
        self._manager.on_exit(self, error)

    def _process(self) -> None:
        """Fetch a job, run it, report it together with the next FETCH, and so on."""
        manager = self._manager
        failures = 0
        while sent := self._next_commands():
            if self._reconnect:
                self._reconnect = False
                self._client.disconnect()
            asked_at = monotonic()
            try:
                answers = self._client.exchange(*sent)
            except FaktoryAuthenticationError:
                raise
            except FaktoryError as error:
                failures += 1
                self._resent = True
                self._log_lost_fetch(error)
                if self.giving_up.is_set():
                    self._log_undelivered(error)
                    return
                self._pause(error, failures, asked_at)
                continue
            failures = 0
            manager.outage.ends(asked_at)
            if self._report is not None:
                self._on_report_answered(answers.pop(0))
            for fetched in answers:
                if fetched.error is not None:
                    manager.outage.refused(fetched.error)
                    self.stopping.wait(manager.timing.refused_fetch_interval)
                elif fetched.value is not None:
                    job = JobContext(fetched.value, self._client)
                    manager.record(self, job)
                    self._report = self.run_job(job)
                    self._resent = False

    def run_job(self, job: JobContext) -> Command[None] | None:
        """Run a job; return the ACK or FAIL that reports it, None if it was disowned meanwhile."""
        return in_context(job, lambda: self._run_job(job))

    def _run_job(self, job: JobContext) -> Command[None] | None:
        self._log_job(logging.INFO, "%s start", job)
        try:
            outcome, report = self._perform(job)
        except BaseException as error:  # raised by the error's own methods, say
            self.running.end()
            outcome, report = "fail", failure.describe(error)
            text = "%s fail, and its error cannot be handled"
            self._log_job(logging.ERROR, text, job, exc_info=sys.exc_info())
        if not self.running.report():
            self._log_job(logging.WARNING, "%s ended, too late to be reported", job)
            return None
        if outcome == "fail":
            return commands.fail(job.jid, *report)
        seconds = monotonic() - self.running.since
        reason = f": {report[1]}" if outcome == "discarded" else ""
        self._log_job(logging.INFO, "%s %s in %.3f s%s", job, outcome, seconds, reason)
        return commands.ack(job.jid)

    def _perform(self, job: JobContext) -> tuple[str, Report]:
        """Find what runs a job, and call it; return "done", "discarded" or "fail", and why.

        The error itself does not leave this function: it would keep the job's variables alive.
        """
        running, runner = self.running, self._manager.runner
        done = False
        try:
            try:
                running.begin(job)
                task = runner.find(job.jobtype)
                running.set_time_limit(task.time_limit)
                if self.backend is None:
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
                if isinstance(error, Discard):
                    return "discarded", failure.describe(error)
                return "fail", self._on_failure(job, error)
        return "done", _NO_FAILURE

    def _on_failure(self, job: JobContext, error: BaseException) -> Report:
        """Log a failure and call the error handlers; return what FAIL reports."""
        traceback = None
        if isinstance(error, RemoteError):
            report = error.report
        else:
            report = failure.describe(error, backtrace=job.payload.get("backtrace") or 0)
            traceback = failure.traceback_of(error)
        if self.running.failed is not None:
            seconds = monotonic() - self.running.since
            text = "%s fail in %.3f s: %s: %s"
            exc_info = (type(error), error, traceback)
            self._log_job(logging.WARNING, text, job, seconds, *report[:2], exc_info=exc_info)
            self._manager.on_failure(job, error)
        return report

    # Reporting

    def _next_commands(self) -> list[Command[Any]]:
        sent: list[Command[Any]] = []
        if self._report is not None:
            sent.append(self._report)
        if self._fetches():
            sent.append(_fetch(tuple(self._manager.get_queues())))
        return sent

    def _fetches(self) -> bool:
        """Return whether to fetch, after the pause of a backend that keeps failing.

        Meanwhile no job is reserved, and no time limit begins; a report does not wait.
        """
        if self.backend is not None and (pause := self.backend.pause()):
            if self._report is not None:
                return False
            self.stopping.wait(pause)
        return self._manager.lifecycle.fetches and not self.running.disowned

    def _on_report_answered(self, answer: Answer) -> None:
        if self._resent:
            answer = recovery.resolve_resent(answer)
        if answer.error is not None:
            self._log.warning("the server refused %s: %s", self._report_name(), answer.error)
        self._report = None
        self._manager.record(self, None)

    def _log_lost_fetch(self, error: FaktoryError) -> None:
        """Log that a FETCH was given up which the server may have answered with a job.

        A server that closes the connection has answered before, or stops.
        """
        cause = error.__cause__
        if isinstance(error, FaktoryOutcomeUnknown) and (
            isinstance(cause, FaktoryTimeout)
            or (cause is not None and isinstance(cause.__cause__, OSError))
        ):
            self._log.warning(
                "FETCH was sent and not answered: if the server has given out a job, that job "
                "waits out its reservation, and runs again then (one with retry 0 is lost): %s",
                cause,
            )

    def _pause(self, error: FaktoryError, failures: int, asked_at: float) -> None:
        """Wait before the next attempt to reach the server; the first one is made at once."""
        if failures == 1:
            self._log.debug("reconnecting: %s", error)
            return
        timing = self._manager.timing
        self._manager.outage.begins(error, asked_at)
        seconds = timing.backoff(failures - 1, random())
        if not self.stopping.is_set():
            self.stopping.wait(seconds)
        elif self._report is not None:
            self.giving_up.wait(min(seconds, timing.report_interval))

    def _report_once_more(self) -> None:
        """Deliver the report that is left when the thread ends by an error."""
        if self._report is not None:
            try:
                self._on_report_answered(self._client.exchange(self._report)[0])
            except Exception as error:
                self._log_undelivered(error)

    def _log_undelivered(self, error: Exception) -> None:
        if self._report is not None:
            text = "%s could not be delivered: %s; its job runs again after its reservation"
            self._log.error(text, self._report_name(), error)

    def _report_name(self) -> str:
        assert self._report is not None
        return f"{self._report.name} of {self._report.jids[0]}"

    def _log_job(self, level: int, text: str, *args: object, exc_info: Any = None) -> None:
        """Log; what a filter or handler of the program raises loses no job."""
        with suppress(BaseException):
            log = self._job_log
            if log.isEnabledFor(level):
                # As `Logger.log` does it, without its search for the caller: that is this line.
                line = sys._getframe().f_lineno
                name = "_log_job"
                log.handle(
                    log.makeRecord(log.name, level, __file__, line, text, args, exc_info, name)
                )

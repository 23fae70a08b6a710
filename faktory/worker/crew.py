"""The job threads of a worker: started, looked after, replaced, interrupted, left behind.

Rules: the thread that runs the worker calls all of this, others may ask `busy`, `running` and
`connect_anew`. A thread whose job outlived its reservation is replaced and its late outcome never
reported: the server has failed that job, and may have given it out again.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from time import monotonic

from ..client import Client
from ..exceptions import FaktoryError, Shutdown
from ..jobs.context import JobContext
from ..wire import commands
from .jobthread import JobThread
from .stacks import stack

LAST_TRY = 0.5
"""Seconds that threads which could not deliver their report have for one more attempt."""


class CannotStart(RuntimeError):
    """The system gives no more threads; `started` job threads were had before."""

    def __init__(self, started: int, concurrency: int, reason: object) -> None:
        super().__init__(
            f"only {started} of {concurrency} job threads could be started: {reason}. "
            "Use a lower concurrency, or more processes with fewer threads each."
        )
        self.started = started


class Crew:
    """`make` makes a job thread of a name; `failed` hears of jobs that others answer for."""

    def __init__(
        self,
        make: Callable[[str], JobThread],
        failed: Callable[[JobContext, BaseException], None],
        log: logging.Logger,
    ) -> None:
        self._make = make
        self._failed = failed
        self._log = log
        self._numbers = itertools.count(1)
        self._missing = 0
        self.threads: list[JobThread] = []
        self.outlived: list[JobThread] = []
        """Threads whose job outlived its reservation, and goes on."""
        self.replaced = 0

    @property
    def busy(self) -> int:
        """How many jobs run."""
        return sum(thread.slot.job is not None for thread in self.threads.copy())

    def running(self) -> list[str]:
        """The jobs that run, with how long they have."""
        now = monotonic()
        slots = [thread.slot for thread in self.threads.copy()]
        jobs = [(slot.job, slot.since) for slot in slots]
        return [f"{job} ({now - since:.0f} s)" for job, since in jobs if job is not None]

    def connect_anew(self) -> None:
        """Let every connection say HELLO again: the server has forgotten this worker."""
        for thread in self.threads.copy():
            thread.connect_anew()

    def start_one(self) -> None:
        """Start a thread; RuntimeError where the system gives no more."""
        thread = self._make(f"faktory-{next(self._numbers)}")
        thread.start()
        self.threads.append(thread)

    def ended(self, thread: JobThread) -> None:
        """Forget a thread that says it has ended."""
        thread.join()  # it said so as its last act
        (self.outlived if thread in self.outlived else self.threads).remove(thread)

    def next_due(self) -> float | None:
        """When a job is to be interrupted next (`time.monotonic`)."""
        due = [thread.slot.due for thread in self.threads]
        return min((at for at in due if at is not None), default=None)

    def look_after(self, replace: bool) -> None:
        """See to jobs whose time limit or reservation is over; `replace` threads that hang."""
        now = monotonic()
        for thread in self.threads.copy():
            thread.slot.enforce(now)
            job = thread.slot.job
            if job is not None and job.remaining() < 0 and thread.slot.disown(job):
                self._outlive(thread, job)
        while replace and self._missing:
            try:
                self.start_one()
            except RuntimeError as error:
                self._log.error("no thread in place of one that hangs, trying again: %s", error)
                return
            self._missing -= 1

    def _outlive(self, thread: JobThread, job: JobContext) -> None:
        self._missing += 1
        self.replaced += 1
        self.threads.remove(thread)
        self.outlived.append(thread)
        killed = thread.slot.outside is not None and thread.slot.outside.kill()
        self._log.error(
            "%s has outlived its reservation on thread %s, so the server has failed it and may "
            "give it out again. It %s, unreported, and another thread takes its place "
            "(replaced so far: %d). It stands at:\n%s",
            job,
            thread.name,
            "is killed" if killed else "goes on",
            self.replaced,
            stack(thread),
        )

    def show(self) -> None:
        """Log where every thread of the process stands, and with which job."""
        jobs = {thread: thread.slot.job for thread in (*self.threads, *self.outlived)}
        for thread in threading.enumerate():
            job = jobs.get(thread)  # type: ignore[call-overload]
            runs = f", running {job}" if job is not None else ""
            self._log.warning("thread %s%s:\n%s", thread.name, runs, stack(thread))

    def stop(self) -> None:
        """Wake who waits for the server: no time is to be lost."""
        for thread in self.threads:
            thread.stopping.set()

    def interrupt(self) -> None:
        """Raise Shutdown in every job, and in those that come from now on."""
        for thread in (*self.threads, *self.outlived):
            thread.slot.close(Shutdown)

    def leave_behind(self, client: Client, message: str) -> list[str]:
        """Report the jobs that do not end as failed, in their threads' place.

        Returns the names of the threads that had one, or could not deliver their report.
        """
        stuck: list[JobContext] = []
        left: list[str] = []
        for thread in self.threads:
            thread.giving_up.set()
            job = thread.slot.disown()
            if job is None:
                continue
            stuck.append(job)
            left.append(thread.name)
            self._log.warning(
                "%s does not end: left behind on thread %s and reported as failed",
                job,
                thread.name,
            )
            if thread.slot.told is not job:
                self._failed(job, Shutdown(message))
        if stuck:
            self._fail(stuck, client, message)
        until = monotonic() + LAST_TRY
        for thread in self.threads:
            if thread.name not in left:
                thread.join(max(0.0, until - monotonic()))
                if thread.is_alive() or thread.has_report:
                    left.append(thread.name)
        return left

    def _fail(self, jobs: list[JobContext], client: Client, message: str) -> None:
        try:
            answers = client.exchange(
                *[commands.fail(job.jid, "Shutdown", message, []) for job in jobs]
            )
            refusals = [answer.error for answer in answers]
        except FaktoryError as error:
            refusals = [error] * len(jobs)
        for job, refusal in zip(jobs, refusals, strict=True):
            if refusal is not None:
                self._log.error("%s could not be reported: %s", job, refusal)

"""One job in, one outcome out: no socket, no thread of its own.

Rules: whatever a job raises becomes an outcome, `SystemExit` and `KeyboardInterrupt` too; the
thread goes on. An interrupt meant for a job hits that job alone: it is raised while the job runs
and taken back if it came too late.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from contextvars import copy_context
from threading import Lock, get_ident
from time import monotonic
from typing import Any

from ..exceptions import Discard, TimeLimitExceeded
from ..jobs.context import JobContext, run_in
from ..jobs.middleware import worker_middleware
from ..wire import commands, failure
from ..wire.commands import Command

Runner = Callable[[JobContext], object]
Report = tuple[str, str, list[str]]
"""Type, message and traceback of a failure."""


class Slot:
    """A job thread's place: what runs there, since when, and how to interrupt it.

    `failed` hears of each job that raised, before that is reported; `limited` of one that has a
    time limit, so that somebody calls `enforce_limit` in time.
    """

    def __init__(
        self,
        log: logging.Logger,
        failed: Callable[[JobContext, BaseException], None],
        limited: Callable[[], None],
    ) -> None:
        self._log = log
        self._failed = failed
        self._limited = limited
        self._lock = Lock()
        self._thread = 0
        self._ending = False
        self._interrupted = False
        self._disowned = False
        self._closed: type[BaseException] | None = None
        self.context: JobContext | None = None
        """The job that runs."""
        self.told: JobContext | None = None
        """The job that has failed, while that is told to who wants to hear of it."""
        self.since = 0.0
        self.ends: float | None = None
        """When its time limit is over, if it has one (`time.monotonic`)."""

    def run(self, context: JobContext, runner: Runner) -> Command[None] | None:
        """Run a job; return the ACK or FAIL that reports it, None if it was disowned meanwhile."""
        # In a copy of the thread's context, so that nothing a job sets there meets the next one.
        return copy_context().run(run_in, context, lambda: self._run(context, runner))

    def _run(self, context: JobContext, runner: Runner) -> Command[None] | None:
        self._log.info("%s start", context)
        ended, fault = self._outcome(context, runner)
        with self._lock:
            self.told = None
        if self._disowned:
            self._log.warning("%s ended, too late to be reported", context)
            return None
        if ended == "fail":
            return commands.fail(context.jid, *fault)
        said = f": {fault[1]}" if ended == "discarded" else ""
        self._log.info("%s %s in %.3f s%s", context, ended, monotonic() - self.since, said)
        return commands.ack(context.jid)

    def limit(self, seconds: float | None) -> None:
        """Let the job that runs here go on for so long: its thread says so before it begins."""
        if seconds is not None:
            with self._lock:
                self.ends = self.since + seconds
            self._limited()

    def enforce_limit(self, now: float) -> None:
        """Interrupt the job that runs here if its time is over by now (`time.monotonic`)."""
        with self._lock:
            if self.ends is not None and now >= self.ends:
                self.ends = None
                self._interrupt(TimeLimitExceeded)

    def interrupt(self, exception: type[BaseException]) -> bool:
        """Raise an exception in the job that runs here, if one does; tell whether one does.

        It takes effect at the thread's next step in Python: not inside a sleep or C code.
        """
        with self._lock:
            return self._interrupt(exception)

    def _interrupt(self, exception: type[BaseException]) -> bool:
        if self.context is None or self._ending:
            return False
        self._interrupted = True
        _raise_in(self._thread, exception)
        return True

    def close(self, exception: type[BaseException]) -> bool:
        """Interrupt the job that runs here; one that comes from now on fails before it starts."""
        self._closed = exception
        return self.interrupt(exception)

    @property
    def job(self) -> JobContext | None:
        """The job in hand: it runs, or has failed, and is not reported yet."""
        return self.context or self.told

    def disown(self, only: JobContext | None = None) -> JobContext | None:
        """Take the report of the job in hand out of the thread's hands.

        Returns the job, None where there is none, or not the `only` one that is meant.
        """
        with self._lock:
            job = self.job
            if job is None or (only is not None and job is not only):
                return None
            self._disowned = True
            return job

    def _outcome(self, context: JobContext, runner: Runner) -> tuple[str, Report]:
        """Run a job; return done, discarded or fail, and its error as FAIL reports it.

        The error itself stays in here: it would keep the job's variables alive.
        """
        done = False
        try:
            try:
                with self._lock:
                    self._thread = get_ident()
                    self.since = monotonic()
                    self.context = context
                if self._closed is not None:
                    raise self._closed
                call(context, runner)
                done = True
            finally:
                self._ending = True  # from here on one interrupt is under way at most
                self._leave()
        except BaseException as error:
            self._leave()  # again: an interrupt may have cut the first time short
            if not done:
                if isinstance(error, Discard):
                    return "discarded", failure.describe(error)
                report = failure.describe(error, backtrace=context.payload.get("backtrace") or 0)
                with self._lock:
                    self.told = None if self._disowned else context
                if self.told is not None:
                    took = monotonic() - self.since
                    fail = "%s fail in %.3f s: %s: %s"
                    self._log.warning(
                        fail, context, took, *report[:2], exc_info=_from_job_on(error)
                    )
                    self._failed(context, error)
                return "fail", report
        return "done", ("", "", [])

    def _leave(self) -> None:
        with self._lock:
            self.context = None
            self.ends = None
            self._ending = False
            if self._interrupted:
                self._interrupted = False
                _raise_in(self._thread, None)  # take back what came too late


def with_middleware(runner: Runner) -> Runner:
    """Put `faktory.worker_middleware` around what runs a job."""
    return lambda job: worker_middleware.run(lambda *_: runner(job), job, job.payload)


def call(context: JobContext, runner: Runner) -> None:
    """Run a job in the context that it is in. What it raises comes out."""
    result = runner(context)
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()  # else Python complains that nobody awaited it
        raise TypeError(
            f"the job returned {type(result).__name__}, which nothing awaits here. "
            "Run it inside the job: asyncio.run(...)."
        )


def _from_job_on(error: BaseException) -> tuple[type[BaseException], BaseException, Any]:
    """What logging takes of an error, its traceback without the way through this package."""
    at = error.__traceback__
    while at is not None and at.tb_frame.f_globals.get("__name__", "").startswith("faktory."):
        at = at.tb_next
    return type(error), error, at or error.__traceback__


def _raise_in(thread: int, exception: type[BaseException] | None) -> None:
    """Raise in another thread, or take back what was not raised yet (C API: SetAsyncExc)."""
    import ctypes  # costly, and needed at the end of a worker only

    kind = None if exception is None else ctypes.py_object(exception)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), kind)

"""One job in, one outcome out: no socket, no thread of its own.

Rules: whatever a job raises becomes an outcome, `SystemExit` and `KeyboardInterrupt` too; the
thread goes on. So does what goes wrong around a job: in a filter of the log, in the error's own
methods. An interrupt meant for a job hits that job alone: it is raised while the job runs, and
absorbed if it came too late. A child that a job forks, and that comes back out of the job, ends
there: the job is its parent's to report.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from threading import RLock, get_ident
from time import monotonic
from typing import Any, Final, NoReturn

from ..exceptions import Discard, TimeLimitExceeded
from ..jobs.context import JobContext, run_in
from ..jobs.middleware import worker_middleware
from ..wire import commands, failure
from ..wire.commands import Command
from .interrupts import let_go, let_strike, raise_in
from .outside import Outside, Report, StandIn

AGAIN: Final = 0.005
"""Seconds until an interrupt is tried again that could have left a lock taken."""

Runner = Callable[[JobContext], object]


class Slot:
    """A job thread's place: what runs there, since when, and how to interrupt it.

    `failed` hears of each job that raised, before that is reported; `limited` of one that has a
    time limit, so that somebody calls `enforce` in time.
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
        self._lock = RLock()  # a thread that was struck as it took this can have it again
        self._thread = 0
        self._ending = False
        self._interrupted = False
        self._wanted: type[BaseException] | None = None
        self._closed: type[BaseException] | None = None
        self.context: JobContext | None = None
        """The job that runs."""
        self.told: JobContext | None = None
        """The job that has failed, while that is told to who wants to hear of it."""
        self.since = 0.0
        self.due: float | None = None
        """When to call `enforce`, if the job is to be interrupted (`time.monotonic`)."""
        self.outside: Outside | None = None
        """Where the thread's jobs run, if that is not on the thread."""
        self.disowned = False
        """Whether the job's report is not this thread's any more: it has no other job after it."""

    def run(self, context: JobContext, runner: Runner) -> Command[None] | None:
        """Run a job; return the ACK or FAIL that reports it, None if it was disowned meanwhile."""
        # In a copy of the thread's context, so that nothing a job sets there meets the next one.
        return copy_context().run(run_in, context, lambda: self._run(context, runner))

    def _run(self, context: JobContext, runner: Runner) -> Command[None] | None:
        self._say(logging.INFO, "%s start", context)
        try:
            ended, fault = self._outcome(context, runner)
        except BaseException as error:  # of the error's own methods, say
            self._leave()
            ended, fault = "fail", failure.describe(error)
            text = "%s fail, and so did what tells of it"
            self._say(logging.ERROR, text, context, exc_info=sys.exc_info())
        with self._lock:
            self.told = None
        if self.disowned:
            self._say(logging.WARNING, "%s ended, too late to be reported", context)
            return None
        if ended == "fail":
            return commands.fail(context.jid, *fault)
        took = monotonic() - self.since
        said = f": {fault[1]}" if ended == "discarded" else ""
        self._say(logging.INFO, "%s %s in %.3f s%s", context, ended, took, said)
        return commands.ack(context.jid)

    def limit(self, seconds: float | None) -> None:
        """Let the job that runs here go on for so long: its thread says so before it begins."""
        if seconds is not None:
            with self._lock:
                if self._wanted is None:
                    self.due = self.since + seconds
            self._limited()

    def enforce(self, now: float) -> None:
        """Interrupt the job that runs here if that is due by now (`time.monotonic`)."""
        with self._lock:
            if self.due is not None and now >= self.due:
                self._interrupt(self._wanted or TimeLimitExceeded)

    def interrupt(self, exception: type[BaseException]) -> bool:
        """Raise an exception in the job that runs here, if one does; tell whether one does.

        It takes effect at the thread's next step in Python: not inside a sleep or C code. Where
        it could do harm it becomes `due` a little later.
        """
        with self._lock:
            return self._interrupt(exception)

    def _interrupt(self, exception: type[BaseException]) -> bool:
        if self.context is None or self._ending:
            return False
        if self.outside is not None:
            self._wanted = exception
            self.due = self.outside.interrupt(exception)
        elif raise_in(self._thread, exception):
            self._interrupted = True
            self._wanted = self.due = None
        else:
            self._wanted = exception
            self.due = monotonic() + AGAIN
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
            self.disowned = True
            return job

    def _outcome(self, context: JobContext, runner: Runner) -> tuple[str, Report]:
        """Run a job; return done, discarded or fail, and its error as FAIL reports it.

        The error itself stays in here: it would keep the job's variables alive.
        """
        done = False
        process = os.getpid()
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
                self._leave(None if done else context)
        except BaseException as error:
            # Again: an interrupt may have cut the first time short.
            self._leave(None if done else context)
            if not done:
                if os.getpid() != process:
                    end_child(error)
                if isinstance(error, Discard):
                    return "discarded", failure.describe(error)
                if isinstance(error, StandIn):
                    report = error.report
                else:
                    lines = context.payload.get("backtrace") or 0
                    report = failure.describe(error, backtrace=lines)
                if self.told is not None:
                    took = monotonic() - self.since
                    text = "%s fail in %.3f s: %s: %s"
                    about = (context, took, *report[:2])
                    self._say(
                        logging.WARNING,
                        text,
                        *about,
                        exc_info=(
                            type(error),
                            error,
                            None if isinstance(error, StandIn) else failure.traceback_of(error),
                        ),
                    )
                    self._failed(context, error)
                return "fail", report
        if os.getpid() != process:
            end_child(None)
        return "done", ("", "", [])

    def _leave(self, told: JobContext | None = None) -> None:
        """The job runs no more; it is in hand as `told` until it is reported."""
        with self._lock:
            self.told = None if self.disowned else told
            self.context = None
            self._wanted = self.due = None
            self._ending = False
            struck = self._interrupted
            if struck:
                try:  # noqa: SIM105  `suppress` would be struck itself
                    let_strike()  # what came too late
                except BaseException:
                    pass
                self._interrupted = False
        if struck:
            let_go(self._lock)

    def _say(self, level: int, text: str, *about: object, exc_info: Any = None) -> None:
        """Log; a filter or handler that raises is the program's, and no reason to lose a job."""
        with suppress(BaseException):
            log = self._log
            if log.isEnabledFor(level):
                # As `Logger.log` does it, without its search for the caller: that is this line.
                line = sys._getframe().f_lineno
                log.handle(
                    log.makeRecord(log.name, level, __file__, line, text, about, exc_info, "_say")
                )


def with_middleware(runner: Runner) -> Runner:
    """Put `faktory.worker_middleware` around what runs a job."""
    if not worker_middleware:
        return runner
    return lambda job: worker_middleware.run(lambda *_: runner(job), job, job.payload)


def call(context: JobContext, runner: Runner) -> None:
    """Run a job in the context that it is in. What it raises comes out."""
    result = runner(context)
    if result is not None and inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()  # else Python complains that nobody awaited it
        raise TypeError(
            f"the job returned {type(result).__name__}, which nothing awaits here. "
            "Run it inside the job: asyncio.run(...)."
        )


def end_child(error: BaseException | None) -> NoReturn:
    """End the process as `sys.exit` would in its main thread, which this is not or was not."""
    code = error.code if isinstance(error, SystemExit) else int(error is not None)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code if isinstance(code, int) else int(code is not None))

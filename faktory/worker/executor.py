"""One job in, one outcome out: no socket, no thread of its own.

Rules: whatever a job raises becomes an outcome, `SystemExit` and `KeyboardInterrupt` too; the
thread goes on. An interrupt meant for a job hits that job alone: it is raised while the job runs
and taken back if it came too late.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from threading import Lock, get_ident
from time import monotonic
from typing import Any

from ..exceptions import Discard
from ..jobs.context import JobContext, run_in
from ..wire import commands, failure
from ..wire.commands import Command


class Slot:
    """A job thread's place: what runs there, since when, and how to interrupt it."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._lock = Lock()
        self._thread = 0
        self._interrupted = False
        self._disowned = False
        self.context: JobContext | None = None
        self.since = 0.0

    def run(
        self, payload: Mapping[str, Any], runner: Callable[[JobContext], object]
    ) -> Command[None] | None:
        """Run a job; return the ACK or FAIL that reports it, None if it was disowned meanwhile."""
        context = JobContext(payload)
        jid = context.jid
        name = f"{context.jobtype} {jid}"
        self._log.info("%s start", name)
        started = monotonic()
        error = self._error_of(context, runner)
        took = monotonic() - started
        if self._disowned:
            self._log.warning("%s ended after %.3f s, too late to be reported", name, took)
            return None
        if error is None:
            self._log.info("%s done in %.3f s", name, took)
            return commands.ack(jid)
        if isinstance(error, Discard):
            self._log.info("%s discarded in %.3f s: %s", name, took, failure.text_of(error))
            return commands.ack(jid)
        report = failure.describe(error, backtrace=payload.get("backtrace") or 0)
        self._log.warning("%s fail in %.3f s: %s: %s", name, took, *report[:2])
        return commands.fail(jid, *report)

    def interrupt(self, exception: type[BaseException]) -> bool:
        """Raise an exception in the job that runs here, if one does.

        It takes effect at the thread's next step in Python: not inside a sleep or C code.
        """
        with self._lock:
            if self.context is None:
                return False
            self._interrupted = True
            _raise_in(self._thread, exception)
            return True

    def disown(self) -> JobContext | None:
        """Take the report of the job that runs here, if one does, out of the thread's hands."""
        with self._lock:
            self._disowned = self.context is not None
            return self.context

    def _error_of(
        self, context: JobContext, runner: Callable[[JobContext], object]
    ) -> BaseException | None:
        failed: BaseException | None = None
        try:
            with self._lock:
                self._thread = get_ident()
                self.since = monotonic()
                self.context = context
            try:
                _refuse_awaitable(run_in(context, runner, context))
            finally:
                self._leave()
        except BaseException as error:
            failed = error
        self._leave()  # again: an interrupt may have cut the first time short
        return failed

    def _leave(self) -> None:
        with self._lock:
            self.context = None
            if self._interrupted:
                self._interrupted = False
                _raise_in(self._thread, None)  # take back what came too late


def _refuse_awaitable(result: object) -> None:
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()  # else Python complains that nobody awaited it
        raise TypeError(
            f"the job returned {type(result).__name__}, which nothing awaits here. "
            "Run it inside the job: asyncio.run(...)."
        )


def _raise_in(thread: int, exception: type[BaseException] | None) -> None:
    """Raise in another thread, or take back what was not raised yet (C API: SetAsyncExc)."""
    import ctypes  # costly, and needed at the end of a worker only

    kind = None if exception is None else ctypes.py_object(exception)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), kind)

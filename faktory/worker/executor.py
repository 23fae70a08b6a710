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
        self._ending = False
        self._interrupted = False
        self._disowned = False
        self._closed: type[BaseException] | None = None
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
        ended, fault = self._outcome(context, runner, payload.get("backtrace") or 0)
        took = monotonic() - started
        if self._disowned:
            self._log.warning("%s ended after %.3f s, too late to be reported", name, took)
            return None
        if ended == "fail":
            self._log.warning("%s fail in %.3f s: %s: %s", name, took, *fault[:2])
            return commands.fail(jid, *fault)
        said = f": {fault[1]}" if ended == "discarded" else ""
        self._log.info("%s %s in %.3f s%s", name, ended, took, said)
        return commands.ack(jid)

    def interrupt(self, exception: type[BaseException]) -> bool:
        """Raise an exception in the job that runs here, if one does; tell whether one does.

        It takes effect at the thread's next step in Python: not inside a sleep or C code.
        """
        with self._lock:
            if self.context is None or self._ending:
                return False
            self._interrupted = True
            _raise_in(self._thread, exception)
            return True

    def close(self, exception: type[BaseException]) -> bool:
        """Interrupt the job that runs here; one that comes from now on fails before it starts."""
        self._closed = exception
        return self.interrupt(exception)

    def disown(self) -> JobContext | None:
        """Take the report of the job that runs here, if one does, out of the thread's hands."""
        with self._lock:
            self._disowned = self.context is not None
            return self.context

    def _outcome(
        self, context: JobContext, runner: Callable[[JobContext], object], lines: int
    ) -> tuple[str, tuple[str, str, list[str]]]:
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
                result = run_in(context, runner, context)
                _refuse_awaitable(result)
                done = True
            finally:
                self._ending = True  # from here on one interrupt is under way at most
                self._leave()
        except BaseException as error:
            self._leave()  # again: an interrupt may have cut the first time short
            if not done:
                ended = "discarded" if isinstance(error, Discard) else "fail"
                return ended, failure.describe(error, backtrace=lines)
        return "done", ("", "", [])

    def _leave(self) -> None:
        with self._lock:
            self.context = None
            self._ending = False
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

"""How a running job is interrupted from another thread.

Rules: an interrupt is raised in the job that it is meant for and in no other code: it is raised
while that job runs, and absorbed if it comes too late.

Python raises it wherever the job's thread is. Between the acquiring of a lock and the `try` that
would release it, that would leave the lock acquired for ever: the log's, say, and then the worker
never ends. So nothing is raised there, and afterwards the log's locks are released in any case.
Since Python 3.14 a `with` has such a place, too, and a thread runs on a little before the exception
is raised in it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from opcode import opmap
from threading import RLock, get_ident
from time import monotonic, sleep
from types import FrameType
from typing import Final, Protocol

from ..exceptions import TimeLimitExceeded
from ..jobs.context import JobContext
from .backends.base import Backend

RETRY_INTERVAL: Final = 0.005
"""Seconds until an interrupt is tried again that could have left a lock acquired."""

_LOCK_FUNCTIONS: Final = frozenset(
    {"acquire", "release", "__enter__", "__exit__", "_acquireLock", "_releaseLock"}
)
"""Functions in Python that acquire or release a lock: of `logging`, `threading` and others."""

_ENTERS_WITH: Final = (opmap.get("LOAD_SPECIAL"), opmap["CALL"])
"""How a `with` calls `__enter__` since Python 3.14: interrupted there, it skips `__exit__`."""


class Interrupted(Protocol):
    """What runs a job if not its processor's thread: a `Backend`, or a coroutine's run."""

    def interrupt(self, exception: type[BaseException], /) -> float | None:
        """See `Backend.interrupt`."""


class RunningJob:
    """The job that a processor runs, and how other threads interrupt it or take its report over.

    The processor calls `begin`, `set_time_limit` and `end`; other threads call the rest.
    `on_time_limit` is called for a job that has one, so that `check` is called in time.
    """

    def __init__(self, on_time_limit: Callable[[], None], backend: Backend | None = None) -> None:
        self._on_time_limit = on_time_limit
        self._backend: Interrupted | None = backend
        self._lock = RLock()  # a thread that is interrupted as it acquires this can do so again
        self._thread = 0
        self._raised = False
        self._pending: type[BaseException] | None = None
        self._closed: type[BaseException] | None = None
        self._stopped = False
        self.ending = False
        """Set by the processor when the job has ended: it is interrupted no more."""
        self.job: JobContext | None = None
        """The job while it runs."""
        self.failed: JobContext | None = None
        """The job that has failed, while its error handlers run."""
        self.since = 0.0
        """When it began (`time.monotonic`)."""
        self.due: float | None = None
        """When to call `check`, if the job is to be interrupted (`time.monotonic`)."""
        self.disowned = False
        """Whether the report is not the processor's any more: it runs no other job after this."""

    @property
    def current(self) -> JobContext | None:
        """The job that runs, or has failed and is not reported yet."""
        return self.job or self.failed

    def begin(self, job: JobContext) -> None:
        """Let a job begin in this thread; after `close`, raise that exception instead."""
        with self._lock:
            self._thread = get_ident()
            self.since = monotonic()
            self.job = job
            if self._stopped:
                job._on_stop()
        if self._closed is not None:
            raise self._closed

    def delegate(self, to: Interrupted | None) -> None:
        """Have interrupts of the job go to what runs it from now on; None: to this thread again."""
        with self._lock:
            self._backend = to

    def set_time_limit(self, seconds: float | None) -> None:
        """Have the job interrupted after so many seconds."""
        if seconds is not None:
            with self._lock:
                if self._pending is None:
                    self.due = self.since + seconds
            self._on_time_limit()

    def end(self, failed: JobContext | None = None) -> None:
        """Note that the job runs no more; one that `failed` stays current until it is reported.

        Not one that failed after its reservation: its failure is the server's to count.
        """
        with self._lock:
            late = failed is not None and failed.time_remaining() < 0
            self.failed = None if self.disowned or late else failed
            if self.job is not None:
                self.job._on_end()
            self.job = None
            self._pending = self.due = None
            self.ending = False
            raised = self._raised
            if raised:
                try:  # noqa: SIM105  `suppress` would be interrupted itself
                    absorb()
                except BaseException:
                    pass
                self._raised = False
        if raised:
            release_locks(self._lock)

    def report(self) -> bool:
        """End the handling of a failure; return whether the report is still the processor's."""
        with self._lock:
            self.failed = None
        return not self.disowned

    def check(self, now: float) -> None:
        """Interrupt the job if that is due by now (`time.monotonic`)."""
        with self._lock:
            if self.due is not None and now >= self.due:
                self._interrupt(self._pending or TimeLimitExceeded)

    def interrupt(self, exception: type[BaseException]) -> bool:
        """Raise an exception in the running job; return whether there is one.

        It is raised at the thread's next step in Python: not inside a sleep or C code. Where it
        could do harm it becomes `due` a little later.
        """
        with self._lock:
            return self._interrupt(exception)

    def stop(self) -> None:
        """Let the running job know that the worker stops, and each that comes later."""
        with self._lock:
            self._stopped = True
            if self.job is not None:
                self.job._on_stop()

    @property
    def is_closed(self) -> bool:
        """Whether its jobs are interrupted, since the worker stops."""
        return self._closed is not None

    def close(self, exception: type[BaseException]) -> bool:
        """Interrupt the running job; each job that comes later fails before it starts."""
        self._closed = exception
        return self.interrupt(exception)

    def disown(self, only: JobContext | None = None) -> JobContext | None:
        """Take over the report of the current job from the processor.

        Returns the job, None if there is none or if it is not `only`.
        """
        with self._lock:
            job = self.current
            if job is None or (only is not None and job is not only):
                return None
            self.disowned = True
            return job

    def _interrupt(self, exception: type[BaseException]) -> bool:
        if self.job is None or self.ending:
            return False
        if self._backend is not None:
            self._pending = exception
            self.due = self._backend.interrupt(exception)
        elif raise_in(self._thread, exception):
            self._raised = True
            self._pending = self.due = None
        else:
            self._pending = exception
            self.due = monotonic() + RETRY_INTERVAL
        return True


def raise_in(thread: int, exception: type[BaseException]) -> bool:
    """Raise in another thread (C API: SetAsyncExc); return whether that was done.

    It is not where it could leave a lock acquired: try again later.
    """
    import ctypes  # costly, and few jobs are interrupted

    sleep(0)  # begin a turn of the interpreter, so that the thread stays where it is seen
    frame = sys._current_frames().get(thread)
    if frame is not None and is_at_lock(frame):
        return False
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(exception))
    return True


def is_at_lock(frame: FrameType) -> bool:
    code, at = frame.f_code, frame.f_lasti
    return code.co_name in _LOCK_FUNCTIONS or (code.co_code[at - 2], code.co_code[at]) == (
        _ENTERS_WITH
    )


def absorb() -> None:
    """Be where Python raises an exception that was set for this thread and not raised yet.

    Python looks for one where a function begins. To take it back, as SetAsyncExc can, would make
    3.11 look for it for ever, at every step: it gets slow, and under a profiler it hangs.
    """


def release_locks(*locks: RLock) -> None:
    """Release these locks and the log's, as far as this thread holds them: it should hold none.

    For a thread that ran on after it was looked at, or stood at a lock that shows in no frame.
    """
    loggers = [logging.root, *logging.root.manager.loggerDict.copy().values()]
    handlers = {handler for logger in loggers for handler in getattr(logger, "handlers", ())}
    for lock in (*locks, *(handler.lock for handler in handlers)):
        if lock is not None:
            with suppress(RuntimeError):  # another thread's
                while True:
                    lock.release()

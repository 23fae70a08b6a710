"""Where a job runs if not on its processor's thread.

Rules: the processor stays in charge of the job: it waits for the outcome, and reports it. An error
that was raised elsewhere comes back as a RemoteError with its type's name, its text and its
traceback, since the error itself might not survive pickle.
"""

from __future__ import annotations

import logging
import os
import socket
from functools import lru_cache
from threading import Lock, get_ident
from typing import Any, Final, Protocol

from ...exceptions import Discard, Retry, Shutdown, TimeLimitExceeded
from ...jobs.context import JobContext
from ...jobs.registry import Runnable
from ...jobs.retries import DISCARD, FAIL, Verdict
from ...wire import failure
from ...wire.log import Log

Report = tuple[str, str, list[str]]
"""Type, message and traceback lines of a failure, as FAIL has them."""

NEEDS_THREADS: Final = (
    "async jobs run on the event loop of a worker with threads. Leave out use_threads=False and "
    "executor=, or declare the job by def, with asyncio.run(...) in it."
)
"""Why a job fails, or a worker does not start."""

CONTROL: Final[dict[str, type[BaseException]]] = {
    kind.__name__: kind for kind in (Discard, Retry, Shutdown, TimeLimitExceeded)
}
"""The exceptions that steer a job: a RemoteError for one of these is one of these."""


class Backend(Protocol):
    """Runs the jobs of one processor, one at a time."""

    own_errors: tuple[type[BaseException], ...]
    """What the last `run` raised if the backend was at fault, and not the job."""

    def run(self, task: Runnable, job: JobContext) -> None:
        """Run a job and wait for its end, in the processor's thread.

        Raises RemoteError for what the job raised.
        """

    def pause(self) -> float:
        """Return for how long to fetch no job, in seconds; asked before each FETCH."""

    def interrupt(self, exception: type[BaseException]) -> float | None:
        """Interrupt the running job; return when to call this again if it does not end.

        From any thread (`time.monotonic`).
        """

    def kill(self) -> bool:
        """End the running job by force; return whether that is possible. From any thread."""

    def close(self) -> None:
        """Release what the jobs ran in: no more will come."""


class Backends(Protocol):
    """The backends of a worker."""

    def make(self) -> Backend:
        """Make the backend of one processor."""

    def stop(self) -> None:
        """Let jobs in other processes know that the worker stops, as far as that is possible."""

    def close(self) -> None:
        """Release what all of them share, at once."""


class RemoteError(BaseException):
    """An error that a job raised elsewhere: its `report`, and its traceback's text as the cause.

    Its class has the name of the error's class, and is an Exception, or the one of `CONTROL` that
    the error was. It has none of the error's attributes. `verdict` is what follows, decided where
    the class of the error was known.
    """

    report: Report = ("", "", [])
    verdict: Verdict = FAIL


class RemoteTraceback(Exception):
    """Shows where an error came from, in the traceback of its RemoteError."""

    def __str__(self) -> str:
        return f'\n"""\n{"".join(self.args)}"""'


class Shortage:
    """A time in which the system gives no more processes, say: logged once for all jobs."""

    def __init__(self, log: logging.Logger, text: str) -> None:
        self._log = Log(log)
        self._text = text
        self._lock = Lock()
        self._waiting: set[int] = set()  # threads

    def begins(self, error: BaseException) -> None:
        """Note that there was nothing for this thread's job; the first time it is logged."""
        with self._lock:
            first = not self._waiting
            self._waiting.add(get_ident())
        if first:
            self._log.error("%s, trying again: %s", self._text, error)

    def ends(self) -> None:
        """Note that this thread's job has what it needs."""
        if self._waiting:
            with self._lock:
                self._waiting.discard(get_ident())


def make_remote_error(
    report: Report, control: str | None, text: str, verdict: Verdict | None = None
) -> RemoteError:
    """Make the RemoteError of a report. It can be pickled.

    `control` names the one of `CONTROL` that the error was, `text` is its traceback.
    """
    error = _class_of(report[0], control)(report[1])
    error.report = report
    error.verdict = verdict or (DISCARD if control == Discard.__name__ else FAIL)
    error.__cause__ = RemoteTraceback(text) if text else None
    return error


def describe_remote(error: BaseException, backtrace: int) -> tuple[Report, str | None, str]:
    """Describe an error in the process that raised it, for `make_remote_error`.

    `backtrace` is how many lines of its traceback FAIL is to have.
    """
    lines = failure.describe(error, backtrace=failure.MAX_BACKTRACE)[2]
    text = "".join(f"{line}\n" for line in lines)
    return failure.describe(error, backtrace=backtrace), control_of(error), text


def control_of(error: BaseException) -> str | None:
    """Return which one of `CONTROL` an error is."""
    # Not by isinstance, which asks the error for its __class__.
    kind = type(error)
    return next((name for name, control in CONTROL.items() if issubclass(kind, control)), None)


@lru_cache(maxsize=500)
def _class_of(name: str, control: str | None) -> type[RemoteError]:
    base = Exception if control is None else CONTROL[control]
    name = name.replace("\0", "\\0")  # no class may have that in its name
    return type(name, (RemoteError, base), {"__module__": __name__, "__reduce__": _reduce})


def _reduce(error: RemoteError) -> tuple[Any, ...]:
    text = "".join(getattr(error.__cause__, "args", ()))
    return make_remote_error, (error.report, control_of(error), text, error.verdict)


def check_can_fork() -> None:
    """Raise ValueError on a system without fork: the modules that fork would fail to import."""
    if not hasattr(os, "fork") or not hasattr(socket, "send_fds"):
        raise ValueError(
            "use_threads=False needs a system that can fork, which this is not: leave it out, and "
            "jobs run on threads. For more processes start more workers."
        )

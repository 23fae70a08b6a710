"""What the threaded worker knows of jobs that run elsewhere than on their thread.

Rules: the job's thread stays in charge of it: it waits for the outcome, and reports it. What was
raised elsewhere comes back as a stand-in with its type's name, its text and its traceback, since
the error itself might not survive the way.
"""

from __future__ import annotations

import os
import socket
from functools import lru_cache
from typing import Any, Final, Protocol

from ..exceptions import Discard, Shutdown, TimeLimitExceeded
from ..jobs.context import JobContext
from ..jobs.registry import Runnable

Report = tuple[str, str, list[str]]
"""Type, message and traceback of a failure, as FAIL has it."""

OWN: Final[dict[str, type[BaseException]]] = {
    kind.__name__: kind for kind in (Discard, Shutdown, TimeLimitExceeded)
}
"""What steers a job: a stand-in for one of these is one of these."""


def check_can_fork() -> None:
    """Raise ValueError where there can be no processes: what makes them would fail to import."""
    if not hasattr(os, "fork") or not hasattr(socket, "send_fds"):
        raise ValueError(
            "use_threads=False needs a system that can fork, which this is not: leave it out, and "
            "jobs run on threads. For more processes start more workers."
        )


class Outside(Protocol):
    """Where the jobs of one thread run, one at a time."""

    def run(self, context: JobContext, job: Runnable) -> object:
        """Run a job and wait for it, in its thread; raise a stand-in for what it raised."""

    def interrupt(self, exception: type[BaseException]) -> float | None:
        """Interrupt the job that runs; return when to call this again if it does not end.

        From any thread (`time.monotonic`).
        """

    def kill(self) -> bool:
        """End the job that runs by force; tell whether that can be done. From any thread."""

    def close(self) -> None:
        """Let go of what the jobs ran in: no more will come."""


class StandIn(BaseException):
    """What a job raised elsewhere: its `report`, and as its cause its traceback, a text.

    Its class has the name of the error's, and is an Exception, or what of `OWN` the error was. It
    is not of the error's class, and has none of its attributes.
    """

    report: Report = ("", "", [])


class RemoteTraceback(Exception):
    """Shows where an error came from, in the tracebacks of its stand-in."""

    def __str__(self) -> str:
        return f'\n"""\n{"".join(self.args)}"""'


@lru_cache(maxsize=500)
def _kind(name: str, own: str | None) -> type[StandIn]:
    base = Exception if own is None else OWN[own]
    return type(name, (StandIn, base), {"__module__": __name__, "__reduce__": _reduce})


def _reduce(error: StandIn) -> tuple[Any, ...]:
    own = next((name for name, kind in OWN.items() if isinstance(error, kind)), None)
    return stand_in, (error.report, own, "".join(getattr(error.__cause__, "args", ())))


def stand_in(report: Report, own: str | None, text: str) -> StandIn:
    """Make a stand-in for an error; `own` names it if it is one of `OWN`, `text` is its traceback.

    Stand-ins can be pickled.
    """
    error = _kind(report[0], own)(report[1])
    error.report = report
    error.__cause__ = RemoteTraceback(text) if text else None
    return error

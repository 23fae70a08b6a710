"""What the log says of jobs and of the end: which attempt it was, what follows, which jobs run.

Rules: what the server decides is "about" so long: its wait has a part by chance, and it looks for
jobs that are due every few seconds (`manager/retry.go`, `manager/scheduler.go`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from itertools import islice
from typing import Any, Final

from ..jobs.context import JobContext
from ..jobs.retries import Verdict
from ..wire.amounts import counted, in_one_unit
from ..wire.log import clean
from ..wire.validate import clip

MAX_JOBS: Final = 5
"""The most jobs that a line names."""

QUIET: Final = (
    "running jobs go on, TERM or Ctrl-C stops it; it does not fetch again: start another for that"
)
ENDS: Final = "it ends when its running jobs have ended"
"""What a worker does that fetches no more jobs."""


def is_terminal(stream: object) -> bool:
    """Return whether someone sees what is written to a stream, and can press keys."""
    try:
        return bool(stream.isatty())  # type: ignore[attr-defined]
    except Exception:  # it is None, or closed
        return False


def listed(names: Iterable[str], most: int = MAX_JOBS) -> str:
    """Return the first names, and how many more there are."""
    rest = iter(names)
    shown = ", ".join(islice(rest, most))
    more = sum(1 for _ in rest)
    return f"{shown} and {more:,} more" if more else shown


def attempt_of(job: JobContext) -> str:
    """Return which attempt of how many a run was: "attempt 2 of 6"."""
    attempt = job.attempt
    return f"attempt {attempt} of {attempt + job.retries_remaining}"


def server_wait(job: JobContext) -> str:
    """Return how long the server waits, about, before the next attempt, if this one fails."""
    failed = job.attempt - 1
    return in_one_unit(15 + failed**4 + 14.5 * (failed + 1))


def what_follows(job: JobContext, verdict: Verdict) -> str:
    """Return what becomes of a job that has failed."""
    if verdict.outcome == "again":
        return f"runs again in {in_one_unit(verdict.delay)}"
    if verdict.outcome != "bury" and job.retries_remaining:
        return f"runs again in about {server_wait(job)}"
    return "dropped (retry=0)" if job.payload.get("retry") == 0 else "dead"


def of_failure(job: JobContext, verdict: Verdict) -> tuple[str, str]:
    """Return the event of a failure, and the words for it: "attempt 2 of 6, dead".

    Never raises, whatever the program's middleware has made of the payload.
    """
    try:
        goes_on = verdict.outcome == "again"
        goes_on |= verdict.outcome != "bury" and job.retries_remaining > 0
        words = f"{attempt_of(job)}, {what_follows(job, verdict)}"
    except Exception:
        return "failed", "of an attempt that is not known"
    return "failed" if goes_on else "exhausted", words


def of_stop(running: Collection[str], seconds: float, hint: bool) -> str:
    """Return what a worker says that waits for its jobs; `hint`: a second Ctrl-C may come."""
    them = "it" if len(running) == 1 else "them"
    return (
        f"Shutdown: waiting up to {seconds:g} seconds for {counted(len(running), 'job')} to "
        f"finish: {listed(running)}{f'; Ctrl-C again interrupts {them}' if hint else ''}"
    )


def of_interrupt(running: Collection[str], is_cut: bool, give_back: bool) -> str:
    """Return what a worker says that interrupts its jobs, and what that does to them."""
    one = len(running) == 1
    if give_back:
        what = f"{'is returned and uses' if one else 'are returned and use'} up no attempt"
    else:
        what = f"{'fails by that and uses' if one else 'fail by that and use'} up an attempt"
        what += " (one with retry 0 is dropped)"
    return (
        f"the grace period is over{', cut short' if is_cut else ''}: interrupting "
        f"{counted(len(running), 'job')}, which {what}: {', '.join(running)}"
    )


def server_of(info: object) -> str:
    """Return the name and the version of a server by its INFO, whatever that is."""
    server = info.get("server") if isinstance(info, dict) else None
    server = server if isinstance(server, dict) else {}
    names = (str(server.get(name, "")) for name in ("description", "faktory_version"))
    name, version = (clip(each) for each in names)
    return f"{name or 'Faktory'} {version}".rstrip()


def fields_of(job: JobContext, event: str, seconds: float | None = None) -> dict[str, Any]:
    """Return what a record has of a job, beside its id and type, as `extra` takes it."""
    fields: dict[str, Any] = {"event": event}
    with suppress(Exception):  # the program's middleware may have changed the payload
        fields.update(
            queue=clean(job.queue), attempt=job.attempt, retries_remaining=job.retries_remaining
        )
    if seconds is not None:
        fields["seconds"] = round(seconds, 6)
    return fields

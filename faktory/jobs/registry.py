"""The job types of this process, and what runs each of them.

Rules: a module that is loaded again replaces its own jobs (notebooks, reload, `__main__`). Two
different functions under one job type are an error, in one module too: each would run the other's
jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, Protocol

from ..wire.validate import brief
from .context import JobContext
from .declaration import Declaration
from .retries import Policy

ExhaustedHandler = Callable[[JobContext, BaseException], object]
"""Called with a job that has failed permanently, and what it raised."""


class Runnable(Protocol):
    """What is registered: it runs a job, and says where it was defined."""

    @property
    def origin(self) -> str:
        """File and qualified name, by which a second definition is known for the same."""

    @property
    def is_async(self) -> bool:
        """Whether `run` returns a coroutine, which an event loop has to run."""

    @property
    def time_limit(self) -> float | None:
        """Seconds after which a run is interrupted; None for as long as it takes."""

    @property
    def policy(self) -> Policy | None:
        """What follows from its failures; None for what the server does."""

    @property
    def exhausted_handlers(self) -> Sequence[ExhaustedHandler]:
        """Called when a job has failed permanently, after those of `faktory.on("exhausted")`."""

    @property
    def queue(self) -> str | None:
        """Where its jobs go unless their push says otherwise; None if that is not declared."""

    def run(self, context: JobContext) -> object:
        """Run the job with the arguments of its payload, or return the coroutine that does."""


_jobs: dict[str, Runnable] = {}

_declarations: dict[str, Declaration | None] = {}

schedules: dict[str, Any] = {}
"""The schedules of periodic jobs, by name, see `ticks.py`."""

external: set[str] = set()
"""Job types that another program runs, as `faktory.external` declared them."""

resolver: Callable[[str], Runnable | None] | None = None
"""Asked for each job type that nobody registered: for an integration, whose job types are names of
another library. It returns what runs the type, None if it does not know it, and raises nothing: to
refuse a type it returns a job that raises, whose policy says what follows."""

other_queues: set[str] = set()
"""Queues that jobs of this program may go to beside those that they declare: an integration's."""


@contextmanager
def isolated() -> Iterator[None]:
    """Begin with an empty registry, and restore this one at the end of the block: for tests."""
    global resolver
    kept: list[tuple[Any, Any]] = [
        (each, each.copy()) for each in (_jobs, _declarations, external, schedules, other_queues)
    ]
    asked, resolver = resolver, None
    for each, _ in kept:
        each.clear()
    try:
        yield
    finally:
        resolver = asked
        for each, before in kept:
            each.clear()
            each.update(before)


class UnknownJob(LookupError):
    """The job type of a fetched job is not registered: the error type of its FAIL.

    A worker does not raise it in user code, so it is not in the tree of errors.
    """


def register(jobtype: str, job: Runnable, declaration: Declaration | None = None) -> None:
    """Let `job` run the jobs of this type; ValueError if another one does, see `declaration.py`."""
    known = _jobs.get(jobtype)
    if known is not None:
        _check_replaces(jobtype, known, _declarations.get(jobtype), job, declaration)
    _jobs[jobtype], _declarations[jobtype] = job, declaration


def _check_replaces(
    jobtype: str,
    known: Runnable,
    before: Declaration | None,
    job: Runnable,
    now: Declaration | None,
) -> None:
    """Raise ValueError for another job of the same type, unless its module was loaded again."""
    same = known.origin == job.origin
    (first, _, _), (file, _, _) = (each.origin.rpartition(":") for each in (known, job))
    if before is not None and now is not None and first == file:
        if not before.is_same_execution(now) or (same and before.body == now.body):
            return
        raise ValueError(
            f"the job type {jobtype!r} is declared twice: at {file}:{before.line}, and at "
            f"{file}:{now.line}. Give one of them another name."
        )
    if not (same or first == file == "__main__"):  # of a prompt or a notebook, which have no file
        raise ValueError(
            f"the job type {jobtype!r} is taken: by {known.origin}, and now by {job.origin}. "
            "Give one of them another name=."
        )


def find(jobtype: str) -> Runnable | None:
    """Return what runs this type, or None."""
    job = _jobs.get(jobtype)
    if job is None and resolver is not None:
        return resolver(jobtype)
    return job


def names() -> list[str]:
    """Return the registered job types, sorted."""
    return sorted(_jobs)


def queues() -> dict[str, str]:
    """Return the queue of each registered job type, as its options and the defaults say now."""
    declared = {name: _jobs[name].queue for name in names()}
    return {name: queue for name, queue in declared.items() if queue is not None}


def fetched_queues() -> set[str]:
    """Return the queues that a worker of this program fetches by default."""
    return {*queues().values(), *other_queues}


def unknown(jobtype: str, known: list[str]) -> UnknownJob:
    """Return the error for a job type that nobody registered."""
    shown = brief(jobtype)
    if jobtype in external:
        return UnknownJob(
            f"no job of type {shown} runs here: this program declares it as one that another "
            "runs (faktory.external). Is its queue meant for this worker?"
        )
    close = get_close_matches(jobtype[:200], known, 1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    listed = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "") if known else "none"
    return UnknownJob(
        f"no job of type {shown} is registered here.{hint} Registered: {listed}. "
        "Does the worker import the module that defines it (-r)?"
    )

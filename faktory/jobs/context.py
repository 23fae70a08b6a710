"""What a running job can know of itself.

The context travels in a context variable: functions ask `current_job()`, also in threads that
were started with a copied context.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any


class JobContext:
    """The job that runs here, made from its payload as the server sent it."""

    def __init__(self, payload: Mapping[str, Any]) -> None:
        self.payload = payload

    def __repr__(self) -> str:
        return f"<job {self.jobtype} {self.jid}>"

    @property
    def jid(self) -> str:
        """The job's id."""
        return str(self.payload["jid"])

    @property
    def jobtype(self) -> str:
        """The job's type."""
        return str(self.payload["jobtype"])

    @property
    def queue(self) -> str:
        """The queue that it came from."""
        return str(self.payload.get("queue", "default"))

    @property
    def args(self) -> list[Any]:
        """Its arguments."""
        return list(self.payload.get("args") or ())

    @property
    def custom(self) -> dict[str, Any]:
        """Its custom values; a dict of its own with each call."""
        return dict(self.payload.get("custom") or {})

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        failure = self.payload.get("failure")
        return failure.get("retry_count", 0) + 2 if failure else 1


_current: ContextVar[JobContext] = ContextVar("faktory_current_job")


def current_job() -> JobContext:
    """Return the job that runs here; RuntimeError outside a job."""
    try:
        return _current.get()
    except LookupError:
        raise RuntimeError(
            "no job runs here: current_job() is for code that a worker runs."
        ) from None


def run_in(context: JobContext, function: Any, *args: Any) -> Any:
    """Call a function that sees `context` as the current job."""
    token = _current.set(context)
    try:
        return function(*args)
    finally:
        _current.reset(token)

"""What a running job can know of itself, and say of itself.

The context travels in a context variable: functions ask `current_job()`, also in threads that
were started with a copied context.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, Final, TypeVar

from ..client import Client, defaults
from ..exceptions import FaktoryPayloadError
from ..wire.payload import DEFAULT_RETRY, MAX_RESERVE
from ..wire.validate import check_instant
from .batch import Batch

T = TypeVar("T")

DEFAULT_RESERVE: Final = 1800
"""Seconds that the server reserves a job for which nothing is said (`manager/working.go`)."""

LEAST_RESERVE: Final = 60
"""Seconds that the server reserves a job at least."""


class JobContext:
    """The job that runs here, made from its payload as the server sent it."""

    on_more_time: Callable[[float], None] | None = None
    """Called when the reservation was extended, with its new end (`time.monotonic`)."""

    def __init__(self, payload: dict[str, Any], client: Client | None = None) -> None:
        self.payload = payload
        self._client = client
        self._ends = monotonic() + max(LEAST_RESERVE, payload.get("reserve_for") or DEFAULT_RESERVE)

    def __repr__(self) -> str:
        return f"<job {self}>"

    def __str__(self) -> str:
        return f"{self.jobtype} {self.jid}"

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
    def bid(self) -> str | None:
        """The id of the batch that it belongs to."""
        return self._named("bid")

    @property
    def parent_bid(self) -> str | None:
        """The id of the batch around the one that it belongs to."""
        return self._named("_pbid")

    @property
    def batch(self) -> Batch | None:
        """The batch that it belongs to: `with current_job().batch.jobs():` adds jobs to it."""
        return None if self.bid is None else Batch(self.bid)

    @property
    def parent_batch(self) -> Batch | None:
        """The batch around the one that it belongs to."""
        return None if self.parent_bid is None else Batch(self.parent_bid)

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        failure = self.payload.get("failure")
        return failure.get("retry_count", 0) + 2 if failure else 1

    @property
    def failures_left(self) -> int:
        """How many failures more the server forgives; 0 in the last attempt."""
        retry = self.payload.get("retry")
        return max(0, (DEFAULT_RETRY if retry is None else retry) - self.attempt + 1)

    @property
    def deadline(self) -> datetime:
        """When the reservation ends: the server gives the job up as failed then. In UTC."""
        return datetime.now(UTC) + timedelta(seconds=self.remaining())

    def remaining(self) -> float:
        """Return the seconds that are left until then, less than 0 when it is over."""
        return self._ends - monotonic()

    @property
    def logger(self) -> logging.Logger:
        """A logger named after the job's type."""
        return logging.getLogger(f"faktory.job.{self.jobtype}")

    def track_progress(
        self,
        percent: float,
        desc: str | None = None,
        *,
        reserve_until: datetime | str | float | None = None,
    ) -> None:
        """Report how far the job is, 0 to 100, to who asks by `Client.track_get`.

        `reserve_until`, within a day, asks for more time than the job was reserved for. The job
        needs the option `track`, the server Faktory Enterprise.
        """
        try:
            fits = 0 <= percent <= 100
        except TypeError:
            fits = False
        if not fits:
            raise FaktoryPayloadError(f"percent is {percent!r}: it must be a number from 0 to 100.")
        if not isinstance(desc, str | None):
            raise FaktoryPayloadError(f"desc is {desc!r}: it must be text.")
        until = None
        if reserve_until is not None:
            until = datetime.fromisoformat(check_instant("reserve_until", reserve_until))
            if not 0 < (left := (until - datetime.now(UTC)).total_seconds()) <= MAX_RESERVE:
                raise ValueError(
                    f"reserve_until is {reserve_until}: a job can be reserved from now on for "
                    f"{MAX_RESERVE} seconds at most."
                )
        self._tell(int(percent), desc, until)
        if until is not None:
            self._ends = monotonic() + left
            if self.on_more_time is not None:
                self.on_more_time(self._ends)

    def _tell(self, percent: int, desc: str | None, until: datetime | None) -> None:
        if self._client is not None:  # the worker's own: it has nothing else to do meanwhile
            self._client.track_set(self.jid, percent, desc, until)
            return
        with defaults.default_pool().client() as client:
            client.track_set(self.jid, percent, desc, until)

    def _named(self, name: str) -> str | None:
        value = (self.payload.get("custom") or {}).get(name)
        return None if value is None else str(value)


_current: ContextVar[JobContext] = ContextVar("faktory_current_job")


def current_job() -> JobContext:
    """Return the job that runs here; RuntimeError outside a job."""
    try:
        return _current.get()
    except LookupError:
        raise RuntimeError(
            "no job runs here: current_job() is for code that a worker runs."
        ) from None


def run_in(context: JobContext, function: Callable[[], T]) -> T:
    """Call a function that sees `context` as the current job."""
    token = _current.set(context)
    try:
        return function()
    finally:
        _current.reset(token)

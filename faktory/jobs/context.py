"""A running job: its payload, its time, and its reports of progress.

The context is a context variable: a function asks `current_job()`, also in a thread that was
started with a copied context.
"""

from __future__ import annotations

import logging
import marshal
import sys
import time
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from ..client import Client, defaults
from ..exceptions import FaktoryPayloadError, Shutdown, TimeLimitExceeded
from ..wire.log import Log, enabled
from ..wire.payload import DEFAULT_RETRY, MAX_RESERVE
from ..wire.validate import check_instant, clip
from .batch import Batch
from .validation import check_handler

T = TypeVar("T")
C = TypeVar("C", bound=Callable[[], object])

DEFAULT_RESERVE: Final = 1800
"""Seconds of the reservation of a job without `reserve_for` (`manager/working.go`)."""

LEAST_RESERVE: Final = 60
"""Seconds; the server makes a shorter reservation as long."""


TICK: Final = "faktory_tick"
"""Where in `custom` the job of a schedule has its tick: ISO 8601 with the offset of its zone."""

SCHEDULE: Final = "faktory_schedule"
"""And where the name of the schedule."""


def _choose_clock() -> Callable[[], float]:
    for name in {"linux": ["CLOCK_BOOTTIME"], "darwin": ["CLOCK_MONOTONIC"]}.get(sys.platform, ()):
        try:
            clock = partial(time.clock_gettime, getattr(time, name))
            clock()
        except (AttributeError, OSError):  # an old system, or one that only resembles it
            continue
        return clock
    return time.monotonic


reservation_clock: Final = _choose_clock()
"""The clock of reservations, in seconds: the server's goes on while this machine sleeps.

`time.monotonic` stands still meanwhile on Linux and macOS, and the wall clock may be set. It begins
with the answer to FETCH, after the server's own: a reservation that is over here is over there.
"""


class LastError(NamedTuple):
    """How a job failed before: the name of the error's class, its text, and when that was."""

    errtype: str
    message: str
    failed_at: datetime


class JobAttributes:
    """The attributes of a running job that its context and an instance of its class share."""

    if TYPE_CHECKING:

        @property
        def _payload(self) -> dict[str, Any]: ...

    @property
    def jid(self) -> str:
        """The id of the job."""
        return str(self._payload["jid"])

    @property
    def custom(self) -> dict[str, Any]:
        """The custom values of the job; another copy with each call."""
        return dict(self._payload.get("custom") or {})

    @property
    def bid(self) -> str | None:
        """The id of the job's batch."""
        return self._id_in_custom("bid")

    @property
    def parent_bid(self) -> str | None:
        """The id of the batch around the job's batch."""
        return self._id_in_custom("_pbid")

    @property
    def tick(self) -> datetime | None:
        """When the job of a schedule was due, aware; None in an ordinary job.

        It stays the same when the job is tried again.
        """
        try:
            tick = datetime.fromisoformat((self._payload.get("custom") or {})[TICK])
        except (KeyError, TypeError, ValueError):
            return None
        return None if tick.utcoffset() is None else tick

    @property
    def batch(self) -> Batch | None:
        """The job's batch: a job that is pushed inside its `with batch.jobs():` joins it."""
        return None if self.bid is None else Batch(self.bid)

    @property
    def parent_batch(self) -> Batch | None:
        """The batch around the job's batch."""
        return None if self.parent_bid is None else Batch(self.parent_bid)

    def _id_in_custom(self, name: str) -> str | None:
        value = (self._payload.get("custom") or {}).get(name)
        return None if value is None else str(value)


class JobContext(JobAttributes):
    """The running job, made from its payload as the server sent it."""

    _payload: dict[str, Any]
    _now = staticmethod(reservation_clock)

    on_more_time: Callable[[float], object] | None = None
    """Called when the reservation was extended, with its new end (`reservation_clock`)."""

    _policy: Any = None
    """What is declared of the job's failures, a `retries.Policy`; set where middleware runs."""
    logged_as: str | None = None
    """What the lines of a log have of it; kept by who writes them, since each job has two."""
    in_test_thread = False
    """Whether a test runs the job, in its own thread, which has more to do after the job's end."""

    _stopping = False
    _callbacks: list[tuple[Context, Callable[[], object]]] | None = None

    def __init__(self, payload: dict[str, Any], client: Client | None = None) -> None:
        self.payload = self._payload = payload
        self._fetched = _copy_of(payload)
        self._client = client
        reserved = payload.get("reserve_for") or DEFAULT_RESERVE
        self._began = now = self._now()
        self._ends = now + (reserved if reserved > LEAST_RESERVE else LEAST_RESERVE)

    def __repr__(self) -> str:
        return f"<job {self}>"

    def __str__(self) -> str:
        jobtype, jid = self.jobtype, self.jid
        if len(jobtype) + len(jid) <= 100:  # in each line of the log
            return f"{jobtype} {jid}"
        return f"{clip(jobtype)} {clip(jid)}"

    @property
    def jobtype(self) -> str:
        """The job's type."""
        return str(self.payload["jobtype"])

    @property
    def queue(self) -> str:
        """The queue that the job was fetched from."""
        return str(self.payload.get("queue", "default"))

    @property
    def args(self) -> list[Any]:
        """The job's arguments."""
        return list(self.payload.get("args") or ())

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        failure = self.payload.get("failure")
        return max(failure.get("retry_count", 0) + 2, 1) if failure else 1

    @property
    def retries_remaining(self) -> int:
        """How often the server retries the job if this attempt fails, too; 0 in the last one."""
        retry = self.payload.get("retry")
        return max(0, (DEFAULT_RETRY if retry is None else retry) - self.attempt + 1)

    failures_left = retries_remaining

    @property
    def last_error(self) -> LastError | None:
        """How the job failed in its last attempt; None in the first one.

        `failed_at` is aware. Where the server counted the failure itself, it is the time of the
        job's first one, since the server keeps no other.
        """
        failure = self.payload.get("failure")
        if not failure:
            return None
        try:
            failed_at = datetime.fromisoformat(failure["failed_at"]).astimezone(UTC)
        except (KeyError, TypeError, ValueError, OverflowError):  # another program's record
            failed_at = datetime.fromtimestamp(0, UTC)
        return LastError(
            str(failure.get("errtype", "")), str(failure.get("message", "")), failed_at
        )

    def as_fetched(self) -> dict[str, Any]:
        """Return the payload as the server sent it, whatever middleware and the job changed in it.

        The job must not change what this returns.
        """
        fetched = self._fetched
        return fetched if isinstance(fetched, dict) else marshal.loads(fetched)

    @property
    def deadline(self) -> datetime:
        """When the reservation ends, in UTC: the server then takes the job for failed."""
        return datetime.now(UTC) + timedelta(seconds=self.time_remaining())

    def time_remaining(self) -> float:
        """Return the seconds until the deadline, less than 0 after it."""
        return self._ends - self._now()

    remaining = time_remaining

    @property
    def logger(self) -> logging.Logger:
        """A logger named after the job's type."""
        return enabled(logging.getLogger(f"faktory.job.{self.jobtype}"))

    @property
    def stopping(self) -> bool:
        """Whether the worker stops: the job has what is left of the grace period.

        Not of a worker that is quiet. False in test modes and in an executor of processes.
        """
        return self._stopping

    def on_stopping(self, callback: C) -> C:
        """Have a function without arguments called, once, when the worker stops; return it.

        It is called in a thread of its own, while the job runs, and at once, in this thread, if the
        worker stops already. It is not called after the job's end. What it raises is logged.
        """
        check_handler(callback)
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append((copy_context(), callback))
        if self.stopping:
            self._call_back(passed=(Shutdown, TimeLimitExceeded))  # they are for the job
        return callback

    def _on_stop(self) -> None:
        """Note that the worker stops; the callbacks are called in another thread."""
        self._stopping = True
        if self._callbacks:
            thread = Thread(target=self._call_back, name="faktory-stopping", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                text = "%s: no thread to call on_stopping in: %s"
                Log(self.logger).error(text, self, error)

    def _on_end(self) -> None:
        """Call none from now on: the job has ended."""
        if self._callbacks:
            self._callbacks.clear()

    def _call_back(self, passed: tuple[type[BaseException], ...] = ()) -> None:
        """Call those that were not called yet; what they raise is logged, if not `passed`."""
        callbacks = self._callbacks or []
        while True:
            try:
                context, callback = callbacks.pop(0)  # each once, also where two threads do this
            except IndexError:
                return
            try:
                context.run(callback)
            except passed:
                raise
            except BaseException:  # sys.exit() too
                Log(self.logger).exception("%s: on_stopping raised: %r", self, callback)

    def track_progress(
        self,
        percent: float,
        desc: str | None = None,
        *,
        reserve_until: datetime | str | float | None = None,
    ) -> None:
        """Report the job's progress, 0 to 100, for `Client.track_get`.

        `reserve_until`, within a day from now, extends the reservation. The job needs the option
        `track`, and the server must be a Faktory Enterprise.
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
        self._track(int(percent), desc, until)
        if until is not None:
            self.extend(self._now() + left)

    def extend(self, ends: float) -> None:
        """Note that the reservation was extended, until then (`reservation_clock`)."""
        self._ends = ends
        if self.on_more_time is not None:
            self.on_more_time(ends)

    def _track(self, percent: int, desc: str | None, until: datetime | None) -> None:
        if self._client is not None:  # the worker's own, which is idle while the job runs
            self._client.track_set(self.jid, percent, desc, until)
            return
        with defaults.default_pool().client() as client:
            client.track_set(self.jid, percent, desc, until)


def _copy_of(payload: dict[str, Any]) -> dict[str, Any] | bytes:
    """Return a copy that shares nothing that can be changed; as bytes if anything is nested."""
    args = payload.get("args") or []
    if payload.get("custom") is payload.get("failure") is None:
        for each in args:
            if each.__class__ is list or each.__class__ is dict:
                break
        else:
            return {**payload, "args": args[:]}
    return marshal.dumps(payload)


_current: ContextVar[JobContext] = ContextVar("faktory_current_job")


def current_job() -> JobContext:
    """Return the job that runs here; RuntimeError outside a job."""
    try:
        return _current.get()
    except LookupError:
        raise RuntimeError(
            "no job runs here: current_job() is for code that a worker runs."
        ) from None


def job_of(context: Context) -> JobContext | None:
    """Return the current job of another context, None if it has none."""
    return context.get(_current)


def run_in(context: JobContext, function: Callable[[], T]) -> T:
    """Call a function with `context` as the current job."""
    token = _current.set(context)
    try:
        return function()
    finally:
        _current.reset(token)

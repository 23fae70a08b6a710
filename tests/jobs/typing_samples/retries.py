"""What jobs declare of their failures, as type checkers see it; never run. See jobs.py."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import assert_type

import faktory
from faktory import JobContext, backoff
from faktory.jobs import Declared, ExhaustedHandler, LastError


@faktory.job(
    retry=5,
    retry_on=(ConnectionError, TimeoutError),
    discard_on=KeyError,
    backoff=faktory.backoff.exponential(30, factor=2, max=3600, jitter=0.1),
)
def sync(account: int) -> bool:
    raise faktory.Retry("rate limited", after=60)


@sync.on_exhausted
def gave_up(job: JobContext, error: BaseException) -> None: ...


def waits(attempt: int) -> timedelta:
    return timedelta(seconds=attempt)


class Sync(faktory.Job):
    faktory_options = {"retry_on": [OSError], "backoff": waits}

    def perform(self, account: int) -> None: ...


@Sync.on_exhausted
def class_gave_up(job: JobContext, error: BaseException) -> str:
    return job.jid


def declarations(declared: Declared, handler: ExhaustedHandler) -> None:
    assert_type(sync(1), bool)
    assert_type(sync.perform_async(1), str)
    gave_up(faktory.current_job(), ValueError())
    assert_type(class_gave_up(faktory.current_job(), ValueError()), str)
    sync.on_exhausted(handler)
    faktory.job(backoff=waits)(waits)
    faktory.job(backoff=lambda attempt: 10 * attempt)
    faktory.job(retry_on=faktory.TimeLimitExceeded, discard_on=None, backoff=None)
    faktory.job(**declared)(waits)
    assert_type(backoff.constant(timedelta(minutes=1))(1), float)
    assert_type(backoff.linear(1.5, max=timedelta(hours=1))(1), float)
    assert_type(backoff.exponential(30, 3)(1), float)


def wrong_declarations() -> None:
    faktory.job(retry_on="ConnectionError")  # type: ignore[arg-type]
    faktory.job(retry_on=(OSError, int))  # type: ignore[arg-type]
    faktory.job(discard_on=KeyError("x"))  # type: ignore[call-overload]
    faktory.job(backoff=30)  # type: ignore[call-overload]
    faktory.external("Sync", backoff=waits)  # type: ignore[call-overload]
    sync.set(retry_on=OSError)  # type: ignore[call-arg]
    sync.on_exhausted(lambda: None)  # type: ignore[type-var]
    backoff.constant("30")  # type: ignore[arg-type]
    backoff.exponential(30, 2, 60)  # type: ignore[call-arg]


def retries() -> None:
    error = faktory.Retry("rate limited", after=timedelta(minutes=1), count=False)
    assert_type(error.after, float | None)
    assert_type(error.count, bool)
    faktory.Retry("rate limited", after="60")  # type: ignore[arg-type]
    faktory.Retry("rate limited", 60)  # type: ignore[call-arg]


def last_errors() -> None:
    last = faktory.current_job().last_error
    assert_type(last, LastError | None)
    if last is not None:
        assert_type(last.errtype, str)
        assert_type(last.message, str)
        assert_type(last.failed_at, datetime)

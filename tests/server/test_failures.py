"""The lines of the log about runs that failed, and jobs that were killed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from faktory.server.filters import compile_filter
from faktory.server.go import time as go_time
from faktory.server.go.time import SECOND
from faktory.server.job import Failure, StoredJob
from faktory.server.slices import finish
from faktory.server.store import Store

from .conftest import Clock

NewJob = Callable[..., StoredJob]


class Lines(logging.Handler):
    """Keeps the texts of records."""

    def __init__(self, to: list[str]) -> None:
        super().__init__()
        self._to = to

    def emit(self, record: logging.LogRecord) -> None:
        self._to.append(record.getMessage())


@pytest.fixture
def lines() -> Iterator[list[str]]:
    found: list[str] = []
    logger, handler = logging.getLogger("faktory.server.jobs"), Lines(found)
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(level)


def run(store: Store, jid: str = "job-0001", message: str = "no such cat") -> None:
    assert store.fetch("w", ["default"])
    store.fail(jid, "ValueError", message, [])


def test_a_failure_says_which_attempt_it_was_and_when_the_next_one_is(
    store: Store, clock: Clock, new_job: NewJob, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "retry_wait", lambda count: 34 + 7200 * count)
    store.push(new_job("job-0001", jobtype="resize", retry=2))
    run(store)
    clock.forward(34)
    store.sweep()
    run(store)
    clock.forward(7234)
    store.sweep()
    run(store)
    assert lines == [
        "resize job-0001 from default: attempt 1 of 3 failed, runs again in 34 s: "
        "ValueError: no such cat",
        "resize job-0001 from default: attempt 2 of 3 failed, runs again in 2 h: "
        "ValueError: no such cat",
        "resize job-0001 from default: attempt 3 of 3 failed, dead: ValueError: no such cat",
    ]


@pytest.mark.parametrize(("retry", "then"), [(0, "dropped (retry=0)"), (-1, "dead")])
def test_a_job_of_one_attempt_says_what_becomes_of_it(
    store: Store, new_job: NewJob, lines: list[str], retry: int, then: str
) -> None:
    store.push(new_job("job-0001", jobtype="resize", retry=retry))
    run(store)
    [line] = lines
    assert line.startswith(f"resize job-0001 from default: attempt 1 of 1 failed, {then}: ")


def test_a_line_is_one_line_and_short(store: Store, new_job: NewJob, lines: list[str]) -> None:
    store.push(new_job("job-\x1b[2J\n01", jobtype="evil\r\n" * 1000))
    run(store, "job-\x1b[2J\n01", "\x1b]0;title\x07\n2026-01-01 00:00:00 forged\n" * 100)
    [line] = lines
    assert line.isprintable()
    assert len(line) < 1000
    assert "job-\\x1b[2J\\n01" in line
    assert "\\x1b]0;title\\x07\\n2026-01-01 00:00:00 forged\\n" in line


def test_a_reservation_that_expires_is_a_failure(
    store: Store, clock: Clock, new_job: NewJob, lines: list[str]
) -> None:
    store.push(new_job("job-0001", jobtype="resize", retry=-1))
    store.fetch("w", ["default"])
    clock.forward(1800)
    store.sweep()
    assert lines == [
        "resize job-0001 from default: attempt 1 of 1 failed, dead: "
        "ReservationExpired: Faktory job reservation expired"
    ]


def again(store: Store, clock: Clock, new_job: NewJob, before: Failure | None) -> StoredJob:
    """Push the reserved job again, as a worker does; with its old record, if there is one."""
    at = go_time.write(clock() + 10 * SECOND)
    record = {
        "retry_count": 0,
        "remaining": 5,
        "failed_at": go_time.write(clock()) if before is None else before.failed_at,
        "errtype": "ValueError",
        "message": "no such cat",
    }
    job = new_job("job-0001", jobtype="resize", retry=5, at=at, failure=record)
    store.push(job)
    store.acknowledge("job-0001")
    return job


def test_a_job_that_its_worker_pushes_again_has_failed(
    store: Store, clock: Clock, new_job: NewJob, lines: list[str]
) -> None:
    store.push(new_job("job-0001", jobtype="resize", retry=5))
    store.fetch("w", ["default"])
    again(store, clock, new_job, None)
    assert lines == [
        "resize job-0001 from default: attempt 1 of 6 failed, runs again in 10 s: "
        "ValueError: no such cat"
    ]


def test_a_job_that_a_stopping_worker_returns_has_not_failed_once_more(
    store: Store, clock: Clock, new_job: NewJob, lines: list[str]
) -> None:
    store.push(new_job("job-0001", jobtype="resize", retry=5))
    run(store)
    [(_, _, failed)] = store.retries
    clock.forward(3600)
    store.sweep()
    store.fetch("w", ["default"])
    returned = again(store, clock, new_job, failed.failure)
    assert len(lines) == 1
    assert returned.runs is not None
    assert len(returned.runs.kept) == 1


def test_a_job_that_was_pushed_with_a_failure_has_not_failed_here(
    store: Store, clock: Clock, new_job: NewJob, lines: list[str]
) -> None:
    again(store, clock, new_job, None)
    assert lines == []


def test_a_killed_job_is_named(store: Store, new_job: NewJob, lines: list[str]) -> None:
    store.push(new_job("job-0001", jobtype="resize"))
    run(store)
    for target in ("retries", "dead"):
        finish(store.kill(target, finish(compile_filter({"jids": ["job-0001"]}))))
    assert lines[1:] == ["resize job-0001 from default: killed, dead"]


def test_nothing_is_logged_by_default(
    store: Store, new_job: NewJob, capfd: pytest.CaptureFixture[str]
) -> None:
    store.push(new_job("job-0001", retry=-1))
    run(store)
    assert capfd.readouterr() == ("", "")

"""Fake and inline mode do what a worker does with a job that fails under a policy of its own."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import faktory
from faktory import Discard, JobContext, Retry, backoff, current_job, testing
from faktory.testing import MemoryServer
from faktory.worker import events


class Failing:
    """A job that raises `error` unless it is None; `runs` has attempts, with the retries left."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.runs: list[tuple[int, int]] = []
        self.last: list[str | None] = []

    def declare(self, **options: Any) -> Any:
        @faktory.job(name="sync", **options)
        def sync(*_: object) -> None:
            job = current_job()
            self.runs.append((job.attempt, job.retries_remaining))
            self.last.append(None if job.last_error is None else job.last_error.message)
            if self.error is not None:
                raise self.error

        return sync


@pytest.fixture
def failing() -> Failing:
    return Failing()


@pytest.fixture
def gave_up(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What handlers of all jobs were called with: jid and error."""
    called: list[tuple[str, str]] = []
    monkeypatch.setattr(events.of_process, "_handlers", [])
    faktory.on("exhausted", lambda job, error: called.append((job.jid, repr(error))))
    return called


def sizes() -> dict[str, int]:
    found = faktory.Client().info()["faktory"]["sets"]
    return {name: size for name, size in found.items() if size}


def moment(job: dict[str, Any]) -> float:
    """Return in how many seconds a job is to run."""
    return (datetime.fromisoformat(job["at"]) - datetime.now(UTC)).total_seconds()


def test_a_retry_leaves_the_job_waiting_with_its_time_and_the_record(
    fake: MemoryServer, failing: Failing
) -> None:
    sync = failing.declare(retry=2)
    failing.error = Retry("rate limited", after=timedelta(minutes=10))
    jid = sync.perform_async(7)
    assert sync.drain() == 1
    (job,) = sync.jobs
    assert (job["jid"], job["args"]) == (jid, [7])
    assert 590 < moment(job) <= 600
    failure = job["failure"]
    assert (failure["errtype"], failure["message"]) == ("Retry", "rate limited")
    assert (failure["retry_count"], failure["remaining"]) == (0, 2)
    assert sizes() == {"scheduled": 1}


def test_attempts_are_counted_until_a_retry_is_worn_out(
    fake: MemoryServer, failing: Failing, gave_up: list[tuple[str, str]]
) -> None:
    sync = failing.declare(retry=2)
    failing.error = Retry("rate limited", after=60)
    jid = sync.perform_async()
    sync.perform_one()
    sync.perform_one()
    assert gave_up == []
    with pytest.raises(Retry, match="rate limited"):
        sync.perform_one()
    assert failing.runs == [(1, 2), (2, 1), (3, 0)]
    assert failing.last == [None, "rate limited", "rate limited"]
    assert gave_up == [(jid, "Retry('rate limited', after=60)")]
    assert (sync.jobs, sizes()) == ([], {"dead": 1})


def test_a_run_that_is_not_counted_can_be_repeated_for_ever(
    fake: MemoryServer, failing: Failing
) -> None:
    sync = failing.declare(retry=1)
    failing.error = Retry("locked", after=60, count=False)
    sync.perform_async()
    for _ in range(5):
        assert sync.drain() == 1
    assert failing.runs == [(1, 1)] * 5
    failing.error = Retry("rate limited", after=60)
    sync.drain()
    failing.error = Retry("locked", after=60, count=False)
    sync.drain()
    sync.drain()
    assert failing.runs[-3:] == [(1, 1), (2, 0), (2, 0)]
    assert failing.last[-2:] == ["rate limited", "locked"]


def test_drain_runs_a_job_that_raises_retry_once(fake: MemoryServer, failing: Failing) -> None:
    fake.drain_limit = 3
    sync = failing.declare()
    failing.error = Retry("later", after=60)
    sync.perform_bulk([(number,) for number in range(4)])
    assert testing.drain_all() == 4
    assert testing.drain_all() == 4
    assert sorted(job["args"] for job in sync.jobs) == [[0], [1], [2], [3]]
    failing.error = None
    assert testing.drain_all() == 4
    assert sync.jobs == []


def test_a_job_that_is_pushed_again_becomes_due_with_the_time(
    fake: MemoryServer, failing: Failing
) -> None:
    sync = failing.declare(backoff=backoff.linear(100))
    failing.error = ConnectionError("away")
    sync.perform_async()
    for left in (100, 200):
        with pytest.raises(ConnectionError):
            sync.drain()
        assert len(fake.queues["default"]) == 1
        assert sizes() == {"scheduled": 1}
        fake.travel(left - 5)
        assert sizes() == {"scheduled": 1}
        fake.travel(10)
        assert sizes() == {}
    assert len(sync.jobs) == 1


def test_an_error_under_a_backoff_comes_out_and_the_job_waits(
    fake: MemoryServer, failing: Failing
) -> None:
    sync = failing.declare(retry=5, retry_on=ConnectionError, backoff=backoff.constant(600))
    failing.error = ConnectionError("away")
    sync.perform_bulk([(1,), (2,)])
    with pytest.raises(ConnectionError) as raised:
        sync.drain()
    assert raised.value is failing.error
    assert [job["args"] for job in sync.jobs] == [[2], [1]]
    assert sync.jobs[1]["failure"]["message"] == "away"
    assert 590 < moment(sync.jobs[1]) <= 600
    failing.error = None
    assert sync.drain() == 2
    assert failing.runs == [(1, 5), (1, 5), (2, 4)]


def test_an_error_that_is_not_to_be_retried_buries_the_job_at_once(
    fake: MemoryServer, failing: Failing, gave_up: list[tuple[str, str]]
) -> None:
    sync = failing.declare(retry=5, retry_on=(ConnectionError,))
    own: list[object] = []

    @sync.on_exhausted
    def note(job: JobContext, error: BaseException) -> None:
        assert current_job() is job
        own.append((job.jid, repr(error)))

    failing.error = ValueError("no account")
    jid = sync.perform_async()
    with pytest.raises(ValueError, match="no account"):
        sync.drain()
    assert sizes() == {"dead": 1}
    assert gave_up == own == [(jid, "ValueError('no account')")]
    failing.error = ConnectionError()
    sync.perform_async()
    with pytest.raises(ConnectionError):
        sync.drain()
    assert sizes() == {"dead": 1, "retries": 1}
    assert len(own) == 1


@pytest.mark.parametrize("error", [KeyError("gone"), Discard("gone")])
def test_what_is_discarded_is_not_an_error(
    fake: MemoryServer, failing: Failing, error: Exception, gave_up: list[tuple[str, str]]
) -> None:
    sync = failing.declare(discard_on=LookupError)
    failing.error = error
    sync.perform_async()
    assert sync.drain() == 1
    assert (sync.jobs, sizes(), gave_up) == ([], {}, [])


@pytest.mark.parametrize("retry", [0, -1, 1])
def test_the_last_attempt_of_any_job_calls_the_handlers(
    fake: MemoryServer, failing: Failing, retry: int, gave_up: list[tuple[str, str]]
) -> None:
    sync = failing.declare(retry=retry, backoff=backoff.constant(60))
    failing.error = ValueError("no")
    sync.perform_async()
    for _ in range(max(retry, 0) + 1):
        assert gave_up == []
        with pytest.raises(ValueError, match="no"):
            sync.drain()
    assert len(gave_up) == 1
    assert sizes() == ({} if retry == 0 else {"dead": 1})


def test_a_handler_that_raises_is_logged_and_no_job_is_lost(
    fake: MemoryServer, failing: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    sync = failing.declare(retry_on=OSError)
    sync.on_exhausted(lambda job, error: 1 / 0)
    failing.error = ValueError("no")
    sync.perform_async()
    with pytest.raises(ValueError, match="no"):
        sync.drain()
    assert "a handler of 'exhausted' raised" in caplog.text
    assert sizes() == {"dead": 1}


def test_a_backoff_that_raises_is_logged_and_the_servers_wait_counts(
    fake: MemoryServer, failing: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    sync = failing.declare(backoff=lambda attempt: 1 / (attempt - 1))
    failing.error = ValueError("no")
    sync.perform_async()
    with pytest.raises(ValueError, match="no"):
        sync.drain()
    assert "its backoff raised ZeroDivisionError: " in caplog.text
    assert "the server's own wait counts instead" in caplog.text
    assert sizes() == {"scheduled": 1}


def nonsense(attempt: int) -> Any:
    if attempt == 1:
        raise RuntimeError("no such attempt")
    return "soon"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, Retry("rate limited")),
        ({"retry_on": ValueError}, Retry("rate limited")),
        ({"backoff": nonsense}, Retry("rate limited")),
        ({"backoff": nonsense}, Retry("rate limited", count=False)),
        ({"backoff": nonsense}, ValueError("rate limited")),
    ],
)
def test_where_the_servers_own_wait_counts_the_job_is_in_sight(
    fake: MemoryServer, failing: Failing, options: dict[str, Any], error: Exception
) -> None:
    sync = failing.declare(retry=3, **options)
    failing.error = error
    jid = sync.perform_async(7)
    least, more, retry_counts = [15, 16, 31], [30, 60, 90], []
    for attempt in range(3):
        with suppress(ValueError):
            assert sync.drain() == 1
        (job,) = sync.jobs
        assert (job["jid"], job["args"]) == (jid, [7])
        assert least[attempt] - 1 < moment(job) <= least[attempt] + more[attempt]
        assert job["failure"]["message"] == "rate limited"
        retry_counts.append((job["failure"]["retry_count"], job["failure"]["remaining"]))
        assert sizes() == {"scheduled": 1}
    assert retry_counts == [(0, 3), (1, 2), (2, 1)]
    with pytest.raises(type(error)):
        sync.drain()
    assert failing.runs[-1] == (4, 0)
    assert sizes() == {"dead": 1}


def test_the_wait_of_a_job_without_a_policy_is_kept_by_the_server(
    fake: MemoryServer, failing: Failing
) -> None:
    for options in ({}, {"retry_on": ValueError}):
        sync = failing.declare(**options)
        failing.error = ValueError("no")
        sync.perform_async()
        with pytest.raises(ValueError, match="no"):
            sync.drain()
        assert sync.jobs == []


def test_the_next_attempt_gets_the_arguments_as_they_were_pushed(
    no_sockets: None,
) -> None:
    seen = []

    @faktory.job
    def sync(rows: list[int]) -> None:
        seen.append(rows.copy())
        rows.clear()
        raise Retry("later", after=60)

    def unpack(job: JobContext, payload: dict[str, Any], call_next: Any) -> object:
        payload["args"] = [[*payload["args"][0], 3]]
        return call_next()

    faktory.worker_middleware.add(unpack)
    with testing.fake(middleware=True):
        sync.perform_async([1, 2])
        sync.drain()
        assert sync.jobs[0]["args"] == [[1, 2]]
        sync.drain()
    assert seen == [[1, 2, 3]] * 2


def test_a_job_in_a_batch_is_left_to_the_server(
    fake: MemoryServer, failing: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    sync = failing.declare()
    failing.error = Retry("later", after=60)
    with faktory.Batch(success="Done").jobs():
        sync.perform_async()
    assert sync.drain() == 1
    assert sizes() == {"retries": 1}
    assert "it is in a batch, so the server's own wait counts" in caplog.text


def test_a_job_that_travels_beyond_its_reservation_is_not_pushed_again(fake: MemoryServer) -> None:
    @faktory.job(reserve_for=60)
    def sync() -> None:
        fake.travel(100)
        raise Retry("later", after=60)

    sync.perform_async()
    assert sync.drain() == 1
    assert sizes() == {"retries": 1}


@pytest.mark.parametrize("error", [Retry("later", after=60), ConnectionError("away")])
def test_inline_a_retry_and_an_error_come_out_and_the_job_runs_once(
    inline: MemoryServer, failing: Failing, error: Exception
) -> None:
    sync = failing.declare(backoff=backoff.constant(60))
    failing.error = error
    with pytest.raises(type(error)) as raised:
        sync.perform_async()
    assert raised.value is error
    assert failing.runs == [(1, 25)]


def test_inline_what_is_discarded_does_not_come_out_and_a_burial_calls_the_handlers(
    inline: MemoryServer, failing: Failing, gave_up: list[tuple[str, str]]
) -> None:
    sync = failing.declare(retry_on=OSError, discard_on=KeyError)
    failing.error = KeyError("gone")
    sync.perform_async()
    failing.error = ValueError("no")
    with pytest.raises(ValueError, match="no"):
        sync.perform_async()
    assert len(gave_up) == 1
    assert sizes() == {"dead": 1}

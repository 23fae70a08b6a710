from __future__ import annotations

import json
import sys
import time
from contextvars import copy_context
from datetime import UTC, datetime, timedelta, timezone
from threading import Thread
from typing import Any

import pytest

import faktory
from faktory.exceptions import FaktoryConnectionError, FaktoryPayloadError
from faktory.jobs.context import JobContext, current_job, reservation_clock, run_in

from ..support import FakeNetwork
from .support import FakeServer

PAYLOAD: dict[str, Any] = {
    "jid": "12345678",
    "jobtype": "resize",
    "queue": "images",
    "args": [1, {"a": 2}],
    "custom": {"k": "v"},
}


def test_a_context_has_the_values_of_its_payload() -> None:
    job = JobContext(PAYLOAD)
    assert (job.jid, job.jobtype, job.queue) == ("12345678", "resize", "images")
    assert (job.args, job.custom, job.attempt) == ([1, {"a": 2}], {"k": "v"}, 1)
    assert repr(job) == "<job resize 12345678>"


def test_a_missing_field_has_a_default() -> None:
    job = JobContext({"jid": "12345678", "jobtype": "resize", "args": None, "custom": None})
    assert (job.queue, job.args, job.custom, job.attempt) == ("default", [], {}, 1)


def test_a_job_that_changes_a_value_does_not_change_its_context() -> None:
    job = JobContext(PAYLOAD)
    job.args.append(3)
    job.custom["k"] = "changed"
    assert (job.args, job.custom) == (PAYLOAD["args"], {"k": "v"})


@pytest.mark.parametrize(
    ("failure", "attempt"),
    [(None, 1), ({"retry_count": 0}, 2), ({"retry_count": 4, "remaining": 1}, 6), ({"x": 1}, 2)],
)
def test_attempts_are_counted_from_one(failure: object, attempt: int) -> None:
    # The server's count is 0 after the first failure.
    assert JobContext({**PAYLOAD, "failure": failure}).attempt == attempt


def test_there_is_no_current_job_outside_a_job() -> None:
    with pytest.raises(RuntimeError, match="no job runs here"):
        current_job()


def test_the_current_job_is_the_innermost_and_ends_with_it() -> None:
    outer, inner = JobContext(PAYLOAD), JobContext({**PAYLOAD, "jid": "abcdefgh"})
    seen = []

    def run() -> None:
        seen.append(current_job())
        run_in(inner, lambda: seen.append(current_job()))
        seen.append(current_job())

    run_in(outer, run)
    assert seen == [outer, inner, outer]
    with pytest.raises(RuntimeError):
        current_job()


def test_the_current_job_ends_when_it_fails() -> None:
    def fail() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        run_in(JobContext(PAYLOAD), fail)
    with pytest.raises(RuntimeError):
        current_job()


def test_a_thread_with_a_copied_context_sees_the_job_and_another_does_not() -> None:
    seen: list[object] = []

    def look() -> None:
        try:
            seen.append(current_job().jid)
        except RuntimeError:
            seen.append(None)

    def run() -> None:
        for thread in (Thread(target=copy_context().run, args=(look,)), Thread(target=look)):
            thread.start()
            thread.join()

    run_in(JobContext(PAYLOAD), run)
    assert seen == ["12345678", None]


# Batches


def test_a_job_has_its_batch_and_the_batch_around_it() -> None:
    job = JobContext({**PAYLOAD, "custom": {"bid": "b-1", "_pbid": "b-0"}})
    assert (job.bid, job.parent_bid) == ("b-1", "b-0")
    assert job.batch is not None
    assert job.parent_batch is not None
    assert (job.batch.bid, job.parent_batch.bid) == ("b-1", "b-0")


@pytest.mark.parametrize("custom", [None, {}, {"k": "v"}, {"bid": None, "_pbid": None}])
def test_a_job_outside_a_batch_has_none(custom: object) -> None:
    job = JobContext({**PAYLOAD, "custom": custom})
    assert (job.bid, job.parent_bid, job.batch, job.parent_batch) == (None, None, None, None)


def test_a_job_may_add_others_to_its_batch(server: FakeServer) -> None:
    batch = JobContext({**PAYLOAD, "custom": {"bid": "b-1"}}).batch
    assert batch is not None
    with batch.jobs():
        faktory.external("more").perform_async()
    assert server.other_commands == ["BATCH OPEN b-1", "BATCH COMMIT b-1"]
    assert server.jobs[0]["custom"] == {"bid": "b-1"}


# Attempts and time


@pytest.mark.parametrize(
    ("retry", "failed", "left"),
    [
        (0, 0, 0),
        (-1, 0, 0),
        (1, 0, 1),
        (1, 1, 0),
        (3, 2, 1),
        (3, 3, 0),
        (3, 9, 0),
        (25, 0, 25),
        (None, 0, 25),
        (None, 25, 0),
    ],
)
def test_retries_remaining_counts_down_to_zero(retry: int | None, failed: int, left: int) -> None:
    failure = {"retry_count": failed - 1} if failed else None
    assert JobContext({**PAYLOAD, "retry": retry, "failure": failure}).retries_remaining == left


def test_a_job_without_retry_has_the_default_number_of_retries() -> None:
    assert JobContext(PAYLOAD).retries_remaining == 25


def test_the_last_error_is_that_of_the_attempt_before() -> None:
    failure = {
        "retry_count": 0,
        "failed_at": "2026-01-02T03:04:05.123456789+01:00",
        "errtype": "ConnectionError",
        "message": "away",
    }
    error = JobContext({**PAYLOAD, "failure": failure}).last_error
    assert error is not None
    assert (error.errtype, error.message) == ("ConnectionError", "away")
    assert error.failed_at == datetime(2026, 1, 2, 2, 4, 5, 123456, tzinfo=UTC)
    assert error.failed_at.utcoffset() == timedelta(0)


@pytest.mark.parametrize("failure", [None, {}])
def test_a_first_attempt_has_no_last_error(failure: object) -> None:
    assert JobContext({**PAYLOAD, "failure": failure}).last_error is None
    assert JobContext(PAYLOAD).last_error is None


@pytest.mark.parametrize("failed_at", [None, 5, "", "yesterday", "0001-01-01T00:00:00+10:00"])
def test_a_record_of_another_program_without_a_time_does_not_raise(failed_at: object) -> None:
    error = JobContext(
        {**PAYLOAD, "failure": {"retry_count": 1, "failed_at": failed_at}}
    ).last_error
    assert error == ("", "", datetime(1970, 1, 1, tzinfo=UTC))


def test_a_count_below_zero_is_a_first_attempt() -> None:
    # Any program may push a job with any record of failures.
    job = JobContext({**PAYLOAD, "retry": 3, "failure": {"retry_count": -9}})
    assert (job.attempt, job.retries_remaining) == (1, 3)


@pytest.mark.parametrize(
    "fields",
    [
        {"args": [1, "a"], "custom": None},
        {"args": [1, {"a": [2]}], "custom": None},
        {"args": [[1]]},
        {"args": [1]},
        {"args": [1], "custom": {}},
        {"args": [1], "custom": {}, "failure": {"retry_count": 0, "backtrace": ["a"]}},
    ],
)
def test_the_job_as_it_was_fetched_is_kept_whatever_changes_in_the_payload(
    fields: dict[str, Any],
) -> None:
    payload = json.loads(json.dumps({**PAYLOAD, **fields}))
    before = json.dumps(payload)
    job = JobContext(payload)
    for each in payload["args"]:
        if isinstance(each, list | dict):
            each.clear()
    payload["args"].append("decrypted")
    (payload["custom"] or {}).update(secret=1)
    (payload.get("failure") or {}).clear()
    payload["queue"] = "other"
    payload["args"] = []
    assert json.dumps(job.as_fetched()) == before
    assert job.args == []


@pytest.mark.parametrize(
    ("fields", "reserved"), [({}, 1800), ({"reserve_for": None}, 1800), ({"reserve_for": 0}, 1800)]
)
def test_a_job_is_reserved_for_half_an_hour_by_default(
    fields: dict[str, Any], reserved: int
) -> None:
    check_remaining(JobContext({**PAYLOAD, **fields}), reserved)


@pytest.mark.parametrize(("reserve_for", "reserved"), [(600, 600), (86_400, 86_400), (1, 60)])
def test_a_job_is_reserved_for_its_reserve_for_and_for_a_minute_at_least(
    reserve_for: int, reserved: int
) -> None:
    check_remaining(JobContext({**PAYLOAD, "reserve_for": reserve_for}), reserved)


def check_remaining(job: JobContext, seconds: float) -> None:
    """Check that the job has that much time, less the moments since then."""
    assert seconds - 5 < job.time_remaining() <= seconds
    assert job.deadline.tzinfo is UTC
    until = (job.deadline - datetime.now(UTC)).total_seconds()
    assert seconds - 5 < until <= seconds + 1


def test_time_remaining_goes_below_zero_after_the_deadline() -> None:
    now = [1000.0]

    class Clocked(JobContext):
        _now = staticmethod(lambda: now[0])

    job = Clocked({**PAYLOAD, "reserve_for": 100})
    assert job.time_remaining() == 100
    now[0] += 99
    assert job.time_remaining() == 1
    now[0] += 2
    assert job.time_remaining() == -1
    assert job.deadline < datetime.now(UTC)


@pytest.mark.skipif(sys.platform != "linux", reason="another system has another clock")
def test_a_reservation_goes_on_while_the_machine_sleeps() -> None:
    assert abs(reservation_clock() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 5
    assert JobContext._now is reservation_clock


def test_the_old_names_of_what_remains_still_work() -> None:
    job = JobContext({**PAYLOAD, "retry": 3})
    assert job.failures_left == job.retries_remaining == 3
    check_remaining(job, 1800)
    assert 1795 < job.remaining() <= 1800


# Progress


def progress(server: FakeServer) -> list[dict[str, Any]]:
    """Return the reports of progress."""
    verb = "TRACK SET "
    return [
        json.loads(command.removeprefix(verb))
        for command in server.other_commands
        if command.startswith(verb)
    ]


def test_progress_is_sent_through_the_default_pool(server: FakeServer) -> None:
    job = JobContext(PAYLOAD)
    job.track_progress(10)
    job.track_progress(55.9, "half way")
    assert progress(server) == [
        {"jid": "12345678", "percent": 10, "desc": None},
        {"jid": "12345678", "percent": 55, "desc": "half way"},
    ]
    assert all(type(report["percent"]) is int for report in progress(server))
    assert server.opened == ["fake:1"]


def test_a_worker_reports_progress_through_its_own_client(server: FakeServer) -> None:
    with faktory.Client("tcp://of-the-worker:3") as client:
        JobContext(PAYLOAD, client).track_progress(100, "done")
    assert server.opened == ["of-the-worker:3"]
    assert progress(server) == [{"jid": "12345678", "percent": 100, "desc": "done"}]


@pytest.mark.parametrize("percent", [-1, 101, 1000])
def test_progress_below_0_or_above_100_is_refused(server: FakeServer, percent: int) -> None:
    job = JobContext({**PAYLOAD, "reserve_for": 100})
    with pytest.raises(ValueError, match=f"percent is {percent}"):
        job.track_progress(percent, reserve_until=datetime.now(UTC) + timedelta(hours=1))
    assert server.other_commands == []
    check_remaining(job, 100)


@pytest.mark.parametrize("percent", ["half", "50", float("nan"), None])
def test_progress_that_is_not_a_number_is_refused(server: FakeServer, percent: Any) -> None:
    with pytest.raises(FaktoryPayloadError, match=r"percent is .*a number from 0 to 100"):
        JobContext(PAYLOAD).track_progress(percent)
    assert server.other_commands == []


def test_a_description_of_progress_that_is_not_text_is_refused(server: FakeServer) -> None:
    desc: Any = 5
    with pytest.raises(FaktoryPayloadError, match="desc is 5: it must be text"):
        JobContext(PAYLOAD).track_progress(10, desc)
    assert server.other_commands == []


def test_a_report_of_progress_may_extend_the_reservation(server: FakeServer) -> None:
    job = JobContext({**PAYLOAD, "reserve_for": 100})
    until = datetime.now(timezone(timedelta(hours=2))) + timedelta(hours=1)
    job.track_progress(10, reserve_until=until)
    (report,) = progress(server)
    assert datetime.fromisoformat(report["reserve_until"]) == until
    assert report["reserve_until"].endswith("Z")
    check_remaining(job, 3600)
    job.track_progress(20, reserve_until=until.timestamp() + 3600)
    check_remaining(job, 7200)
    job.track_progress(30, reserve_until=(until - timedelta(minutes=30)).isoformat())
    check_remaining(job, 1800)
    job.track_progress(40)
    check_remaining(job, 1800)


@pytest.mark.parametrize(
    "until",
    [
        datetime.now(UTC) - timedelta(seconds=1),
        "2020-01-01T00:00:00Z",
        datetime.now(UTC) + timedelta(days=1, hours=1),
        0,
    ],
)
def test_a_reservation_that_ends_in_the_past_or_after_a_day_is_refused(
    server: FakeServer, until: Any
) -> None:
    job = JobContext({**PAYLOAD, "reserve_for": 100})
    with pytest.raises(ValueError, match="for 86400 seconds at most"):
        job.track_progress(10, reserve_until=until)
    assert server.other_commands == []
    check_remaining(job, 100)


@pytest.mark.parametrize(
    ("until", "remedy"), [(datetime.now(), "astimezone"), ("2100-01-02T03:04:05", "offset")]
)
def test_a_time_without_a_zone_is_refused_with_the_remedy(
    server: FakeServer, until: Any, remedy: str
) -> None:
    with pytest.raises(ValueError, match=remedy):
        JobContext(PAYLOAD).track_progress(10, reserve_until=until)
    assert server.other_commands == []


def test_a_reservation_that_the_server_did_not_extend_is_not_extended_here(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise FaktoryConnectionError("nothing listens")

    monkeypatch.setattr("faktory.client.network.current", FakeNetwork(refuse))
    job = JobContext({**PAYLOAD, "reserve_for": 100})
    with pytest.raises(FaktoryConnectionError):
        job.track_progress(10, reserve_until=datetime.now(UTC) + timedelta(hours=1))
    check_remaining(job, 100)

from __future__ import annotations

import json
from contextvars import copy_context
from datetime import UTC, datetime, timedelta, timezone
from threading import Thread
from typing import Any

import pytest

import faktory
from faktory.exceptions import FaktoryConnectionError, FaktoryPayloadError
from faktory.jobs import context as context_module
from faktory.jobs.context import JobContext, current_job, run_in

from ..support import FakeNetwork
from .conftest import Line

PAYLOAD: dict[str, Any] = {
    "jid": "12345678",
    "jobtype": "resize",
    "queue": "images",
    "args": [1, {"a": 2}],
    "custom": {"k": "v"},
}


def test_a_context_tells_what_the_payload_says() -> None:
    job = JobContext(PAYLOAD)
    assert (job.jid, job.jobtype, job.queue) == ("12345678", "resize", "images")
    assert (job.args, job.custom, job.attempt) == ([1, {"a": 2}], {"k": "v"}, 1)
    assert repr(job) == "<job resize 12345678>"


def test_what_a_payload_leaves_out_has_a_sensible_value() -> None:
    job = JobContext({"jid": "12345678", "jobtype": "resize", "args": None, "custom": None})
    assert (job.queue, job.args, job.custom, job.attempt) == ("default", [], {}, 1)


def test_what_a_job_does_to_its_context_does_not_change_it() -> None:
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


def test_outside_a_job_there_is_no_current_one() -> None:
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


def test_a_job_knows_its_batch_and_the_one_around_it() -> None:
    job = JobContext({**PAYLOAD, "custom": {"bid": "b-1", "_pbid": "b-0"}})
    assert (job.bid, job.parent_bid) == ("b-1", "b-0")
    assert job.batch is not None
    assert job.parent_batch is not None
    assert (job.batch.bid, job.parent_batch.bid) == ("b-1", "b-0")


@pytest.mark.parametrize("custom", [None, {}, {"k": "v"}, {"bid": None, "_pbid": None}])
def test_a_job_in_no_batch_has_none(custom: object) -> None:
    job = JobContext({**PAYLOAD, "custom": custom})
    assert (job.bid, job.parent_bid, job.batch, job.parent_batch) == (None, None, None, None)


def test_a_job_may_add_others_to_its_batch(line: Line) -> None:
    batch = JobContext({**PAYLOAD, "custom": {"bid": "b-1"}}).batch
    assert batch is not None
    with batch.jobs():
        faktory.external("more").perform_async()
    assert line.said == ["BATCH OPEN b-1", "BATCH COMMIT b-1"]
    assert line.jobs[0]["custom"] == {"bid": "b-1"}


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
def test_a_job_knows_how_often_it_may_fail_yet(retry: int | None, failed: int, left: int) -> None:
    failure = {"retry_count": failed - 1} if failed else None
    assert JobContext({**PAYLOAD, "retry": retry, "failure": failure}).failures_left == left


def test_a_job_of_which_no_retry_is_said_has_that_of_every_client() -> None:
    assert JobContext(PAYLOAD).failures_left == 25


@pytest.mark.parametrize(
    ("said", "reserved"), [({}, 1800), ({"reserve_for": None}, 1800), ({"reserve_for": 0}, 1800)]
)
def test_a_job_is_reserved_for_half_an_hour(said: dict[str, Any], reserved: int) -> None:
    check_remaining(JobContext({**PAYLOAD, **said}), reserved)


@pytest.mark.parametrize(("said", "reserved"), [(600, 600), (86_400, 86_400), (1, 60)])
def test_a_job_is_reserved_for_as_long_as_it_says_and_for_a_minute_at_least(
    said: int, reserved: int
) -> None:
    check_remaining(JobContext({**PAYLOAD, "reserve_for": said}), reserved)


def check_remaining(job: JobContext, seconds: float) -> None:
    """See that the job has that long, and for a moment less by now."""
    assert seconds - 5 < job.remaining() <= seconds
    assert job.deadline.tzinfo is UTC
    until = (job.deadline - datetime.now(UTC)).total_seconds()
    assert seconds - 5 < until <= seconds + 0.1


def test_time_goes_by_and_goes_on_when_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(context_module, "monotonic", lambda: now[0])
    job = JobContext({**PAYLOAD, "reserve_for": 100})
    assert job.remaining() == 100
    now[0] += 99
    assert job.remaining() == 1
    now[0] += 2
    assert job.remaining() == -1
    assert job.deadline < datetime.now(UTC)


# Progress


def progress(line: Line) -> list[dict[str, Any]]:
    """What was said of how far jobs are."""
    told = "TRACK SET "
    return [json.loads(said.removeprefix(told)) for said in line.said if said.startswith(told)]


def test_progress_goes_to_where_this_process_pushes_to(line: Line) -> None:
    job = JobContext(PAYLOAD)
    job.track_progress(10)
    job.track_progress(55.9, "half way")
    assert progress(line) == [
        {"jid": "12345678", "percent": 10, "desc": None},
        {"jid": "12345678", "percent": 55, "desc": "half way"},
    ]
    assert all(type(said["percent"]) is int for said in progress(line))
    assert line.opened == ["stand-in:1"]


def test_a_worker_tells_progress_by_its_own_client(line: Line) -> None:
    with faktory.Client("tcp://of-the-worker:3") as client:
        JobContext(PAYLOAD, client).track_progress(100, "done")
    assert line.opened == ["of-the-worker:3"]
    assert progress(line) == [{"jid": "12345678", "percent": 100, "desc": "done"}]


@pytest.mark.parametrize("percent", [-1, 101, 1000])
def test_progress_beyond_all_bounds_is_refused(line: Line, percent: int) -> None:
    job = JobContext({**PAYLOAD, "reserve_for": 100})
    with pytest.raises(ValueError, match=f"percent is {percent}"):
        job.track_progress(percent, reserve_until=datetime.now(UTC) + timedelta(hours=1))
    assert line.said == []
    check_remaining(job, 100)


@pytest.mark.parametrize("percent", ["half", "50", float("nan"), None])
def test_progress_that_is_no_number_is_refused(line: Line, percent: Any) -> None:
    with pytest.raises(FaktoryPayloadError, match=r"percent is .*a number from 0 to 100"):
        JobContext(PAYLOAD).track_progress(percent)
    assert line.said == []


def test_a_description_of_progress_that_is_no_text_is_refused(line: Line) -> None:
    desc: Any = 5
    with pytest.raises(FaktoryPayloadError, match="desc is 5: it must be text"):
        JobContext(PAYLOAD).track_progress(10, desc)
    assert line.said == []


def test_progress_may_ask_for_more_time(line: Line) -> None:
    job = JobContext({**PAYLOAD, "reserve_for": 100})
    until = datetime.now(timezone(timedelta(hours=2))) + timedelta(hours=1)
    job.track_progress(10, reserve_until=until)
    (said,) = progress(line)
    assert datetime.fromisoformat(said["reserve_until"]) == until
    assert said["reserve_until"].endswith("Z")
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
def test_a_time_that_a_job_cannot_be_reserved_until_is_refused(line: Line, until: Any) -> None:
    job = JobContext({**PAYLOAD, "reserve_for": 100})
    with pytest.raises(ValueError, match="for 86400 seconds at most"):
        job.track_progress(10, reserve_until=until)
    assert line.said == []
    check_remaining(job, 100)


@pytest.mark.parametrize(
    ("until", "remedy"), [(datetime.now(), "astimezone"), ("2100-01-02T03:04:05", "offset")]
)
def test_a_time_without_a_zone_is_refused_with_the_remedy(
    line: Line, until: Any, remedy: str
) -> None:
    with pytest.raises(ValueError, match=remedy):
        JobContext(PAYLOAD).track_progress(10, reserve_until=until)
    assert line.said == []


def test_more_time_that_the_server_did_not_give_is_not_counted(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise FaktoryConnectionError("nothing listens")

    monkeypatch.setattr("faktory.client.network.current", FakeNetwork(refuse))
    job = JobContext({**PAYLOAD, "reserve_for": 100})
    with pytest.raises(FaktoryConnectionError):
        job.track_progress(10, reserve_until=datetime.now(UTC) + timedelta(hours=1))
    check_remaining(job, 100)

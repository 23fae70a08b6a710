"""A job pushed with a record of its failures: the server counts on from it. A scheduled job pushed
several times: it is one. A worker that tries a job again by itself relies on both.

As in test_server_contract.py, it holds for the embedded server and for the real one.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from faktory.jobs.retries import Verdict, again

RECORD = {
    "failed_at": "2026-01-02T03:04:05.678Z",
    "next_at": "2026-01-02T03:04:35.678Z",
    "message": "away",
    "errtype": "ConnectionError",
    "backtrace": ["one", "two"],
    "retry_count": 2,
    "remaining": 1,
}


def fail(client: Any, jid: str) -> None:
    reply = client.call("FAIL " + json.dumps({"jid": jid, "errtype": "E", "message": "m"}))
    assert reply == b"+OK"


def take_from(client: Any, target: str, jid: str, queue: str) -> Any:
    """Requeue a job of a set, and fetch it; None if it is not there."""
    assert client.mutate("requeue", target, jids=[jid]) == b"+OK"
    return client.fetch(queue)


def test_a_pushed_record_comes_out_as_it_went_in(dial, name):
    client, jid, queue = dial(), name(), name()
    assert client.push(jid, queue, failure=RECORD) == b"+OK"
    assert client.fetch(queue)["failure"] == RECORD


def test_a_record_without_details_is_completed(dial, name):
    client, jid, queue = dial(), name(), name()
    assert client.push(jid, queue, failure={"retry_count": 4, "message": None}) == b"+OK"
    assert client.fetch(queue)["failure"] == {"failed_at": "", "retry_count": 4, "remaining": 0}


@pytest.mark.parametrize("wrong", ['"x"', "[]", '{"retry_count":"1"}', '{"remaining":1.5}'])
def test_a_record_of_other_types_is_refused(dial, name, wrong):
    client = dial()
    push = f'PUSH {{"jid":"{name()}","jobtype":"T","args":[],"retry":1,"failure":{wrong}}}'
    assert client.call(push).startswith(b"-ERR invalid JSON")


@pytest.mark.parametrize(
    ("retry", "before", "after"),
    [(5, (0, 5), (1, 4)), (5, (2, 1), (3, 0)), (5, (2, 0), (3, 0)), (3, (1, 9), (2, 8))],
)
def test_the_next_failure_counts_on_from_a_pushed_record(dial, name, retry, before, after):
    client, jid, queue = dial(), name(), name()
    record = RECORD | {"retry_count": before[0], "remaining": before[1]}
    client.push(jid, queue, retry=retry, failure=record)
    assert client.fetch(queue)["jid"] == jid
    fail(client, jid)
    failure = take_from(client, "retries", jid, queue)["failure"]
    assert (failure["retry_count"], failure["remaining"]) == after
    assert (failure["errtype"], failure["message"]) == ("E", "m")
    assert failure["failed_at"] == RECORD["failed_at"]  # of the record, not of this failure
    assert failure["next_at"] > RECORD["next_at"]
    assert "backtrace" not in failure


@pytest.mark.parametrize(("count", "target"), [(1, "retries"), (2, "dead"), (7, "dead")])
def test_the_last_attempt_buries_a_job_with_a_pushed_record(dial, name, count, target):
    client, jid, queue = dial(), name(), name()
    record = RECORD | {"retry_count": count, "remaining": 3 - count}
    client.push(jid, queue, retry=3, failure=record)
    client.fetch(queue)
    fail(client, jid)
    other = "dead" if target == "retries" else "retries"
    assert take_from(client, other, jid, queue) is None
    assert take_from(client, target, jid, queue)["failure"]["retry_count"] == count + 1


def test_without_retries_a_job_with_a_pushed_record_is_dropped(dial, name):
    client, jid, queue = dial(), name(), name()
    client.push(jid, queue, retry=0, failure=RECORD)
    client.fetch(queue)
    fail(client, jid)
    assert take_from(client, "retries", jid, queue) is None
    assert take_from(client, "dead", jid, queue) is None


def test_a_job_that_is_pushed_again_has_the_record_that_a_fail_would_have_made(dial, name):
    client, queue, failing, again_jid = dial(), name(), name(), name()
    for jid in (failing, again_jid):
        client.push(jid, queue, retry=3)
    jobs = [client.fetch(queue) for _ in range(2)]
    for attempt in range(3):
        fail(client, failing)
        sent = again(jobs[1], Verdict("again", 3600), ("E", "m", []), datetime.now(UTC))
        assert client.call("PUSH " + json.dumps(sent)) == b"+OK"
        assert client.call("ACK " + json.dumps({"jid": again_jid})) == b"+OK"
        jobs = [
            take_from(client, "retries", failing, queue),
            take_from(client, "scheduled", again_jid, queue),
        ]
        records = [job["failure"].copy() for job in jobs]
        for record in records:
            assert record.pop("failed_at") < record.pop("next_at")
            assert record == records[0]
        assert records[0]["retry_count"] == attempt
    for jid in (failing, again_jid):
        fail(client, jid)
        assert take_from(client, "dead", jid, queue)["failure"]["remaining"] == 0


def test_a_scheduled_push_of_the_same_job_is_one_job(dial, name):
    client, jid, queue = dial(), name(), name()
    at = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    for _ in range(3):
        for each in (client, dial()):
            pushed = each.push(jid, queue, at=at, created_at=RECORD["failed_at"], failure=RECORD)
            assert pushed == b"+OK"
    assert take_from(client, "scheduled", jid, queue)["failure"] == RECORD
    assert client.fetch(queue) is None

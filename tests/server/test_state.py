"""Time: what is due happens by itself, and when the clock is moved."""

import json
import time
from datetime import UTC, datetime, timedelta

import pytest

from faktory.server import state
from faktory.server.state import Core


def soon(seconds):
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def test_a_scheduled_job_wakes_who_waits_for_it_when_it_is_due(dial):
    line, pusher = dial(), dial()
    line.send("FETCH default")
    pusher.push("job-0001", at="2099-01-01T00:00:00Z")
    at = soon(0.1)
    pusher.push("job-0002", at=at)
    job = json.loads(line.reply())
    assert job["jid"] == "job-0002"
    assert job["enqueued_at"] >= at.replace("+00:00", "Z")
    assert time.time() < datetime.fromisoformat(at).timestamp() + 1


def test_travelling_does_what_becomes_due_on_the_way_in_its_order(server, dial):
    line = dial()
    line.push("job-0001", reserve_for=60, retry=1)
    line.say("FETCH default")
    server.travel(59)
    assert [entry["job"]["jid"] for entry in server.working] == ["job-0001"]
    server.travel(2)
    [job] = server.retries
    assert job["failure"]["errtype"] == "ReservationExpired"
    failed = datetime.fromisoformat(job["failure"]["failed_at"][:26])
    due = datetime.fromisoformat(job["failure"]["next_at"][:26])
    server.travel(3600)
    [job] = server.queues["default"]
    enqueued = datetime.fromisoformat(job["enqueued_at"][:26])
    assert timedelta(0) <= enqueued - due < timedelta(seconds=1)
    assert due - failed >= timedelta(seconds=15)


def test_travelling_cuts_off_workers_that_are_silent_for_a_minute(server, dial):
    silent, producer = dial(wid="w"), dial()
    server.travel(59)
    assert [worker["wid"] for worker in server.workers] == ["w"]
    server.travel(2)
    assert server.workers == []
    assert silent.at_end()
    assert producer.say('BEAT {"wid":"w"}') == b"-ERR unknown worker w"


def test_travelling_serves_who_waits(server, dial):
    line, pusher = dial(), dial()
    pusher.push("job-0001", at=soon(3600))
    line.send("FETCH default")
    pusher.say("INFO")
    server.travel(3601)
    assert json.loads(line.reply())["jid"] == "job-0001"


def test_time_does_not_go_backwards(server):
    with pytest.raises(ValueError, match="forward only"):
        server.travel(-1)


def test_the_clock_shows_where_it_has_travelled_to(server, dial):
    server.travel(86400)
    now = json.loads(dial().say("INFO"))["now"]
    assert now > (datetime.now(UTC) + timedelta(hours=23)).isoformat()


def test_records_are_bounded_in_number_and_in_bytes(monkeypatch):
    monkeypatch.setattr(state, "MAX_RECORDS", 3)
    monkeypatch.setattr(state, "MAX_RECORDED", 10)
    kept = Core(None, 1, 1)
    for _ in range(5):
        kept.record(b"A", b"A")
    assert len(kept.records) == 3
    kept.record(b"B", b"B" * 9)
    assert [len(line) for _, line in kept.records] == [1, 9]
    kept.record(b"C", b"C" * 11)
    assert list(kept.records) == []

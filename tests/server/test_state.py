"""Time: what is due happens by itself, and when the clock is moved."""

import json
import time
from datetime import UTC, datetime, timedelta

import pytest

from faktory.server import EmbeddedServer
from faktory.server.state import CommandLog, Timing


def soon(seconds):
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def test_a_waiting_fetch_gets_a_scheduled_job_as_soon_as_it_is_due(dial):
    with EmbeddedServer(timing=Timing(fetch_wait=60)) as server:
        client, pusher = dial(to=server), dial(to=server)
        client.send("FETCH default")
        pusher.push("job-0001", at="2099-01-01T00:00:00Z")
        at = soon(0.5)
        pusher.push("job-0002", at=at)
        job = json.loads(client.reply())
        assert job["jid"] == "job-0002"
        assert job["enqueued_at"] >= at.replace("+00:00", "Z")
        assert time.time() < datetime.fromisoformat(at).timestamp() + 4


def test_travelling_does_everything_that_becomes_due_on_the_way_in_order(server, dial):
    client = dial()
    client.push("job-0001", reserve_for=60, retry=1)
    client.call("FETCH default")
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


def test_travelling_disconnects_workers_that_are_silent_for_a_minute(server, dial):
    silent, producer = dial(wid="w"), dial()
    server.travel(59)
    assert [worker["wid"] for worker in server.workers] == ["w"]
    server.travel(2)
    assert server.workers == []
    assert silent.is_closed()
    assert producer.call('BEAT {"wid":"w"}') == b"-ERR unknown worker w"


def test_travelling_serves_clients_that_wait(server, dial):
    client, pusher = dial(), dial()
    pusher.push("job-0001", at=soon(3600))
    client.send("FETCH default")
    pusher.call("INFO")
    server.travel(3601)
    assert json.loads(client.reply())["jid"] == "job-0001"


def test_a_stopped_server_travels_too_and_a_started_one_goes_on_from_there(server, dial):
    client = dial()
    client.push("job-0001", at=soon(3600))
    client.push("job-0002", at=soon(7200))
    server.stop()
    server.travel(3601)
    assert [job["jid"] for job in server.queues["default"]] == ["job-0001"]
    server.start()
    assert json.loads(dial().call("FETCH default"))["jid"] == "job-0001"


def test_time_does_not_go_backwards(server):
    with pytest.raises(ValueError, match="forward only"):
        server.travel(-1)


def test_the_clock_shows_the_time_it_has_travelled_to(server, dial):
    server.travel(86400)
    now = json.loads(dial().call("INFO"))["now"]
    assert now > (datetime.now(UTC) + timedelta(hours=23)).isoformat()


def test_the_log_of_commands_is_bounded_in_number_and_in_bytes():
    log = CommandLog(max_count=3, max_bytes=10)
    for _ in range(5):
        log.add(b"A", b"A")
    assert len(log.entries) == 3
    log.add(b"B", b"B" * 9)
    assert [len(line) for _, line in log.entries] == [1, 9]
    log.add(b"C", b"C" * 11)
    assert list(log.entries) == []

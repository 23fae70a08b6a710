"""What a worker does when connections break, or the server is gone for a while."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter

import pytest

import faktory
from faktory import Client, Worker
from faktory.server import EmbeddedServer
from faktory.worker import worker as worker_module

from .conftest import Push, Start, WaitUntil, messages, reports


@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize("cut", ["drop_before", "drop_after"])
@pytest.mark.parametrize("verb", ["ACK", "FAIL"])
def test_a_report_is_delivered_over_as_many_connections_as_it_takes(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    verb: str,
    cut: str,
    times: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("faktory.wire.recovery.backoff", lambda attempt, random: 0.0)
    ran: list[str] = []

    def work() -> None:
        ran.append(verb)
        if verb == "FAIL":
            raise ValueError

    worker = Worker(server.url)
    worker.register("work", work)
    getattr(server, cut)(verb, times)
    jid = push("work", retry=1)
    running = start(worker)
    wait_until(lambda: len(reports(server, jid)) == times + 1)
    running.stop()
    assert reports(server, jid) == [verb] * (times + 1)  # an ACK never becomes a FAIL
    assert (server.processed, server.failures) == (1, int(verb == "FAIL"))
    assert (server.working, len(ran)) == ([], 1)


@pytest.mark.parametrize("cut", ["drop_before", "drop_after"])
def test_a_fetch_that_is_cut_short_is_sent_again(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil, cut: str
) -> None:
    ran: list[str] = []
    worker = Worker(server.url)
    worker.register("work", lambda: ran.append(faktory.current_job().jid))
    getattr(server, cut)("FETCH")
    jids = [push("work"), push("work")]
    start(worker)
    wait_until(lambda: ran and not server.queues.get("default"))
    if cut == "drop_after":  # the job was popped for an answer that never came
        wait_until(lambda: ran == [jids[1]])
        assert stranded(server) == {jids[0]}
        server.travel(2000)  # its reservation is over, which counts as a failure; it is retried
    wait_until(lambda: sorted(ran) == sorted(jids))


def test_an_error_in_place_of_a_job_does_not_end_the_worker(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("faktory.worker.jobthread._PAUSE_AFTER_REFUSAL", 0.0)
    server.answer_error("FETCH", "internal error", 3)
    worker = Worker(server.url)
    worker.register("work", lambda: None)
    push("work")
    start(worker)
    wait_until(lambda: server.processed == 1)


def test_a_server_that_stops_and_starts_under_load_loses_nothing(
    server: EmbeddedServer,
    start: Start,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    ran: Counter[str] = Counter()

    def work(number: int) -> None:
        ran[faktory.current_job().jid] += 1
        if number % 50 == 0:
            time.sleep(0.3)  # in the middle of this the server goes

    worker = Worker(server.url, concurrency=5)
    worker.register("work", work)
    with Client(server.url) as client:
        jids = [client.push({"jobtype": "work", "args": [n]}) for n in range(400)]
    start(worker)
    wait_until(lambda: len(ran) > 100)
    server.stop()
    wait_until(lambda: messages(caplog, "lost the server"))
    server.start()
    # Popped for an answer that never came, at most one a thread: those come back when their
    # reservations are over.
    wait_until(lambda: not server.queues.get("default") and len(ran) + len(server.working) >= 400)
    wait_until(lambda: len(server.working) <= 5 and not set(jids) - ran.keys() - stranded(server))
    server.travel(2000)
    wait_until(lambda: ran.keys() == set(jids) and not server.working)
    assert len(messages(caplog, "lost the server")) == 1
    assert len(messages(caplog, "the server is back")) == 1
    assert all(record.exc_info is None for record in caplog.records)


def stranded(server: EmbeddedServer) -> set[str]:
    return {entry["job"]["jid"] for entry in server.working}


def test_a_server_that_is_down_at_the_start_is_waited_for(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.stop()
    worker = Worker(server.url, concurrency=3)
    worker.register("work", lambda: None)
    start(worker)
    wait_until(
        lambda: messages(caplog, "lost the server, trying until it is back: nothing listens")
    )
    server.start()
    push("work")
    wait_until(lambda: server.processed == 1)
    assert len(messages(caplog, "lost the server")) == 1


def test_a_worker_that_waits_for_a_server_can_be_stopped(
    server: EmbeddedServer,
    start: Start,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("faktory.wire.recovery.backoff", lambda attempt, random: 1000.0)
    server.stop()
    running = start(Worker(server.url, concurrency=3))
    wait_until(lambda: messages(caplog, "lost the server"))
    running.stop()
    assert running.worker.left_behind == []


def test_a_report_that_cannot_be_delivered_is_told(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_module, "LAST_WORDS", 0.1)
    monkeypatch.setattr(worker_module, "FETCH_PATIENCE", 0.0)
    go_on = threading.Event()
    worker = Worker(server.url, disconnect_wait=0.5)
    worker.register("work", lambda: go_on.wait(10))
    jid = push("work")
    running = start(worker)
    wait_until(lambda: server.working)
    server.stop()
    go_on.set()
    running.stop()
    assert messages(caplog, f"ACK of {jid} could not be delivered: nothing listens")
    assert worker.left_behind == ["faktory-1"]

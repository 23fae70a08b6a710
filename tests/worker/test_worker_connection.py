"""What a worker does when connections break, or the server is gone for a while."""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter

import pytest

import faktory
from faktory import Client, Worker
from faktory.server import EmbeddedServer
from faktory.worker.timing import Timing

from .conftest import (
    Held,
    Push,
    Start,
    WaitUntil,
    fail,
    messages,
    reports,
    succeed,
    threads_left,
)

AT_ONCE = Timing(backoff=lambda attempt, random: 0.0, refused_fetch_interval=0.0)


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
) -> None:
    ran: list[str] = []

    def work() -> None:
        ran.append(verb)
        if verb == "FAIL":
            fail()

    getattr(server, cut)(verb, times)
    jid = push("work", retry=1)
    running = start({"work": work}, timing=AT_ONCE)
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
    getattr(server, cut)("FETCH")
    jids = [push("work"), push("work")]
    start({"work": lambda: ran.append(faktory.current_job().jid)})
    wait_until(lambda: ran and not server.queues.get("default"))
    if cut == "drop_after":  # the job was popped for an answer that never came
        wait_until(lambda: ran == [jids[1]])
        wait_until(lambda: stranded(server) == {jids[0]})  # the other one is acknowledged
        server.travel(2000)  # its reservation ends, which counts as a failure; it is retried
    wait_until(lambda: sorted(ran) == sorted(jids))


def test_a_refused_fetch_does_not_end_the_worker(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    server.answer_error("FETCH", "internal error", 3)
    push("work")
    start({"work": succeed}, timing=AT_ONCE)
    wait_until(lambda: server.processed == 1)


def test_a_server_that_stops_and_starts_under_load_loses_nothing(
    server: EmbeddedServer, start: Start, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ran: Counter[str] = Counter()

    def work(number: int) -> None:
        ran[faktory.current_job().jid] += 1
        if number % 50 == 0:
            time.sleep(0.3)  # the server stops in the middle of this

    with Client(server.url) as client:
        jids = [client.push({"jobtype": "work", "args": [n]}) for n in range(400)]
    start({"work": work}, concurrency=5)
    wait_until(lambda: len(ran) > 100)
    server.stop()
    wait_until(lambda: messages(caplog, "lost the connection"))
    server.start()
    # Jobs that were popped for an answer that never came, at most one for each thread, come back
    # when their reservations end.
    wait_until(lambda: not server.queues.get("default") and len(server.working) <= 5)
    wait_until(lambda: stranded(server) == set(jids) - ran.keys())
    assert len(messages(caplog, "lost the connection")) == 1
    assert len(messages(caplog, "the server is back")) == 1
    server.travel(2000)
    wait_until(lambda: ran.keys() == set(jids) and not server.working)
    assert all(record.exc_info is None for record in caplog.records)


def stranded(server: EmbeddedServer) -> set[str]:
    """Return the jids of the reserved jobs."""
    return {entry["job"]["jid"] for entry in server.working}


def test_a_worker_waits_for_a_server_that_is_down_at_the_start(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.stop()
    start({"work": succeed}, concurrency=3)
    lost = "nothing listens there (connection refused); trying again"
    wait_until(lambda: messages(caplog, lost))
    server.start()
    push("work")
    wait_until(lambda: server.processed == 1)
    assert len(messages(caplog, "cannot reach")) == 1


def test_a_worker_that_waits_for_a_server_can_be_stopped(
    server: EmbeddedServer, start: Start, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    server.stop()
    running = start(concurrency=3, timing=Timing(backoff=lambda attempt, random: 1000.0))
    wait_until(lambda: messages(caplog, "cannot reach"))
    running.stop()
    assert running.worker.abandoned == []


def test_a_worker_whose_server_never_greets_can_be_stopped(
    start: Start, caplog: pytest.LogCaptureFixture, wait_until: WaitUntil
) -> None:
    """It holds no job and no report, so that nothing is lost with its threads."""
    peers: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = start(
            Worker(f"tcp://127.0.0.1:{listener.getsockname()[1]}", concurrency=2, timeout=3600)
        )
        peers += [listener.accept()[0] for _ in range(3)]
        running.stop()
        assert running.worker.abandoned == []
        assert not messages(caplog, "FETCH")
        for peer in peers:
            peer.close()
        wait_until(lambda: threads_left() == [])


def test_a_report_that_cannot_be_delivered_is_logged(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    held: Held,
    caplog: pytest.LogCaptureFixture,
) -> None:
    jid = push("work")
    timing = Timing(shutdown_grace=0.1, fetch_grace=0.0)
    running = start({"work": held.hold}, disconnect_wait=0.1, timing=timing)
    assert held.began.wait(20)
    server.stop()
    held.release()
    wait_until(lambda: not running.worker.busy)
    running.stop()
    wait_until(lambda: messages(caplog, f"ACK of {jid} could not be delivered: nothing listens"))
    assert running.worker.abandoned == ["faktory-1"]

"""How a worker ends: quiet, stop, signals, the grace period, and what is still under way."""

from __future__ import annotations

import os
import signal
import threading
from datetime import timedelta

import pytest

from faktory import Client, Worker
from faktory.server import EmbeddedServer
from faktory.worker import crew
from faktory.worker import worker as worker_module
from faktory.worker.jobthread import JobThread

from .conftest import Push, Start, WaitUntil, messages, reports, spin, threads_left


def test_the_server_can_make_a_worker_quiet(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    go_on = threading.Event()
    worker = Worker(server.url)
    worker.send_heartbeat_every = 0.01
    worker.register("work", lambda: go_on.wait(10))
    first = push("work")
    running = start(worker)
    wait_until(lambda: server.working and server.workers)
    server.quiet(worker.worker_id)
    wait_until(lambda: worker.is_quiet)
    go_on.set()
    wait_until(lambda: reports(server, first) == ["ACK"])
    wait_until(lambda: threads_left() == ["faktory-heartbeat"])
    second = push("work")
    server.clear_commands()
    wait_until(lambda: sum(verb == "BEAT" for verb, _ in server.commands) > 2)
    assert server.workers[0]["state"] == "quiet"
    assert [job["jid"] for job in server.queues["default"]] == [second]
    assert running.thread.is_alive()
    assert not worker.is_disconnecting
    running.stop()


def test_a_real_server_can_make_a_worker_quiet_within_one_fetch(
    real_server_url: str, start: Start, wait_until: WaitUntil
) -> None:
    queue = "worker-quiet"
    worker = Worker(real_server_url, queues=[queue], concurrency=2)
    worker.send_heartbeat_every = 0.05
    worker.register("work", lambda: None)
    running = start(worker)
    with Client(real_server_url, worker_id=worker.worker_id) as client:
        wait_until(lambda: len(threads_left()) == 3)
        client.beat("quiet")  # a state that was reported is answered to every beat after it
        wait_until(lambda: worker.is_quiet)
        wait_until(lambda: threads_left() == ["faktory-heartbeat"], timeout=4)
        client.push({"jobtype": "work", "args": [], "queue": queue})
        assert client.info()["faktory"]["queues"][queue] == 1
        running.stop()
        client.remove_queues(queue)


def test_quiet_lets_running_jobs_go_on_and_fetches_no_more(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    go_on = threading.Event()
    worker = Worker(server.url, concurrency=2)
    worker.register("work", lambda: go_on.wait(10))
    first = push("work")
    running = start(worker)
    wait_until(lambda: server.working)
    assert not worker.is_quiet
    worker.quiet()
    worker.quiet()
    wait_until(lambda: len(threads_left()) == 2)  # the idle one has ended; this and the heartbeat
    assert worker.is_quiet
    push("work")
    go_on.set()
    wait_until(lambda: reports(server, first) == ["ACK"])
    running.stop()
    assert len(server.queues["default"]) == 1


def test_the_server_can_end_a_worker(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    go_on = threading.Event()
    worker = Worker(server.url)
    worker.send_heartbeat_every = 0.01
    worker.register("work", lambda: go_on.wait(10))
    jid = push("work")
    running = start(worker)
    wait_until(lambda: server.working and server.workers)
    server.terminate(worker.worker_id)
    wait_until(lambda: worker.is_disconnecting)
    wait_until(lambda: server.workers[0]["state"] == "terminate")
    go_on.set()
    running.join()
    assert reports(server, jid) == ["ACK"]


def test_stop_waits_for_running_jobs(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    go_on = threading.Event()
    worker = Worker(server.url, concurrency=3)
    worker.register("work", lambda: go_on.wait(10))
    jids = [push("work") for _ in range(3)]
    running = start(worker)
    wait_until(lambda: len(server.working) == 3)
    worker.stop()
    wait_until(lambda: worker.is_disconnecting)
    assert worker.is_quiet
    push("work")
    go_on.set()
    running.join()
    assert [reports(server, jid) for jid in jids] == [["ACK"]] * 3
    assert len(server.queues["default"]) == 1
    assert worker.abandoned == []


def test_stop_before_run_and_twice_is_a_stop(server: EmbeddedServer) -> None:
    worker = Worker(server.url)
    worker.stop()
    worker.stop()
    worker.run()
    assert threads_left() == []
    with pytest.raises(RuntimeError, match="runs once"):
        worker.run()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_and_handlers_are_as_they_were_after(
    server: EmbeddedServer, push: Push, number: signal.Signals
) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    worker = Worker(server.url)
    worker.register("work", lambda: os.kill(os.getpid(), number))
    jid = push("work")
    worker.run()
    assert reports(server, jid) == ["ACK"]
    assert {each: signal.getsignal(each) for each in before} == before


def test_in_another_thread_it_leaves_signals_alone(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    worker = Worker(server.url)
    worker.register("work", lambda: None)
    running = start(worker)
    push("work")
    wait_until(lambda: server.processed == 1)
    assert signal.getsignal(signal.SIGTERM) is before
    running.stop()


def test_a_python_loop_that_outlives_the_grace_period_is_interrupted_and_failed(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = Worker(server.url, concurrency=2, disconnect_wait=0.05)
    worker.register("spin", spin)
    jid = push("spin")
    running = start(worker)
    wait_until(lambda: server.working)
    running.stop()
    assert reports(server, jid) == ["FAIL"]
    assert server.retries[0]["failure"]["errtype"] == "Shutdown"
    assert worker.abandoned == []
    assert messages(caplog, "interrupting") == [
        "the grace period is over: interrupting 1 jobs, which fail by that and use up an attempt "
        f"(one with retry 0 is dropped): spin {jid} (0 s)",
    ]


def test_a_job_that_does_not_end_is_failed_from_outside_and_reported_once(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(worker_module, "LAST_WORDS", 0.1)
    go_on = threading.Event()
    worker = Worker(server.url, concurrency=3, disconnect_wait=0.05)
    worker.register("stuck", lambda: go_on.wait(10))  # one call into C: no interrupt gets in there
    worker.register("well", lambda: None)
    jids = [push("stuck"), push("stuck")]
    running = start(worker)
    wait_until(lambda: len(server.working) == 2)
    running.stop()
    assert {job["jid"] for job in server.retries} == set(jids)
    failure = server.retries[0]["failure"]
    assert failure["errtype"] == "Shutdown"
    assert "did not end within 0.05 s" in failure["message"]
    assert len(worker.abandoned) == 2
    assert set(worker.abandoned) < {"faktory-1", "faktory-2", "faktory-3"}
    for jid in jids:
        assert messages(caplog, f"stuck {jid} does not end: left behind")
    go_on.set()
    wait_until(lambda: threads_left() == [])
    assert [reports(server, jid) for jid in jids] == [["FAIL"], ["FAIL"]]
    assert len(messages(caplog, "too late to be reported")) == 2


def test_disconnect_by_force_does_not_wait(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    worker = Worker(server.url, disconnect_wait=1000)
    worker.register("spin", spin)
    jid = push("spin")
    running = start(worker)
    wait_until(lambda: server.working)
    worker.disconnect(force=True)
    running.join()
    assert reports(server, jid) == ["FAIL"]


def test_disconnect_shortens_a_stop_and_never_lengthens_it(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    worker = Worker(server.url, disconnect_wait=1000)
    worker.register("spin", spin)
    jid = push("spin")
    running = start(worker)
    wait_until(lambda: server.working)
    worker.stop()
    worker.disconnect(wait=timedelta(milliseconds=1))
    worker.disconnect(wait=1e300)
    running.join()
    assert reports(server, jid) == ["FAIL"]


def test_a_grace_period_longer_than_the_system_can_wait_is_one(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    go_on = threading.Event()
    worker = Worker(server.url, disconnect_wait=1e15)
    worker.register("work", lambda: go_on.wait(10))
    jid = push("work")
    running = start(worker)
    wait_until(lambda: server.working)
    worker.stop()
    wait_until(lambda: worker.is_disconnecting)
    go_on.set()
    running.join()
    assert reports(server, jid) == ["ACK"]


def test_what_a_fetch_under_way_brings_is_run_before_it_stops(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    server.hold("FETCH")
    worker = Worker(server.url)
    worker.register("work", lambda: None)
    jid = push("work")
    running = start(worker)
    wait_until(lambda: any(verb == "FETCH" for verb, _ in server.commands))
    worker.stop()
    wait_until(lambda: worker.is_disconnecting)
    server.release("FETCH")
    running.join()
    assert reports(server, jid) == ["ACK"]
    assert worker.abandoned == []


def test_what_a_fetch_under_way_brings_after_the_grace_period_is_failed_not_lost(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_module, "LAST_WORDS", 0.05)
    ran: list[object] = []
    server.hold("FETCH")
    worker = Worker(server.url, disconnect_wait=0)
    worker.register("work", lambda: ran.append(1))
    jid = push("work")
    running = start(worker)
    wait_until(lambda: any(verb == "FETCH" for verb, _ in server.commands))
    worker.stop()
    wait_until(lambda: all(thread.slot._closed for thread in worker._crew.threads))
    server.release("FETCH")
    running.join()
    assert reports(server, jid) == ["FAIL"]
    assert server.retries[0]["failure"]["errtype"] == "Shutdown"
    assert ran == []
    assert worker.abandoned == []


def test_a_server_that_never_answers_a_fetch_does_not_keep_it(
    server: EmbeddedServer, start: Start, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "LAST_WORDS", 0.05)
    monkeypatch.setattr(worker_module, "FETCH_PATIENCE", 0.1)
    monkeypatch.setattr(crew, "LAST_TRY", 0.05)
    server.hold("FETCH")
    worker = Worker(server.url, disconnect_wait=0)
    running = start(worker)
    wait_until(lambda: any(verb == "FETCH" for verb, _ in server.commands))
    running.stop()
    assert worker.abandoned == ["faktory-1"]
    server.release("FETCH")
    wait_until(lambda: threads_left() == [])


def test_a_worker_that_is_told_to_stop_while_it_starts_starts_no_more_threads(
    server: EmbeddedServer,
) -> None:
    worker = Worker(server.url, concurrency=50)
    start = JobThread.start
    started = []

    def start_and_stop(thread: JobThread) -> None:
        start(thread)
        started.append(thread)
        if len(started) == 3:
            worker.stop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JobThread, "start", start_and_stop)
        worker.run()
    assert len(started) == 3

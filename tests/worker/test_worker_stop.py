"""How a worker ends: quiet, stop, signals, the grace period, and jobs that still run then."""

from __future__ import annotations

import logging
import os
import re
import signal
import time
from datetime import timedelta
from threading import Event

import pytest

from faktory import Client, Worker
from faktory.server import EmbeddedServer
from faktory.worker.processor import Processor
from faktory.worker.timing import Timing

from .conftest import (
    Held,
    Push,
    Reported,
    Start,
    WaitUntil,
    count,
    make_worker,
    messages,
    reports,
    spin,
    succeed,
    threads_left,
)


def test_the_server_can_make_a_worker_quiet(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    reported: Reported,
    held: Held,
) -> None:
    worker = make_worker(server.url, {"work": held.hold})
    worker.send_heartbeat_every = 0.01
    first = push("work")
    running = start(worker)
    wait_until(lambda: server.working and server.workers)
    server.quiet(worker.worker_id)
    wait_until(lambda: worker.is_quiet)
    held.release()
    reported(first, "ACK")
    wait_until(lambda: threads_left() == ["faktory-heartbeat"])
    second = push("work")
    server.clear_commands()
    wait_until(lambda: count(server, "BEAT") > 2)
    assert server.workers[0]["state"] == "quiet"
    assert [job["jid"] for job in server.queues["default"]] == [second]
    assert running.thread.is_alive()
    assert not worker.is_disconnecting
    running.stop()


def test_a_real_server_can_make_a_worker_quiet_within_one_fetch(
    real_server_url: str, start: Start, wait_until: WaitUntil
) -> None:
    queue = "worker-quiet"
    worker = make_worker(real_server_url, {"work": succeed}, queues=[queue], concurrency=2)
    worker.send_heartbeat_every = 0.05
    running = start(worker)
    with Client(real_server_url, worker_id=worker.worker_id) as client:
        wait_until(lambda: len(threads_left()) == 3)
        client.beat("quiet")  # the server answers each later beat with a state that was reported
        wait_until(lambda: worker.is_quiet)
        wait_until(lambda: threads_left() == ["faktory-heartbeat"], timeout=4)
        client.push({"jobtype": "work", "args": [], "queue": queue})
        assert client.info()["faktory"]["queues"][queue] == 1
        running.stop()
        client.remove_queues(queue)


def test_quiet_lets_running_jobs_go_on_and_fetches_no_more(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    reported: Reported,
    held: Held,
) -> None:
    first = push("work")
    running = start({"work": held.hold}, concurrency=2)
    wait_until(lambda: server.working)
    assert not running.worker.is_quiet
    running.worker.quiet()
    running.worker.quiet()
    wait_until(lambda: running.worker.is_quiet)
    wait_until(lambda: len(threads_left()) == 2)  # the busy processor and the heartbeat
    push("work")
    held.release()
    reported(first, "ACK")
    running.stop()
    assert len(server.queues["default"]) == 1


def test_the_server_can_end_a_worker(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil, held: Held
) -> None:
    worker = make_worker(server.url, {"work": held.hold})
    worker.send_heartbeat_every = 0.01
    jid = push("work")
    running = start(worker)
    wait_until(lambda: server.working and server.workers)
    server.terminate(worker.worker_id)
    wait_until(lambda: worker.is_disconnecting)
    wait_until(lambda: server.workers[0]["state"] == "terminate")
    held.release()
    running.join()
    assert reports(server, jid) == ["ACK"]


def test_stop_waits_for_running_jobs(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil, held: Held
) -> None:
    jids = [push("work") for _ in range(3)]
    running = start({"work": held.hold}, concurrency=3)
    worker = running.worker
    wait_until(lambda: len(server.working) == 3)
    worker.stop()
    wait_until(lambda: worker.is_disconnecting)
    assert worker.is_quiet
    push("work")
    held.release()
    running.join()
    assert [reports(server, jid) for jid in jids] == [["ACK"]] * 3
    assert len(server.queues["default"]) == 1
    assert worker.abandoned == []


def test_a_worker_that_is_stopped_before_it_runs_ends_at_once(server: EmbeddedServer) -> None:
    worker = Worker(server.url)
    worker.stop()
    worker.stop()
    worker.run()
    assert threads_left() == []
    with pytest.raises(RuntimeError, match="runs once"):
        worker.run()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_worker_and_the_handlers_of_before_are_restored(
    server: EmbeddedServer, push: Push, number: signal.Signals
) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    jid = push("work")
    make_worker(server.url, {"work": lambda: os.kill(os.getpid(), number)}).run()
    assert reports(server, jid) == ["ACK"]
    assert {each: signal.getsignal(each) for each in before} == before


def test_a_worker_in_another_thread_leaves_signals_alone(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    running = start({"work": succeed})
    push("work")
    wait_until(lambda: server.processed == 1)
    assert signal.getsignal(signal.SIGTERM) is before
    running.stop()


def test_a_python_loop_is_interrupted_after_the_grace_period_and_fails(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    jid = push("spin")
    running = start({"spin": spin}, concurrency=2, disconnect_wait=0.05)
    wait_until(lambda: running.worker.busy)
    running.stop()
    assert reports(server, jid) == ["FAIL"]
    assert server.retries[0]["failure"]["errtype"] == "Shutdown"
    assert running.worker.abandoned == []
    (message,) = messages(caplog, "interrupting")
    assert re.sub(r"\d+ s\)$", "N s)", message) == (
        "the grace period is over: interrupting 1 job, which fails by that and uses up an attempt "
        f"(one with retry 0 is dropped): spin {jid} (N s)"
    )


def test_a_job_that_does_not_end_is_abandoned_and_reported_once(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    reported: Reported,
    held: Held,
    caplog: pytest.LogCaptureFixture,
) -> None:
    jids = [push("stuck"), push("stuck")]
    timing = Timing(shutdown_grace=0.1)
    running = start({"stuck": held.hold}, concurrency=3, disconnect_wait=0.05, timing=timing)
    wait_until(lambda: running.worker.busy == 2)
    running.stop()
    abandoned = running.worker.abandoned
    assert {job["jid"] for job in server.retries} == set(jids)
    failure = server.retries[0]["failure"]
    assert failure["errtype"] == "Shutdown"
    assert "did not end within 0.05 s" in failure["message"]
    assert len(abandoned) == 2
    assert set(abandoned) < {"faktory-1", "faktory-2", "faktory-3"}
    for jid in jids:
        assert messages(caplog, f"stuck {jid} does not end: abandoned")
    held.release()
    wait_until(lambda: threads_left() == [])
    reported(jids, "FAIL", "FAIL")
    assert len(messages(caplog, "too late to be reported")) == 2


def test_disconnect_by_force_does_not_wait(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    jid = push("spin")
    running = start({"spin": spin}, disconnect_wait=1000)
    wait_until(lambda: server.working)
    running.worker.disconnect(force=True)
    running.join()
    assert reports(server, jid) == ["FAIL"]


def test_disconnect_shortens_a_stop_and_never_lengthens_it(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    jid = push("spin")
    running = start({"spin": spin}, disconnect_wait=1000)
    wait_until(lambda: server.working)
    running.worker.stop()
    running.worker.disconnect(wait=timedelta(milliseconds=1))
    running.worker.disconnect(wait=1e300)
    running.join()
    assert reports(server, jid) == ["FAIL"]


def test_the_third_order_to_stop_does_not_cut_the_reports_of_interrupted_jobs(
    server: EmbeddedServer, push: Push
) -> None:
    def tidies() -> None:
        worker.stop()
        worker.disconnect(force=True)
        try:
            spin()
        except BaseException:
            worker.disconnect(force=True)
            time.sleep(0.2)
            raise

    jid = push("tidies")
    worker = make_worker(server.url, {"tidies": tidies}, disconnect_wait=20)
    worker.run()
    assert worker.abandoned == []
    assert reports(server, jid) == ["FAIL"]


def test_a_grace_period_may_be_longer_than_the_system_can_wait(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil, held: Held
) -> None:
    jid = push("work")
    running = start({"work": held.hold}, disconnect_wait=1e15)
    wait_until(lambda: server.working)
    running.worker.stop()
    wait_until(lambda: running.worker.is_disconnecting)
    held.release()
    running.join()
    assert reports(server, jid) == ["ACK"]


def test_a_job_that_a_pending_fetch_brings_is_run_before_the_worker_stops(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    server.hold("FETCH")
    jid = push("work")
    running = start({"work": succeed})
    wait_until(lambda: count(server, "FETCH"))
    running.worker.stop()
    wait_until(lambda: running.worker.is_disconnecting)
    server.release("FETCH")
    running.join()
    assert reports(server, jid) == ["ACK"]
    assert running.worker.abandoned == []


def test_a_job_that_a_pending_fetch_brings_after_the_grace_period_fails(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    ran: list[object] = []
    server.hold("FETCH")
    jid = push("work")
    timing = Timing(shutdown_grace=0.05)
    running = start({"work": lambda: ran.append(1)}, disconnect_wait=0, timing=timing)
    worker = running.worker
    wait_until(lambda: count(server, "FETCH"))
    worker.stop()
    wait_until(lambda: all(each.running._closed for each in worker._manager.processors))
    server.release("FETCH")
    running.join()
    assert reports(server, jid) == ["FAIL"]
    assert server.retries[0]["failure"]["errtype"] == "Shutdown"
    assert ran == []
    assert worker.abandoned == []


def test_a_fetch_that_the_server_never_answers_does_not_keep_the_worker(
    server: EmbeddedServer,
    start: Start,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.hold("FETCH")
    running = start(disconnect_wait=60, timing=Timing(fetch_grace=0.1))
    wait_until(lambda: count(server, "FETCH"))
    running.stop()
    assert running.worker.abandoned == []
    assert threads_left() == []
    (lost,) = [each for each in caplog.messages if "FETCH" in each]
    assert lost.startswith("FETCH was sent and not answered: if the server has given out a job")
    server.release("FETCH")


def test_a_worker_that_is_stopped_while_it_starts_starts_no_more_threads(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(server.url, concurrency=50)
    start = Processor.start
    started = []

    def start_and_stop(processor: Processor) -> None:
        start(processor)
        started.append(processor)
        if len(started) == 3:
            worker.stop()

    monkeypatch.setattr(Processor, "start", start_and_stop)
    worker.run()
    assert len(started) == 3


def test_a_worker_that_waits_for_its_jobs_does_not_keep_a_processor_busy(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    held: Held,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    push("work")
    timing = Timing(fetch_grace=0.05, check_interval=0.05)
    running = start({"work": held.hold}, disconnect_wait=60, timing=timing)
    assert held.began.wait(10)
    checks: list[float | None] = []
    next_due = running.worker._manager.next_due
    monkeypatch.setattr(
        running.worker._manager, "next_due", lambda: checks.append(next_due()) or checks[-1]
    )
    running.worker.stop()
    wait_until(lambda: len(checks) > 5 and checks[-3:] == [None] * 3)  # not a time that is over
    held.release()
    running.join()


def test_a_job_whose_end_is_still_being_logged_is_not_forgotten(
    server: EmbeddedServer, start: Start, push: Push, reported: Reported
) -> None:
    """Its processor holds no running job then, and no report yet."""
    jid = push("work")
    logging_done, go_on = Event(), Event()

    class Slow(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            if " done in" in record.getMessage():
                logging_done.set()
                go_on.wait(20)
            return True

    log = logging.getLogger("test.slow")
    log.setLevel(logging.INFO)
    log.getChild("job").addFilter(Slow())
    timing = Timing(fetch_grace=0.05, report_grace=0.05, check_interval=0.05)
    running = start({"work": succeed}, log=log, disconnect_wait=30, timing=timing)
    assert logging_done.wait(20)
    running.worker.stop()
    running.thread.join(0.5)
    assert running.thread.is_alive()
    go_on.set()
    running.join()
    assert set(reports(server, jid)) == {"ACK"}  # sent again when no answer came within 0.05 s
    assert running.worker.abandoned == []


def test_a_report_that_is_sent_late_in_the_stop_is_waited_for_as_any_other(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    """Interrupted at once, it would be sent twice."""
    began, go_on = Event(), Event()

    def work() -> None:
        began.set()
        go_on.wait(20)

    jid = push("work")
    timing = Timing(fetch_grace=1.5, check_interval=0.02)
    running = start({"work": work}, disconnect_wait=30, timing=timing)
    assert began.wait(20)
    running.worker.stop()
    wait_until(lambda: running.worker._manager._interrupts_at)
    (processor,) = running.worker._manager.processors
    time.sleep(1.6)
    server.hold("ACK")
    go_on.set()
    wait_until(lambda: count(server, "ACK"))
    time.sleep(0.2)
    server.release("ACK")
    running.join()
    assert processor.interrupted_at is None
    assert reports(server, jid) == ["ACK"]

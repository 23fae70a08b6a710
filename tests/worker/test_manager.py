"""Time limits, reservations, replaced threads, and the stacks of all threads."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import faktory
from faktory import Client, Worker
from faktory.exceptions import Shutdown, TimeLimitExceeded
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
    end_reservation,
    make_worker,
    messages,
    reports,
    spin,
    succeed,
    threads_left,
)

QUICK = Timing(check_interval=0.02)


# Time limits


def test_a_job_that_exceeds_its_time_limit_fails_and_its_thread_goes_on(
    server: EmbeddedServer, start: Start, push: Push, reported: Reported
) -> None:
    faktory.job(name="spin", time_limit=0.05)(spin)
    jids = [push("spin"), push("work")]
    running = start({"work": succeed})
    reported(jids, "FAIL", "ACK")
    assert server.retries[0]["failure"]["errtype"] == "TimeLimitExceeded"
    assert running.worker.replaced == 0


@pytest.mark.parametrize("how", ["worker", "push"])
def test_a_job_that_declares_no_time_limit_has_that_of_its_push_or_its_worker(
    server: EmbeddedServer, start: Start, push: Push, reported: Reported, how: str
) -> None:
    custom = {"time_limit": 0.05} if how == "push" else {}
    jids = [push("spin", custom=custom), push("work", custom={"time_limit": "never"})]
    start({"spin": spin, "work": succeed}, time_limit=0.05 if how == "worker" else 60)
    reported(jids, "FAIL", "ACK")
    assert server.retries[0]["failure"]["errtype"] == "TimeLimitExceeded"


@pytest.mark.parametrize("wrong", [0, -1, "30", True])
def test_a_wrong_time_limit_of_a_worker_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="time_limit is"):
        Worker(time_limit=wrong)


def test_a_job_may_catch_its_time_limit_which_is_raised_once(
    start: Start, push: Push, reported: Reported
) -> None:
    caught: list[float] = []

    @faktory.job(time_limit=0.5)
    def tidy() -> None:
        try:
            spin()
        except TimeLimitExceeded:
            caught.append(time.monotonic())
        while time.monotonic() < caught[0] + 0.2:
            time.sleep(0.001)

    jid = push("tidy")
    start()
    reported(jid, "ACK")
    assert len(caught) == 1


def test_a_time_limit_ends_with_its_job(start: Start, push: Push, reported: Reported) -> None:
    began: list[float] = []
    faktory.job(name="quick", time_limit=0.5)(lambda: began.append(time.monotonic()))

    def slow() -> None:
        while time.monotonic() < began[0] + 0.6:
            time.sleep(0.005)

    jids = [push("quick"), push("slow")]
    start({"slow": slow})
    reported(jids, "ACK", "ACK")


def test_jobs_that_end_at_their_time_limit_keep_their_threads(
    server: EmbeddedServer, start: Start, wait_until: WaitUntil
) -> None:
    seconds = [0, 0.0025, 0.003, 0.0035, math.inf]

    @faktory.job(time_limit=0.003)
    def close(number: int) -> None:
        end = time.monotonic() + seconds[number % 5]
        while time.monotonic() < end:
            time.sleep(0)

    with Client(server.url) as client:
        client.push_bulk({"jobtype": "close", "args": [n], "retry": 0} for n in range(300))
    running = start(concurrency=4)
    wait_until(lambda: server.processed == 300)
    running.stop()
    assert (server.working, running.worker.abandoned) == ([], [])
    assert 60 <= server.failures < 300


def test_an_interrupted_job_that_logs_releases_the_lock_of_the_log(
    start: Start, push: Push, wait_until: WaitUntil, reported: Reported
) -> None:
    log = logging.getLogger("test.manager.noisy")
    log.propagate = False
    handler = logging.Handler()
    handler.emit = lambda record: time.sleep(0.0001)  # type: ignore[method-assign]
    log.addHandler(handler)

    def noisy() -> None:
        while True:
            log.warning("busy")

    jids = [push("noisy") for _ in range(5)]
    running = start({"noisy": noisy}, concurrency=5, disconnect_wait=0.05)
    wait_until(lambda: running.worker.busy == 5)
    running.stop()
    reported(jids, *["FAIL"] * 5)
    wait_until(lambda: threads_left() == [])
    assert handler.lock is not None
    assert handler.lock.acquire(timeout=1)
    handler.lock.release()
    log.removeHandler(handler)


# Reservations


@pytest.fixture
def overdue(held: Held) -> Callable[[], None]:
    """A job that is overdue, and goes on until `held` is released."""

    def overdue() -> None:
        end_reservation()
        held.hold()

    return overdue


@pytest.mark.parametrize("outcome", ["ends", "raises"])
def test_the_thread_of_an_overdue_job_is_replaced_and_the_job_is_not_reported(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    reported: Reported,
    held: Held,
    overdue: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
    outcome: str,
) -> None:
    errors: list[BaseException] = []

    def stuck() -> None:
        overdue()
        if outcome == "raises":
            raise KeyError("late")

    first = push("stuck")
    running = start({"stuck": stuck, "work": succeed}, timing=QUICK)
    worker = running.worker
    worker.error_handlers.append(lambda error, about: errors.append(error))
    wait_until(lambda: worker.replaced == 1)
    reported(push("work"), "ACK")
    wait_until(lambda: worker.busy == 0)
    (message,) = messages(caplog, "is overdue")
    assert message.startswith(f"stuck {first} is overdue on thread faktory-1")
    assert "in hold" in message
    held.release()
    wait_until(lambda: messages(caplog, f"stuck {first} ended, too late to be reported"))
    wait_until(lambda: not worker._manager.overdue)
    reported(push("work"), "ACK")
    running.stop()
    assert reports(server, first) == []
    assert (errors, worker.abandoned) == ([], [])


def test_a_thread_with_an_overdue_job_is_named_and_interrupted_at_the_end(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    held: Held,
    overdue: Callable[[], None],
) -> None:
    ended_by: list[type[BaseException]] = []

    def stuck() -> None:
        try:
            overdue()
        except BaseException as error:
            ended_by.append(type(error))
            raise

    jid = push("stuck")
    running = start({"stuck": stuck}, timing=QUICK)
    wait_until(lambda: running.worker.replaced == 1)
    running.stop()
    assert running.worker.abandoned == ["faktory-1"]
    held.release()
    wait_until(lambda: threads_left() == [])
    assert ended_by == [Shutdown]
    assert reports(server, jid) == []


def test_a_processor_whose_job_was_disowned_fetches_no_other(
    server: EmbeddedServer, start: Start, push: Push, held: Held
) -> None:
    """The job ends in the moment between the loss of its report and its replacement."""
    push("stuck")
    running = start({"stuck": held.hold})
    assert held.began.wait(20)
    (processor,) = running.worker._manager.processors
    assert processor.running.disown()
    held.release()
    processor.join(5)
    assert not processor.is_alive()
    assert count(server, "FETCH") == 1


def test_a_replacement_that_cannot_be_started_is_tried_again(
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    reported: Reported,
    held: Held,
    overdue: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    real = Processor.start
    errors = [RuntimeError("can't start new thread")] * 3

    def start_fourth_time(processor: Processor) -> None:
        if processor.name != "faktory-1" and errors:
            raise errors.pop()
        real(processor)

    monkeypatch.setattr(Processor, "start", start_fourth_time)
    push("stuck")
    running = start({"stuck": overdue, "work": succeed}, timing=QUICK)
    wait_until(lambda: running.worker.replaced == 1)
    reported(push("work"), "ACK")
    assert len(messages(caplog, "no thread in place of one that hangs, trying again")) == 3
    held.release()
    running.stop()


def test_a_quiet_worker_replaces_no_thread(
    start: Start, push: Push, wait_until: WaitUntil, held: Held
) -> None:
    quiet = threading.Event()

    def stuck() -> None:
        assert quiet.wait(20)
        end_reservation()
        held.hold()

    push("stuck")
    running = start({"stuck": stuck}, timing=QUICK)
    worker = running.worker
    wait_until(lambda: worker.busy)
    worker.quiet()
    wait_until(lambda: worker.is_quiet)
    quiet.set()
    wait_until(lambda: worker.replaced == 1)
    assert worker._manager.processors == []
    held.release()
    wait_until(lambda: not worker._manager.overdue)
    running.stop()


def test_a_job_that_gets_more_time_is_not_overdue(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    reported: Reported,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Client, "track_set", succeed)  # the server would need Enterprise
    left: list[float] = []

    def longer() -> None:
        job = faktory.current_job()
        end_reservation()
        job.track_progress(50, reserve_until=time.time() + 60)
        left.append(job.remaining())
        worker._manager.check_jobs()

    worker = make_worker(server.url, {"longer": longer}, timing=Timing(check_interval=1000))
    jid = push("longer")
    start(worker)
    reported(jid, "ACK")
    assert left[0] > 50
    assert worker.replaced == 0


def test_the_stacks_of_all_threads_are_logged_with_their_jobs(
    start: Start, push: Push, held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    jid = push("stuck")
    running = start({"stuck": held.hold})
    assert held.began.wait(20)
    running.worker._manager.log_threads()
    (message,) = messages(caplog, f"thread faktory-1, running stuck {jid}:")
    assert "in hold" in message
    assert messages(caplog, "thread MainThread:")

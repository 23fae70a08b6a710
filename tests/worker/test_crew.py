"""Time limits, reservations, replaced threads, and what is told of them."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import faktory
from faktory import Client, Worker
from faktory.exceptions import Shutdown, TimeLimitExceeded
from faktory.jobs import context
from faktory.server import EmbeddedServer
from faktory.worker import crew
from faktory.worker import worker as worker_module
from faktory.worker.jobthread import JobThread

from .conftest import Push, Start, WaitUntil, messages, reports, spin, threads_left


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker takes a reservation to last 0.5 s, the server as ever."""
    monkeypatch.setattr(context, "LEAST_RESERVE", 0.5)
    monkeypatch.setattr(context, "DEFAULT_RESERVE", 0.5)
    monkeypatch.setattr(worker_module, "LOOK_EVERY", 0.02)


# Time limits


def test_a_job_that_outlives_its_time_limit_fails_with_that_and_the_thread_goes_on(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    faktory.job(name="spin", time_limit=0.05)(spin)
    worker = Worker(server.url)
    worker.register("work", lambda: None)
    jids = [push("spin"), push("work")]
    start(worker)
    wait_until(lambda: [reports(server, jid) for jid in jids] == [["FAIL"], ["ACK"]])
    assert server.retries[0]["failure"]["errtype"] == "TimeLimitExceeded"
    assert worker.replaced == 0


def test_a_job_may_catch_its_time_limit_which_strikes_once(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
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
    start(Worker(server.url))
    wait_until(lambda: reports(server, jid) == ["ACK"])
    assert len(caught) == 1


def test_a_time_limit_is_no_concern_of_the_next_job(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    faktory.job(name="quick", time_limit=0.5)(lambda: None)
    worker = Worker(server.url)
    worker.register("slow", lambda: [time.sleep(0.005) for _ in range(150)])
    jids = [push("quick"), push("slow")]
    start(worker)
    wait_until(lambda: [reports(server, jid) for jid in jids] == [["ACK"], ["ACK"]])


def test_many_limits_that_end_as_their_jobs_do_never_hurt_a_thread(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    @faktory.job(time_limit=0.003)
    def close(number: int) -> None:
        end = time.monotonic() + 0.002 + number % 5 * 0.0005
        while time.monotonic() < end:
            time.sleep(0)

    with Client(server.url) as client:
        jobs = [{"jobtype": "close", "args": [n], "retry": 0} for n in range(300)]
        client.push_bulk(jobs)
    worker = Worker(server.url, concurrency=4)
    running = start(worker)
    wait_until(lambda: server.processed == 300)
    running.stop()
    assert (server.working, worker.left_behind) == ([], [])
    assert 0 < server.failures < 300


def test_an_interrupted_job_that_logs_does_not_keep_the_log_to_itself(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    log = logging.getLogger("test.crew.noisy")
    log.propagate = False
    handler = logging.Handler()
    handler.emit = lambda record: time.sleep(0.0001)  # type: ignore[method-assign]
    log.addHandler(handler)

    def noisy() -> None:
        while True:
            log.warning("busy")

    worker = Worker(server.url, concurrency=5, disconnect_wait=0.05)
    worker.register("noisy", noisy)
    jids = [push("noisy") for _ in range(5)]
    running = start(worker)
    wait_until(lambda: worker.busy == 5)
    running.stop()
    assert [reports(server, jid) for jid in jids] == [["FAIL"]] * 5
    wait_until(lambda: threads_left() == [])
    assert handler.lock is not None
    assert handler.lock.acquire(timeout=1)
    handler.lock.release()
    log.removeHandler(handler)


# Reservations


def hold_on(go_on: threading.Event) -> object:
    return go_on.wait(10)


@pytest.mark.parametrize("outcome", ["ends", "raises"])
def test_a_job_that_outlives_its_reservation_is_replaced_and_never_reported(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    short: None,
    caplog: pytest.LogCaptureFixture,
    outcome: str,
) -> None:
    go_on = threading.Event()
    heard: list[BaseException] = []

    def stuck() -> None:
        hold_on(go_on)
        if outcome == "raises":
            raise KeyError("late")

    worker = Worker(server.url)
    worker.register("stuck", stuck)
    worker.register("work", lambda: None)
    worker.error_handlers.append(lambda error, about: heard.append(error))
    first = push("stuck")
    running = start(worker)
    wait_until(lambda: worker.replaced == 1)
    second = push("work")
    wait_until(lambda: reports(server, second) == ["ACK"])
    assert worker.busy == 0
    (told,) = messages(caplog, "has outlived its reservation")
    assert told.startswith(f"stuck {first} has outlived its reservation on thread faktory-1")
    assert "in hold_on" in told
    go_on.set()
    wait_until(lambda: messages(caplog, f"stuck {first} ended, too late to be reported"))
    wait_until(lambda: not worker._crew.outlived)
    third = push("work")
    wait_until(lambda: reports(server, third) == ["ACK"])
    running.stop()
    assert reports(server, first) == []
    assert (heard, worker.left_behind) == ([], [])


def test_a_thread_that_hangs_at_the_end_is_named_and_interrupted(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil, short: None
) -> None:
    go_on = threading.Event()
    ended_by: list[type[BaseException]] = []

    def stuck() -> None:
        try:
            hold_on(go_on)
        except BaseException as error:
            ended_by.append(type(error))
            raise

    worker = Worker(server.url)
    worker.register("stuck", stuck)
    jid = push("stuck")
    running = start(worker)
    wait_until(lambda: worker.replaced == 1)
    running.stop()
    assert worker.left_behind == ["faktory-1"]
    go_on.set()
    wait_until(lambda: threads_left() == [])
    assert ended_by == [Shutdown]
    assert reports(server, jid) == []


def test_a_job_taken_out_of_its_threads_hands_is_the_last_one_there(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    """The job ends in the moment between the loss of its report and its replacement."""
    go_on = threading.Event()
    worker = Worker(server.url)
    worker.register("stuck", lambda: hold_on(go_on))
    worker.register("work", lambda: None)
    push("stuck")
    start(worker)
    wait_until(lambda: worker.busy)
    (thread,) = worker._crew.threads
    assert thread.slot.disown()
    go_on.set()
    thread.join(5)
    assert not thread.is_alive()
    fetches = [verb for verb, _ in server.commands if verb == "FETCH"]
    assert len(fetches) == 1


def test_a_replacement_that_cannot_be_started_is_tried_again(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    short: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    real = JobThread.start
    refusals = 3

    def refuse(thread: JobThread) -> None:
        nonlocal refusals
        if thread.name != "faktory-1" and refusals:
            refusals -= 1
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(JobThread, "start", refuse)
    go_on = threading.Event()
    worker = Worker(server.url)
    worker.register("stuck", lambda: hold_on(go_on))
    worker.register("work", lambda: None)
    push("stuck")
    running = start(worker)
    wait_until(lambda: worker.replaced == 1)
    jid = push("work")
    wait_until(lambda: reports(server, jid) == ["ACK"])
    assert len(messages(caplog, "no thread in place of one that hangs, trying again")) == 3
    go_on.set()
    running.stop()


def test_a_quiet_worker_replaces_no_thread(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil, short: None
) -> None:
    go_on = threading.Event()
    worker = Worker(server.url)
    worker.register("stuck", lambda: hold_on(go_on))
    push("stuck")
    running = start(worker)
    wait_until(lambda: worker.busy)
    worker.quiet()
    wait_until(lambda: worker.replaced == 1)
    assert worker._crew.threads == []
    go_on.set()
    wait_until(lambda: not worker._crew.outlived)
    running.stop()


def test_more_time_asked_for_is_more_time_before_the_thread_is_replaced(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    short: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(context.JobContext, "_tell", lambda *_: None)  # for Enterprise alone
    left: list[float] = []

    def longer() -> None:
        job = faktory.current_job()
        job.track_progress(50, reserve_until=time.time() + 60)
        left.append(job.remaining())
        time.sleep(0.8)

    worker = Worker(server.url)
    worker.register("longer", longer)
    jid = push("longer")
    start(worker)
    wait_until(lambda: reports(server, jid) == ["ACK"])
    assert left[0] > 50
    assert worker.replaced == 0


# What is told


def test_the_threads_are_shown_with_their_jobs(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    go_on = threading.Event()
    worker = Worker(server.url)
    worker.register("stuck", lambda: hold_on(go_on))
    jid = push("stuck")
    start(worker)
    wait_until(lambda: worker.busy)
    worker._crew.show()
    (told,) = messages(caplog, f"thread faktory-1, running stuck {jid}:")
    assert "in hold_on" in told
    assert messages(caplog, "thread MainThread:")
    go_on.set()


def test_error_handlers_hear_of_each_error_first_and_one_that_raises_does_no_harm(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[Any] = []

    def broken(error: BaseException, about: dict[str, Any]) -> None:
        raise SystemExit

    faktory.error_handlers.append(broken)
    try:
        worker = Worker(server.url)
        worker.error_handlers.append(lambda error, about: heard.append((error, about)))
        worker.register("fail", fail)
        jid = push("fail")
        start(worker)
        wait_until(lambda: reports(server, jid) == ["FAIL"])
    finally:
        faktory.error_handlers.remove(broken)
    ((error, about),) = heard
    assert repr(error) == "KeyError('lost')"
    assert (about["context"], about["job"]["jid"]) == ("Job raised exception", jid)
    assert len(messages(caplog, "an error handler raised")) == 1


def fail() -> None:
    raise KeyError("lost")


def test_a_handler_that_hangs_does_not_keep_the_worker(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_module, "LAST_WORDS", 0.05)
    monkeypatch.setattr(crew, "LAST_TRY", 0.05)
    go_on = threading.Event()
    inside = threading.Event()

    def hang(error: BaseException, about: dict[str, Any]) -> None:
        inside.set()
        go_on.wait(10)

    worker = Worker(server.url, disconnect_wait=0.05)
    worker.error_handlers.append(hang)
    worker.register("fail", fail)
    jid = push("fail")
    running = start(worker)
    wait_until(inside.is_set)
    running.stop()
    assert worker.left_behind == ["faktory-1"]
    go_on.set()
    wait_until(lambda: threads_left() == [])
    assert reports(server, jid) == ["FAIL"]


class Silent(Exception):
    """An error whose text takes for ever."""

    def __str__(self) -> str:
        self.asked.set()
        self.go_on.wait(10)
        return "at last"


def test_an_error_whose_text_takes_for_ever_is_answered_for(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_module, "LAST_WORDS", 0.05)
    Silent.asked, Silent.go_on = threading.Event(), threading.Event()

    def silent() -> None:
        raise Silent

    worker = Worker(server.url, disconnect_wait=0.05)
    worker.register("silent", silent)
    jid = push("silent")
    running = start(worker)
    wait_until(Silent.asked.is_set)
    running.stop()
    assert reports(server, jid) == ["FAIL"]
    Silent.go_on.set()
    wait_until(lambda: threads_left() == [])
    assert reports(server, jid) == ["FAIL"]


# What jobs do


def leave() -> None:
    raise SystemExit(3)


def recurse() -> None:
    recurse()


of_no_module: dict[str, Any] = {"__name__": 5}
exec("def fail(): raise ValueError", of_no_module)


def huge() -> bytes:
    return bytes(50_000_000)


class Odd(BaseException):
    @property
    def __class__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("odd")

    @__class__.setter
    def __class__(self, value: Any) -> None: ...


def odd() -> None:
    raise Odd


def surrogates() -> None:
    raise ValueError("\ud800 and more")


@pytest.mark.parametrize(
    ("job", "verb"),
    [
        (leave, "FAIL"),
        (recurse, "FAIL"),
        (of_no_module["fail"], "FAIL"),
        (odd, "FAIL"),
        (surrogates, "FAIL"),
        (huge, "ACK"),
    ],
)
def test_whatever_a_job_does_the_thread_goes_on(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    job: Callable[[], object],
    verb: str,
) -> None:
    worker = Worker(server.url)
    worker.register("job", job)
    worker.register("work", lambda: None)
    jids = [push("job"), push("work")]
    running = start(worker)
    wait_until(lambda: [reports(server, jid) for jid in jids] == [[verb], ["ACK"]])
    assert threads_left().count("faktory-1") == 1
    running.stop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(("error", "code"), [(None, 0), (SystemExit(7), 7), (KeyError(), 1)])
def test_a_child_that_comes_back_out_of_a_job_ends_there(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    error: BaseException | None,
    code: int,
) -> None:
    codes: list[int] = []

    def forks() -> None:
        child = os.fork()
        if child:
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        elif error is not None:
            raise error

    worker = Worker(server.url)
    worker.register("forks", forks)
    jid = push("forks")
    start(worker)
    wait_until(lambda: reports(server, jid) == ["ACK"])
    assert codes == [code]


def test_a_filter_of_the_log_that_raises_loses_no_job(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        if " start" in record.getMessage() or " in " in record.getMessage():
            raise KeyError(record.name)
        return True

    log = logging.getLogger("test.crew.refusing")
    log.setLevel(logging.INFO)
    log.addFilter(refuse)
    worker = Worker(server.url, log=log)
    worker.register("work", lambda: None)
    worker.register("fail", fail)
    jids = [push("work"), push("fail")]
    start(worker)
    wait_until(lambda: [reports(server, jid) for jid in jids] == [["ACK"], ["FAIL"]])

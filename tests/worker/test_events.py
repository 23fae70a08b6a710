"""Handlers of events, and when a worker calls them."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import faktory
from faktory import Worker
from faktory.jobs.context import JobContext
from faktory.server import EmbeddedServer
from faktory.worker import events as events_module
from faktory.worker.events import Event, Events
from faktory.worker.timing import Timing

from .conftest import (
    Held,
    Push,
    Reported,
    Start,
    WaitUntil,
    count,
    fail,
    make_worker,
    messages,
    reports,
    spin,
    succeed,
)

LOG = logging.getLogger("test.events")
RETRY_DELAY = 50
"""Seconds: the first retry is due by then, and the server does not give up a silent worker yet."""

ALL: list[Event] = ["startup", "quiet", "shutdown", "exhausted"]


@pytest.fixture(autouse=True)
def own_handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let each test begin without handlers of the process."""
    monkeypatch.setattr(events_module.of_process, "_handlers", [])
    yield
    monkeypatch.undo()
    assert events_module.of_process._handlers == []


# Handlers


@pytest.mark.parametrize(
    ("event", "order"),
    [("startup", "abcd"), ("quiet", "dcba"), ("shutdown", "dcba"), ("exhausted", "abcd")],
)
def test_handlers_of_an_end_are_called_in_reverse(event: Event, order: str) -> None:
    calls: list[str] = []
    process = Events()
    worker = Events(process)
    worker.on(event, lambda: calls.append("c"))
    process.on(event, lambda: calls.append("a"))
    worker.on(event, lambda: calls.append("d"))
    process.on(event, lambda: calls.append("b"))
    worker.fire(LOG, event)
    assert "".join(calls) == order


@pytest.mark.parametrize("event", ALL)
def test_a_handler_is_called_on_its_own_event_only(event: Event) -> None:
    calls: list[str] = []
    events = Events()
    for each in ALL:
        events.on(each, lambda *_, each=each: calls.append(each))
    events.fire(LOG, event, 1, 2)
    assert calls == [event]


def test_a_handler_gets_the_arguments_of_the_event() -> None:
    calls: list[object] = []
    events = Events()
    events.on("exhausted", lambda *args: calls.append(args))
    events.fire(LOG, "exhausted", "job", "error")
    assert calls == [("job", "error")]


def test_the_handlers_of_one_job_are_called_after_the_others() -> None:
    calls: list[str] = []
    events = Events()

    def own(job: str, error: str) -> None:
        calls.append(f"own {job} {error}")
        raise ValueError("no")

    events.on("exhausted", lambda job, error: calls.append(f"all {job} {error}"))
    events.fire(LOG, "exhausted", "job", "error", own=[own, own])
    assert calls == ["all job error", "own job error", "own job error"]


def test_a_handler_of_one_worker_is_not_called_by_another() -> None:
    calls: list[str] = []
    process = Events()
    Events(process).on("startup", lambda: calls.append("other"))
    process.on("startup", lambda: calls.append("all"))
    Events(process).fire(LOG, "startup")
    assert calls == ["all"]


def test_on_returns_the_handler() -> None:
    def handler() -> None: ...

    assert Events().on("startup", handler) is handler
    assert faktory.on("startup", handler) is handler


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ("start", "there is no event 'start': is it startup?"),
        ("shut_down", "is it shutdown?"),
        ("exhaust", "is it exhausted?"),
        ("xyzzy", "is it startup or quiet or shutdown or exhausted?"),
        (None, "there is no event None"),
    ],
)
def test_an_unknown_event_is_an_error_with_the_closest_one(event: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Events().on(event, succeed)


async def waits() -> None: ...


def test_an_async_handler_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"waits .* is an async function, and nothing awaits it"):
        Events().on("startup", waits)


def test_a_handler_that_is_not_callable_is_an_error() -> None:
    events = Events()
    with pytest.raises(TypeError, match="'mail' is not callable"):
        events.on("startup", "mail")  # type: ignore[type-var]
    events.fire(LOG, "startup")


@pytest.mark.parametrize("error", [KeyError, SystemExit, KeyboardInterrupt, faktory.Shutdown])
def test_a_handler_that_raises_is_logged_and_the_next_one_is_called(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []

    def broken() -> None:
        raise error

    events = Events()
    events.on("startup", lambda: calls.append("before"))
    events.on("startup", broken)
    events.on("startup", lambda: calls.append("after"))
    events.fire(LOG, "startup")
    assert calls == ["before", "after"]
    (record,) = caplog.records
    assert "a handler of 'startup' raised" in record.message
    assert "broken" in record.message
    assert record.exc_info is not None
    assert record.exc_info[0] is error


def test_a_handler_may_add_another_for_the_next_time() -> None:
    calls: list[str] = []
    events = Events()
    events.on("startup", lambda: events.on("startup", lambda: calls.append("added")))
    events.fire(LOG, "startup")
    assert calls == []
    events.fire(LOG, "startup")
    assert calls == ["added"]


# The events of a worker


@pytest.fixture
def calls() -> list[str]:
    """The calls of handlers of the process ("all ...") and of `worker`."""
    return []


@pytest.fixture
def worker(server: EmbeddedServer, calls: list[str]) -> Worker:
    worker = make_worker(server.url, {"fail": fail, "work": succeed}, disconnect_wait=0.05)
    for event in ALL:
        faktory.on(event, lambda *_, event=event: calls.append(f"all {event}"))
        worker.on(event, lambda *_, event=event: calls.append(event))
    return worker


LIFE = ["all startup", "startup", "quiet", "all quiet", "shutdown", "all shutdown"]


def test_each_event_of_a_life_comes_once_and_quiet_before_shutdown(
    worker: Worker, start: Start, calls: list[str], wait_until: WaitUntil
) -> None:
    running = start(worker)
    wait_until(lambda: calls)
    running.stop()
    assert calls == LIFE


def test_quiet_comes_once_if_the_worker_is_stopped_later(
    worker: Worker, start: Start, calls: list[str], wait_until: WaitUntil
) -> None:
    running = start(worker)
    worker.quiet()
    worker.quiet()
    wait_until(lambda: "all quiet" in calls)
    assert calls == LIFE[:4]
    worker.stop()
    worker.disconnect()
    running.stop()
    assert calls == LIFE


def test_a_worker_that_is_stopped_before_it_runs_fires_every_event(
    worker: Worker, calls: list[str]
) -> None:
    worker.stop()
    worker.run()
    assert calls == LIFE


def test_startup_comes_before_the_first_fetch(
    server: EmbeddedServer, worker: Worker, start: Start, push: Push, reported: Reported
) -> None:
    fetches: list[int] = []
    worker.on("startup", lambda: fetches.append(count(server, "FETCH")))
    jid = push("work")
    start(worker)
    reported(jid, "ACK")
    assert fetches == [0]


def test_shutdown_comes_before_the_worker_waits_for_running_jobs(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    stopping = threading.Event()
    worker = make_worker(server.url, {"work": lambda: stopping.wait(10)})
    worker.on("shutdown", stopping.set)
    jid = push("work")
    running = start(worker)
    wait_until(lambda: server.working)
    running.stop()
    assert reports(server, jid) == ["ACK"]


def test_a_handler_may_stop_the_worker(worker: Worker, calls: list[str]) -> None:
    worker.on("startup", worker.stop)
    worker.run()
    assert calls == LIFE


@pytest.mark.parametrize("error", [KeyError, SystemExit])
def test_handlers_that_raise_do_not_harm_the_worker(
    worker: Worker,
    calls: list[str],
    start: Start,
    push: Push,
    reported: Reported,
    caplog: pytest.LogCaptureFixture,
    error: type[BaseException],
) -> None:
    def broken(*_: object) -> None:
        raise error

    for event in ALL:
        worker.on(event, broken)
    worker.register("fail", broken)
    jids = [push("fail", retry=0), push("work")]
    running = start(worker)
    reported(jids, "FAIL", "ACK")
    running.stop()
    assert [each for each in calls if "exhausted" not in each] == LIFE
    assert len(messages(caplog, "a handler of")) == 4


# Jobs that fail their last attempt


class Exhausted:
    """A handler of "exhausted": keeps its arguments, its thread, and the job's reports by then."""

    def __init__(self, server: EmbeddedServer) -> None:
        self.server = server
        self.jobs: list[JobContext] = []
        self.errors: list[BaseException] = []
        self.reported: list[str] = []
        self.threads: list[str] = []

    def __call__(self, job: JobContext, error: BaseException) -> None:
        self.jobs.append(job)
        self.errors.append(error)
        self.reported += reports(self.server, job.jid)
        self.threads.append(threading.current_thread().name)

    @property
    def jids(self) -> list[str]:
        return [job.jid for job in self.jobs]


@pytest.fixture
def exhausted(server: EmbeddedServer) -> Exhausted:
    """The handler of "exhausted" of the process."""
    handler = Exhausted(server)
    faktory.on("exhausted", handler)
    return handler


@pytest.mark.parametrize("retry", [0, -1])
def test_a_job_that_is_not_retried_is_exhausted_before_its_failure_is_reported(
    exhausted: Exhausted, start: Start, push: Push, reported: Reported, retry: int
) -> None:
    jid = push("fail", retry=retry)
    start({"fail": fail})
    reported(jid, "FAIL")
    assert exhausted.jids == [jid]
    assert repr(exhausted.errors) == "[KeyError('lost')]"
    assert exhausted.reported == []
    assert exhausted.threads == ["faktory-1"]


def test_only_the_last_of_several_attempts_is_exhausted(
    server: EmbeddedServer, exhausted: Exhausted, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    jid = push("fail", retry=1)
    start({"fail": fail})
    wait_until(lambda: server.retries)
    assert exhausted.jobs == []
    server.travel(RETRY_DELAY)
    wait_until(lambda: [job["jid"] for job in server.dead] == [jid])
    assert [(job.jid, job.attempt) for job in exhausted.jobs] == [(jid, 2)]
    assert exhausted.reported == ["FAIL"]


def test_a_job_that_is_done_or_discarded_is_not_exhausted(
    exhausted: Exhausted, start: Start, push: Push, reported: Reported
) -> None:
    def discard() -> None:
        raise faktory.Discard("not needed")

    jids = [push("discard", retry=0), push("work", retry=0)]
    start({"discard": discard, "work": succeed})
    reported(jids, "ACK", "ACK")
    assert exhausted.jobs == []


def test_a_job_of_an_unknown_type_is_exhausted_too(
    exhausted: Exhausted, start: Start, push: Push, reported: Reported
) -> None:
    jid = push("unknown", retry=0)
    start()
    reported(jid, "FAIL")
    assert exhausted.jids == [jid]
    assert [type(error).__name__ for error in exhausted.errors] == ["UnknownJob"]


def test_a_job_that_is_interrupted_in_its_last_attempt_is_exhausted(
    server: EmbeddedServer, exhausted: Exhausted, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    jid = push("spin", retry=0)
    running = start({"spin": spin}, disconnect_wait=0.05)
    wait_until(lambda: running.worker.busy)
    running.stop()
    assert reports(server, jid) == ["FAIL"]
    assert exhausted.jids == [jid]
    assert [type(error) for error in exhausted.errors] == [faktory.Shutdown]
    assert exhausted.reported == []


@pytest.mark.parametrize(("retry", "times"), [(0, 1), (3, 0)])
def test_a_job_that_does_not_end_at_shutdown_is_exhausted_once_if_it_was_its_last_attempt(
    server: EmbeddedServer,
    exhausted: Exhausted,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    held: Held,
    caplog: pytest.LogCaptureFixture,
    retry: int,
    times: int,
) -> None:
    jid = push("stuck", retry=retry)
    timing = Timing(shutdown_grace=0.05)
    running = start({"stuck": held.hold}, disconnect_wait=0.05, timing=timing)
    wait_until(lambda: running.worker.busy)
    running.stop()
    assert reports(server, jid) == ["FAIL"]
    held.release()  # the interrupt is raised now
    wait_until(lambda: messages(caplog, "too late to be reported"))
    assert exhausted.jids == [jid] * times
    assert [type(error) for error in exhausted.errors] == [faktory.Shutdown] * times
    assert exhausted.reported == []


def test_a_handler_sees_the_job_as_the_current_one(
    worker: Worker, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    seen: list[bool] = []
    worker.on("exhausted", lambda job, error: seen.append(faktory.current_job() is job))
    push("fail", retry=0)
    start(worker)
    wait_until(lambda: seen == [True])

from __future__ import annotations

import logging
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

from .conftest import Push, Start, WaitUntil, messages, reports, spin

LOG = logging.getLogger("test.events")
RETRY_DELAY = 50
"""Seconds until the first retry at most, and too few for a worker to be given up as silent."""

ALL: list[Event] = ["startup", "quiet", "shutdown", "exhausted"]


@pytest.fixture(autouse=True)
def own_handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test has the process told of is told to nobody in the next one."""
    monkeypatch.setattr(events_module.of_process, "_handlers", [])
    yield
    monkeypatch.undo()
    assert events_module.of_process._handlers == []


# Handlers


@pytest.mark.parametrize(
    ("event", "order"),
    [("startup", "abcd"), ("quiet", "dcba"), ("shutdown", "dcba"), ("exhausted", "abcd")],
)
def test_what_begins_is_told_in_order_and_what_ends_in_reverse(event: Event, order: str) -> None:
    told: list[str] = []
    process = Events()
    worker = Events(process)
    worker.on(event, lambda: told.append("c"))
    process.on(event, lambda: told.append("a"))
    worker.on(event, lambda: told.append("d"))
    process.on(event, lambda: told.append("b"))
    worker.fire(LOG, event)
    assert "".join(told) == order


@pytest.mark.parametrize("event", ALL)
def test_a_handler_is_told_of_its_own_event_alone(event: Event) -> None:
    told: list[str] = []
    events = Events()
    for each in ALL:
        events.on(each, lambda *_, each=each: told.append(each))
    events.fire(LOG, event, 1, 2)
    assert told == [event]


def test_a_handler_gets_what_the_event_is_about() -> None:
    told: list[object] = []
    events = Events()
    events.on("exhausted", lambda *about: told.append(about))
    events.fire(LOG, "exhausted", "job", "error")
    assert told == [("job", "error")]


def test_a_handler_of_one_worker_is_not_told_of_another() -> None:
    told: list[str] = []
    process = Events()
    Events(process).on("startup", lambda: told.append("other"))
    process.on("startup", lambda: told.append("all"))
    Events(process).fire(LOG, "startup")
    assert told == ["all"]


def test_on_returns_the_handler() -> None:
    def handler() -> None: ...

    assert Events().on("startup", handler) is handler
    assert faktory.on("startup", handler) is handler


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ("start", "there is no event 'start': is it startup?"),
        ("shut_down", "is it shutdown?"),
        ("exhaust", "is it exhausted?"),
        ("xyzzy", "is it startup or quiet or shutdown or exhausted?"),
        (None, "there is no event None"),
    ],
)
def test_an_event_there_is_not_is_refused_with_the_closest_one(event: Any, told: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Events().on(event, lambda: None)
    assert told in str(caught.value)


async def waits() -> None: ...


def test_an_async_handler_is_refused() -> None:
    with pytest.raises(TypeError, match=r"waits .* is an async function, and nothing awaits it"):
        Events().on("startup", waits)


def test_a_handler_that_cannot_be_called_is_refused() -> None:
    events = Events()
    with pytest.raises(TypeError, match="'mail' is not callable"):
        events.on("startup", "mail")  # type: ignore[type-var]
    events.fire(LOG, "startup")


@pytest.mark.parametrize("error", [KeyError, SystemExit, KeyboardInterrupt, faktory.Shutdown])
def test_a_handler_that_raises_is_logged_and_keeps_no_other_from_being_told(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []

    def fail() -> None:
        raise error

    events = Events()
    events.on("startup", lambda: told.append("before"))
    events.on("startup", fail)
    events.on("startup", lambda: told.append("behind"))
    events.fire(LOG, "startup")
    assert told == ["before", "behind"]
    (record,) = caplog.records
    assert "a handler of 'startup' raised" in record.message
    assert "fail" in record.message
    assert record.exc_info is not None
    assert record.exc_info[0] is error


def test_a_handler_may_add_another_for_the_next_time() -> None:
    told: list[str] = []
    events = Events()
    events.on("startup", lambda: events.on("startup", lambda: told.append("added")))
    events.fire(LOG, "startup")
    assert told == []
    events.fire(LOG, "startup")
    assert told == ["added"]


# What a worker tells


@pytest.fixture
def told() -> list[str]:
    """What was told to handlers of the process ("all ...") and of `worker`."""
    return []


@pytest.fixture
def worker(server: EmbeddedServer, told: list[str]) -> Worker:
    worker = Worker(server.url, disconnect_wait=0.05)
    for event in ALL:
        faktory.on(event, lambda *_, event=event: told.append(f"all {event}"))
        worker.on(event, lambda *_, event=event: told.append(event))
    return worker


LIFE = ["all startup", "startup", "quiet", "all quiet", "shutdown", "all shutdown"]


def test_a_life_is_told_once_each_and_quiet_before_shutdown(
    worker: Worker, start: Start, told: list[str], wait_until: WaitUntil
) -> None:
    running = start(worker)
    wait_until(lambda: told)
    running.stop()
    assert told == LIFE


def test_a_worker_that_was_quiet_before_tells_so_once(
    worker: Worker, start: Start, told: list[str], wait_until: WaitUntil
) -> None:
    running = start(worker)
    worker.quiet()
    worker.quiet()
    wait_until(lambda: "all quiet" in told)
    assert told == LIFE[:4]
    worker.stop()
    worker.disconnect()
    running.stop()
    assert told == LIFE


def test_a_worker_stopped_before_it_runs_tells_its_whole_life(
    worker: Worker, told: list[str]
) -> None:
    worker.stop()
    worker.run()
    assert told == LIFE


def test_startup_is_told_before_any_job_is_fetched(
    server: EmbeddedServer, worker: Worker, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    fetched: list[object] = []
    worker.register("work", lambda: None)
    worker.on(
        "startup",
        lambda: fetched.extend(verb for verb, _ in server.commands if verb == "FETCH"),
    )
    jid = push("work")
    start(worker)
    wait_until(lambda: reports(server, jid) == ["ACK"])
    assert fetched == []


def test_a_job_that_runs_is_waited_for_after_shutdown_was_told(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    stopping = threading.Event()
    worker = Worker(server.url)
    worker.register("work", lambda: stopping.wait(10))
    worker.on("shutdown", stopping.set)
    jid = push("work")
    running = start(worker)
    wait_until(lambda: server.working)
    running.stop()
    assert reports(server, jid) == ["ACK"]


def test_a_handler_may_stop_the_worker(worker: Worker, told: list[str]) -> None:
    worker.on("startup", worker.stop)
    worker.run()
    assert told == LIFE


@pytest.mark.parametrize("error", [KeyError, SystemExit])
def test_handlers_that_raise_do_a_worker_no_harm(
    server: EmbeddedServer,
    worker: Worker,
    told: list[str],
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
    error: type[BaseException],
) -> None:
    def fail(*_: object) -> None:
        raise error

    for event in ALL:
        worker.on(event, fail)
    worker.register("fail", fail)
    worker.register("work", lambda: None)
    jids = [push("fail", retry=0), push("work")]
    running = start(worker)
    wait_until(lambda: [reports(server, jid) for jid in jids] == [["FAIL"], ["ACK"]])
    running.stop()
    assert [each for each in told if "exhausted" not in each] == LIFE
    assert len(messages(caplog, "a handler of")) == 4


# Jobs that fail for good


class Heard:
    """A handler of "exhausted": keeps what it heard, and what the server knew of it then."""

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


@pytest.fixture
def heard(server: EmbeddedServer) -> Heard:
    return Heard(server)


def fail() -> None:
    raise KeyError("lost")


@pytest.mark.parametrize("retry", [0, -1])
def test_a_job_that_is_not_retried_is_exhausted_before_its_failure_is_reported(
    server: EmbeddedServer,
    heard: Heard,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    retry: int,
) -> None:
    worker = Worker(server.url)
    worker.register("fail", fail)
    worker.on("exhausted", heard)
    jid = push("fail", retry=retry)
    start(worker)
    wait_until(lambda: reports(server, jid) == ["FAIL"])
    assert [job.jid for job in heard.jobs] == [jid]
    assert repr(heard.errors) == "[KeyError('lost')]"
    assert heard.reported == []
    assert heard.threads == ["faktory-1"]


def test_only_the_last_of_several_attempts_is_told(
    server: EmbeddedServer, heard: Heard, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    worker = Worker(server.url)
    worker.register("fail", fail)
    worker.on("exhausted", heard)
    jid = push("fail", retry=1)
    start(worker)
    wait_until(lambda: server.retries)
    assert heard.jobs == []
    server.travel(RETRY_DELAY)
    wait_until(lambda: [job["jid"] for job in server.dead] == [jid])
    assert [(job.jid, job.attempt) for job in heard.jobs] == [(jid, 2)]
    assert heard.reported == ["FAIL"]


def test_neither_success_nor_discard_is_told(
    server: EmbeddedServer, heard: Heard, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    def discard() -> None:
        raise faktory.Discard("of no use")

    worker = Worker(server.url)
    worker.register("discard", discard)
    worker.register("work", lambda: None)
    worker.on("exhausted", heard)
    jids = [push("discard", retry=0), push("work", retry=0)]
    start(worker)
    wait_until(lambda: [reports(server, jid) for jid in jids] == [["ACK"], ["ACK"]])
    assert heard.jobs == []


def test_a_job_of_an_unknown_type_is_exhausted_too(
    server: EmbeddedServer, heard: Heard, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    faktory.on("exhausted", heard)
    jid = push("unknown", retry=0)
    start(Worker(server.url))
    wait_until(lambda: reports(server, jid) == ["FAIL"])
    assert [
        (job.jid, type(error).__name__) for job, error in zip(heard.jobs, heard.errors, strict=True)
    ] == [(jid, "UnknownJob")]


def test_a_job_that_is_interrupted_in_its_last_attempt_is_exhausted(
    server: EmbeddedServer, heard: Heard, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    worker = Worker(server.url, disconnect_wait=0.05)
    worker.register("spin", spin)
    worker.on("exhausted", heard)
    jid = push("spin", retry=0)
    running = start(worker)
    wait_until(lambda: server.working)
    running.stop()
    assert reports(server, jid) == ["FAIL"]
    assert [
        (job.jid, type(error)) for job, error in zip(heard.jobs, heard.errors, strict=True)
    ] == [(jid, faktory.Shutdown)]
    assert heard.reported == []


@pytest.mark.parametrize(("retry", "times"), [(0, 1), (3, 0)])
def test_a_job_that_does_not_end_at_shutdown_is_exhausted_once_if_it_was_its_last_attempt(
    server: EmbeddedServer,
    heard: Heard,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
    retry: int,
    times: int,
) -> None:
    go_on = threading.Event()
    worker = Worker(server.url, disconnect_wait=0.05, timing=Timing(shutdown_grace=0.05))
    worker.register("stuck", lambda: go_on.wait(10))  # one call into C: no interrupt gets in there
    worker.on("exhausted", heard)
    jid = push("stuck", retry=retry)
    running = start(worker)
    wait_until(lambda: server.working)
    running.stop()
    assert reports(server, jid) == ["FAIL"]
    go_on.set()  # the interrupt hits it now
    wait_until(lambda: messages(caplog, "too late to be reported"))
    assert [job.jid for job in heard.jobs] == [jid] * times
    assert [type(error) for error in heard.errors] == [faktory.Shutdown] * times
    assert heard.reported == []


def test_a_handler_sees_the_job_as_the_current_one(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    seen: list[bool] = []

    def look(job: JobContext, error: BaseException) -> None:
        seen.append(faktory.current_job() is job)

    worker = Worker(server.url)
    worker.register("fail", fail)
    worker.on("exhausted", look)
    push("fail", retry=0)
    start(worker)
    wait_until(lambda: seen == [True])

"""What runs around each job of a worker; chains themselves are in jobs/test_middleware.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import faktory
from faktory import JobContext, Worker, worker_middleware
from faktory.jobs.middleware import Next
from faktory.server import EmbeddedServer

from .conftest import Push, Start, WaitUntil, reports

Payload = dict[str, Any]


@pytest.fixture(autouse=True)
def own_middleware() -> Iterator[None]:
    """What a test puts around its jobs is not around those of the next one."""
    yield
    worker_middleware.clear()


@pytest.fixture
def log() -> list[object]:
    return []


@pytest.fixture
def worker(server: EmbeddedServer, log: list[object]) -> Worker:
    worker = Worker(server.url)
    worker.register("work", lambda *args: log.append(("work", *args)))
    return worker


def test_middleware_runs_around_a_job_and_sees_it(
    server: EmbeddedServer,
    worker: Worker,
    log: list[object],
    start: Start,
    push: Push,
    wait_until: WaitUntil,
) -> None:
    @worker_middleware.add
    def outer(job: JobContext, payload: Payload, call_next: Next) -> Any:
        assert job is faktory.current_job()
        log.append((job.jid, payload["jid"], payload["args"], payload["custom"]))
        result = call_next()
        log.append("outer")
        return result

    @worker_middleware.add
    def inner(job: JobContext, payload: Payload, call_next: Next) -> Any:
        log.append("inner")
        return call_next()

    jid = push("work", 1, custom={"tenant": 7})
    start(worker)
    wait_until(lambda: reports(server, jid) == ["ACK"])
    assert log == [(jid, jid, [1], {"tenant": 7}), "inner", ("work", 1), "outer"]


def test_jobs_of_every_kind_have_middleware_around_them(
    server: EmbeddedServer, log: list[object], start: Start, push: Push, wait_until: WaitUntil
) -> None:
    @faktory.job
    def function() -> None: ...

    class Class(faktory.Job):
        def perform(self) -> None: ...

    @worker_middleware.add
    def look(job: JobContext, payload: Payload, call_next: Next) -> Any:
        log.append(job.jobtype)
        return call_next()

    worker = Worker(server.url)
    worker.register("registered", lambda jid: None, bind=True)
    for jobtype in ("function", "Class", "registered"):
        push(jobtype)
    start(worker)
    wait_until(lambda: server.processed == 3)
    assert log == ["function", "Class", "registered"]
    assert server.failures == 0


def test_arguments_that_a_middleware_changes_reach_the_job(
    server: EmbeddedServer,
    worker: Worker,
    log: list[object],
    start: Start,
    push: Push,
    wait_until: WaitUntil,
) -> None:
    @worker_middleware.add
    def change(job: JobContext, payload: Payload, call_next: Next) -> Any:
        payload["args"] = ["changed"] if payload["args"] == [1] else [*payload["args"], "more"]
        payload["custom"] = {"seen": True}
        return call_next()

    @faktory.job
    def declared(*args: object) -> None:
        log.append(("declared", *args, faktory.current_job().custom))

    jids = [push("work", 1), push("declared", 2)]
    start(worker)
    wait_until(lambda: [reports(server, jid) for jid in jids] == [["ACK"]] * 2)
    assert log == [("work", "changed"), ("declared", 2, "more", {"seen": True})]


def test_a_job_that_a_middleware_keeps_from_running_counts_as_done(
    server: EmbeddedServer,
    worker: Worker,
    log: list[object],
    start: Start,
    push: Push,
    wait_until: WaitUntil,
) -> None:
    worker_middleware.add(lambda job, payload, call_next: "anything")
    jid = push("work")
    start(worker)
    wait_until(lambda: reports(server, jid) == ["ACK"])
    assert log == []


@pytest.mark.parametrize("error", [KeyError("lost"), SystemExit(1)])
@pytest.mark.parametrize("after", [False, True])
def test_a_middleware_that_raises_fails_the_job(
    server: EmbeddedServer,
    worker: Worker,
    log: list[object],
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    error: BaseException,
    after: bool,
) -> None:
    @worker_middleware.add
    def fail(job: JobContext, payload: Payload, call_next: Next) -> Any:
        if after:
            call_next()
        raise error

    jid = push("work")
    start(worker)
    wait_until(lambda: reports(server, jid) == ["FAIL"])
    assert log == ([("work",)] if after else [])
    wait_until(lambda: server.retries)
    assert server.retries[0]["failure"]["errtype"] == type(error).__name__


def test_a_middleware_sees_what_a_job_raises_and_may_make_something_of_it(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    @worker_middleware.add
    def forgive(job: JobContext, payload: Payload, call_next: Next) -> Any:
        try:
            return call_next()
        except KeyError:
            return None
        except ValueError as error:
            raise faktory.Discard("not worth it") from error

    def fail(kind: str) -> None:
        raise {"key": KeyError, "value": ValueError, "type": TypeError}[kind]

    worker = Worker(server.url)
    worker.register("fail", fail)
    jids = [push("fail", kind) for kind in ("key", "value", "type")]
    start(worker)
    wait_until(lambda: [reports(server, jid) for jid in jids] == [["ACK"], ["ACK"], ["FAIL"]])


def test_an_unknown_job_is_refused_before_the_middleware(
    server: EmbeddedServer,
    worker: Worker,
    log: list[object],
    start: Start,
    push: Push,
    wait_until: WaitUntil,
) -> None:
    @worker_middleware.add
    def look(job: JobContext, payload: Payload, call_next: Next) -> Any:
        log.append(job.jobtype)
        return call_next()

    jid = push("unknown")
    start(worker)
    wait_until(lambda: reports(server, jid) == ["FAIL"])
    assert log == []
    wait_until(lambda: server.retries)
    assert server.retries[0]["failure"]["errtype"] == "UnknownJob"


def test_a_middleware_added_while_a_worker_runs_is_around_its_next_job(
    server: EmbeddedServer,
    worker: Worker,
    log: list[object],
    start: Start,
    push: Push,
    wait_until: WaitUntil,
) -> None:
    start(worker)
    push("work", 1)
    wait_until(lambda: server.processed == 1)

    @worker_middleware.add
    def look(job: JobContext, payload: Payload, call_next: Next) -> Any:
        log.append("middleware")
        return call_next()

    push("work", 2)
    wait_until(lambda: server.processed == 2)
    assert log == [("work", 1), "middleware", ("work", 2)]

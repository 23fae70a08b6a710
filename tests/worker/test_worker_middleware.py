"""Middleware around the jobs of a worker; chains themselves are in jobs/test_middleware.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import faktory
from faktory import JobContext, worker_middleware
from faktory.jobs.middleware import Next
from faktory.server import EmbeddedServer

from .conftest import Push, Reported, Start, WaitUntil

Payload = dict[str, Any]
Run = Callable[..., str]


@pytest.fixture(autouse=True)
def own_middleware() -> Iterator[None]:
    """Let each test begin without middleware."""
    yield
    worker_middleware.clear()


@pytest.fixture
def log() -> list[object]:
    """What jobs and middleware append to."""
    return []


@pytest.fixture
def run(log: list[object], start: Start, push: Push, reported: Reported) -> Run:
    """`run("ACK", *args, **fields)`: run a job "work" until it is reported; return its jid."""

    def run(verb: str, *args: object, jobtype: str = "work", **fields: object) -> str:
        jid = push(jobtype, *args, **fields)
        start({"work": lambda *args: log.append(("work", *args))})
        reported(jid, verb)
        return jid

    return run


def test_middleware_runs_around_a_job_and_sees_it(run: Run, log: list[object]) -> None:
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

    jid = run("ACK", 1, custom={"tenant": 7})
    assert log == [(jid, jid, [1], {"tenant": 7}), "inner", ("work", 1), "outer"]


def test_jobs_of_every_kind_have_middleware_around_them(
    server: EmbeddedServer, log: list[object], start: Start, push: Push, wait_until: WaitUntil
) -> None:
    @faktory.job
    def function() -> None: ...

    class Class(faktory.Job):
        def perform(self) -> None: ...

    @worker_middleware.add
    def note_type(job: JobContext, payload: Payload, call_next: Next) -> Any:
        log.append(job.jobtype)
        return call_next()

    for jobtype in ("function", "Class", "registered"):
        push(jobtype)
    worker = faktory.Worker(server.url)
    worker.register("registered", lambda jid: None, bind=True)
    start(worker)
    wait_until(lambda: server.processed == 3)
    assert log == ["function", "Class", "registered"]
    assert server.failures == 0


def test_arguments_that_a_middleware_changes_reach_the_job(
    run: Run, log: list[object], push: Push, reported: Reported
) -> None:
    @worker_middleware.add
    def change(job: JobContext, payload: Payload, call_next: Next) -> Any:
        payload["args"] = ["changed"] if payload["args"] == [1] else [*payload["args"], "more"]
        payload["custom"] = {"seen": True}
        return call_next()

    @faktory.job
    def declared(*args: object) -> None:
        log.append(("declared", *args, faktory.current_job().custom))

    first = push("work", 1)
    run("ACK", 2, jobtype="declared")
    reported(first, "ACK")
    assert log == [("work", "changed"), ("declared", 2, "more", {"seen": True})]


def test_a_job_that_a_middleware_does_not_call_is_acknowledged(run: Run, log: list[object]) -> None:
    worker_middleware.add(lambda job, payload, call_next: "anything")
    run("ACK")
    assert log == []


@pytest.mark.parametrize("error", [KeyError("lost"), SystemExit(1)])
@pytest.mark.parametrize("after", [False, True])
def test_a_middleware_that_raises_fails_the_job(
    server: EmbeddedServer,
    run: Run,
    log: list[object],
    wait_until: WaitUntil,
    error: BaseException,
    after: bool,
) -> None:
    @worker_middleware.add
    def fail(job: JobContext, payload: Payload, call_next: Next) -> Any:
        if after:
            call_next()
        raise error

    run("FAIL")
    assert log == ([("work",)] if after else [])
    wait_until(lambda: server.retries)
    assert server.retries[0]["failure"]["errtype"] == type(error).__name__


def test_a_middleware_may_catch_or_replace_the_exception_of_a_job(
    start: Start, push: Push, reported: Reported
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

    jids = [push("fail", kind) for kind in ("key", "value", "type")]
    start({"fail": fail})
    reported(jids, "ACK", "ACK", "FAIL")


def test_an_unknown_job_fails_before_the_middleware(
    server: EmbeddedServer, run: Run, log: list[object], wait_until: WaitUntil
) -> None:
    worker_middleware.add(lambda job, payload, call_next: log.append(job.jobtype))
    run("FAIL", jobtype="unknown")
    assert log == []
    wait_until(lambda: server.retries)
    assert server.retries[0]["failure"]["errtype"] == "UnknownJob"


def test_a_middleware_that_is_added_while_a_worker_runs_is_around_its_next_job(
    run: Run, log: list[object], push: Push, reported: Reported
) -> None:
    run("ACK", 1)

    @worker_middleware.add
    def note(job: JobContext, payload: Payload, call_next: Next) -> Any:
        log.append("middleware")
        return call_next()

    reported(push("work", 2), "ACK")
    assert log == [("work", 1), "middleware", ("work", 2)]

"""What a worker does with jobs that fail with a policy, ask for a retry, expire or have a chain."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import faktory
from faktory import Client, JobContext, Retry
from faktory.server import EmbeddedServer
from faktory.worker.timing import Timing

from .conftest import Held, Push, Reported, Start, WaitUntil, count, make_worker, messages, reports

TIME = r"\d\d:\d\d:\d\d"


class Called:
    """What the handlers of errors and of jobs that have failed permanently were called with."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.exhausted: list[tuple[str, BaseException]] = []

    def note(self, job: JobContext, error: BaseException) -> None:
        self.exhausted.append((job.jid, error))


def listening(server: EmbeddedServer, **options: Any) -> tuple[faktory.Worker, Called]:
    """A worker, and what its handlers are called with."""
    worker, called = make_worker(server.url, **options), Called()
    worker.error_handlers.append(lambda error, _: called.errors.append(error))
    worker.on("exhausted", called.note)
    return worker, called


def ahead(job: dict[str, Any]) -> float:
    """Return in how many seconds a job is due."""
    return (datetime.fromisoformat(job["at"]) - datetime.now(UTC)).total_seconds()


def sent(server: EmbeddedServer, *verbs: str) -> list[str]:
    """Return which of these commands the server got, in order."""
    return [verb for verb, _ in server.commands if verb in verbs]


# Again


def test_a_job_with_a_backoff_waits_under_scheduled_with_its_failure(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    @faktory.job(backoff=lambda attempt: 100 * attempt)
    def work(number: int) -> None:
        raise ConnectionError("away")

    worker, called = listening(server)
    jid = push("work", 7, retry=2, custom={"tenant": "a"}, backtrace=3, queue="default")
    start(worker)
    wait_until(lambda: reports(server, jid) == ["ACK"])
    (job,) = server.scheduled
    assert (job["jid"], job["args"], job["custom"], job["retry"]) == (jid, [7], {"tenant": "a"}, 2)
    assert 90 < ahead(job) <= 100
    assert job["failure"]["errtype"] == "ConnectionError"
    assert (job["failure"]["retry_count"], job["failure"]["remaining"]) == (0, 2)
    assert job["failure"]["backtrace"]
    assert sent(server, "FAIL", "MUTATE") == []
    assert (server.retries, server.working, server.failures) == ([], [], 0)
    wait_until(lambda: called.errors)
    assert [type(error) for error in called.errors] == [ConnectionError]
    assert called.exhausted == []
    assert messages(caplog, f"work {jid} fail in")
    (line,) = messages(caplog, f"work {jid} again at")
    assert re.search(f" again at {TIME}$", line)


def test_a_job_with_a_backoff_that_has_no_retries_left_fails_and_is_dead(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    @faktory.job(backoff=faktory.backoff.constant(100))
    def work() -> None:
        raise ConnectionError("away")

    given_up: list[str] = []

    @work.on_exhausted
    def gave_up(job: JobContext, error: BaseException) -> None:
        given_up.append(job.jid)

    worker, called = listening(server)
    jid = push("work", retry=1)
    start(worker)
    wait_until(lambda: server.scheduled)
    server.travel(101)
    wait_until(lambda: server.dead)
    assert reports(server, jid)[-1] == "FAIL"
    assert server.failures == 1
    (job,) = server.dead
    assert (job["failure"]["retry_count"], job["failure"]["remaining"]) == (1, 0)
    assert [found for found, _ in called.exhausted] == given_up == [jid]
    assert len(called.errors) == 2


@pytest.mark.parametrize("counted", [True, False])
def test_a_retry_that_is_granted_is_not_an_error(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
    counted: bool,
) -> None:
    caplog.set_level(logging.INFO)

    def work() -> None:
        raise Retry("rate limited", after=60, count=counted)

    worker, called = listening(server)
    worker.register("work", work)
    jid = push("work", retry=1)
    start(worker)
    wait_until(lambda: server.scheduled)
    (job,) = server.scheduled
    assert 50 < ahead(job) <= 60
    assert job.get("failure", {}).get("retry_count") == (0 if counted else None)
    wait_until(lambda: reports(server, jid) == ["ACK"])
    assert called.errors == []
    (line,) = messages(caplog, f"work {jid} again at")
    uncounted = "" if counted else ", not counted as an attempt"
    assert re.search(f" again at {TIME}{uncounted}: rate limited$", line)
    assert messages(caplog, f"work {jid} fail") == []


def test_a_retry_that_is_worn_out_passes_itself(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    def work() -> None:
        raise Retry("rate limited", after=60)

    worker, called = listening(server)
    worker.register("work", work)
    jid = push("work", retry=-1)
    start(worker)
    wait_until(lambda: server.dead)
    assert server.dead[0]["failure"]["errtype"] == "Retry"
    assert [type(error) for error in called.errors] == [Retry]
    assert [found for found, _ in called.exhausted] == [jid]


@pytest.mark.parametrize("custom", [{"bid": "b-1"}, {"track": 1}, {"unique_for": 60}])
def test_a_job_of_which_the_server_keeps_more_is_left_to_the_servers_wait(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
    custom: dict[str, object],
) -> None:
    def work() -> None:
        raise Retry("rate limited", after=60)

    worker, called = listening(server)
    worker.register("work", work)
    jid = push("work", custom=custom)
    start(worker)
    wait_until(lambda: server.retries)
    assert reports(server, jid) == ["FAIL"]
    assert server.scheduled == []
    assert called.errors == []
    assert messages(caplog, "the server's own wait counts")


def test_a_job_that_the_server_does_not_queue_again_fails_with_its_own_failure(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @faktory.job(backoff=faktory.backoff.constant(100))
    def work() -> None:
        raise ConnectionError("away")

    jid = push("work")
    server.answer_error("PUSHB", "no memory for this job")
    start()
    wait_until(lambda: server.retries)
    assert reports(server, jid) == ["FAIL"]
    assert server.retries[0]["failure"]["errtype"] == "ConnectionError"
    assert messages(caplog, "the server refused to queue")


def test_no_fetch_goes_with_the_push_and_one_goes_with_the_ack(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil, reported: Reported
) -> None:
    def work(number: int) -> None:
        if number == 1:
            raise Retry(after=60)

    first, second = push("work", 1), push("work", 2)
    server.clear_commands()
    start({"work": work})
    reported([first, second], "ACK", "ACK")
    verbs = sent(server, "FETCH", "PUSHB", "ACK")
    assert verbs[:5] == ["FETCH", "PUSHB", "ACK", "FETCH", "ACK"]


def test_the_next_run_is_ahead_on_the_clock_of_a_server_that_is_ahead(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    """A test travels, and a machine's clock may be wrong."""

    def work() -> None:
        raise Retry(after=60)

    server.travel(3600)
    push("work")
    start({"work": work})
    wait_until(lambda: server.scheduled)
    assert 3650 < ahead(server.scheduled[0]) <= 3661
    wait_until(lambda: not server.working)
    server.travel(61)
    wait_until(lambda: server.scheduled and server.scheduled[0]["failure"]["retry_count"] == 1)


# Buried and discarded


def test_a_job_is_buried_at_once_by_an_error_that_its_policy_does_not_name(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @faktory.job(retry_on=ConnectionError)
    def work() -> None:
        raise ValueError("wrong")

    given_up: list[str] = []

    @work.on_exhausted
    def gave_up(job: JobContext, error: BaseException) -> None:
        given_up.append(f"{job.jid} {error!r}")

    worker, called = listening(server)
    other = push("other")
    with Client(server.url) as client:  # another job that waits for its retry stays there
        client.fetch("default")
        client.fail(other)
    jid = push("work", retry=5)
    server.clear_commands()
    start(worker)
    wait_until(lambda: server.dead)
    assert server.dead[0]["jid"] == jid
    assert server.dead[0]["failure"]["errtype"] == "ValueError"
    assert [job["jid"] for job in server.retries] == [other]
    assert sent(server, "FAIL", "MUTATE", "PUSHB") == ["FAIL", "MUTATE"]
    assert given_up == [f"{jid} ValueError('wrong')"]
    assert [found for found, _ in called.exhausted] == [jid]
    assert len(called.errors) == 1
    assert messages(caplog, f"work {jid} is buried")


def test_a_job_without_retries_needs_no_mutate_to_be_dead(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil, reported: Reported
) -> None:
    @faktory.job(retry_on=ConnectionError)
    def work() -> None:
        raise ValueError("wrong")

    jids = [push("work", retry=-1), push("work", retry=0)]
    start()
    reported(jids, "FAIL", "FAIL")
    wait_until(lambda: server.dead)
    assert count(server, "MUTATE") == 0


def test_an_error_that_discard_on_names_ends_the_job(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    reported: Reported,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    @faktory.job(discard_on=LookupError)
    def work() -> None:
        raise KeyError("gone")

    worker, called = listening(server)
    jid = push("work")
    start(worker)
    reported(jid, "ACK")
    assert (server.failures, called.errors, called.exhausted) == (0, [], [])
    (line,) = messages(caplog, "discarded")
    assert re.fullmatch(rf"work {jid} discarded in .* s: KeyError: 'gone'", line)


@pytest.mark.parametrize("what", [ZeroDivisionError("no"), "soon", -1, float("nan"), None])
def test_a_backoff_that_raises_or_returns_nonsense_costs_no_job(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
    what: object,
) -> None:
    def wait(attempt: int) -> Any:
        if isinstance(what, Exception):
            raise what
        return what

    @faktory.job(backoff=wait)
    def work() -> None:
        raise ValueError("wrong")

    jid = push("work")
    start()
    wait_until(lambda: server.retries)
    assert reports(server, jid) == ["FAIL"]
    assert messages(caplog, "its backoff r")


class Incomplete(Retry):
    after = property(lambda self: self.missing)  # type: ignore[assignment,attr-defined]

    def __init__(self) -> None: ...


@pytest.mark.parametrize("use_threads", [True, False])
def test_a_retry_that_cannot_be_judged_is_an_error(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
    use_threads: bool,
) -> None:
    @faktory.job(backoff=lambda attempt: "soon" if use_threads else None)  # type: ignore[arg-type,return-value]
    def waits_wrongly() -> None:
        raise Retry("rate limited")

    @faktory.job
    def incomplete() -> None:
        raise Incomplete

    worker, called = listening(server, use_threads=use_threads)
    jids = [push("incomplete"), push("waits_wrongly")]
    start(worker)
    wait_until(lambda: len(server.retries) == len(called.errors) == 2)
    assert [reports(server, jid) for jid in jids] == [["FAIL"]] * 2
    assert {type(error).__name__ for error in called.errors} == {"Incomplete", "Retry"}
    for name in ("incomplete", "waits_wrongly"):
        (record,) = [
            each
            for each in caplog.records
            if f"{name} " in each.message and " fail in" in each.message
        ]
        assert record.exc_info
    assert messages(caplog, "what it raised cannot be judged: AttributeError")
    assert messages(caplog, "its backoff returned no wait")


# Returned by a worker that stops


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_job_that_is_interrupted_is_given_back_and_not_counted(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
    attempt: int,
) -> None:
    caplog.set_level(logging.INFO)
    began = []

    def spin() -> None:
        began.append(1)
        while True:
            pass

    jid = push("work", retry=1)
    if attempt == 2:
        with Client(server.url) as client:
            client.fetch("default")
            client.fail(jid, errtype="ValueError", message="before")
            client.requeue("retries")
    worker, called = listening(server, give_back=True, disconnect_wait=0)
    worker.register("work", spin)
    running = start(worker)
    wait_until(lambda: began)
    server.clear_commands()
    running.stop()
    assert sent(server, "PUSHB", "ACK", "FAIL") == ["PUSHB", "ACK"]
    (job,) = server.scheduled
    assert 0 < ahead(job) < 10
    message = job.get("failure", {}).get("message")
    assert message == (None if attempt == 1 else "before")
    assert (called.errors, called.exhausted) == ([], [])
    assert messages(caplog, "which is returned and uses up no attempt")
    (line,) = messages(caplog, f"work {jid} again at")
    assert ", not counted as an attempt: the worker stopped" in line


def test_a_job_that_does_not_end_is_given_back_by_the_worker(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil, held: Held
) -> None:
    jids = {push("work", retry=0), push("work", retry=0)}
    member = push("work", custom={"bid": "b-1"})
    worker, called = listening(server, give_back=True, disconnect_wait=0, concurrency=3)
    worker.register("work", held.hold)
    running = start(worker)
    wait_until(lambda: len(server.working) == 3)
    server.clear_commands()
    running.stop()
    assert {job["jid"] for job in server.scheduled} == jids
    assert all("failure" not in job for job in server.scheduled)
    assert [job["jid"] for job in server.retries] == [member]
    assert sorted(sent(server, "PUSHB", "ACK", "FAIL")) == ["ACK", "ACK", "FAIL", "PUSHB", "PUSHB"]
    assert len(running.worker.abandoned) == 3
    assert [type(error) for error in called.errors] == [faktory.Shutdown]


def test_a_job_that_comes_after_the_stop_is_given_back(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    server.hold("FETCH")
    ran: list[int] = []
    worker, _ = listening(server, give_back=True, disconnect_wait=0)
    worker.register("work", lambda: ran.append(1))
    running = start(worker)
    wait_until(lambda: count(server, "FETCH"))
    running.worker.stop()
    wait_until(lambda: running.worker.is_disconnecting)
    wait_until(lambda: running.worker._manager.processors[0].running._closed is not None)
    jid = push("work")
    server.release("FETCH")
    running.join()
    assert ran == []
    assert [job["jid"] for job in server.scheduled] == [jid]
    assert sent(server, "ACK", "FAIL") == ["ACK"]


def test_a_push_that_is_not_answered_when_the_worker_stops_is_logged(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def work() -> None:
        raise Retry(after=60)

    jid = push("work")
    server.hold("PUSHB")
    server.clear_commands()
    timing = Timing(fetch_grace=0.1, report_grace=0.1, shutdown_grace=0.1)
    running = start(make_worker(server.url, {"work": work}, disconnect_wait=0.1, timing=timing))
    wait_until(lambda: count(server, "PUSHB"))
    running.stop()
    assert len(running.worker.abandoned) == 1
    (line,) = messages(caplog, "could not be delivered")
    assert line.startswith(f"PUSHB of {jid} could not be delivered: ")
    assert line.endswith("; its job runs again after its reservation")
    server.release("PUSHB")  # the thread goes on as long as the process does
    wait_until(lambda: reports(server, jid) == ["ACK"])
    assert [job["jid"] for job in server.scheduled] == [jid]


def test_a_retry_is_delivered_when_the_worker_ends_by_an_error(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    asked: list[int] = []

    def get_queues() -> list[str]:
        asked.append(1)
        if len(asked) == 2:  # for the FETCH that goes with the ACK
            raise ZeroDivisionError
        return ["default"]

    def work() -> None:
        raise Retry(after=60)

    jid = push("work")
    worker = make_worker(server.url, {"work": work})
    worker._manager.get_queues = get_queues
    running = start(worker)
    with pytest.raises(ZeroDivisionError):
        running.join()
    assert reports(server, jid) == ["ACK"]
    assert [job["jid"] for job in server.scheduled] == [jid]


def test_without_give_back_an_interrupted_job_fails(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    @faktory.job(backoff=faktory.backoff.constant(60), retry_on=ConnectionError)
    def work() -> None:
        while True:
            pass

    jid = push("work")
    running = start(make_worker(server.url, disconnect_wait=0))
    wait_until(lambda: server.working)
    running.stop()
    assert reports(server, jid) == ["FAIL"]
    assert server.retries[0]["failure"]["errtype"] == "Shutdown"


# Expiry


@pytest.mark.parametrize(
    ("seconds", "runs"), [(-1.0, False), (-86400.0, False), (3600.0, True), (None, True)]
)
def test_an_expired_job_is_not_run(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    reported: Reported,
    caplog: pytest.LogCaptureFixture,
    seconds: float | None,
    runs: bool,
) -> None:
    caplog.set_level(logging.INFO)
    ran: list[int] = []
    expires_at = None
    if seconds is not None:
        expires_at = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
    after = {"jid": "after-1234", "jobtype": "after", "args": []}
    jid = push("work", custom={"expires_at": expires_at, "faktory_chain": [after]})
    server.clear_commands()
    start({"work": lambda: ran.append(1), "after": lambda: None})
    reported(jid, "ACK")
    assert bool(ran) is runs
    assert count(server, "PUSH") == runs  # an expired job's chain ends with it
    lines = [message for message in caplog.messages if jid in message]
    if not runs:
        assert lines == [f"work {jid} expired: it is not run"]


@pytest.mark.parametrize(
    "nonsense", ["soon", 5, True, [], {}, "2026-01-02", "", "2026-13-01T00:00:00Z"]
)
def test_a_job_with_a_senseless_expiry_is_run(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    reported: Reported,
    caplog: pytest.LogCaptureFixture,
    nonsense: object,
) -> None:
    ran: list[int] = []
    jid = push("work", custom={"expires_at": nonsense})
    start({"work": lambda: ran.append(1)})
    reported(jid, "ACK")
    assert ran == [1]
    assert messages(caplog, "expires_at is")


# Chains


def chained(*jobtypes: str) -> dict[str, Any]:
    """The rest of a chain, as a job carries it."""
    return {
        "faktory_chain": [
            {"jid": f"{name}-1234", "jobtype": name, "args": [number], "queue": "default"}
            for number, name in enumerate(jobtypes)
        ]
    }


def test_the_jobs_of_a_chain_run_one_after_another(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    ran: list[str] = []

    def work(*_: object) -> None:
        ran.append(faktory.current_job().jid)

    jid = push("first", custom={**chained("second", "third"), "tenant": "a"})
    start({"first": work, "second": work, "third": work}, concurrency=2)
    wait_until(lambda: reports(server, "third-1234") == ["ACK"])
    assert ran == [jid, "second-1234", "third-1234"]
    assert not any(server.queues.values())
    assert server.working == []


def test_a_chain_goes_on_after_a_retry(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    attempts: list[int] = []

    def first() -> None:
        attempts.append(faktory.current_job().attempt)
        if len(attempts) == 1:
            raise Retry(after=60)

    push("first", custom=chained("second"))
    start({"first": first, "second": lambda _: None})
    wait_until(lambda: server.scheduled and not server.working)
    assert reports(server, "second-1234") == []
    server.travel(61)
    wait_until(lambda: reports(server, "second-1234") == ["ACK"])
    assert attempts == [1, 2]


def test_a_job_whose_next_one_is_refused_fails_with_its_name(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    jid = push("first", custom=chained("second"))
    server.answer_error("PUSH", "no memory for this job")
    start({"first": lambda: None})
    wait_until(lambda: server.retries)
    assert reports(server, jid) == ["FAIL"]
    failed = server.retries[0]["failure"]
    assert failed["errtype"] == "ChainBroken"
    assert "second second-1234: no memory for this job" in failed["message"].replace("ERR ", "")


@pytest.mark.parametrize(
    ("chain", "fault"),
    [
        ("nonsense", "it must be a list of jobs"),
        ({"jid": "12345678"}, "it must be a list of jobs"),
        (5, "it must be a list of jobs"),
        ([5], "it must be a job with a jid"),
        ([[]], "it must be a job with a jid"),
        ([{}], "it must be a job with a jid"),
        ([{"jobtype": "second", "args": []}], "it must be a job with a jid"),
        ([{"jid": "second-1234", "args": []}], "the job has no 'jobtype'"),
        ([{"jid": "second-1234", "jobtype": "second", "args": {}}], "args is"),
        ([{"jid": "short", "jobtype": "second", "args": []}], "jid is"),
        ([{"jid": "second-1234", "jobtype": "second", "args": [], "no": 1}], "'no' is not a field"),
        (
            [{"jid": "second-1234", "jobtype": "s", "args": [], "custom": {"faktory_chain": 5}}],
            "custom.faktory_chain is 5",
        ),
    ],
)
def test_a_job_with_a_malformed_chain_fails_and_is_not_run(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    reported: Reported,
    chain: object,
    fault: str,
) -> None:
    ran: list[int] = []
    jids = [push("work", custom={"faktory_chain": chain}), push("work")]
    start({"work": lambda: ran.append(1)})
    reported(jids, "FAIL", "ACK")
    assert ran == [1]
    failed = server.retries[0]["failure"]
    assert failed["errtype"] == "ChainBroken"
    assert fault in failed["message"]


@pytest.mark.parametrize("chain", [None, []])
def test_a_chain_may_be_empty(start: Start, push: Push, reported: Reported, chain: object) -> None:
    jid = push("work", custom={"faktory_chain": chain})
    start({"work": lambda: None})
    reported(jid, "ACK")


def test_a_chain_ends_with_a_job_that_is_discarded_or_fails(
    server: EmbeddedServer, start: Start, push: Push, reported: Reported
) -> None:
    def work(discards: bool) -> None:
        raise faktory.Discard("not needed") if discards else ValueError("wrong")

    jids = [push("work", discards, custom=chained("second")) for discards in (True, False)]
    server.clear_commands()
    start({"work": work})
    reported(jids, "ACK", "FAIL")
    assert count(server, "PUSH") == 0

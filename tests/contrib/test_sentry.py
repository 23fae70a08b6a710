"""Errors and transactions as a transport of the test's own gets them."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import faktory
from faktory import testing
from faktory.testing.embedded import EmbeddedTestServer

sentry_sdk = pytest.importorskip("sentry_sdk", reason="needs sentry-sdk")

from sentry_sdk.transport import Transport  # noqa: E402

from faktory.contrib import sentry  # noqa: E402
from faktory.contrib.guard import Guard  # noqa: E402
from faktory.contrib.sentry import FaktoryIntegration  # noqa: E402

Init = Callable[..., "Sent"]


class Sent(Transport):  # type: ignore[misc,unused-ignore]
    """What was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []
        self.transactions: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Any) -> None:
        # As it would go over the wire.
        if (event := envelope.get_event()) is not None:
            self.events.append(json.loads(json.dumps(event)))
        if (event := envelope.get_transaction_event()) is not None:
            self.transactions.append(json.loads(json.dumps(event)))


@pytest.fixture
def init(monkeypatch: pytest.MonkeyPatch) -> Iterator[Init]:
    """`init(report="all", traces_sample_rate=1.0)`: begin to report; return what is sent."""
    monkeypatch.setattr(sentry, "_guard", Guard("Sentry"))

    def init(report: Any = "exhausted", **options: Any) -> Sent:
        sent = Sent()
        sentry_sdk.init(
            "http://key@127.0.0.1:1/1",
            transport=sent,
            integrations=[FaktoryIntegration(report)],
            **{"default_integrations": False, "auto_enabling_integrations": False, **options},
        )
        FaktoryIntegration.setup_once()  # the SDK does so once in a process
        return sent

    with sentry_sdk.isolation_scope():
        yield init
        sentry_sdk.get_global_scope().set_client(None)


def declare(error: BaseException | None = None, **options: Any) -> Any:
    """Declare a job that raises this."""

    def work(image: object = None) -> None:
        if error is not None:
            raise error

    return faktory.job(work, **options)


def drained(server: EmbeddedTestServer, attempts: int = 1) -> None:
    for _ in range(attempts):
        assert server.drain() == 1
        server.travel(3600)


def test_the_last_attempt_is_one_event_with_tags(server: EmbeddedTestServer, init: Init) -> None:
    sent = init()
    jid = declare(ValueError("bad image"), retry=2).perform_async()
    drained(server, 2)
    assert sent.events == []
    drained(server)
    (event,) = sent.events
    assert event["tags"] == {"jid": jid, "jobtype": "work", "attempt": 3}
    (value,) = event["exception"]["values"]
    assert (value["type"], value["value"]) == ("ValueError", "bad image")
    assert value["mechanism"] == {"type": "faktory", "handled": False}
    assert value["stacktrace"]["frames"][-1]["function"] == "work"
    assert event["contexts"]["faktory"] == {
        "jid": jid,
        "jobtype": "work",
        "attempt": 3,
        "queue": "default",
        "retries_remaining": 0,
    }
    assert sent.transactions == []


def test_each_attempt_is_an_event_if_all_are_reported(
    server: EmbeddedTestServer, init: Init
) -> None:
    sent = init("all")
    declare(ValueError("bad"), retry=1).perform_async()
    drained(server, 2)
    assert [event["tags"]["attempt"] for event in sent.events] == [1, 2]
    with pytest.raises(ValueError, match="report is 'some'"):
        FaktoryIntegration("some")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "options", "exhausted", "every"),
    [
        (None, {}, 0, 0),
        (ValueError(), {"retry": 0}, 1, 1),
        (ValueError(), {"retry": -1}, 1, 1),
        (ValueError(), {"retry": 5}, 0, 1),
        (ValueError(), {"retry_on": KeyError}, 1, 1),
        (KeyError(), {"retry_on": KeyError}, 0, 1),
        (KeyError(), {"retry_on": KeyError, "retry": 0}, 1, 1),
        (KeyError(), {"discard_on": KeyError}, 0, 0),
        (faktory.TimeLimitExceeded(), {"retry": 0}, 1, 1),
        (SystemExit(1), {"retry": 0}, 1, 1),
        (faktory.Discard(), {"retry": 0}, 0, 0),
        (faktory.Retry(after=5), {}, 0, 0),
        (faktory.Retry(after=5), {"retry": 0}, 1, 1),
        (faktory.Retry(after=5, count=False), {"retry": 0}, 0, 0),
        (faktory.Shutdown(), {}, 0, 0),
        (faktory.Shutdown(), {"retry": 0}, 0, 0),
    ],
)
def test_what_is_an_error(
    server: EmbeddedTestServer,
    init: Init,
    error: BaseException | None,
    options: dict[str, Any],
    exhausted: int,
    every: int,
) -> None:
    for report, count in (("exhausted", exhausted), ("all", every)):
        sent = init(report)
        declare(error, **options).perform_async()
        assert server.drain() == 1
        assert len(sent.events) == count


@pytest.mark.filterwarnings("ignore:The send_default_pii option:DeprecationWarning")
@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({}, False),
        ({"send_default_pii": False}, False),
        ({"send_default_pii": True}, True),
        ({"data_collection": {"queues": True}}, True),
        ({"data_collection": {"queues": False}}, False),
    ],
)
def test_arguments_are_sent_where_personal_data_may_be(
    server: EmbeddedTestServer, init: Init, options: dict[str, Any], allowed: bool
) -> None:
    if "data_collection" in options and not hasattr(sentry_sdk, "data_collection"):
        pytest.skip("this sentry-sdk has no data_collection")
    sent = init(traces_sample_rate=1.0, **options)
    declare(ValueError("bad"), retry=0).perform_async("a secret name")
    server.drain()
    (event,) = sent.events
    assert ("a secret name" in json.dumps(event)) is allowed
    assert ("a secret name" in json.dumps(sent.transactions)) is allowed
    assert event["contexts"]["faktory"].get("args") == (["a secret name"] if allowed else None)


def test_a_run_is_a_transaction_in_the_trace_of_the_push(
    server: EmbeddedTestServer, init: Init
) -> None:
    sent = init(traces_sample_rate=1.0)
    job = declare(queue="images")
    with sentry_sdk.start_transaction(op="http.server", name="POST /orders") as request:
        jid = job.perform_async()
        job.perform_bulk([(), ()])
    server.drain()
    asked, *runs = sent.transactions
    assert [run["transaction"] for run in runs] == ["work"] * 3
    assert {run["contexts"]["trace"]["trace_id"] for run in runs} == {request.trace_id}
    assert {run["contexts"]["trace"]["op"] for run in runs} == {"queue.process"}
    assert {run["contexts"]["trace"]["status"] for run in runs} == {"ok"}
    single, many = asked["spans"]
    assert (single["op"], single["description"]) == ("queue.publish", "push images")
    parents = [run["contexts"]["trace"]["parent_span_id"] for run in runs]
    assert parents == [single["span_id"], many["span_id"], many["span_id"]]
    assert runs[0]["contexts"]["trace"]["data"]["messaging.message.id"] == jid
    assert many["data"]["messaging.batch.message_count"] == 2
    assert runs[0]["tags"]["jid"] == jid


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError(), "internal_error"),
        (faktory.Discard(), "ok"),
        (faktory.Retry(after=5), "aborted"),
        (faktory.Shutdown(), "aborted"),
        (faktory.TimeLimitExceeded(), "deadline_exceeded"),
    ],
)
def test_a_transaction_has_a_status(
    server: EmbeddedTestServer, init: Init, error: BaseException, status: str
) -> None:
    sent = init(traces_sample_rate=1.0)
    declare(error).perform_async()
    server.drain()
    (run,) = sent.transactions
    assert run["contexts"]["trace"]["status"] == status


def test_headers_leave_the_baggage_of_others(init: Init) -> None:
    init(traces_sample_rate=1.0)
    job = faktory.external("work").set(custom={"baggage": "tenant=cats,sentry-release=old"})
    with testing.fake(), sentry_sdk.start_transaction(name="request"):
        job.perform_async()
        job.set(debounce=60).perform_async()
        first, debounced = (each["custom"] for each in job.jobs)
    assert first["baggage"].startswith("tenant=cats,sentry-")
    assert "release=old" not in first["baggage"]
    assert "sentry-trace" in first
    assert "sentry-trace" not in debounced


# Scopes


def test_jobs_do_not_share_tags(server: EmbeddedTestServer, init: Init) -> None:
    sent = init("all")

    @faktory.job(retry=0)
    def work(number: int) -> None:
        if number == 1:
            sentry_sdk.set_tag("only", "first")
            sentry_sdk.add_breadcrumb(message="only the first")
        raise ValueError(number)

    work.perform_bulk([(1,), (2,)])
    server.drain()
    first, second = sent.events
    assert first["tags"]["only"] == "first"
    assert "only" not in second["tags"]
    assert "only the first" in json.dumps(first["breadcrumbs"])
    assert "only the first" not in json.dumps(second.get("breadcrumbs"))


def test_async_jobs_at_the_same_time_have_scopes_of_their_own(
    server: EmbeddedTestServer, init: Init
) -> None:
    sent = init("all", traces_sample_rate=1.0)
    both = threading.Barrier(2)

    @faktory.job(retry=0)
    async def work(number: int) -> None:
        await asyncio.to_thread(both.wait, 20)
        sentry_sdk.set_tag("number", str(number))
        await asyncio.to_thread(both.wait, 20)
        raise ValueError(number)

    async def request() -> list[str]:
        return await work.aperform_bulk([(1,), (2,)])

    jids = asyncio.run(request())
    worker = faktory.Worker(server.url, concurrency=2, burst=True)
    worker.run()
    found = {event["tags"]["jid"]: event["tags"]["number"] for event in sent.events}
    assert found == {jids[0]: "1", jids[1]: "2"}
    assert {run["tags"]["jid"] for run in sent.transactions} == set(jids)


# It breaks nothing


@pytest.mark.parametrize(
    "broken",
    [
        "isolation_scope",
        "continue_trace",
        "start_transaction",
        "start_span",
        "get_traceparent",
        "get_current_span",
        "capture_event",
        "get_client",
        "transport",
        "before_send",
        "traces_sampler",
    ],
)
def test_an_error_in_the_sdk_breaks_no_push_and_no_job(
    server: EmbeddedTestServer,
    init: Init,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    broken: str,
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(f"{broken} is broken")

    options = {broken: fail} if broken in ("before_send", "traces_sampler") else {}
    sent = init(**{"traces_sample_rate": 1.0, **options})
    if broken == "transport":
        monkeypatch.setattr(sent, "capture_envelope", fail)
    done: list[int] = []

    @faktory.job(retry=0)
    def work(number: int) -> None:
        done.append(number)
        if number == 2:
            raise ValueError(number)

    with sentry_sdk.start_transaction(name="request"), monkeypatch.context() as patch:
        if hasattr(sentry_sdk, broken):
            patch.setattr(sentry_sdk, broken, fail)
        assert len(work.perform_async(1)) == 24
        work.perform_async(2)
        assert len(work.perform_bulk([(3,), (4,)])) == 2
        assert server.drain() == 4
    assert done == [1, 2, 3, 4]
    assert [type(error) for error in server.worker.errors] == [ValueError]
    logged = [record for record in caplog.records if record.name == "faktory.contrib"]
    assert len(logged) <= 1
    if hasattr(sentry_sdk, broken):
        assert [record.levelno for record in logged] == [logging.ERROR]


def test_another_client_without_the_integration_gets_nothing(
    server: EmbeddedTestServer, init: Init
) -> None:
    init()
    other = Sent()
    sentry_sdk.init("http://key@127.0.0.1:1/1", transport=other, default_integrations=False)
    declare(ValueError(), retry=0).perform_async()
    server.drain()
    assert other.events == []


def test_errors_of_an_executor_are_reported_too(server: EmbeddedTestServer, init: Init) -> None:
    from concurrent.futures import ThreadPoolExecutor

    sent = init()
    declare(ValueError("bad"), retry=0).perform_async()
    worker = faktory.Worker(server.url, concurrency=1, executor=ThreadPoolExecutor, burst=True)
    worker.run()
    (event,) = sent.events
    assert event["exception"]["values"][-1]["type"] == "ValueError"

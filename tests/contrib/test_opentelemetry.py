"""Spans of pushes and of runs: names, attributes, links, and that they break nothing."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import faktory
from faktory import testing
from faktory.exceptions import FaktoryBulkError, FaktoryError
from faktory.jobs import client_middleware, worker_middleware
from faktory.jobs.bulk import BULK_CHUNK
from faktory.testing.embedded import EmbeddedTestServer

api = pytest.importorskip("opentelemetry.sdk.trace", reason="needs opentelemetry-sdk")

from opentelemetry import baggage, context, propagate, trace  # noqa: E402
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import (  # noqa: E402
    InMemorySpanExporter,
)
from opentelemetry.trace import SpanKind, StatusCode  # noqa: E402

from faktory.contrib import opentelemetry as traces  # noqa: E402
from faktory.contrib.guard import Guard  # noqa: E402

from ..jobs.support import faked_server  # noqa: E402
from .support import SPAN_METHODS, BrokenPropagator, BrokenProvider  # noqa: E402


class Spans:
    """A provider, and the spans that have ended."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("tests")

    @property
    def all(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(traces, "_guard", Guard("OpenTelemetry"))
    propagator = propagate.get_global_textmap()
    yield
    traces.uninstrument()
    propagate.set_global_textmap(propagator)


@pytest.fixture
def spans() -> Spans:
    """What is recorded; `instrument` has been called."""
    spans = Spans()
    traces.instrument(spans.provider)
    return spans


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def events(span: ReadableSpan) -> list[str]:
    return [event.name for event in span.events]


def linked(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


def noop(*args: object) -> None: ...


# The picture


def test_a_request_that_pushes_three_jobs_one_in_bulk_one_retried_twice(
    server: EmbeddedTestServer, spans: Spans
) -> None:
    mail = faktory.job(noop, queue="mails", name="mail")
    tries: list[int] = []

    @faktory.job(queue="slow", retry=2)
    def sync() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("away")

    resize = faktory.job(noop, queue="images", name="resize")
    with spans.tracer.start_as_current_span("POST /orders") as request:
        mail_jid = mail.perform_async(7)
        sync_jid = sync.perform_async()
        resize.perform_bulk([(1,), (2,), (3,)])
    assert server.drain() == 5
    for _ in range(2):
        server.travel(3600)
        assert server.drain() == 1

    names = Counter(span.name for span in spans.all)
    assert names == {
        "POST /orders": 1,
        "push mails": 1,
        "push slow": 1,
        "push images": 1,
        "process mail": 1,
        "process sync": 3,
        "process resize": 3,
    }
    pushes = {span.name: span for span in spans.all if span.kind is SpanKind.PRODUCER}
    assert set(pushes) == {"push mails", "push slow", "push images"}
    asked = request.get_span_context()
    for span in pushes.values():
        assert span.parent is not None
        assert span.parent.span_id == asked.span_id
        assert span.context.trace_id == asked.trace_id
        assert span.status.status_code is StatusCode.UNSET

    runs = [span for span in spans.all if span.name.startswith("process")]
    assert {span.kind for span in runs} == {SpanKind.CONSUMER}
    assert {span.parent for span in runs} == {None}
    assert len({span.context.trace_id for span in runs} | {asked.trace_id}) == len(runs) + 1
    for run, push in {"mail": "mails", "sync": "slow", "resize": "images"}.items():
        for span in spans.named(f"process {run}"):
            assert linked(span) == [pushes[f"push {push}"].context.span_id]

    common = {"messaging.system": "faktory"}
    assert attributes(pushes["push mails"]) == common | {
        "messaging.destination.name": "mails",
        "messaging.operation.name": "push",
        "messaging.operation.type": "send",
        "messaging.message.id": mail_jid,
        "messaging.faktory.jobtype": "mail",
    }
    assert attributes(pushes["push images"]) == common | {
        "messaging.destination.name": "images",
        "messaging.operation.name": "push",
        "messaging.operation.type": "send",
        "messaging.batch.message_count": 3,
        "messaging.faktory.jobtype": "resize",
    }
    first, second, third = spans.named("process sync")
    about = common | {
        "messaging.destination.name": "slow",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.message.id": sync_jid,
        "messaging.faktory.jobtype": "sync",
    }
    failed = about | {"messaging.faktory.outcome": "failed", "error.type": "ConnectionError"}
    assert attributes(first) == failed | {"messaging.faktory.attempt": 1}
    assert attributes(second) == failed | {"messaging.faktory.attempt": 2}
    assert attributes(third) == about | {
        "messaging.faktory.outcome": "done",
        "messaging.faktory.attempt": 3,
    }
    for span in (first, second):
        assert events(span) == ["retry", "exception"]
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description == "ConnectionError: away"
    assert events(third) == []
    assert third.status.status_code is StatusCode.UNSET


def test_with_links_false_a_run_is_a_child_of_the_push(server: EmbeddedTestServer) -> None:
    spans = Spans()
    traces.instrument(spans.provider, links=False)
    job = faktory.job(noop, name="work")
    with spans.tracer.start_as_current_span("request"):
        job.perform_async()
        job.perform_bulk([(), ()])
    server.drain()
    request = spans.one("request")
    assert {span.context.trace_id for span in spans.all} == {request.context.trace_id}
    single, many = spans.named("push default")
    runs = spans.named("process work")
    assert [run.parent.span_id for run in runs if run.parent] == [
        single.context.span_id,
        many.context.span_id,
        many.context.span_id,
    ]
    assert all(not run.links for run in runs)


def test_a_job_that_pushes_goes_on_with_its_trace(server: EmbeddedTestServer, spans: Spans) -> None:
    inner = faktory.job(noop, name="inner")

    @faktory.job
    def outer() -> None:
        inner.perform_async()

    outer.perform_async()
    server.drain()
    run = spans.one("process outer")
    push = spans.named("push default")[-1]
    assert push.parent is not None
    assert push.parent.span_id == run.context.span_id
    assert linked(spans.one("process inner")) == [push.context.span_id]


# What is in the job


def test_a_push_has_one_header_and_a_push_of_many_has_one_for_a_chunk(spans: Spans) -> None:
    job = faktory.external("work").set(custom={"tenant": 7})
    with testing.fake() as memory:
        job.perform_async(1)
        job.perform_bulk([(number,) for number in range(BULK_CHUNK + 2)])
        customs = [each["custom"] for each in job.jobs]
        assert memory
    headers = Counter(custom["traceparent"] for custom in customs)
    assert sorted(headers.values()) == [1, 2, BULK_CHUNK]
    assert {custom["tenant"] for custom in customs} == {7}
    ids = {f"{span.context.span_id:016x}" for span in spans.named("push default")}
    assert {header.split("-")[2] for header in headers} == ids
    counts = [attributes(span).get("messaging.batch.message_count") for span in spans.all]
    assert counts == [None, BULK_CHUNK, 2]
    assert job.options["custom"] == {"tenant": 7}


def test_the_program_chooses_the_propagator(server: EmbeddedTestServer, spans: Spans) -> None:
    b3 = pytest.importorskip("opentelemetry.propagators.b3", reason="needs the b3 propagator")
    propagate.set_global_textmap(b3.B3MultiFormat())
    seen: list[dict[str, Any]] = []

    @faktory.job
    def work() -> None:
        seen.append(faktory.current_job().custom)

    work.perform_async()
    server.drain()
    push = spans.one("push default")
    assert seen == [
        {
            "x-b3-traceid": f"{push.context.trace_id:032x}",
            "x-b3-spanid": f"{push.context.span_id:016x}",
            "x-b3-sampled": "1",
        }
    ]
    assert linked(spans.one("process work")) == [push.context.span_id]


@pytest.mark.parametrize("links", [True, False])
def test_baggage_comes_along(server: EmbeddedTestServer, links: bool) -> None:
    spans = Spans()
    traces.instrument(spans.provider, links=links)
    seen: list[object] = []

    @faktory.job
    def inner() -> None:
        seen.append(baggage.get_baggage("tenant"))

    @faktory.job
    def outer() -> None:
        seen.append(baggage.get_baggage("tenant"))
        inner.perform_async()

    token = context.attach(baggage.set_baggage("tenant", "cats"))
    outer.perform_async()
    context.detach(token)
    server.drain()
    assert seen == ["cats", "cats"]
    assert baggage.get_baggage("tenant") is None


@pytest.mark.parametrize(
    "custom",
    [
        {"traceparent": 5, "baggage": {"a": 1}, "tracestate": ["x"]},
        {"traceparent": "nonsense", "baggage": "\x00"},
        {"x": None},
    ],
)
def test_values_of_other_programs_are_not_headers(
    server: EmbeddedTestServer,
    spans: Spans,
    caplog: pytest.LogCaptureFixture,
    custom: dict[str, Any],
) -> None:
    faktory.job(noop, name="work")
    with faktory.Client(server.url) as client:
        client.push({"jobtype": "work", "args": [], "custom": custom})
    server.drain()
    assert spans.one("process work").links == ()
    assert [record for record in caplog.records if record.name == "faktory.contrib"] == []


def test_a_push_by_a_client_is_not_traced(server: EmbeddedTestServer, spans: Spans) -> None:
    faktory.job(noop, name="work")
    with faktory.Client(server.url) as client:
        client.push({"jobtype": "work", "args": []})
    server.drain()
    assert [span.name for span in spans.all] == ["process work"]
    assert spans.one("process work").links == ()


def test_a_debounced_job_stays_one(server: EmbeddedTestServer, spans: Spans) -> None:
    job = faktory.external("work").set(debounce=3600)
    with testing.fake():
        jids = {job.perform_async(1) for _ in range(3)}
        jids.update(job.perform_bulk([(1,), (1,)]))
        assert "custom" not in job.jobs[0]
    (jid,) = jids
    assert len(spans.all) == 5
    assert {attributes(span)["messaging.message.id"] for span in spans.all} == {jid}


def test_each_job_of_a_chain_has_the_header_of_the_push(
    server: EmbeddedTestServer, spans: Spans
) -> None:
    first = faktory.job(noop, name="first")
    second = faktory.job(noop, name="second", queue="low")
    faktory.chain(first.message(), second.message()).push()
    assert server.drain() == 2
    for name, queue in (("first", "default"), ("second", "low")):
        assert linked(spans.one(f"process {name}")) == [spans.one(f"push {queue}").context.span_id]


# Outcomes


@pytest.mark.parametrize(
    ("error", "options", "outcome", "status", "seen"),
    [
        (faktory.Discard("no"), {}, "discarded", StatusCode.UNSET, []),
        (KeyError("gone"), {"discard_on": KeyError}, "discarded", StatusCode.UNSET, []),
        (faktory.Retry("later", after=60), {}, "retried", StatusCode.UNSET, ["retry"]),
        (faktory.Retry("later"), {"retry": 0}, "exhausted", StatusCode.ERROR, ["exception"]),
        (faktory.Shutdown(), {}, "failed", StatusCode.UNSET, ["retry"]),
        (faktory.TimeLimitExceeded(), {}, "failed", StatusCode.ERROR, ["retry", "exception"]),
        (ValueError("bad"), {}, "failed", StatusCode.ERROR, ["retry", "exception"]),
        (ValueError("bad"), {"retry": 0}, "exhausted", StatusCode.ERROR, ["exception"]),
        (ValueError("bad"), {"retry": -1}, "exhausted", StatusCode.ERROR, ["exception"]),
        (ValueError("bad"), {"retry_on": KeyError}, "exhausted", StatusCode.ERROR, ["exception"]),
        (SystemExit(3), {}, "failed", StatusCode.ERROR, ["retry", "exception"]),
    ],
)
def test_the_span_says_how_the_run_ended(
    server: EmbeddedTestServer,
    spans: Spans,
    error: BaseException,
    options: dict[str, Any],
    outcome: str,
    status: StatusCode,
    seen: list[str],
) -> None:
    @faktory.job(**options)
    def work() -> None:
        raise error

    work.perform_async()
    server.drain()
    span = spans.one("process work")
    assert attributes(span)["messaging.faktory.outcome"] == outcome
    assert span.status.status_code is status
    assert events(span) == seen
    name = type(error).__name__
    if status is StatusCode.ERROR:
        assert attributes(span)["error.type"].rpartition(".")[2] == name
        assert (span.status.description or "").startswith(f"{name}: ")
    else:
        assert "error.type" not in attributes(span)


def test_a_push_that_fails_has_the_error(spans: Spans) -> None:
    job = faktory.external("work")
    faktory.configure(url="tcp://127.0.0.1:1")
    with pytest.raises(FaktoryError):
        job.perform_async()
    with pytest.raises(FaktoryBulkError):
        job.perform_bulk([()])
    for span in spans.named("push default"):
        assert span.status.status_code is StatusCode.ERROR
        assert attributes(span)["error.type"].startswith("faktory.exceptions.Faktory")
        assert events(span) == ["exception"]


def test_jobs_that_the_server_refuses_are_an_error_of_the_push(spans: Spans) -> None:
    job = faktory.external("work")
    with faked_server() as server:
        server.refuse = lambda job: "no" if job["args"] == [2] else None
        with pytest.raises(FaktoryBulkError):
            job.perform_bulk([(1,), (2,)])
    span = spans.one("push default")
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "1 of 2 jobs were not queued"
    assert attributes(span)["error.type"] == "faktory.exceptions.FaktoryBulkError"


# On an event loop


def test_async_pushes_and_async_jobs(server: EmbeddedTestServer, spans: Spans) -> None:
    current: list[int] = []

    @faktory.job
    async def work(number: int = 0) -> None:
        current.append(trace.get_current_span().get_span_context().span_id)
        await asyncio.sleep(0)
        with spans.tracer.start_as_current_span("inside"):
            await asyncio.sleep(0)

    async def request() -> None:
        with spans.tracer.start_as_current_span("request") as span:
            await asyncio.gather(*[work.aperform(number) for number in range(3)])
            await work.aperform_bulk([(3,), (4,)])
            assert trace.get_current_span() is span

    asyncio.run(request())
    assert server.drain() == 5
    pushes, runs = spans.named("push default"), spans.named("process work")
    asked = spans.one("request").context.span_id
    assert [span.parent.span_id for span in pushes if span.parent] == [asked] * 4
    assert [attributes(span).get("messaging.batch.message_count") for span in pushes][-1] == 2
    assert sorted(current) == sorted(span.context.span_id for span in runs)
    assert {span.parent.span_id for span in spans.named("inside") if span.parent} == set(current)
    assert {link for run in runs for link in linked(run)} == {
        push.context.span_id for push in pushes
    }


def test_an_async_push_that_fails_has_the_error(spans: Spans) -> None:
    job = faktory.external("work")
    faktory.configure(url="tcp://127.0.0.1:1")

    async def main() -> None:
        with pytest.raises(FaktoryError):
            await job.aperform()
        with pytest.raises(FaktoryError):
            await job.aperform_bulk([()])
        assert not trace.get_current_span().get_span_context().is_valid

    asyncio.run(main())
    assert [span.status.status_code for span in spans.all] == [StatusCode.ERROR] * 2


# It breaks nothing, and costs nothing where it is off


@pytest.mark.parametrize("broken", ["start_span", *SPAN_METHODS, "inject", "extract"])
def test_a_tracer_that_raises_breaks_no_push_and_no_job(
    server: EmbeddedTestServer, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    if broken in ("inject", "extract"):
        propagate.set_global_textmap(BrokenPropagator(broken))
    traces.instrument(BrokenProvider(broken))
    done: list[int] = []

    @faktory.job(retry=0)
    def work(number: int) -> None:
        done.append(number)
        if number == 2:
            raise ValueError(number)

    assert len(work.perform_async(1)) == 24
    work.perform_async(2)
    assert len(work.perform_bulk([(3,), (4,)])) == 2

    async def main() -> None:
        await work.aperform(5)
        await work.aperform_bulk([(6,)])

    asyncio.run(main())
    assert server.drain() == 6
    assert done == [1, 2, 3, 4, 5, 6]
    assert [type(error) for error in server.worker.errors] == [ValueError]
    logged = [record for record in caplog.records if record.name == "faktory.contrib"]
    called = broken not in ("set_attributes", "add_link", "update_name", "is_recording")
    called = called and broken != "add_event"  # the job is not tried again
    assert len(logged) == called
    for record in logged:
        assert record.levelno == logging.ERROR
        assert "OpenTelemetry raised" in record.getMessage()
        assert record.exc_info is not None
    assert not trace.get_current_span().get_span_context().is_valid


def test_a_span_of_another_kind_breaks_no_push_and_no_job(
    server: EmbeddedTestServer, caplog: pytest.LogCaptureFixture
) -> None:
    class Provider(trace.NoOpTracerProvider):
        def get_tracer(self, *_: Any, **__: Any) -> Any:
            return SimpleNamespace(start_span=lambda *_, **__: object())

    traces.instrument(Provider())

    @faktory.job
    def work() -> None: ...

    work.perform_async()
    work.perform_bulk([()])
    assert server.drain() == 2
    assert [record.name for record in caplog.records if "OpenTelemetry" in record.message] == [
        "faktory.contrib"
    ]


def test_no_code_runs_where_it_is_off() -> None:
    before = list(client_middleware), list(worker_middleware)
    assert client_middleware.bulk is not None
    traces.instrument()
    assert len(worker_middleware) == len(before[1]) + 1
    assert client_middleware.bulk is not None  # and a push of many is still rendered at once
    traces.uninstrument()
    traces.uninstrument()
    assert (list(client_middleware), list(worker_middleware)) == before


def test_a_second_call_takes_the_place_of_the_first(server: EmbeddedTestServer) -> None:
    first, second = Spans(), Spans()
    traces.instrument(first.provider)
    traces.instrument(second.provider)
    faktory.job(noop, name="work").perform_async()
    server.drain()
    assert first.all == ()
    assert [span.name for span in second.all] == ["push default", "process work"]
    with pytest.raises(TypeError, match="links is 1"):
        traces.instrument(links=1)  # type: ignore[arg-type]


def test_without_a_provider_nothing_is_recorded(server: EmbeddedTestServer) -> None:
    traces.instrument()
    job = faktory.job(noop, name="work")
    job.perform_async()
    assert server.drain() == 1


def test_the_instrumentor_of_opentelemetry_does_the_same(server: EmbeddedTestServer) -> None:
    pytest.importorskip("opentelemetry.instrumentation", reason="needs opentelemetry-distro")
    spans = Spans()
    instrumentor = traces.FaktoryInstrumentor()
    assert type(instrumentor) is traces.FaktoryInstrumentor
    instrumentor.instrument(tracer_provider=spans.provider, links=False)
    faktory.job(noop, name="work").perform_async()
    server.drain()
    push, run = spans.all
    assert run.parent is not None
    assert run.parent.span_id == push.context.span_id
    instrumentor.uninstrument()
    assert len(worker_middleware) == 0
    with pytest.raises(AttributeError):
        traces.Instrumentor  # noqa: B018

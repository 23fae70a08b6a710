"""Put around the pushes and runs of this process what FAKTORY_BENCH_AROUND names.

plain    a client middleware that adds a header to each job
bulk     the same, with a form for many jobs at once
otel     faktory.contrib.opentelemetry, with the SDK and its batches, which go nowhere
sentry   faktory.contrib.sentry, with a transaction for each run, which goes nowhere
"""

import os

import faktory


def plain(payload, call_next):
    payload["custom"] = {**(payload.get("custom") or {}), "traceparent": "0" * 55}
    return call_next()


def many(fields, count, call_next):
    return plain(fields, call_next)


def otel():
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    from faktory.contrib import opentelemetry

    class Nowhere(SpanExporter):
        def export(self, spans):
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    opentelemetry.instrument(provider)


def sentry():
    import sentry_sdk
    from sentry_sdk.transport import Transport

    from faktory.contrib.sentry import FaktoryIntegration

    class Nowhere(Transport):
        def capture_envelope(self, envelope): ...

    sentry_sdk.init(
        "http://key@127.0.0.1:1/1",
        transport=Nowhere,
        traces_sample_rate=1.0,
        integrations=[FaktoryIntegration()],
        auto_enabling_integrations=False,
    )


WAYS = {
    "": lambda: None,
    "plain": lambda: faktory.client_middleware.add(plain),
    "bulk": lambda: faktory.client_middleware.add(plain, bulk=many),
    "otel": otel,
    "sentry": sentry,
}
WAYS[os.environ.get("FAKTORY_BENCH_AROUND", "")]()

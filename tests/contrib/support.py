"""Tracers and propagators that raise, and a program whose spans and events are printed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opentelemetry.context import Context
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, Tracer

SPAN_METHODS = [
    "end",
    "get_span_context",
    "set_attribute",
    "set_attributes",
    "add_event",
    "add_link",
    "update_name",
    "is_recording",
    "set_status",
    "record_exception",
]


class Broken(Exception):
    """Raised by a tracer."""


def _forward(name: str) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if name == self.broken:
            raise Broken(name)
        return getattr(self.inner, name)(*args, **kwargs)

    return call


class _BrokenSpan(Span):
    """A span of which one method raises."""

    def __init__(self, inner: Span, broken: str) -> None:
        self.inner = inner
        self.broken = broken


# It is abstract, so the methods have to be there when the class is made.
BrokenSpan = type("BrokenSpan", (_BrokenSpan,), {name: _forward(name) for name in SPAN_METHODS})


class BrokenTracer(Tracer):
    def __init__(self, inner: Tracer, broken: str) -> None:
        self.inner = inner
        self.broken = broken

    def start_span(self, *args: Any, **kwargs: Any) -> Span:
        if self.broken == "start_span":
            raise Broken("start_span")
        span: Span = BrokenSpan(self.inner.start_span(*args, **kwargs), self.broken)
        return span

    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


class BrokenProvider(TracerProvider):
    """A provider whose tracers and spans raise in the method of this name."""

    def __init__(self, broken: str) -> None:
        super().__init__()
        self.broken = broken

    def get_tracer(self, *args: Any, **kwargs: Any) -> Tracer:
        return BrokenTracer(super().get_tracer(*args, **kwargs), self.broken)


class BrokenPropagator(TextMapPropagator):
    """A propagator that raises in the method of this name."""

    fields = frozenset({"broken"})

    def __init__(self, broken: str) -> None:
        self.broken = broken

    def inject(self, carrier: Any, *args: Any, **kwargs: Any) -> None:
        carrier["broken"] = "yes"
        if self.broken == "inject":
            raise Broken("inject")

    def extract(self, carrier: Any, context: Context | None = None, *args: Any) -> Context:
        if self.broken == "extract":
            raise Broken("extract")
        return context or Context()

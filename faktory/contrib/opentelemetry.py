"""Spans of pushes and of runs, by OpenTelemetry: the extra `otel`.

Rules: a tracer, span, propagator or processor that raises breaks no push and no job. One push has
one span and one header, a PUSHB of many jobs too. A job that is tried again carries the header of
its first push. Names of attributes are those of the conventions for messaging, which still change:
they are written out here.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import Token
from functools import partial
from importlib import import_module
from typing import Any, Final, NamedTuple

from faktory import FaktoryBulkError, Shutdown, __version__, client_middleware, worker_middleware
from faktory.jobs import JobContext, Next, outcome_of

from .guard import End, Guard, around, class_of, full_name, text_of

try:
    from opentelemetry import context as contexts
    from opentelemetry import propagate, trace
    from opentelemetry.context import Context
    from opentelemetry.propagators.textmap import Getter
    from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TracerProvider
except ImportError as error:
    raise ImportError(
        f"faktory.contrib.opentelemetry needs opentelemetry-api ({error}): "
        "pip install 'faktory-worker[otel]'"
    ) from error

_SYSTEM: Final = "messaging.system"
_DESTINATION: Final = "messaging.destination.name"
_OPERATION: Final = "messaging.operation.name"
_OPERATION_TYPE: Final = "messaging.operation.type"
_MESSAGE_ID: Final = "messaging.message.id"
_COUNT: Final = "messaging.batch.message_count"
_ERROR_TYPE: Final = "error.type"
# Of ours, in the namespace that the conventions leave to a system.
_JOBTYPE: Final = "messaging.faktory.jobtype"
_ATTEMPT: Final = "messaging.faktory.attempt"
_OUTCOME: Final = "messaging.faktory.outcome"

_guard: Final = Guard("OpenTelemetry")

_current: _Middleware | None = None


def instrument(tracer_provider: TracerProvider | None = None, links: bool = True) -> None:
    """Trace pushes and runs from now on, by this provider, or by OpenTelemetry's global one.

    A run is a trace of its own, with a link to the push of its job. With `links=False` it is a
    child of that. A second call takes the place of the first one.
    """
    global _current
    if not isinstance(links, bool):
        raise TypeError(f"links is {links!r}: it must be True or False.")
    middleware = _Middleware(
        trace.get_tracer("faktory", __version__, tracer_provider=tracer_provider), links
    )
    uninstrument()
    _current = middleware
    client_middleware.add(middleware.push, bulk=middleware.push_many)
    worker_middleware.prepend(middleware.run)


def uninstrument() -> None:
    """Trace no more."""
    global _current
    if _current is not None:
        client_middleware.remove(_current.push)
        worker_middleware.remove(_current.run)
        _current = None


class _Open(NamedTuple):
    """A span that is the current one, and what ends that."""

    span: Span
    token: Token[Context]


class _Middleware:
    def __init__(self, tracer: trace.Tracer, links: bool) -> None:
        self._tracer = tracer
        self._links = links

    # Pushes

    def push(self, payload: dict[str, Any], call_next: Next) -> object:
        """Push a job in a span."""
        opened = _guard.call(self._open_push, payload, None)
        if opened is None:
            return call_next()
        return _in_span(opened, call_next, partial(_end_push, opened.span, payload, None))

    def push_many(self, fields: dict[str, Any], count: int, call_next: Next) -> object:
        """Push the jobs of a PUSHB in one span."""
        opened = _guard.call(self._open_push, fields, count)
        if opened is None:
            return call_next()
        return _in_span(opened, call_next, partial(_end_push, opened.span, fields, count))

    def _open_push(self, job: dict[str, Any], count: int | None) -> _Open:
        queue = str(job.get("queue", "default"))
        attributes: dict[str, Any] = {
            _SYSTEM: "faktory",
            _DESTINATION: queue,
            _OPERATION: "push",
            _OPERATION_TYPE: "send",
            _JOBTYPE: str(job.get("jobtype")),
        }
        if count is not None:
            attributes[_COUNT] = count
        elif "jid" in job:
            attributes[_MESSAGE_ID] = str(job["jid"])
        span = self._tracer.start_span(
            f"push {queue}", kind=SpanKind.PRODUCER, attributes=attributes
        )
        context = trace.set_span_in_context(span)
        # The header would make another job of each push of a debounced one, whose times are equal.
        if "at" not in job or job["at"] != job.get("created_at"):
            _guard.call(_inject, job, context)
        return _Open(span, contexts.attach(context))

    # Runs

    def run(self, job: JobContext, payload: dict[str, Any], call_next: Next) -> object:
        """Run a job in a span."""
        opened = _guard.call(self._open_run, job, payload)
        if opened is None:
            return call_next()
        return _in_span(opened, call_next, partial(_end_run, opened.span, job))

    def _open_run(self, job: JobContext, payload: dict[str, Any]) -> _Open:
        pushed = Context()
        if custom := payload.get("custom"):
            pushed = _guard.call(propagate.extract, custom, pushed, _GETTER) or pushed
        links: list[Link] = []
        if self._links and (origin := _guard.call(_span_context_in, pushed)) is not None:
            links.append(Link(origin))
        jobtype = job.jobtype
        span = self._tracer.start_span(
            f"process {jobtype}",
            context=Context() if self._links else pushed,
            kind=SpanKind.CONSUMER,
            attributes={
                _SYSTEM: "faktory",
                _DESTINATION: job.queue,
                _OPERATION: "process",
                _OPERATION_TYPE: "process",
                _MESSAGE_ID: job.jid,
                _JOBTYPE: jobtype,
                _ATTEMPT: job.attempt,
            },
            links=links,
        )
        # `pushed` has the baggage.
        return _Open(span, contexts.attach(trace.set_span_in_context(span, pushed)))


def _end_push(
    span: Span, job: dict[str, Any], count: int | None, error: BaseException | None, result: object
) -> None:
    if error is not None:
        _record(span, error)
    elif count is None:
        # A middleware inside of this one may have set it, and debouncing does.
        span.set_attribute(_MESSAGE_ID, str(job.get("jid")))
    elif isinstance(result, list) and len(result) < count:
        _guard.call(span.set_attribute, _ERROR_TYPE, full_name(FaktoryBulkError))
        text = f"{count - len(result)} of {count} jobs were not queued"
        span.set_status(Status(StatusCode.ERROR, text))


def _end_run(span: Span, job: JobContext, error: BaseException | None, _: object) -> None:
    if error is None:
        span.set_attribute(_OUTCOME, "done")
        return
    outcome = outcome_of(job, error)
    _guard.call(span.set_attribute, _OUTCOME, outcome)
    if outcome in ("failed", "retried"):
        about: dict[str, Any] = {_ATTEMPT: job.attempt, _ERROR_TYPE: class_of(error)}
        _guard.call(span.add_event, "retry", about)
    is_wanted = outcome in ("discarded", "retried") or issubclass(type(error), Shutdown)
    if not is_wanted:
        _record(span, error)


def _in_span(opened: _Open, call_next: Next, end: End) -> object:
    def close(error: BaseException | None, result: object) -> None:
        try:
            _guard.call(end, error, result)
            _guard.call(lambda: opened.span.end())  # which may not even be there
        finally:  # an interrupt of the job may come in between
            _guard.call(contexts.detach, opened.token)

    return around(call_next, close)


def _record(span: Span, error: BaseException) -> None:
    """Say that the span has ended with an error."""
    _guard.call(span.set_attribute, _ERROR_TYPE, class_of(error))
    _guard.call(span.record_exception, error)
    _guard.call(span.set_status, Status(StatusCode.ERROR, text_of(error)))


def _inject(job: dict[str, Any], context: Context) -> None:
    """Put the headers of a context, as the program's propagator makes them, into `custom`."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context)
    custom = job.get("custom")
    if carrier and (custom is None or isinstance(custom, dict)):
        job["custom"] = {**(custom or {}), **{str(k): str(v) for k, v in carrier.items()}}


class _TextGetter(Getter[Mapping[str, Any]]):
    """Reads headers in `custom`, where a program may have values of any kind."""

    def get(self, carrier: Mapping[str, Any], key: str) -> list[str] | None:
        value = carrier.get(key)
        return [value] if isinstance(value, str) else None

    def keys(self, carrier: Mapping[str, Any]) -> list[str]:
        return list(carrier)


_GETTER: Final = _TextGetter()


def _span_context_in(context: Context) -> trace.SpanContext | None:
    found = trace.get_current_span(context).get_span_context()
    return found if found.is_valid else None


def __getattr__(name: str) -> Any:
    """Make the class for `opentelemetry-instrument`, of a package that nothing else needs."""
    if name != "FaktoryInstrumentor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    base: Any = import_module("opentelemetry.instrumentation.instrumentor").BaseInstrumentor

    class FaktoryInstrumentor(base):  # type: ignore[misc]
        """`instrument` and `uninstrument` for OpenTelemetry's tools."""

        def instrumentation_dependencies(self) -> tuple[str, ...]:
            return ()

        def _instrument(self, **kwargs: Any) -> None:
            instrument(kwargs.get("tracer_provider"), kwargs.get("links", True))

        def _uninstrument(self, **kwargs: Any) -> None:  # noqa: ARG002
            uninstrument()

    globals()[name] = FaktoryInstrumentor
    return FaktoryInstrumentor

"""Reports of errors and transactions to Sentry: the extra `sentry`.

Rules: what the SDK raises breaks no push and no job. What steers a job (Discard, Retry, Shutdown)
is not an error. Arguments of jobs are sent where the SDK may send personal data only.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Final, Literal

from faktory import Discard, Shutdown, TimeLimitExceeded, client_middleware, worker_middleware
from faktory.jobs import JobContext, Next, Outcome, outcome_of

from .guard import Guard, around

try:
    import sentry_sdk
    from sentry_sdk.integrations import Integration
    from sentry_sdk.utils import event_from_exception
except ImportError as error:
    raise ImportError(
        f"faktory.contrib.sentry needs sentry_sdk ({error}): pip install 'faktory-worker[sentry]'"
    ) from error

_REPORTS: Final = ("exhausted", "all")
_HEADERS: Final = ("sentry-trace", "baggage")
_ORIGIN: Final = "auto.queue.faktory"

_guard: Final = Guard("Sentry")


class FaktoryIntegration(Integration):  # type: ignore[misc,unused-ignore]
    """For `sentry_sdk.init(integrations=[FaktoryIntegration()])`.

    `report` says which errors of jobs are events: "exhausted", those after which the job is dead,
    or "all", those of each attempt.
    """

    identifier = "faktory"

    def __init__(self, report: Literal["exhausted", "all"] = "exhausted") -> None:
        if report not in _REPORTS:
            raise ValueError(f"report is {report!r}: it must be 'exhausted' or 'all'.")
        self.report = report

    @staticmethod
    def setup_once() -> None:
        """Add the middleware; the SDK calls this."""
        client_middleware.add(_push, bulk=_push_many)
        worker_middleware.prepend(_run)


def _integration() -> Any:
    """Return the integration of the client that is active here; None if it has none."""
    return sentry_sdk.get_client().get_integration(FaktoryIntegration)


# Pushes


def _push(payload: dict[str, Any], call_next: Next) -> object:
    return _push_in_span(payload, {"messaging.message.id": payload.get("jid")}, call_next)


def _push_many(fields: dict[str, Any], count: int, call_next: Next) -> object:
    return _push_in_span(fields, {"messaging.batch.message_count": count}, call_next)


def _push_in_span(job: dict[str, Any], data: dict[str, Any], call_next: Next) -> object:
    stack = _guard.call(_open_push, job, data)
    if stack is None:
        return call_next()

    def end(error: BaseException | None, _: object) -> None:
        _guard.call(stack.__exit__, type(error) if error else None, error, None)

    return around(call_next, end)


def _open_push(job: dict[str, Any], data: dict[str, Any]) -> ExitStack | None:
    if _integration() is None:
        return None
    queue = str(job.get("queue", "default"))
    with ExitStack() as stack:
        if sentry_sdk.get_current_span() is not None:
            span = sentry_sdk.start_span(op="queue.publish", name=f"push {queue}", origin=_ORIGIN)
            stack.enter_context(span)
            for name, value in {**data, "messaging.destination.name": queue}.items():
                span.set_data(name, value)
        # The header would make another job of each push of a debounced one, whose times are equal.
        if "at" not in job or job["at"] != job.get("created_at"):
            _guard.call(_put_headers, job)
        return stack.pop_all()
    return None


def _put_headers(job: dict[str, Any]) -> None:
    custom = job.get("custom")
    made = (sentry_sdk.get_traceparent(), sentry_sdk.get_baggage())
    headers = {name: value for name, value in zip(_HEADERS, made, strict=True) if value}
    if not headers or not (custom is None or isinstance(custom, dict)):
        return
    custom = custom or {}
    if isinstance(before := custom.get("baggage"), str) and "baggage" in headers:
        others = [item for item in before.split(",") if not item.strip().startswith("sentry-")]
        headers["baggage"] = ",".join([*others, headers["baggage"]])
    job["custom"] = {**custom, **headers}


# Runs


def _run(job: JobContext, payload: dict[str, Any], call_next: Next) -> object:
    opened = _guard.call(_open_run, job, payload)
    if opened is None:
        return call_next()
    stack, transaction = opened

    def end(error: BaseException | None, _: object) -> None:
        try:
            _guard.call(_end_run, job, transaction, error)
        finally:  # an interrupt of the job may come in between
            _guard.call(stack.close)

    return around(call_next, end)


def _open_run(job: JobContext, payload: dict[str, Any]) -> tuple[ExitStack, Any] | None:
    if _integration() is None:
        return None
    with ExitStack() as stack:
        scope = stack.enter_context(sentry_sdk.isolation_scope())
        scope.clear_breadcrumbs()
        about = {"jid": job.jid, "jobtype": job.jobtype, "attempt": job.attempt}
        for name, value in about.items():
            scope.set_tag(name, value)
        context = {**about, "queue": job.queue, "retries_remaining": job.retries_remaining}
        if _may_send_arguments():
            context["args"] = payload.get("args")
        scope.set_context("faktory", context)
        transaction = _guard.call(_open_transaction, job, payload)
        if transaction is not None:
            stack.enter_context(transaction)
        return stack.pop_all(), transaction
    return None


def _open_transaction(job: JobContext, payload: dict[str, Any]) -> Any:
    custom = payload.get("custom") or {}
    headers = {name: custom[name] for name in _HEADERS if isinstance(custom.get(name), str)}
    transaction = sentry_sdk.continue_trace(
        headers, op="queue.process", name=job.jobtype, source="task", origin=_ORIGIN
    )
    transaction.set_data("messaging.message.id", job.jid)
    transaction.set_data("messaging.destination.name", job.queue)
    transaction.set_data("messaging.message.retry.count", job.attempt - 1)
    about = {"jid": job.jid, "jobtype": job.jobtype, "queue": job.queue}
    return sentry_sdk.start_transaction(transaction, custom_sampling_context={"faktory": about})


def _end_run(job: JobContext, transaction: Any, error: BaseException | None) -> None:
    outcome = None if error is None else outcome_of(job, error)
    if transaction is not None:
        _guard.call(transaction.set_status, _status(outcome, error))
    if error is None or outcome is None or issubclass(type(error), (Discard, Shutdown)):
        return
    integration = _integration()
    if integration is None:
        return
    if outcome == "exhausted" or (outcome == "failed" and integration.report == "all"):
        _report(error)


def _status(outcome: Outcome | None, error: BaseException | None) -> str:
    if outcome is None or outcome == "discarded":
        return "ok"
    if outcome == "retried" or issubclass(type(error), Shutdown):
        return "aborted"
    is_late = issubclass(type(error), TimeLimitExceeded)
    return "deadline_exceeded" if is_late else "internal_error"


def _report(error: BaseException) -> None:
    event, hint = event_from_exception(
        (type(error), error, error.__traceback__),
        client_options=sentry_sdk.get_client().options,
        mechanism={"type": "faktory", "handled": False},
    )
    if not _may_send_arguments():  # which are local variables, too
        for value in event["exception"]["values"]:
            for frame in (value.get("stacktrace") or {}).get("frames", ()):
                frame.pop("vars", None)
    sentry_sdk.capture_event(event, hint=hint)


def _may_send_arguments() -> bool:
    client = sentry_sdk.get_client()
    collected: Any = client.options.get("data_collection")  # what newer versions have in its place
    if collected and collected.get("provided_by_user"):
        return bool(collected.get("queues"))
    return client.should_send_default_pii()

"""What follows when a job fails: the server's retry, one of the job's own, burial, or nothing.

Rules: it is decided where the job ran, by the class of what it raised, and nothing in here raises
for it. In doubt it is the server's FAIL, which loses no job. A job that is pushed again keeps its
jid, and carries the record of its failures on, from which the server goes on counting.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, Protocol

from ..exceptions import Discard, Retry, Shutdown
from ..wire import failure
from ..wire.payload import DEFAULT_RETRY
from ..wire.validate import brief, check_instant, show, signature_of
from . import backoff
from .backoff import Backoff, check_delay
from .context import JobContext
from .validation import deferred

LEAST_AHEAD: Final = 3.0
"""Seconds from now to the `at` of a job that is pushed again. Until then its PUSH can be repeated:
a scheduled job is the same entry each time (`storage/sorted_redis.go: AddElement`). The server
looks for scheduled jobs every 5 s."""

UNCOUNTED_DELAY: Final = 15.0
"""Seconds until a run that is not counted, where neither `after` nor a backoff says so."""

_INSTEAD: Final = "; the server's own wait counts instead"

_KEPT_BY_SERVER: Final = {
    "bid": "is in a batch",
    "_bid": "is the callback of a batch",
    "unique_for": "is unique",
    "track": "is tracked",
}
"""Custom values of jobs of which Faktory Enterprise keeps more than the job; it would not take the
same job, pushed again, for the next attempt."""


class Policy(NamedTuple):
    """What a job declares of its failures; see `Declared`."""

    retry_on: tuple[type[BaseException], ...] | None
    discard_on: tuple[type[BaseException], ...]
    backoff: Backoff | None


class Verdict(NamedTuple):
    """What a failed run leads to.

    "fail": FAIL, so the server decides; "discard": ACK; "bury": it is dead at once; "again": it is
    pushed again, `delay` seconds ahead, and uses up an attempt if it is `counted`. `note` says why
    it is not what the job asked for, for the log; `is_fault` whether that is an error in the
    program, and not the server's way.
    """

    outcome: Literal["fail", "discard", "bury", "again"]
    delay: float = 0.0
    counted: bool = True
    note: str = ""
    is_fault: bool = False


FAIL: Final = Verdict("fail")
DISCARD: Final = Verdict("discard")
BURY: Final = Verdict("bury")


class _HasPolicy(Protocol):
    @property
    def policy(self) -> Policy | None: ...


def judge(task: _HasPolicy | None, job: JobContext, error: BaseException) -> Verdict:
    """Decide what follows from what a job raised; `task` runs it, None if nothing does.

    Never raises. A job whose last attempt this was ends with "fail", also where its policy buries
    it: the server does that.
    """
    try:
        return _judge(None if task is None else task.policy, job, error)
    except BaseException as second:  # of a class with methods of its own
        return _fault(f"what it raised cannot be judged: {_text(second)}")


def _fault(note: str) -> Verdict:
    return Verdict("fail", note=note, is_fault=True)


def _judge(policy: Policy | None, job: JobContext, error: BaseException) -> Verdict:
    kind = type(error)
    if issubclass(kind, Discard):
        return DISCARD
    if issubclass(kind, Retry):
        return _again(job, policy, error.after, error.count)  # type: ignore[attr-defined]
    if policy is None or issubclass(kind, Shutdown):
        return FAIL
    if issubclass(kind, policy.discard_on):
        return DISCARD
    if policy.retry_on is not None and not issubclass(kind, policy.retry_on):
        return BURY if job.retries_remaining else FAIL
    return FAIL if policy.backoff is None else _again(job, policy, None, True)


def _again(job: JobContext, policy: Policy | None, after: object, counted: bool) -> Verdict:
    if counted and not job.retries_remaining:
        return FAIL
    if after is None:
        if policy is not None and policy.backoff is not None:
            try:
                after = policy.backoff(job.attempt)
            except BaseException as error:
                return _fault(f"its backoff raised {_text(error)}{_INSTEAD}")
        elif counted:
            return FAIL
        else:
            after = UNCOUNTED_DELAY
    try:
        delay = max(check_delay("the wait", after), LEAST_AHEAD)
    except ValueError as error:
        reason = failure.clean(error, 500).rstrip(".")
        return _fault(f"its backoff returned no wait: {reason}{_INSTEAD}")
    if what := kept_by_server(job):
        return Verdict("fail", note=f"it {what}, so the server's own wait counts")
    return Verdict("again", delay, counted)


Outcome = Literal["failed", "retried", "discarded", "exhausted"]


def outcome_of(job: JobContext, error: BaseException) -> Outcome:
    """Return what follows from what a job raised: for a worker middleware that sees the error.

    "failed" and "retried": another attempt, which the job has asked for by `Retry` if it is
    "retried". "discarded": nothing, the job counts as done. "exhausted": nothing, the job is dead.
    A worker that gives the jobs back which it interrupts by `Shutdown` does so also with those that
    are "exhausted". Never raises.
    """
    kind = type(error)
    policy = job._policy
    asked = issubclass(kind, Retry)
    if issubclass(kind, Discard):
        return "discarded"
    verdict = getattr(error, "verdict", None)  # of an error from another process
    if isinstance(verdict, Verdict):
        if verdict.outcome == "discard":
            return "discarded"
        goes_on = verdict.outcome == "again"
        goes_on |= verdict.outcome == "fail" and job.retries_remaining > 0
    elif asked:
        goes_on = job.retries_remaining > 0
        goes_on |= not error.count and not kept_by_server(job)  # type: ignore[attr-defined]
    else:
        if policy is not None and not issubclass(kind, Shutdown):
            if issubclass(kind, policy.discard_on):
                return "discarded"
            if policy.retry_on is not None and not issubclass(kind, policy.retry_on):
                return "exhausted"
        goes_on = job.retries_remaining > 0
    if not goes_on:
        return "exhausted"
    return "retried" if asked else "failed"


def kept_by_server(job: JobContext) -> str:
    """Return why a job cannot be pushed again, as in "is unique"; empty if it can."""
    custom = job.as_fetched().get("custom") or {}
    return next((what for name, what in _KEPT_BY_SERVER.items() if custom.get(name)), "")


def again(
    payload: dict[str, Any], verdict: Verdict, report: tuple[str, str, list[str]], now: datetime
) -> dict[str, Any]:
    """Return the wire dict by which a job is pushed again, as `verdict` says.

    `payload` is the job as it was fetched (`JobContext.as_fetched`), `report` what FAIL would have
    said, `now` is aware. The record of failures is what the server would have made of that FAIL
    (`manager/retry.go: processFailure`). A run that is not counted leaves the numbers as they are;
    before the first failure there is no record then, as there is none without numbers.

    Another client's job may hold what this one does not send (an integer beyond 2^53): then
    `commands.push` raises FaktoryPayloadError for it.
    """
    at = check_instant("at", now + timedelta(seconds=max(verdict.delay, LEAST_AHEAD)))
    job = {name: value for name, value in payload.items() if name != "enqueued_at"}
    job["at"] = at
    before = payload.get("failure")
    retry = payload.get("retry")
    if before:
        count, remaining = before.get("retry_count") or 0, before.get("remaining") or 0
        if verdict.counted:
            count, remaining = count + 1, max(remaining - 1, 0)
    elif verdict.counted:
        count, remaining = 0, DEFAULT_RETRY if retry is None else retry
    else:
        return job
    errtype, message, backtrace = report
    job["failure"] = {
        "retry_count": count,
        "remaining": remaining,
        "failed_at": check_instant("failed_at", now),
        "next_at": at,
        "errtype": errtype,
        "message": message,
    }
    if backtrace:
        job["failure"]["backtrace"] = backtrace
    return job


def take_policy(options: dict[str, Any]) -> Policy | None:
    """Remove what a job declares of its failures from its options; None if that is nothing.

    TypeError, with the remedy, for what is not a class of exceptions, or not a backoff.
    """
    retry_on = _classes("retry_on", options.pop("retry_on", None))
    discard_on = _classes("discard_on", options.pop("discard_on", None))
    wait = options.pop("backoff", None)
    if retry_on == ():
        raise TypeError(
            "retry_on is empty, so nothing would be tried again: that is retry=-1, which buries "
            "the job with its first failure. For all exceptions leave retry_on out."
        )
    if any(issubclass(each, Shutdown) for each in discard_on or ()):
        raise TypeError(
            "discard_on has Shutdown: a job that a stopping worker interrupts is always tried "
            "again. Leave that out."
        )
    if wait is not None:
        _check_backoff(wait)
    if retry_on is None and not discard_on and wait is None:
        return None
    return Policy(retry_on, discard_on or (), wait)


def _classes(name: str, value: object) -> tuple[type[BaseException], ...] | None:
    if value is None:
        return None
    given = [value] if isinstance(value, type | str) or not isinstance(value, Iterable) else value
    classes = tuple(given)
    for each in classes:
        if not isinstance(each, type) or not issubclass(each, BaseException):
            raise TypeError(
                f"{name} has {show(each)}: it must be a class of exceptions, or a tuple of them, "
                f"like {name}=(ConnectionError, TimeoutError)."
            )
    return classes


def _check_backoff(value: object) -> None:
    for made in (backoff.constant, backoff.linear, backoff.exponential):
        if value is made:
            name = f"faktory.backoff.{made.__name__}"
            raise TypeError(f"backoff is {name} itself: call it, like {name}(30).")
    if not callable(value):
        raise TypeError(
            f"backoff is {show(value)}: it must be a function from the number of the attempt to "
            "seconds. For the same wait each time: faktory.backoff.constant(30)."
        )
    if what := deferred(value):
        raise TypeError(f"backoff is {what}, and nothing awaits it: pass a plain function.")
    try:
        signature = signature_of(value)
    except ValueError:  # of some that are written in C
        return
    try:
        signature.bind(1)
    except TypeError as error:
        raise TypeError(
            f"backoff is {brief(value)}, and it cannot be called with the number of the attempt "
            f"alone: {error}. It takes that and returns seconds: lambda attempt: 30 * attempt."
        ) from None


def _text(error: BaseException) -> str:
    return failure.clean(f"{failure.name_of(error)}: {failure.text_of(error)}", 500)

"""A job as a dict with the server's field names: completed and checked before it is sent, and
checked when it was fetched.

A value that the server would refuse, drop or silently lose is refused here, by field, before
anything is sent. The encoder checks what is inside `args` and `custom`. No clock in here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeGuard

from ..exceptions import FaktoryPayloadError
from ..proto import complete_job, new_jid
from .validate import check_duration, check_instant, check_queue, show, valid_queues

DEFAULT_RETRY: Final = 25
"""Attempts after the first, as in every other client of Faktory."""

MAX_RESERVE: Final = 86_400
"""Seconds: the server reserves a job for a day at most (`manager/manager.go: Push`)."""


MAX_COUNT: Final = 2**53
"""The most attempts, or lines, that a job may ask for: the largest integer that is sent. The server
takes a few more, up to 2^63 - 1."""


INVALID_JOB: Final = "InvalidJob"
"""The error type of the FAIL of a fetched job that cannot be run as it is."""


def prepare(job: Mapping[str, object]) -> dict[str, Any]:
    """Return the job to send: a new dict, with `jid`, `queue` and `retry` filled in.

    FaktoryPayloadError names the field. `retry` is always explicit: the server's own default
    leaks from one job into the next (`server/commands.go: push`).
    """
    completed = complete_job(job, valid_queues, DEFAULT_RETRY)
    if completed is not None:
        return completed
    if type(job) is not dict and not isinstance(job, dict):
        raise FaktoryPayloadError(
            f"a job is a dict with at least 'jobtype' and 'args', not {show(job)}."
        )
    sent: dict[str, Any] = {**_COMPLETE, **job}
    jobtype, args, queue = sent["jobtype"], sent["args"], sent["queue"]
    jid, retry = sent["jid"], sent["retry"]
    if jobtype is _MISSING or args is _MISSING:
        missing = "jobtype" if jobtype is _MISSING else "args"
        raise FaktoryPayloadError(f"the job has no {missing!r}: it needs 'jobtype' and 'args'.")
    if (type(jobtype) is not str and not isinstance(jobtype, str)) or not jobtype:
        raise FaktoryPayloadError(f"jobtype is {show(jobtype)}: it must be text, and not empty.")
    if type(args) is not list and not isinstance(args, (list, tuple)):
        raise FaktoryPayloadError(f"args is {show(args)}: it must be a list, [] for no arguments.")
    sent["jid"] = new_jid() if jid is None else check_jid("jid", jid)
    if type(queue) is not str or queue not in valid_queues:
        check_queue("queue", queue)
    if retry is not DEFAULT_RETRY:
        sent["retry"] = DEFAULT_RETRY if retry is None else _check_retry("retry", retry)
    if len(sent) > len(_COMPLETE):
        for name in job:
            if name not in _COMPLETE:
                sent[name] = _check_other(name, job[name])
    return sent


_MISSING: Final = object()

_COMPLETE: Final[dict[str, object]] = {
    "jid": None,
    "jobtype": _MISSING,
    "queue": "default",
    "args": _MISSING,
    "retry": DEFAULT_RETRY,
}
"""The fields that each job is sent with, in their order."""


def _check_other(name: str, value: object) -> object:
    check = _OTHERS.get(name)
    if check is None:
        raise FaktoryPayloadError(
            f"{name!r} is not a field of a job, so the server would drop it. "
            "Put values of your own into 'custom'."
        )
    return None if value is None else check(name, value)


def check_jid(name: str, value: object) -> str:
    """Return the jid of a new job if the server accepts it."""
    if (
        isinstance(value, str)
        and len(value.encode("utf-8", "replace")) >= 8
        and value.isprintable()
        and " " not in value
    ):
        return value
    raise FaktoryPayloadError(
        f"{name} is {show(value)}: it must be text of 8 bytes or more, without spaces."
    )


def _check_dict(name: str, value: object) -> object:
    if isinstance(value, dict):
        return value
    raise FaktoryPayloadError(f"{name} is {show(value)}: it must be a dict.")


def _check_integer(minimum: int, unit: str) -> Callable[[str, object], int]:
    def check(name: str, value: object) -> int:
        if _is_integer(value) and minimum <= value <= MAX_COUNT:
            return value
        raise FaktoryPayloadError(
            f"{name} is {show(value)}: it must be a whole number of {unit}, from {minimum} to "
            f"{MAX_COUNT}."
        )

    return check


def _check_reserve(name: str, value: object) -> int:
    whole = -int(-check_duration(name, value) // 1)
    if 0 <= whole <= MAX_RESERVE:
        return whole
    raise FaktoryPayloadError(
        f"{name} is {show(value)}: it must be from 0 to {MAX_RESERVE} seconds."
    )


def _check_stamp(name: str, value: object) -> str:
    return value if isinstance(value, str) else check_instant(name, value)


def _accept(_name: str, value: object) -> object:
    return value


_check_retry = _check_integer(-1, "attempts")

_OTHERS: dict[str, Callable[[str, Any], object]] = {
    "backtrace": _check_integer(0, "lines"),
    "reserve_for": _check_reserve,
    "at": check_instant,
    "custom": _check_dict,
    "created_at": _check_stamp,
    # A fetched job also has these, and can be pushed again. The server replaces or ignores them,
    # but for a wrong type it refuses a whole bulk push. Other clients send `priority`.
    "enqueued_at": _check_stamp,
    "failure": _check_dict,
    "priority": _accept,
}


def find_fault(job: Mapping[str, Any]) -> str | None:
    """Return why a fetched job cannot be run, with field and value; None if it can.

    The real server hands out no such job: its fields have types (`client/job.go`).
    """
    get = job.get
    jid = get("jid")
    if (
        type(jid) is str
        and jid
        and jid.isascii()
        and type(get("jobtype")) is str
        and type(get("args")) is list
        and type(get("queue")) is str
        and type(get("retry")) is int
        and ((custom := get("custom")) is None or type(custom) is dict)
        and get("reserve_for") is get("failure") is get("backtrace") is None
    ):
        return None
    if usable_jid(job) is None:
        return f"jid is {_shown(job, 'jid')}: it must be text, and not empty"
    for name, fits, must in _FETCHED:
        if not fits(get(name)):
            return f"{name} is {_shown(job, name)}: it must be {must}"
    return None


def usable_jid(job: Mapping[str, object]) -> str | None:
    """Return the jid of a fetched job if ACK and FAIL can name it."""
    jid = job.get("jid")
    if isinstance(jid, str) and jid:
        with suppress(UnicodeEncodeError):
            jid.encode()
            return jid
    return None


def _shown(job: Mapping[str, object], name: str) -> str:
    return show(job[name]) if name in job else "missing"


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_failure(value: object) -> bool:
    return value is None or (isinstance(value, dict) and _is_integer(value.get("retry_count", 0)))


_FETCHED: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("jobtype", lambda value: isinstance(value, str), "text"),
    ("args", lambda value: isinstance(value, list), "a list, [] for no arguments"),
    ("retry", lambda value: value is None or _is_integer(value), "a whole number of attempts"),
    (
        "reserve_for",
        lambda value: value is None or (_is_integer(value) and value <= MAX_RESERVE),
        f"a whole number of seconds, {MAX_RESERVE} at most",
    ),
    ("custom", lambda value: isinstance(value, dict | None), "an object"),
    ("failure", _is_failure, "an object with a whole number as retry_count"),
    ("queue", lambda value: isinstance(value, str | None), "text"),
    ("backtrace", lambda value: value is None or _is_integer(value), "a whole number of lines"),
)
"""The fields of a fetched job that a worker uses: each with its check, and what it must be."""

"""A job as it is sent: a dict with the server's field names, completed and checked.

A value that the server would refuse, drop or silently lose is refused here, by field, before
anything is sent. The encoder checks what is inside `args` and `custom`. No clock in here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from ..exceptions import FaktoryPayloadError
from ..proto import new_jid
from .validate import check_duration, check_instant, check_queue, show

DEFAULT_RETRY: Final = 25
"""Attempts after the first, as in every other client of Faktory."""

MAX_RESERVE: Final = 86_400
"""Seconds: the server reserves a job for a day at most (`manager/manager.go: Push`)."""


def prepare(job: Mapping[str, object]) -> dict[str, Any]:
    """Return the job to send: a new dict, with `jid`, `queue` and `retry` filled in.

    FaktoryPayloadError names the field. `retry` is always explicit: the server's own default
    leaks from one job into the next (`server/commands.go: push`).
    """
    if not isinstance(job, dict):
        raise FaktoryPayloadError(
            f"a job is a dict with at least 'jobtype' and 'args', not {show(job)}."
        )
    if "jobtype" not in job or "args" not in job:
        missing = "args" if "jobtype" in job else "jobtype"
        raise FaktoryPayloadError(f"the job has no {missing!r}: it needs 'jobtype' and 'args'.")
    jobtype, args, jid, retry = job["jobtype"], job["args"], job.get("jid"), job.get("retry")
    if not isinstance(jobtype, str) or not jobtype:
        raise FaktoryPayloadError(f"jobtype is {show(jobtype)}: it must be text, and not empty.")
    if not isinstance(args, (list, tuple)):
        raise FaktoryPayloadError(f"args is {show(args)}: it must be a list, [] for no arguments.")
    sent: dict[str, Any] = {
        "jid": new_jid() if jid is None else _check_jid("jid", jid),
        "jobtype": jobtype,
        "queue": check_queue("queue", job.get("queue", "default")),
        "args": args,
        "retry": DEFAULT_RETRY if retry is None else _check_retry("retry", retry),
    }
    for name in job:
        if name not in sent:
            sent[name] = _check_other(name, job[name])
    return sent


def _check_other(name: str, value: object) -> object:
    check = _OTHERS.get(name)
    if check is None:
        raise FaktoryPayloadError(
            f"{name!r} is not a field of a job, so the server would drop it. "
            "Put values of your own into 'custom'."
        )
    return None if value is None else check(name, value)


def _check_jid(name: str, value: object) -> str:
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
        if isinstance(value, int) and not isinstance(value, bool) and value >= minimum:
            return value
        raise FaktoryPayloadError(
            f"{name} is {show(value)}: it must be a whole number of {unit}, {minimum} or more."
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

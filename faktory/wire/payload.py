"""A job as it goes over the line: a dict with the server's field names, completed and checked.

What the server would refuse, drop or lose in silence is refused here, by field, before anything
is sent. What stands inside `args` and `custom` is the encoder's to check. No clock in here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from ..exceptions import FaktoryPayloadError
from ..proto import new_jid

DEFAULT_RETRY: Final = 25
"""Attempts after the first, as every other client of Faktory has it."""

MAX_RESERVE: Final = 86_400
"""Seconds: the server reserves a job for a day at most (`manager/manager.go: Push`)."""

LONGEST_WAIT: Final = 1_000_000
"""Seconds, more than 11 days: the system waits for 2^31 milliseconds at most."""

QUEUE_NAME: Final = re.compile(r"[a-zA-Z0-9._-]+")

_good_queues: set[str] = set()
_MOST_QUEUES: Final = 1000
"""Names that are remembered as good: a program has few, and matching costs more than the rest."""

_INSTANT = re.compile(
    r"\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?(?:Z|[+-][012]\d:[0-5]\d)",
    re.ASCII,
)


def prepare(job: dict[str, Any]) -> dict[str, Any]:
    """Return the job as it is to be sent: a new dict, with `jid`, `queue` and `retry` filled in.

    FaktoryPayloadError names the field. `retry` is always explicit: the server's own default
    leaks from one job into the next (`server/commands.go: push`).
    """
    if not isinstance(job, dict):
        raise FaktoryPayloadError(
            f"a job is a dict with at least 'jobtype' and 'args', not {_shown(job)}."
        )
    if "jobtype" not in job or "args" not in job:
        missing = "args" if "jobtype" in job else "jobtype"
        raise FaktoryPayloadError(f"the job has no {missing!r}: it needs 'jobtype' and 'args'.")
    jobtype, args, jid, retry = job["jobtype"], job["args"], job.get("jid"), job.get("retry")
    if not isinstance(jobtype, str) or not jobtype:
        raise FaktoryPayloadError(f"jobtype is {_shown(jobtype)}: it must be text, and not empty.")
    if not isinstance(args, (list, tuple)):
        raise FaktoryPayloadError(
            f"args is {_shown(args)}: it must be a list, [] for no arguments."
        )
    sent: dict[str, Any] = {
        "jid": new_jid() if jid is None else _jid("jid", jid),
        "jobtype": jobtype,
        "queue": check_queue("queue", job.get("queue", "default")),
        "args": args,
        "retry": DEFAULT_RETRY if retry is None else _attempts("retry", retry),
    }
    for name in job:
        if name not in sent:
            sent[name] = _check_other(name, job[name])
    return sent


def _check_other(name: str, value: object) -> object:
    check = _OTHERS.get(name)
    if check is None:
        raise FaktoryPayloadError(
            f"{name!r} is no field of a job, so the server would drop it. "
            "Put values of your own into 'custom'."
        )
    return None if value is None else check(name, value)


def instant(name: str, value: object) -> str:
    """Return a point in time as the wire has it: RFC 3339 text with an offset.

    Takes an aware datetime, such a text, or seconds since the epoch.
    """
    if isinstance(value, str):
        if _INSTANT.fullmatch(value):
            try:
                datetime.fromisoformat(value)
                return value
            except ValueError:
                pass
        raise FaktoryPayloadError(
            f"{name} is {_shown(value)}: a time as text is RFC 3339 with an offset, "
            "like 2026-01-02T03:04:05Z."
        )
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            value = datetime.fromtimestamp(value, UTC)
        except (ValueError, OverflowError, OSError):
            raise FaktoryPayloadError(
                f"{name} is {_shown(value)}: no time that many seconds after 1970 can be sent."
            ) from None
    if not isinstance(value, datetime):
        raise FaktoryPayloadError(
            f"{name} is {_shown(value)}: pass an aware datetime, RFC 3339 text or epoch seconds."
        )
    if value.utcoffset() is None:
        raise FaktoryPayloadError(
            f"{name} is the naive datetime {value}: say which zone it is in, "
            "for example value.astimezone() for local time."
        )
    try:
        text = value.astimezone(UTC).isoformat()
    except OverflowError:
        raise FaktoryPayloadError(
            f"{name} is {_shown(value)}: in UTC it is outside the years 1 to 9999."
        ) from None
    return text.replace("+00:00", "Z")


def seconds(name: str, value: object) -> float:
    """Return a duration in seconds; takes seconds or a timedelta."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value - value == 0:
        return value
    raise FaktoryPayloadError(f"{name} is {_shown(value)}: pass seconds or a timedelta.")


def wait(name: str, value: object, *, none_at_all: bool = True) -> float:
    """Return a duration that one can wait for, in seconds; `none_at_all` allows 0."""
    number = seconds(name, value)
    if not 0 <= number <= LONGEST_WAIT or not (number or none_at_all):
        least = "0 seconds or more" if none_at_all else "more than 0 seconds"
        raise FaktoryPayloadError(
            f"{name} is {value!r}: it must be {least}, and {LONGEST_WAIT:,} at most."
        )
    return number


def clip(text: str) -> str:
    """Return text short enough for an error message."""
    return text if len(text) <= 100 else text[:100] + "..."


def check_queue(name: str, value: object) -> str:
    """Return the queue's name if it can be one.

    The server takes a scheduled job for any other with OK and loses it when it is due
    (`manager/scheduler.go: schedule`).
    """
    if type(value) is str and value in _good_queues:
        return value
    if isinstance(value, str) and QUEUE_NAME.fullmatch(value):
        if len(_good_queues) < _MOST_QUEUES:
            _good_queues.add(value)
        return value
    raise FaktoryPayloadError(
        f"{name} is {_shown(value)}: a queue's name has letters, digits, '.', '_' and '-' only."
    )


def _jid(name: str, value: object) -> str:
    if (
        isinstance(value, str)
        and len(value.encode("utf-8", "replace")) >= 8
        and value.isprintable()
        and " " not in value
    ):
        return value
    raise FaktoryPayloadError(
        f"{name} is {_shown(value)}: it must be text of 8 bytes or more, without spaces."
    )


def _mapping(name: str, value: object) -> object:
    if isinstance(value, dict):
        return value
    raise FaktoryPayloadError(f"{name} is {_shown(value)}: it must be a dict.")


def _integer(minimum: int, unit: str) -> Callable[[str, object], int]:
    def check(name: str, value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and value >= minimum:
            return value
        raise FaktoryPayloadError(
            f"{name} is {_shown(value)}: it must be a whole number of {unit}, {minimum} or more."
        )

    return check


def _reserve(name: str, value: object) -> int:
    whole = -int(-seconds(name, value) // 1)
    if 0 <= whole <= MAX_RESERVE:
        return whole
    raise FaktoryPayloadError(
        f"{name} is {_shown(value)}: a job can be reserved for {MAX_RESERVE} seconds at most, "
        "and not for less than none."
    )


def _stamp(name: str, value: object) -> str:
    return value if isinstance(value, str) else instant(name, value)


def _any(_name: str, value: object) -> object:
    return value


_attempts = _integer(-1, "attempts")

_OTHERS: dict[str, Callable[[str, Any], object]] = {
    "backtrace": _integer(0, "lines"),
    "reserve_for": _reserve,
    "at": instant,
    "custom": _mapping,
    "created_at": _stamp,
    # What a fetched job carries besides, so that it can be pushed again; the server makes
    # these anew, or ignores them, but for a wrong type it refuses a whole bulk push. Other
    # clients send `priority`.
    "enqueued_at": _stamp,
    "failure": _mapping,
    "priority": _any,
}


def _shown(value: object) -> str:
    try:
        text = f"{value!r} ({type(value).__name__})" if not isinstance(value, str) else repr(value)
    except Exception:  # the value's own, or an integer of too many digits
        text = f"a value of type {type(value).__name__}"
    return clip(text)

"""Checks of single values: queue names, labels, durations, timeouts, points in time.

Each returns the value as it is sent, or raises FaktoryPayloadError, a ValueError, with the field's
name, the value and the remedy. There is no clock in here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from reprlib import Repr
from typing import TYPE_CHECKING, Any, Final

from ..exceptions import FaktoryPayloadError

if TYPE_CHECKING:
    from inspect import Signature

LONGEST_WAIT: Final = 1_000_000
"""Seconds, more than 11 days: poll takes at most 2^31 milliseconds."""

QUEUE_NAME: Final = re.compile(r"[a-zA-Z0-9._-]+")

valid_queues: set[str] = set()
_MOST_QUEUES: Final = 1000
"""Names that are remembered as valid: a program has few, and matching takes the longest."""

_INSTANT = re.compile(
    r"\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?(?:Z|[+-][012]\d:[0-5]\d)",
    re.ASCII,
)


def check_queue(name: str, value: object) -> str:
    """Return the name of a queue if it is valid.

    For any other the server answers OK to a scheduled job and loses it when it is due
    (`manager/scheduler.go: schedule`).
    """
    if type(value) is str and value in valid_queues:
        return value
    if isinstance(value, str) and QUEUE_NAME.fullmatch(value):
        if len(valid_queues) < _MOST_QUEUES:
            valid_queues.add(value)
        return value
    raise FaktoryPayloadError(
        f"{name} is {show(value)}: a queue's name has letters, digits, '.', '_' and '-' only."
    )


def check_instant(name: str, value: object) -> str:
    """Return a point in time as it is sent: RFC 3339 text with an offset.

    Takes an aware datetime, such text, or seconds since the epoch.
    """
    if isinstance(value, str):
        if _INSTANT.fullmatch(value):
            try:
                datetime.fromisoformat(value)
                return value
            except ValueError:
                pass
        raise FaktoryPayloadError(
            f"{name} is {show(value)}: a time as text is RFC 3339 with an offset, "
            "like 2026-01-02T03:04:05Z."
        )
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            value = datetime.fromtimestamp(value, UTC)
        except (ValueError, OverflowError, OSError):
            raise FaktoryPayloadError(
                f"{name} is {show(value)}: no time that many seconds after 1970 can be sent."
            ) from None
    if not isinstance(value, datetime):
        raise FaktoryPayloadError(
            f"{name} is {show(value)}: pass an aware datetime, RFC 3339 text or epoch seconds."
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
            f"{name} is {show(value)}: in UTC it is outside the years 1 to 9999."
        ) from None
    return text.replace("+00:00", "Z")


def check_labels(value: object) -> list[str]:
    """Return a worker's labels as a list."""
    if isinstance(value, Iterable) and not isinstance(value, str):
        texts = list(value)
        if all(isinstance(text, str) for text in texts):
            for text in texts:
                check_printable("the label", text)
            return texts
    raise ValueError(f"labels is {brief(value)}: pass a list of texts, like ['python'].")


def check_printable(name: str, value: str) -> None:
    """Raise ValueError for text with control characters, or that was not UTF-8 outside."""
    if not value.isprintable():
        raise ValueError(
            f"{name} {show(value)} holds a character that cannot be shown: use UTF-8 text, "
            "without line ends and control characters."
        )


def check_duration(name: str, value: object) -> float:
    """Return a duration in seconds; takes seconds or a timedelta."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value - value == 0:
        return value
    raise FaktoryPayloadError(f"{name} is {show(value)}: pass seconds or a timedelta.")


def check_timeout(name: str, value: object, *, allow_zero: bool = True) -> float:
    """Return a duration to wait for, in seconds; `allow_zero` allows 0."""
    number = check_duration(name, value)
    if not 0 <= number <= LONGEST_WAIT or not (number or allow_zero):
        least = "0 seconds or more" if allow_zero else "more than 0 seconds"
        raise FaktoryPayloadError(
            f"{name} is {value!r}: it must be {least}, and {LONGEST_WAIT:,} at most."
        )
    return number


def fit(text: str) -> str:
    """Return text of the system that can be sent: without lone surrogates, in one line."""
    return "".join(
        character if character.isprintable() else "?"
        for character in text.encode("utf-8", "replace").decode()
    )


def clip(text: str, limit: int = 100) -> str:
    """Return text short enough for an error message."""
    return text if len(text) <= limit else text[:limit] + "..."


def show(value: object, limit: int = 100) -> str:
    """Return a value, and its type unless it is text, for an error message."""
    text = brief(value, limit)
    return text if isinstance(value, str) else f"{text} ({type(value).__name__})"


def brief(value: object, limit: int = 100) -> str:
    """Return the beginning of `repr(value)`, at little cost however large a JSON value is."""
    try:
        return clip(_Brief(limit).repr(value), limit)
    except Exception:  # its own repr's, or an integer of too many digits
        return f"a value of type {type(value).__name__}"


class _Brief(Repr):
    def __init__(self, limit: int) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = limit // 3
        self.maxstring = limit

    def repr_str(self, x: str, level: int) -> str:  # noqa: ARG002
        return repr(x[: self.maxstring])

    def repr_int(self, x: int, level: int) -> str:  # noqa: ARG002
        return repr(x)

    def repr_instance(self, x: object, level: int) -> str:  # noqa: ARG002
        return repr(x)


def is_async(function: object) -> bool:
    """Return whether a call of a function, or of an object, gives a coroutine."""
    import inspect  # takes long

    of_object = getattr(type(function), "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(of_object)


def signature_of(function: Callable[..., object]) -> Signature:
    """Return the parameters of a function, whose annotations may name what is defined nowhere yet.

    From Python 3.14 on `inspect.signature` evaluates them, and raises NameError for names that are
    defined later, or only for type checkers. TypeError or ValueError as from that.
    """
    import inspect  # takes long

    how: dict[str, Any] = {}
    if sys.version_info >= (3, 14):
        from annotationlib import Format

        how["annotation_format"] = Format.FORWARDREF
    return inspect.signature(function, **how)

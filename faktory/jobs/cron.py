"""Cron expressions: five fields, read and checked here, searched by cronsim (extra `cron`).

Rules: an expression means what it means to Debian's cron. What only cronsim takes is an error. The
ticks of a day do not depend on where the search begins: after a change of the zone's clock it
begins before that, so that it passes each change from the same side.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Any, Final

from ..wire.validate import show

ALIASES: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}

_MONTHS: Final = [
    "jan",
    "feb",
    "mar",
    "apr",
    "may",
    "jun",
    "jul",
    "aug",
    "sep",
    "oct",
    "nov",
    "dec",
]
_WEEKDAYS: Final = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]

_FIELDS: Final[tuple[tuple[str, int, int, dict[str, int]], ...]] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of the month", 1, 31, {}),
    ("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, 1)}),
    ("day of the week", 0, 7, {name: number for number, name in enumerate(_WEEKDAYS)}),
)

_TERM: Final = re.compile(r"(?:\*|([0-9]{1,9}|[a-z]+)(?:-([0-9]{1,9}|[a-z]+))?)(?:/([0-9]{1,9}))?")

_SECOND: Final = timedelta(seconds=1)
_DAY: Final = timedelta(days=1)


class Expression:
    """A cron expression in a zone."""

    def __init__(self, text: str, tz: tzinfo) -> None:
        self._text = text
        self._fields = _checked(text)
        self._tz = tz
        self._search = _cronsim()
        if next(self.ticks(datetime(2024, 1, 1, tzinfo=UTC)), None) is None:
            raise _never(text)

    def ticks(self, after: datetime) -> Iterator[datetime]:
        """Yield the ticks after an aware moment, in order, in the zone of the expression."""
        last = after
        try:
            for found in self._search(self._fields, self._start(after)):
                tick = found.astimezone(UTC)  # a time that a zone does not have becomes one it has
                if tick > last:
                    last = tick
                    yield tick.astimezone(self._tz)
        except (OverflowError, ValueError):  # after the year 9999
            return
        except Exception as error:  # CronSimError, of a day that no month has
            raise _never(self._text) from error

    def _start(self, after: datetime) -> datetime:
        """Return a moment before which the zone's clock did not change for a day, up to `after`."""
        local = after.astimezone(self._tz)
        if local.utcoffset() == (after - 2 * _DAY).astimezone(self._tz).utcoffset():
            return local
        midnight = datetime.combine(local.date() - _DAY, time(), self._tz)
        return (midnight.astimezone(UTC) - _SECOND).astimezone(self._tz)  # which may be skipped


def _never(text: str) -> ValueError:
    return ValueError(
        f"the expression {show(text)} never occurs: none of its months has its day of the month."
    )


def _checked(text: str) -> str:
    """Return an expression of five fields, in lower case; ValueError that names the field."""
    if (stripped := text.strip().lower()).startswith("@"):
        if stripped not in ALIASES:
            raise ValueError(f"the expression {show(text)} is not one of {', '.join(ALIASES)}.")
        return ALIASES[stripped]
    fields = stripped.split()
    if len(fields) != len(_FIELDS):
        names = ", ".join(name for name, *_ in _FIELDS)
        raise ValueError(
            f"the expression {show(text)} has {len(fields)} fields: it must have five, {names}."
        )
    for value, field in zip(fields, _FIELDS, strict=True):
        if (problem := _problem(value, *field[1:])) is not None:
            raise ValueError(f"the {field[0]} {show(value)} of {show(text)} is wrong: {problem}.")
    return " ".join(fields)


def _problem(value: str, low: int, high: int, names: dict[str, int]) -> str | None:
    """Return what is wrong with a field; None if nothing is."""
    named = f", or {next(iter(names))} to {[*names][-1]}" if names else ""
    allowed = f"it is {low} to {high}{named}"
    for term in value.split(","):
        match = _TERM.fullmatch(term)
        if match is None:
            return f"{allowed}, a range 1-5, a list 1,5 or *, with a step like */5"
        first, last, step = match.groups()
        numbers = []
        for part in (first, last):
            if part is None:
                continue
            number = names.get(part, int(part) if part.isdigit() else -1)
            if not low <= number <= high:
                return f"{part} is out of range, {allowed}"
            numbers.append(number)
        if len(numbers) == 2 and numbers[0] > numbers[1]:
            return f"the range {first}-{last} is backwards"
        if step is not None and not 1 <= int(step) <= high:
            return f"the step {step} is not 1 to {high}"
        if step is not None and first is not None and last is None:
            return f"a step needs a range: {first}-{high}/{step}"
    return None


def _cronsim() -> Any:
    try:
        from cronsim import CronSim
    except ImportError:
        raise ValueError(
            "a cron expression needs cronsim: pip install 'faktory-worker[cron]'. "
            "every=timedelta(minutes=5) needs nothing."
        ) from None
    return CronSim

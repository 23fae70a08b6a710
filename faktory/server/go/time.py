"""Instants as Go writes and reads them, and so the real server: RFC 3339, up to nanoseconds.

An instant is a whole number of nanoseconds since the epoch. Errors have Go's words: clients see
them when a job's `at` is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from time import gmtime, strftime
from typing import Final

SECOND: Final = 1_000_000_000

_LAYOUT = "2006-01-02T15:04:05.999999999Z07:00"
_EPOCH = date(1970, 1, 1).toordinal()


def _range(low: int, high: int, what: str) -> Callable[[re.Match[str]], str | None]:
    return lambda match: None if low <= int(match[1]) <= high else what


def _zone_range(match: re.Match[str]) -> str | None:
    if int(match[2] or 0) > 60:
        return "time zone offset minute"
    return "time zone offset hour" if int(match[1] or 0) > 24 else None


# The parts of an instant: pattern, Go's name for it, and a check that returns what is out of range.
# Go accepts an hour of one digit, and a comma before the fraction.
_PARTS = [
    (re.compile(pattern), name, check)
    for pattern, name, check in (
        (r"([0-9]{4})", "2006", _range(0, 9999, "year")),
        (r"-", "-", None),
        (r"([0-9]{2})", "01", _range(1, 12, "month")),
        (r"-", "-", None),
        (r"([0-9]{2})", "02", _range(0, 99, "day")),
        (r"T", "T", None),
        (r"([0-9]{1,2})", "15", _range(0, 23, "hour")),
        (r":", ":", None),
        (r"([0-9]{2})", "04", _range(0, 59, "minute")),
        (r":", ":", None),
        (r"([0-9]{2})(?:[.,][0-9]+)?", "05", _range(0, 59, "second")),
        (r"Z|[+-]([0-9]{2}):([0-9]{2})", "Z07:00", _zone_range),
    )
]

_last: tuple[int, str] = (0, "1970-01-01T00:00:00")


def write(instant: int) -> str:
    """Return an instant as text in UTC; the fraction has no zeros at its end."""
    global _last
    second, fraction = divmod(instant, SECOND)
    last = _last
    if last[0] != second:
        _last = last = (second, strftime("%Y-%m-%dT%H:%M:%S", gmtime(second)))
    if not fraction:
        return last[1] + "Z"
    return f"{last[1]}.{fraction:09d}".rstrip("0") + "Z"


def read(text: str) -> int:
    """Read an instant; ValueError if the text is not one."""
    found = []
    position = 0
    for pattern, name, check in _PARTS:
        match = pattern.match(text, position)
        if match is None:
            rest = _quote(text[position:])
            raise ValueError(
                f'parsing time {_quote(text)} as "{_LAYOUT}": cannot parse {rest} as "{name}"'
            )
        if check is not None:
            if what := check(match):
                raise ValueError(f"parsing time {_quote(text)}: {what} out of range")
            found.append(match[0])
        position = match.end()
    if position != len(text):
        raise ValueError(f"parsing time {_quote(text)}: extra text: {_quote(text[position:])}")
    year, month, day, hour, minute = map(int, found[:5])
    second, fraction, zone = found[5][:2], found[5][3:], found[6]
    offset = 0
    if zone != "Z":
        offset = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
    try:
        # Python has no year 0. The year 400 has the same days, and is past as well.
        days = date(year or 400, month, day).toordinal() - _EPOCH
    except ValueError:
        raise ValueError(f"parsing time {_quote(text)}: day out of range") from None
    seconds = ((days * 24 + hour) * 60 + minute) * 60 + int(second)
    seconds += offset if zone[0] == "-" else -offset
    return seconds * SECOND + int(f"{fraction[:9]:0<9}")


def _quote(text: str) -> str:
    """Quote a text as Go's package time does, byte by byte."""
    escaped = {'"': '\\"', "\\": "\\\\"}
    return (
        '"'
        + "".join(
            escaped.get(c) or (c if " " <= c < "\x7f" or c == "\x7f" else _bytes(c)) for c in text
        )
        + '"'
    )


def _bytes(character: str) -> str:
    data = character.encode("utf-8", "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in data)

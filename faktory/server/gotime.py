"""Instants as the real server writes and reads them: RFC 3339 with up to nanoseconds, as Go does.

An instant is a whole number of nanoseconds since the epoch.
"""

from __future__ import annotations

import re
from datetime import date
from time import gmtime, strftime
from typing import Final

SECOND: Final = 1_000_000_000

_LAYOUT = "2006-01-02T15:04:05.999999999Z07:00"
_EPOCH = date(1970, 1, 1).toordinal()

# How an instant goes on, what Go calls what is missing there, how far its number may go and what
# that number is. Go takes an hour of one digit, and a comma before the fraction.
_PARTS = [
    (re.compile(pattern), name, low, high, what)
    for pattern, name, low, high, what in (
        (r"([0-9]{4})", "2006", 0, 9999, "year"),
        (r"-", "-", 0, 0, ""),
        (r"([0-9]{2})", "01", 1, 12, "month"),
        (r"-", "-", 0, 0, ""),
        (r"([0-9]{2})", "02", 0, 99, "day"),
        (r"T", "T", 0, 0, ""),
        (r"([0-9]{1,2})", "15", 0, 23, "hour"),
        (r":", ":", 0, 0, ""),
        (r"([0-9]{2})", "04", 0, 59, "minute"),
        (r":", ":", 0, 0, ""),
        (r"([0-9]{2})(?:[.,][0-9]+)?", "05", 0, 59, "second"),
        (r"Z|[+-]([0-9]{2}):[0-9]{2}", "Z07:00", 0, 24, "time zone offset hour"),
    )
]

_last: tuple[int, str] = (0, "1970-01-01T00:00:00")


def write(instant: int) -> str:
    """Return an instant as text in UTC, without zeros at the fraction's end."""
    global _last
    second, fraction = divmod(instant, SECOND)
    last = _last
    if last[0] != second:
        _last = last = (second, strftime("%Y-%m-%dT%H:%M:%S", gmtime(second)))
    if not fraction:
        return last[1] + "Z"
    return f"{last[1]}.{fraction:09d}".rstrip("0") + "Z"


def read(text: str) -> int:
    """Return the instant that a text names; ValueError in Go's words if it names none."""
    found = []
    position = 0
    for pattern, name, low, high, what in _PARTS:
        match = pattern.match(text, position)
        if match is None:
            rest = _quote(text[position:])
            raise ValueError(
                f'parsing time {_quote(text)} as "{_LAYOUT}": cannot parse {rest} as "{name}"'
            )
        if what:
            if not low <= int(match[1] or 0) <= high:
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
        if int(zone[4:6]) > 60:
            raise ValueError(f"parsing time {_quote(text)}: time zone offset minute out of range")
    try:
        # The year 0, which Python lacks, is long gone like the year 400, which has as many days.
        days = date(year or 400, month, day).toordinal() - _EPOCH
    except ValueError:
        raise ValueError(f"parsing time {_quote(text)}: day out of range") from None
    seconds = ((days * 24 + hour) * 60 + minute) * 60 + int(second)
    seconds += offset if zone[0] == "-" else -offset
    return seconds * SECOND + int(f"{fraction[:9]:0<9}")


def _quote(text: str) -> str:
    """Quote as Go's package time does: byte by byte."""
    escaped = {'"': '\\"', "\\": "\\\\"}
    return '"' + "".join(
        escaped.get(c) or (c if " " <= c < "\x7f" or c == "\x7f" else _bytes(c)) for c in text
    ) + '"'


def _bytes(character: str) -> str:
    data = character.encode("utf-8", "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in data)

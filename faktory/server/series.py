"""How many jobs were processed, and how many failed, by day and by minute.

Rules: no job is counted here; what the store's counters have gained since the last sample is added
to the day and minute of the next one. Samples are taken every few seconds, and before the numbers
are read. Days are those of UTC.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from .go.time import SECOND

DAYS: Final = 180
"""Days that are kept, as in the real server."""

MINUTES: Final = 60
"""Minutes that are kept."""

SAMPLED: Final = 5.0
"""Seconds between samples."""

_MINUTE: Final = 60 * SECOND
_DAY: Final = 86400 * SECOND

Counts = tuple[int, int]
"""Processed, failures."""


class Point(NamedTuple):
    """What was processed and failed in a day or minute that begins `at`, in ns since the epoch."""

    at: int
    processed: int
    failures: int


class Series:
    """The days and minutes."""

    def __init__(self) -> None:
        self.days: dict[int, Counts] = {}
        """By the number of the day since the epoch."""
        self.sampled: Counts = (0, 0)
        """The counters at the last sample."""
        self.sampled_at = 0
        self.on_change: Callable[[list[int]], object] = lambda _: None
        """Called with the days that have changed, after each sample that is to be kept."""
        self._minutes: dict[int, Counts] = {}

    def sample(self, now: int, counters: Counts) -> None:
        """Add what the counters have gained."""
        if counters == self.sampled and now // _DAY == self.sampled_at // _DAY:
            return
        days = _add(self.days, now // _DAY, DAYS, counters, self.sampled)
        _add(self._minutes, now // _MINUTE, MINUTES, counters, self.sampled)
        self.sampled, self.sampled_at = counters, now
        self.on_change(days)

    def clear(self, now: int) -> None:
        """Forget all; the counters are 0 now."""
        gone = list(self.days)
        self.days.clear()
        self._minutes.clear()
        self.sampled, self.sampled_at = (0, 0), now
        self.on_change(gone)

    def by_day(self, now: int, count: int) -> list[Point]:
        """Return the last days, oldest first."""
        return _points(self.days, now, min(count, DAYS), _DAY)

    def by_minute(self, now: int) -> list[Point]:
        """Return the last minutes, oldest first."""
        return _points(self._minutes, now, MINUTES, _MINUTE)


def _add(
    table: dict[int, Counts], number: int, limit: int, counters: Counts, sampled: Counts
) -> list[int]:
    """Add to an entry, drop those that are too old; return which ones have changed."""
    changed = [number]
    if number not in table:
        # A clock that was set back leaves one entry ahead, at most.
        changed += [each for each in table if not number - limit < each <= number + 1]
        for each in changed[1:]:
            del table[each]
    processed, failures = table.get(number, (0, 0))
    table[number] = (
        processed + counters[0] - sampled[0],
        failures + counters[1] - sampled[1],
    )
    return changed


def _points(table: dict[int, Counts], now: int, count: int, length: int) -> list[Point]:
    last = now // length
    return [
        Point(number * length, *table.get(number, (0, 0)))
        for number in range(last - count + 1, last + 1)
    ]

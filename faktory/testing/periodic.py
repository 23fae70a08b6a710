"""The ticks of periodic jobs in tests: listed, and pushed as time passes."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import Any, Final, NamedTuple

from ..jobs.ticks import schedules

MOST_TICKS: Final = 10_000
"""Ticks in the time of one `travel`: a test that passes more means something else."""


class Tick(NamedTuple):
    """A moment at which a schedule is due."""

    at: datetime
    """Aware, in the schedule's zone."""
    name: str
    """Of the schedule."""
    job: dict[str, Any]
    """What a worker pushes."""


def ticks(after: datetime, until: datetime) -> list[Tick]:
    """Return the ticks of all declared schedules after one moment and until another, in order.

    ValueError for a naive moment, or for more than 10,000 ticks. What a schedule's `args` raise
    comes out.
    """
    found: list[tuple[datetime, str, Any]] = []
    for schedule in schedules():
        room = MOST_TICKS - len(found)
        some = list(islice(schedule.ticks(after, until), room + 1))
        if len(some) > room:
            raise ValueError(
                f"there are more than {MOST_TICKS:,} ticks between {after} and {until}: take less "
                "time, or travel(..., periodic=False)."
            )
        found += [(tick, schedule.name, schedule) for tick in some]
    found.sort(key=lambda each: each[0].timestamp())
    return [Tick(tick, name, schedule.payload(tick)) for tick, name, schedule in found]

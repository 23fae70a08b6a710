"""Amounts in texts for people: a count with its noun, a duration in one unit."""

from __future__ import annotations

from typing import Final

_UNITS: Final = (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48))
"""Units of a duration, each with its seconds, and from how many on the next one is used."""


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: 1 queue, 1,234 queues."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def in_one_unit(seconds: float) -> str:
    """Return a duration, rounded to the unit that people would use: 15 s, 3 min, 2 h, 5 days."""
    for unit, length, most in _UNITS:
        if (amount := round(seconds / length)) < most:
            return f"{max(amount, 0)} {unit}"
    return f"{round(seconds / 86_400)} days"

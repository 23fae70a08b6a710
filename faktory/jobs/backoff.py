"""How long a failed job waits before its next attempt: constant, or growing with each attempt.

A backoff is any callable that takes the number of the attempt that failed, from 1, and returns
seconds or a timedelta. Those made here never return less than 0 or more than their `max`, also for
numbers of attempts that no job reaches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from math import inf
from random import uniform
from typing import Final

from ..exceptions import MAX_DELAY, FaktoryPayloadError
from ..wire.validate import check_duration, show

__all__ = ["Backoff", "constant", "exponential", "linear"]

Backoff = Callable[[int], float | timedelta]
"""Takes the number of the attempt that failed, from 1; returns seconds or a timedelta."""

_LONGEST: Final = float(MAX_DELAY)


@dataclass(frozen=True)
class Formula:
    """A backoff of `(first + step * (n - 1)) * factor ** (n - 1)` seconds after attempt n.

    `max` limits it. With `jitter` it is drawn evenly from that fraction around: 0.1 is 10 % less to
    10 % more.
    """

    first: float
    step: float = 0.0
    factor: float = 1.0
    max: float = _LONGEST
    jitter: float = 0.0

    def __call__(self, attempt: int) -> float:
        """Return how many seconds the job waits after this attempt, counted from 1."""
        try:
            earlier = float(max(attempt - 1, 0))
            growth: float = self.factor**earlier
            wait = (self.first + self.step * earlier) * growth
        except OverflowError:
            wait = self.max if self.first else 0.0
        wait = min(wait, self.max)
        if self.jitter:
            most = min(wait * (1 + self.jitter), self.max)
            # Rounding in `uniform` may lead beyond its bounds.
            return min(max(uniform(wait * (1 - self.jitter), most), 0.0), most)
        return wait


def constant(
    seconds: float | timedelta, *, max: float | timedelta | None = None, jitter: float = 0.0
) -> Callable[[int], float]:
    """Wait as long each time.

    `max` limits the wait, as given and with its jitter. `jitter`, 0 to 1, spreads it evenly by that
    fraction to both sides, so that jobs that failed together do not all come back together.
    """
    return _made(check_delay("seconds", seconds), max=max, jitter=jitter)


def linear(
    step: float | timedelta, *, max: float | timedelta | None = None, jitter: float = 0.0
) -> Callable[[int], float]:
    """Wait `step` after the first attempt, twice that after the second, and so on.

    For `max` and `jitter` see `constant`.
    """
    first = check_delay("step", step)
    return _made(first, step=first, max=max, jitter=jitter)


def exponential(
    first: float | timedelta,
    factor: float = 2,
    *,
    max: float | timedelta | None = None,
    jitter: float = 0.0,
) -> Callable[[int], float]:
    """Wait `first` after the first attempt, and each time `factor` times as long as before.

    For `max` and `jitter` see `constant`.
    """
    if not _is_number(factor) or not 1 <= factor < inf:
        raise FaktoryPayloadError(f"factor is {factor!r}: it must be a number, 1 or more.")
    return _made(check_delay("first", first), factor=float(factor), max=max, jitter=jitter)


def check_delay(name: str, value: object) -> float:
    """Return a delay in seconds; FaktoryPayloadError unless it is from 0 to `MAX_DELAY`."""
    seconds = check_duration(name, value)
    if not 0 <= seconds <= MAX_DELAY:
        raise FaktoryPayloadError(
            f"{name} is {show(value)}: it must be from 0 to {MAX_DELAY:,} seconds."
        )
    return float(seconds)


def _made(
    first: float,
    *,
    step: float = 0.0,
    factor: float = 1.0,
    max: float | timedelta | None,
    jitter: float,
) -> Formula:
    most = _LONGEST if max is None else check_delay("max", max)
    if not most:
        raise FaktoryPayloadError(f"max is {max!r}: it must be more than 0 seconds.")
    if not _is_number(jitter) or not 0 <= jitter <= 1:
        raise FaktoryPayloadError(
            f"jitter is {jitter!r}: it is the fraction by which a wait is spread, from 0 to 1."
        )
    return Formula(first, step, factor, most, float(jitter))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

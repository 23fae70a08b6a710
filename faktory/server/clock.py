"""The machine's clocks, which stand still for nobody, and how far a test may move a server's.

freezegun and its like replace the functions of the module `time`, in all modules that have imported
them. A server whose clock stands answers no FETCH. The clocks here are not found, also if this
module is imported while time is frozen.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final

from ..wire.validate import show

_LAST: Final = 221_845_392_000
"""Seconds since the epoch: the year 9000. Dates end with 9999, and retries come after the clock."""

monotonic: Callable[[], float]
"""Seconds since some moment."""

time_ns: Callable[[], int]
"""Nanoseconds since the epoch."""

if hasattr(time, "clock_gettime"):
    monotonic = partial(time.clock_gettime, time.CLOCK_MONOTONIC)
    time_ns = partial(time.clock_gettime_ns, time.CLOCK_REALTIME)
else:  # Windows
    monotonic = partial(time.monotonic)
    time_ns = partial(time.time_ns)


def check_travel(seconds: float, now: int) -> None:
    """Raise TypeError or ValueError if a clock cannot go forward by `seconds` from `now`.

    `now` is in nanoseconds since the epoch.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"travel takes seconds, not {show(seconds)}: pass a number.")
    if not seconds >= 0:
        raise ValueError(f"travel({seconds}) goes back, and time goes forward only.")
    if now // 10**9 + seconds > _LAST:
        raise ValueError(
            f"travel({show(seconds)}) goes beyond the year 9000: pass seconds, not milliseconds, "
            "and not more of them than that."
        )

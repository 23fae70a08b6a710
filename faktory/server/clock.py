"""The machine's clocks, which stand still for nobody.

freezegun and its like replace the functions of the module `time`, in all modules that have imported
them. A server whose clock stands answers no FETCH. The clocks here are not found, also if this
module is imported while time is frozen.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

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

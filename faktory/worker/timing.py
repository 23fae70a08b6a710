"""How long a worker waits for what, as one value: tests hand in a shorter one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..wire import recovery


@dataclass(frozen=True, slots=True)
class Timing:
    """Intervals, timeouts and grace periods of a worker, in seconds."""

    check_interval: float = 1.0
    """Between two checks of the running jobs; a reservation lasts 60 at least."""

    shutdown_grace: float = 1.0
    """For interrupted jobs to end, and reports to go out, after the worker's grace period."""

    fetch_grace: float = 5.0
    """For a FETCH that is under way when the worker stops: it may still bring a job. The server
    gives itself as long for a command (`server/server.go: processLines`)."""

    report_grace: float = 0.5
    """For processors to deliver a report that the server has not answered, at the very end."""

    beat_grace: float = 0.5
    """For a heartbeat that is under way when all else has ended."""

    late_beat: float = 2.0
    """After this delay a heartbeat is logged as late."""

    stuck_after: float = 15.0
    """For which a thread may be late until the worker does not count as alive."""

    first_beat_interval: float = 1.0
    """Between two heartbeats until the first one has reached the server."""

    connect_notice: float = 1.0
    """For the first one, before the log says that it has not reached the server yet."""

    refused_fetch_interval: float = 1.0
    """Before FETCH is sent again after the server refused it."""

    report_interval: float = 1.0
    """The longest pause between two attempts to deliver a report while the worker stops."""

    time_limit_grace: float = 5.0
    """For a job in a process of its own to end after TimeLimitExceeded was raised in it; then its
    process is killed."""

    kill_grace: float = 0.5
    """The same after Shutdown; it is part of `shutdown_grace`."""

    flush_grace: float = 3.0
    """For processes of jobs, at the worker's very end, to push what their Producers hold; then
    they are killed."""

    loop_hold: float = 5.0
    """For which a job may hold the event loop of async jobs until it is named in the log."""

    loop_grace: float = 3.0
    """For the end of that loop, at the worker's very end, where no more is left of its grace
    period: for `faktory.aio.on_shutdown` to run, and for tasks to end that are left."""

    backoff: Callable[[int, float], float] = recovery.backoff
    """The pause before attempt 1, 2... to reach the server, or to start a process: it is called
    with the attempt and a random number from 0 to 1."""


DEFAULT: Final = Timing()

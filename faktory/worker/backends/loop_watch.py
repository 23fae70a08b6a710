"""What the event loop of async jobs is busy with: names in the log what holds it.

Rules: the thread that runs the worker asks the loop for an answer, and looks whether it came. It
never waits for it. What has not answered may have had no time to: a process that was paused gets
a moment more.
"""

from __future__ import annotations

from contextlib import suppress
from threading import Thread
from time import monotonic
from typing import TYPE_CHECKING, Any

from ...jobs.context import job_of
from ...wire.log import Log
from ..stacks import stack

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task


class LoopWatch:
    """Watches a loop that may be held for `hold` seconds until that is logged."""

    def __init__(self, log: Log, hold: float) -> None:
        self._log = log
        self._hold = hold
        self._ask_at = 0.0
        self._asked_at: float | None = None
        """Since when there is no answer."""
        self._late_at = 0.0
        self._holder = ""
        """What held the loop when that was logged."""

    def check(self, now: float, loop: AbstractEventLoop, thread: Thread) -> None:
        """Log what holds the loop, with the stack of its thread: nothing else goes on meanwhile."""
        if self._asked_at is None:
            if now >= self._ask_at:
                self._late_at = 0.0
                self._asked_at = now
                self._ask_at = now + self._hold / 5
                with suppress(RuntimeError):  # it is closed
                    loop.call_soon_threadsafe(self._answer)
        elif self._holder or now - self._asked_at < self._hold:
            return
        elif not self._late_at:  # this process may have been paused, and the loop answers at once
            self._late_at = now
        elif now - self._late_at >= self._hold / 10:
            self._holder = running_on(loop)
            self._log.error(
                "%s holds the event loop, which has not gone on for %.0f s: until it awaits "
                "something, no other async job does, and none can be cancelled. Blocking calls "
                "belong into asyncio.to_thread, or the job into a plain def. It stands at:\n%s",
                self._holder,
                now - self._asked_at,
                stack(thread),
            )

    def _answer(self) -> None:
        """Note that the loop goes on: called on it."""
        holder, asked_at = self._holder, self._asked_at
        self._holder, self._asked_at = "", None
        if holder and asked_at is not None:
            seconds = monotonic() - asked_at
            self._log.warning("the event loop goes on after %.1f s: %s held it", seconds, holder)


def running_on(loop: AbstractEventLoop) -> str:
    """Name what runs on a loop now. From any thread."""
    from asyncio import current_task

    task = current_task(loop)
    return "something other than a task" if task is None else name_of(task)


def name_of(task: Task[Any]) -> str:
    """Return the job that a task runs, or that has made it: as text. Else the task's own name."""
    job = job_of(task.get_context()) if hasattr(task, "get_context") else None  # Python 3.12
    return task.get_name() if job is None else str(job)

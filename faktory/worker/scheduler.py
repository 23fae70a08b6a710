"""The scheduler: a thread and a connection of its own, which push the ticks of periodic jobs.

Rules: each tick is pushed ahead, by the server's clock, for which the server is asked each round.
Every scheduler pushes the same bytes, and the server keeps a scheduled job of the same bytes once
(`storage/sorted_redis.go: AddElement`), until its time comes: a copy that arrives later would run a
second time. So a tick that is near is left to others, and one whose time came while this scheduler
could not push is not made good. No error ends the thread but a wrong password.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from threading import Event, Thread
from typing import Any, Final

from ..client import Client
from ..exceptions import FaktoryAuthenticationError, FaktoryError, FaktoryOutcomeUnknown
from ..jobs.context import reservation_clock
from ..jobs.ticks import Schedule
from ..wire import commands
from ..wire.log import Log
from ..wire.validate import brief, clip

INTERVAL: Final = 30.0
"""Seconds between two rounds."""

AHEAD: Final = timedelta(seconds=90)
"""How long before its time a tick is pushed at the earliest: three rounds may fail."""

LEAST_AHEAD: Final = timedelta(seconds=5)
"""And at the latest, so that the push arrives before the tick, on a slow line, too."""

RETRY_INTERVAL: Final = 5.0
"""Seconds until the next round after one that failed."""

CHUNK: Final = 500
"""Jobs in one PUSHB."""

MOST_MISSED: Final = 10_000
"""Missed ticks that are counted for each schedule."""

_JUMP: Final = timedelta(minutes=5)
"""A server whose clock went back this far has another time, and not only a corrected one."""


class _Missed:
    """The ticks of a schedule that were not pushed."""

    def __init__(self, first: datetime) -> None:
        self.first = first
        self.count = 0


class _Ahead:
    """A schedule with its ticks that are due to be pushed, and those after them."""

    def __init__(self, schedule: Schedule, after: datetime) -> None:
        self.schedule = schedule
        self.begin(after)

    def begin(self, after: datetime) -> None:
        """Go on with the ticks after a moment."""
        self.waiting: deque[datetime] = deque()
        self.tried: set[datetime] = set()  # perhaps pushed: their outcome is unknown
        self._ticks: Iterator[datetime] = self.schedule.ticks(after)
        self.next = next(self._ticks, None)

    def advance(self, now: datetime) -> _Missed | None:
        """Let the ticks that are near enough wait to be pushed; return those that are too near."""
        missed: _Missed | None = None
        nearest, farthest = now + LEAST_AHEAD, now + AHEAD
        while self.waiting and self.waiting[0] < nearest:
            missed = self._miss(missed, self.waiting.popleft())
        while self.next is not None and self.next <= farthest:
            if self.next >= nearest:
                self.waiting.append(self.next)
            else:
                missed = self._miss(missed, self.next)
                if missed is not None and missed.count >= MOST_MISSED:
                    self.begin(nearest)
                    continue
            self.next = next(self._ticks, None)
        return missed

    def _miss(self, missed: _Missed | None, tick: datetime) -> _Missed | None:
        if tick in self.tried:
            self.tried.discard(tick)
            return missed
        missed = missed or _Missed(tick)
        missed.count += 1
        return missed


class Scheduler(Thread):
    """Pushes the ticks of `schedules` until stopped; closes `client` at its end.

    `error` is the one that ended it: a wrong password.
    """

    def __init__(self, client: Client, schedules: Sequence[Schedule], log: logging.Logger) -> None:
        super().__init__(name="faktory-periodic", daemon=True)
        self._client = client
        self._schedules = list(schedules)
        self._log = Log(log)
        self._stopped = Event()
        self._ahead: list[_Ahead] = []
        self._now: datetime | None = None
        self._is_failing = False
        self.error: FaktoryError | None = None

    def run(self) -> None:
        """Push until `stop` is called, or the password is wrong."""
        try:
            while not self._stopped.is_set():
                self._stopped.wait(INTERVAL if self._round() else RETRY_INTERVAL)
        except FaktoryAuthenticationError as error:
            self.error = error
            self._log.error("periodic jobs are not pushed any more: %s", clip(str(error), 1000))
        finally:
            self._client.close()

    def stop(self) -> None:
        """End the thread; a push under way is given up after a second, connecting at once."""
        self._stopped.set()
        if self.is_alive() and not self._client.is_connected:
            self._client.interrupt()
        if self.is_alive():
            self.join(1.0)
        if self.is_alive():
            self._client.interrupt()

    def _round(self) -> bool:
        """Push what is to be pushed now; return False if that failed."""
        try:
            asked_at = reservation_clock()
            now = self._asked()
            late = self._advance(now)
            self._push(now, asked_at)
        except FaktoryAuthenticationError:
            raise
        except FaktoryError as error:
            if not (self._is_failing or self._stopped.is_set()):
                text = "periodic jobs cannot be pushed now, trying again: %s"
                self._log.warning(text, clip(str(error), 1000))
            self._is_failing = True
            return False
        except Exception:
            self._log.exception("periodic jobs: this round failed")
            return False
        if self._is_failing:
            self._log.info("periodic jobs are pushed again")
        self._is_failing = False
        self._log_missed(late)
        return True

    def _asked(self) -> datetime:
        """Return the server's time, as late as it may be."""
        asked_at = reservation_clock()
        info = self._client.info()
        took = timedelta(seconds=reservation_clock() - asked_at)
        try:
            return datetime.fromisoformat(info["now"]).astimezone(UTC) + took
        except (KeyError, TypeError, ValueError, OverflowError):
            raise FaktoryError(
                f"the server does not say its time: its now is {brief(info.get('now'))}. "
                "Periodic jobs need Faktory 1.9.0 or newer."
            ) from None

    def _advance(self, now: datetime) -> list[tuple[Schedule, _Missed]]:
        if not self._ahead:
            self._ahead = [_Ahead(each, now + LEAST_AHEAD) for each in self._schedules]
            self._log_start()
        elif self._now is not None and now < self._now - _JUMP:
            self._log.warning("the server's clock went back to %s: periodic jobs follow it", now)
            for ahead in self._ahead:
                ahead.begin(now + LEAST_AHEAD)
        self._now = now
        found = ((ahead.schedule, ahead.advance(now)) for ahead in self._ahead)
        return [(schedule, missed) for schedule, missed in found if missed is not None]

    def _push(self, now: datetime, asked_at: float) -> None:
        """Push all ticks that wait, as far as there is time."""
        jobs: list[tuple[_Ahead, datetime, dict[str, Any]]] = []
        for ahead in self._ahead:
            for tick in list(ahead.waiting):
                if (job := self._job(ahead.schedule, tick)) is None:
                    ahead.waiting.remove(tick)
                else:
                    jobs.append((ahead, tick, job))
        jobs.sort(key=lambda each: each[1].astimezone(UTC))
        while jobs and not self._stopped.is_set():
            chunk, jobs = jobs[:CHUNK], jobs[CHUNK:]
            passed = timedelta(seconds=reservation_clock() - asked_at)
            if chunk[0][1] < now + passed + LEAST_AHEAD / 2:
                return  # this machine stood still: the next round asks for the time first
            self._push_chunk(chunk)

    def _push_chunk(self, chunk: list[tuple[_Ahead, datetime, dict[str, Any]]]) -> None:
        command = commands.push_bulk([job for _, _, job in chunk])
        command.send_once = True
        try:
            (answer,) = self._client.exchange(command)
        except FaktoryOutcomeUnknown:
            for ahead, tick, _ in chunk:
                ahead.tried.add(tick)
            raise
        if answer.error is not None:
            raise answer.error
        for ahead, tick, job in chunk:
            ahead.waiting.remove(tick)
            ahead.tried.discard(tick)
            if (reason := answer.value.get(job["jid"])) is not None:
                text = "the server refused the tick %s of the schedule %s: %s"
                self._log.error(text, tick, ahead.schedule.name, clip(str(reason), 1000))

    def _job(self, schedule: Schedule, tick: datetime) -> dict[str, Any] | None:
        """Return the job of a tick; None where its arguments cannot be made."""
        try:
            return schedule.payload(tick)
        except Exception as error:
            text = f"the schedule {clip(schedule.name)} leaves out its tick {tick}"
            self._log.exception(text, exc_info=error)
            return None

    def _log_start(self) -> None:
        ticks = [(each.next, each.schedule.name) for each in self._ahead if each.next is not None]
        what = "none"
        if ticks:
            tick, name = min(ticks, key=lambda each: each[0].timestamp())
            what = f"{name} at {tick}"
        self._log.info("Periodic: %d schedules, next: %s", len(self._schedules), what)

    def _log_missed(self, late: list[tuple[Schedule, _Missed]]) -> None:
        for schedule, missed in late:
            more = " or more" if missed.count >= MOST_MISSED else ""
            self._log.warning(
                "the schedule %s: %d%s ticks since %s passed while this worker could not push, and "
                "are not made good here",
                schedule.name,
                missed.count,
                more,
                missed.first,
            )

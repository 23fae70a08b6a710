"""The progress of jobs, as TRACK of Faktory Enterprise reports it; an approximation.

Rules: only jobs with `track` in `custom` are tracked. States are enqueued (or scheduled), working,
success, failed (it will be retried, or had no retries), dead, and unknown. `percent` and `desc` are
set by the job alone and stay when it ends. A job is forgotten 30 minutes after its last change.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from ..go import time as go_time
from ..go.time import SECOND
from ..slices import Steps
from ..sorted_set import SortedSet

TRACKED_FOR: Final = 30 * 60
"""Seconds from the last change of a job until it is forgotten [wiki: Ent-Tracking]."""


class Track:
    """The progress of one job."""

    __slots__ = ("desc", "percent", "state", "updated_at")

    def __init__(self) -> None:
        self.state = "unknown"
        self.percent: int | None = None
        self.desc: str | None = None
        self.updated_at = 0


class Tracks:
    """The progress of all tracked jobs, by jid."""

    def __init__(self, known: SortedSet[Track] | None = None) -> None:
        self._known: SortedSet[Track] = SortedSet() if known is None else known

    def __contains__(self, jid: str) -> bool:
        return self._known.get(jid.encode()) is not None

    def set_state(self, jid: str, state: str, now: int) -> None:
        """Set the state of a job; from the first time on it is tracked."""
        self._touch(jid, now).state = state

    def report(self, jid: str, percent: int | None, desc: str | None, now: int) -> None:
        """Set what a job reports of itself; None leaves it as it is."""
        track = self._touch(jid, now)
        if percent is not None:
            track.percent = percent
        if desc is not None:
            track.desc = desc

    def status(self, jid: str) -> dict[str, object]:
        """Return the reply to TRACK GET, without what the job has not reported."""
        track = self._known.get(jid.encode())
        if track is None:
            return {"jid": jid, "state": "unknown", "updated_at": ""}
        reported = {"percent": track.percent, "desc": track.desc}
        return {
            "jid": jid,
            "state": track.state,
            "updated_at": go_time.write(track.updated_at),
            **{name: value for name, value in reported.items() if value is not None},
        }

    def forget(self, jid: str) -> None:
        """Track a job no more."""
        self._known.remove(jid.encode())

    def first(self) -> int | None:
        """Return when `sweep` will next have something to do."""
        return self._known.first()

    def sweep(self, now: int, limit: int | None = None) -> None:
        """Forget the jobs whose time is over, at most `limit`."""
        for _ in islice(self._known.pop_until(now), limit):
            pass

    def clear(self) -> Steps[None]:
        """Forget all."""
        return self._known.clear()

    def _touch(self, jid: str, now: int) -> Track:
        member = jid.encode()
        track = self._known.get(member) or Track()
        track.updated_at = now
        self._known.add(now + TRACKED_FOR * SECOND, member, track)
        return track

"""What probes ask of a worker: whether its threads go on, and whether it fetches.

Rules: the thread that manages a worker notes its state in the page of the process's counters, at
each of its steps, and any process that sees that memory judges it. A worker is alive as long as its
own clocks move, whatever the server does: a thread that runs a job, or waits for the server, is not
late. One that stops is alive, since its stop has limits of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from time import monotonic
from typing import Any, Final, NamedTuple

from . import timing
from .counts import BEAT_AT, BEAT_DUE, CLOCK, PROCESS, REASON, STUCK, Counts, Page
from .heartbeat import Heartbeat
from .lifecycle import State
from .manager import Manager

REASONS: Final = ("starting", "ready", "outage", "refused", "quiet", "stopping")
"""Why a worker does not fetch, beside "ready". "starting": the program is imported, handlers of
"startup" run, or the server has not answered yet; "refused": it refuses FETCH."""

STARTING, READY, STOPPING = 0, 1, 5

_NEAREST: Final = ("ready", "outage", "refused", "starting", "quiet", "stopping")
"""Of several workers the one that is first here has the reason of all."""

REFUSED_WITHIN: Final = 3.0
"""Seconds for which FETCH counts as refused: each thread that has no job asks once a second."""


class Status:
    """Notes the state of a worker, for the thread that manages it."""

    def __init__(self, counts: Counts, manager: Manager) -> None:
        manager.counts = counts
        self.heartbeat: Heartbeat | None = None
        self._counts = counts
        self._manager = manager
        self._missing_since = inf
        self._checked_at = -inf
        self._stuck = 0
        counts.page.head[BEAT_AT] = monotonic()

    def publish(self) -> None:
        """Note the state as it is now."""
        now = monotonic()
        manager = self._manager
        if now - self._checked_at >= manager.timing.check_interval:
            self._checked_at = now
            self._stuck = self._count_stuck(now)
        reason = manager.outage.state(REFUSED_WITHIN) or "ready"
        if manager.lifecycle.state is State.TERMINATE:
            reason = "stopping"
        elif manager.lifecycle.state is State.QUIET:
            reason = "quiet"
        due = None if self.heartbeat is None else self.heartbeat.due
        self._counts.publish(REASONS.index(reason), self._stuck, inf if due is None else due, now)

    def end(self) -> None:
        """Note that the worker has ended, or is about to: it reports what is left."""
        self._counts.publish(STOPPING, 0, inf, monotonic())
        self._counts.page.head[BEAT_AT] = 0.0

    def _count_stuck(self, now: float) -> int:
        """Return how many threads are late, or could not be replaced for too long."""
        manager = self._manager
        late = now - manager.timing.stuck_after
        self._missing_since = min(self._missing_since, now) if manager.missing else inf
        stuck = manager.missing if self._missing_since < late else 0
        for each in manager.processors:
            if each.running.current is None and each.waits_since is None and each.due < late:
                stuck += 1
        return stuck


class Probe(NamedTuple):
    """The answer to a probe: whether it passes, and what to say."""

    passes: bool
    body: dict[str, Any]


class Probes:
    """Judges the workers of some pages: this process's alone, or those of a supervisor."""

    def __init__(
        self,
        pages: Sequence[Page],
        supervised: bool = False,
        stuck_after: float = timing.DEFAULT.stuck_after,
    ) -> None:
        self.pages = pages
        self.absent: Callable[[], str] = lambda: "starting"
        """Returns the reason of a worker whose process has ended, or did not start yet."""
        self._supervised = supervised
        self._stuck_after = stuck_after

    def livez(self) -> Probe:
        """Return whether the threads of all workers go on."""
        now = monotonic()
        found = [self._fault(page, now) for page in self.pages]
        faults = [
            f"worker {number}: {fault}" if self._supervised else fault
            for number, fault in enumerate(found, 1)
            if fault
        ]
        if faults:
            return Probe(False, {"reason": "stuck", "text": "; ".join(faults)})
        return Probe(True, {"reason": "alive"})

    def readyz(self) -> Probe:
        """Return whether the worker fetches, or one of several does."""
        reasons = [
            REASONS[int(page.head[REASON])] if page.head[PROCESS] else self.absent()
            for page in self.pages
        ]
        reason = min(reasons, key=_NEAREST.index)
        body: dict[str, Any] = {"reason": reason}
        if self._supervised:
            body["workers"] = [
                {"number": number, "process": int(page.head[PROCESS]) or None, "reason": each}
                for number, (page, each) in enumerate(zip(self.pages, reasons, strict=True), 1)
            ]
        return Probe(reason == "ready", body)

    def _fault(self, page: Page, now: float) -> str:
        """Return which thread of a worker does not go on; "" if all do."""
        head = page.head
        clock = head[CLOCK]
        if not (head[PROCESS] and clock) or head[REASON] == STOPPING:
            return ""
        late = now - self._stuck_after
        if clock < late:
            return f"the thread that manages it has not gone on for {now - clock:.0f} s"
        if head[BEAT_DUE] < late:
            return f"its heartbeat is {now - head[BEAT_DUE]:.0f} s late"
        if stuck := int(head[STUCK]):
            return f"{stuck} of its threads do not go on, or cannot be replaced"
        return ""

"""The failed runs of a job, which its page shows. They do not go into its payload."""

from __future__ import annotations

import json
from sys import getsizeof
from typing import Final, NamedTuple

MAX_RUNS: Final = 50
"""Runs of a job that are kept; one more drops the oldest."""

_MAX_WID: Final = 100
"""Characters of a worker's id."""

_OVERHEAD: Final = 200
"""Bytes of a run beside its texts."""


class Run(NamedTuple):
    """A run that failed; times in nanoseconds since the epoch."""

    started_at: int | None
    """When a worker fetched the job."""
    ended_at: int
    wid: str
    errtype: str
    message: str


class Runs:
    """The failed runs of one job, oldest first."""

    __slots__ = ("dropped", "kept")

    def __init__(self) -> None:
        self.kept: list[Run] = []
        self.dropped = 0
        """How many older ones are not kept."""

    def add(self, run: Run) -> None:
        """Add the run that has just failed."""
        self.kept.append(run._replace(wid=run.wid[:_MAX_WID]))
        if len(self.kept) > MAX_RUNS:
            del self.kept[0]
            self.dropped += 1

    def drop_last(self) -> None:
        """Forget the last one: there is no memory for it."""
        del self.kept[-1]
        self.dropped += 1

    def copy(self) -> Runs:
        """Return runs that go on from these ones."""
        other = Runs()
        other.kept, other.dropped = self.kept.copy(), self.dropped
        return other

    def size(self) -> int:
        """Return about how many bytes they take."""
        return sum(
            _OVERHEAD + getsizeof(run.wid) + getsizeof(run.errtype) + getsizeof(run.message)
            for run in self.kept
        )

    def write(self) -> str:
        """Return them as JSON, for the file."""
        return json.dumps([self.dropped, *self.kept], separators=(",", ":"))


def read_runs(text: str) -> Runs:
    """Return the runs that `write` wrote; ValueError or TypeError for another text."""
    runs = Runs()
    runs.dropped, *kept = json.loads(text)
    runs.kept = [Run(*fields) for fields in kept]
    return runs

"""The states of a worker: running, quiet, terminate. Pure; threads and signals change them.

Rules: the state moves forward only. A quiet worker fetches no more and finishes its jobs; a
terminating one also ends when they are done, or when its grace period is over.
"""

from __future__ import annotations

from enum import IntEnum


class State(IntEnum):
    """How far a worker is on its way out."""

    RUNNING = 0
    QUIET = 1
    TERMINATE = 2


class Lifecycle:
    """One worker's state. Safe to read from any thread, and to move, from one at a time."""

    def __init__(self) -> None:
        self.state = State.RUNNING

    def advance(self, state: State) -> bool:
        """Move to a later state; return whether that changed anything."""
        if state <= self.state:
            return False
        self.state = state
        return True

    @property
    def fetches(self) -> bool:
        """Whether new jobs are asked for."""
        return self.state is State.RUNNING

    @property
    def reported(self) -> str | None:
        """The state as a heartbeat reports it (`server/workers.go: heartbeat`)."""
        return None if self.state is State.RUNNING else self.state.name.lower()

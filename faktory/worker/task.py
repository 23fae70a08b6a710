"""A function registered on one worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..jobs.context import JobContext


class Task(NamedTuple):
    """A function registered on one worker; with `bind` it gets the jid as first argument."""

    name: str
    func: Callable[..., object]
    bind: bool

    @property
    def origin(self) -> str:
        """What it is in a message."""
        return f"{self.name} of a worker"

    @property
    def time_limit(self) -> float | None:
        """None: it may take as long as it likes."""
        return None

    def takes(self, job: JobContext) -> list[object]:
        """Return what the function is called with for a job."""
        return [job.jid, *job.args] if self.bind else job.args

    def run(self, job: JobContext) -> object:
        """Call the function with a job's arguments."""
        return self.func(job.jid, *job.args) if self.bind else self.func(*job.args)

"""The locks of unique jobs, as Faktory Enterprise has them; an approximation.

Rules: a job with `unique_for` locks its job type, arguments and queue for that many seconds, from
its push or, if it is scheduled, from its time. The lock ends earlier when the job is acknowledged
or, with `unique_until` "start", when a worker fetches it. It is kept during retries, and when the
job dies, expires or is deleted (of these, the documentation mentions only deleting). A job without
`unique_for` neither acquires nor respects a lock.
"""

from __future__ import annotations

from itertools import islice

from ..errors import CommandError
from ..job import StoredJob
from ..slices import Steps
from ..sorted_set import SortedSet


class NotUnique(CommandError):
    """Another job holds the lock."""

    code = "NOTUNIQUE"

    def __init__(self) -> None:
        super().__init__("Job not unique")


class Locks:
    """The locks that are held, with the jid of the holder."""

    def __init__(self, held: SortedSet[str] | None = None) -> None:
        self._held: SortedSet[str] = SortedSet() if held is None else held

    def check(self, job: StoredJob) -> None:
        """Raise NotUnique if the job's lock is held."""
        if self._held.get(_key(job)) is not None:
            raise NotUnique

    def acquire(self, job: StoredJob, until: int) -> None:
        """Acquire the job's lock, at most until then."""
        self._held.add(until, _key(job), job.jid)

    def release(self, job: StoredJob) -> None:
        """Release the job's lock, unless another job holds it by now."""
        key = _key(job)
        if self._held.get(key) == job.jid:
            self._held.remove(key)

    def first(self) -> int | None:
        """Return when `sweep` will next have something to do."""
        return self._held.first()

    def sweep(self, now: int, limit: int | None = None) -> None:
        """Release the locks whose time is over, at most `limit`."""
        for _ in islice(self._held.pop_until(now), limit):
            pass

    def clear(self) -> Steps[None]:
        """Release all."""
        return self._held.clear()


def _key(job: StoredJob) -> bytes:
    return f"{job.jobtype}\0{job.queue or 'default'}\0{job.args}".encode()

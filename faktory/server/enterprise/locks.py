"""The locks of unique jobs, as Faktory Enterprise has them; an approximation.

Rules: a job with `unique_for` locks its job type, arguments and queue for that many seconds, from
its push or, if it is scheduled, from its time. The lock ends before that when the job is
acknowledged or, with `unique_until` "start", when a worker takes it. It is held over retries, and
also when the job dies, expires or is deleted: that much the documentation says of deleting. A job
without `unique_for` neither takes a lock nor minds one.
"""

from __future__ import annotations

from ..job import Job
from ..sorted_set import SortedSet
from ..store import Refused


class NotUnique(Refused):
    """A job that is refused because another one holds the lock."""

    code = "NOTUNIQUE"

    def __init__(self) -> None:
        super().__init__("Job not unique")


class Locks:
    """The locks that are held, and by which jid."""

    def __init__(self) -> None:
        self._held: SortedSet[str] = SortedSet()

    def check(self, job: Job) -> None:
        """Refuse a job whose lock is held."""
        if self._held.get(_key(job)) is not None:
            raise NotUnique

    def take(self, job: Job, until: int) -> None:
        """Lock, until then at most."""
        self._held.add(until, _key(job), job.jid)

    def release(self, job: Job) -> None:
        """Unlock what this job has locked; a lock that has become another job's stays."""
        key = _key(job)
        if self._held.get(key) == job.jid:
            self._held.remove(key)

    def first(self) -> int | None:
        """Return when `sweep` has something to do next."""
        return self._held.first()

    def sweep(self, now: int) -> None:
        """End the locks whose time is over."""
        for _ in self._held.pop_until(now):
            pass

    def clear(self) -> None:
        """Forget all."""
        self._held.clear()


def _key(job: Job) -> bytes:
    return f"{job.jobtype}\0{job.queue or 'default'}\0{job.args}".encode()

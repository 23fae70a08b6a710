"""What administrators do: queues are paused, emptied and removed, jobs deleted, moved, tried again.

Rules: each job is moved or deleted as a whole, while other connections go on changing what it is
in: what is added meanwhile may be left out. Enterprise's locks and batches know nothing of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from . import failures
from .errors import CommandError
from .filters import Matches
from .go import time as go_time
from .go.time import SECOND
from .job import StoredJob
from .lookup import Key, Lookup, members_of, queue_chunks
from .slices import ITEMS, Steps, chunks
from .sorted_set import SortedSet

DEAD_FOR: Final = 180 * 86400
"""Seconds until a dead job is forgotten [Go: manager/manager.go]."""

Which = Matches | Sequence[Key] | None
"""Which jobs of a set are meant: those that match, those with these keys, all."""


class Operations(Lookup):
    """What a store does for administrators."""

    paused: set[str]
    unserved: deque[str]

    # Queues.

    def pause(self, name: str) -> None:
        """Stop handing out a queue's jobs; a queue that does not exist is not paused."""
        if name in self.queues:
            self.paused.add(name)

    def resume(self, name: str) -> None:
        """Hand out a queue's jobs again."""
        self.paused.discard(name)

    def remove(self, name: str) -> Steps[None]:
        """Delete a queue with its jobs at once; a queue made later is not paused."""
        self.paused.discard(name)
        yield from _free(self.queues.pop(name, None))

    def clear_queue(self, name: str) -> Steps[int]:
        """Delete the jobs of a queue at once; return how many. The queue and its pause stay."""
        jobs = self.queues.get(name)
        count = len(jobs) if jobs else 0
        if count:
            self.queues[name] = self._new_queue(name)
            yield from _free(jobs)
        return count

    def delete_queued(self, name: str, jids: Iterable[str]) -> Steps[int]:
        """Delete the jobs of a queue with these jids; return how many."""
        wanted = frozenset(jids)
        queue = self.queues.get(name, deque[StoredJob]())
        count = 0
        for start, jobs in queue_chunks(queue):
            gone = [number for number, job in enumerate(jobs) if job.jid in wanted]
            if gone:
                # In the middle of a long queue each takes a hundred times as long as at its head.
                queue.rotate(-start)
                for number in reversed(gone):
                    del queue[number]
                queue.rotate(start)
            count += len(gone)
            yield
        return count

    def latency(self, name: str) -> float:
        """Return how many seconds the oldest job of a queue has waited."""
        queue = self.queues.get(name)
        if not queue:
            return 0.0
        try:
            return (self.clock() - go_time.read(queue[0].enqueued_at)) / SECOND
        except ValueError as error:
            # A scheduled job that MUTATE requeued has no `enqueued_at`.
            raise CommandError(f"QUEUE: {error}") from None

    # All.

    def flush(self) -> Steps[None]:
        """Delete all jobs and numbers; the queues stay, and so do their pauses.

        The sets are emptied at once, the queues one after another: of the jobs that are pushed
        meanwhile, some stay.
        """
        freed = [jobs.clear() for jobs in (self.scheduled, self.retries, self.dead)]
        freed.append(self.working.clear())
        self.processed = self.failures = 0
        self.series.clear(self.clock())
        for steps in freed:
            yield from steps
        for names in chunks(list(self.queues)):
            for name in names:
                yield from self.clear_queue(name)
            yield

    # Sets: "scheduled", "retries" and "dead"; CommandError for another one.

    def discard(self, target: str, which: Which) -> Steps[int]:
        """Delete jobs of a set, all of them at once if `which` is None; return how many."""
        jobs = self.sorted_set(target)
        count = 0
        if which is None:
            count = len(jobs)
            yield from jobs.clear()
            return count
        for job in self._chosen(jobs, which):
            if job is None:
                yield
            else:
                count += jobs.remove(job.payload)
        return count

    def kill(self, target: str, which: Which) -> Steps[int]:
        """Move jobs of a set to the dead; return how many."""
        jobs = self.sorted_set(target)
        until = self.clock() + DEAD_FOR * SECOND
        count = 0
        for job in self._chosen(jobs, which):
            if job is None:
                yield
            else:
                count += jobs.remove(job.payload)
                self.dead.add(until, job.payload, job)
                if jobs is not self.dead:
                    failures.log_killed(job)
        return count

    def requeue(self, target: str, which: Which) -> Steps[int]:
        """Move jobs of a set to their queues unchanged, as MUTATE does; return how many."""
        jobs = self.sorted_set(target)
        count = 0
        for job in self._chosen(jobs, which):
            if job is None:
                yield
                continue
            queue = self._queue(job.queue)
            count += jobs.remove(job.payload)
            queue.append(job)
            self._announce(job.queue)
        return count

    def retry(self, target: str, which: Which) -> Steps[int]:
        """Queue jobs of a set now; return how many [Go: storage/redis.go, EnqueueFrom].

        A job whose queue has an impossible name stays; CommandError when all others are queued.
        """
        jobs = self.sorted_set(target)
        count, refusal = 0, None
        for job in self._chosen(jobs, which):
            if job is None:
                yield
                continue
            payload = job.payload
            try:
                self._enqueue(job)
            except CommandError as error:
                refusal = error
            else:
                count += jobs.remove(payload)
        if refusal is not None:
            raise CommandError(f"{count} jobs were queued, and not all: {refusal}")
        return count

    def _chosen(self, jobs: SortedSet[StoredJob], which: Which) -> Iterator[StoredJob | None]:
        """Iterate over the jobs that are meant, with None where others have their turn."""
        if which is None or callable(which):
            return self._matching(jobs, which)
        return members_of(jobs, which)

    def _matching(
        self, jobs: SortedSet[StoredJob], matches: Matches | None
    ) -> Iterator[StoredJob | None]:
        """As `_chosen`. What comes in meanwhile behind all others is left out."""
        last = jobs.last()
        for number, (score, payload, job) in enumerate(jobs):
            if last is None or (score, payload) > last:
                return
            if number % 20 == 19:
                yield None
            if matches is not None:
                steps = matches(payload)
                try:
                    while True:
                        next(steps)
                        yield None
                except StopIteration as end:
                    if not end.value:
                        continue
            if jobs.get(payload) is job:  # others had their turn
                yield job

    def sorted_set(self, name: str) -> SortedSet[StoredJob]:
        """Return `retries`, `scheduled` or `dead`; CommandError for another name."""
        if name == "retries":
            return self.retries
        if name == "scheduled":
            return self.scheduled
        if name == "dead":
            return self.dead
        raise CommandError("invalid target for mutation command")

    # What the store does.

    def _queue(self, name: str) -> deque[StoredJob]:
        raise NotImplementedError

    def _new_queue(self, name: str, /) -> deque[StoredJob]:
        raise NotImplementedError

    def _enqueue(self, job: StoredJob) -> None:
        raise NotImplementedError

    def _announce(self, name: str) -> None:
        """Note that a queue has a job, for which a client may wait."""
        raise NotImplementedError


def _free(jobs: deque[StoredJob] | None) -> Steps[None]:
    """Free the memory of jobs, which takes a while if there are many."""
    while jobs:
        for _ in range(min(ITEMS, len(jobs))):
            jobs.pop()
        yield

"""`burst=True`: when a worker has nothing left to do, and ends.

Rules: what is left is what the queues hold and what the jobs that run here push. A queue is empty
if a FETCH for it brought no job that was sent after the last job of all had ended. A processor
waits when all of its queues are empty. When all processors wait, no FETCH is under way, and each
queue was empty while nothing ran that could push to it. The first job that one gets ends the waits
of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from threading import Condition, Thread
from time import monotonic


class Burst:
    """Which of a worker's processors have a job, and which have found none. From any thread.

    `on_wait` is called, with a lock held, when one begins to wait.
    """

    def __init__(self, on_wait: Callable[[], None]) -> None:
        self._on_wait = on_wait
        self._changed = Condition()
        self._busy: set[Thread] = set()
        self._ended_at = 0.0
        self._empty: set[str] = set()
        """Queues that were found empty since then."""
        self._waiting: set[Thread] = set()
        self._closed = False

    def begin(self, processor: Thread) -> None:
        """Note that a processor got a job; others fetch again, since jobs push jobs."""
        with self._changed:
            self._busy.add(processor)
            self._empty.clear()
            self._waiting.clear()
            self._changed.notify_all()

    def end(self, processor: Thread) -> None:
        """Note that a processor fetches again: what its job pushes, if it had one, was pushed."""
        with self._changed:
            if processor in self._busy:
                self._busy.remove(processor)
                self._empty.clear()
                self._ended_at = monotonic()

    def found_empty(
        self, asked_at: float, queues: Collection[str], processors: Collection[Thread]
    ) -> None:
        """Note that a FETCH for these queues, sent then (`time.monotonic`), brought no job.

        It says nothing while one of the `processors` has a job, nor if one ended after that.
        """
        with self._changed:
            if not self._runs(processors) and asked_at >= self._ended_at:
                self._empty.update(queues)

    def waited(
        self, processor: Thread, queues: Collection[str], processors: Collection[Thread]
    ) -> bool:
        """Wait until one of the `processors` gets a job, or for `close`; return whether it did.

        It does if all of these queues were found empty, and nothing runs.
        """
        with self._changed:
            knows = self._empty.issuperset(queues)
            if not knows or self._closed or self._runs(processors):
                return False
            self._waiting.add(processor)
            self._on_wait()
            while processor in self._waiting and not self._closed:
                self._changed.wait()
            return True

    def is_over(self, processors: Collection[Thread]) -> bool:
        """Return whether all of these wait, so that nothing is left to do."""
        with self._changed:
            return bool(processors) and self._waiting.issuperset(processors)

    def close(self) -> None:
        """End all waits: the worker fetches no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _runs(self, processors: Collection[Thread]) -> bool:
        return not self._busy.isdisjoint(processors)

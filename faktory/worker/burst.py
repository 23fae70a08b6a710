"""`burst=True`: when a worker has nothing left to do, and ends.

Rules: what is left is what the queues hold and what the jobs that run here push. A processor waits
if it got no job for a FETCH that it sent after the last job of all had ended, or would ask only
queues for which others got none. When all of them wait, no FETCH is under way, and each queue was
empty while nothing ran that could push to it. The first job that a processor gets ends the waits of
the others.
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

    def wait(
        self,
        processor: Thread,
        asked_at: float,
        queues: Collection[str],
        processors: Collection[Thread],
    ) -> None:
        """Wait until one of the `processors` gets a job, or for `close`: these `queues` had none.

        Returns at once, to fetch again, while one of them has a job, and if one ended after
        `asked_at` (`time.monotonic`), when the FETCH was sent.
        """
        with self._changed:
            if not (self._closed or self._runs(processors) or asked_at < self._ended_at):
                self._empty.update(queues)
                self._wait(processor)

    def waited(
        self, processor: Thread, queues: Collection[str], processors: Collection[Thread]
    ) -> bool:
        """Wait likewise if others have found all of these `queues` empty; return whether it did."""
        with self._changed:
            knows = self._empty.issuperset(queues)
            if not knows or self._closed or self._runs(processors):
                return False
            self._wait(processor)
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

    def _wait(self, processor: Thread) -> None:
        self._waiting.add(processor)
        self._on_wait()
        while processor in self._waiting and not self._closed:
            self._changed.wait()

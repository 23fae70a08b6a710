"""Queues and sets that record what changes in them.

What each job goes through names the method of the class it extends: in Python 3.11 `super()` costs
as much as some of these methods.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, SupportsIndex, TypeVar

from ..job import Reservation, StoredJob
from ..slices import Steps, chunks
from ..sorted_set import SortedSet
from .journal import Journal, Value, to_column

T = TypeVar("T")

MAX_DEAD: Final = 10_000
"""Dead jobs that are kept; for one more the oldest is forgotten. A file must not grow without end;
the real server, and this one in memory, keep all for 180 days."""


class DurableQueue(deque[StoredJob]):
    """A queue; jobs come in at its end, and go at either."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal
        self._rows: deque[int] = deque()

    def append(self, job: StoredJob, /) -> None:
        deque.append(self, job)
        self._rows.append(row := self._journal.append(job.payload))
        if job.failure is not None:
            _keep_runs(self._journal, row, job)

    def popleft(self) -> StoredJob:
        job = deque.popleft(self)
        self._journal.remove(self._rows.popleft())
        return job

    def pop(self, _index: SupportsIndex = -1, /) -> StoredJob:
        job = super().pop()
        self._journal.remove(self._rows.pop())
        return job

    def __delitem__(self, index: SupportsIndex, /) -> None:  # type: ignore[override]
        super().__delitem__(index)
        self._journal.remove(self._rows[index])
        del self._rows[index]

    def rotate(self, n: int = 1, /) -> None:
        """Rotate jobs and rows; it is to be rotated back in the same step."""
        super().rotate(n)
        self._rows.rotate(n)

    def restore(self, row: int, job: StoredJob) -> None:
        """Append a job of the file."""
        super().append(job)
        self._rows.append(row)


class _DurableSet(SortedSet[T]):
    """A set whose members have rows."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal
        self._rows: dict[bytes, int] = {}

    def add(self, score: int, member: bytes, value: T) -> None:
        SortedSet.add(self, score, member, value)
        self._rows[member] = self._record(score, value)

    def remove(self, member: bytes) -> bool:
        removed = SortedSet.remove(self, member)
        if removed:
            self._journal.remove(self._rows.pop(member))
        return removed

    def clear(self) -> Steps[None]:
        rows, self._rows = self._rows, {}
        return self._free(rows.values(), super().clear())

    def restore(self, row: int, score: int, member: bytes, value: T) -> None:
        """Add a member of the file."""
        super().add(score, member, value)
        self._rows[member] = row

    def _record(self, score: int, value: T) -> int:
        raise NotImplementedError

    def _free(self, rows: Iterable[int], steps: Steps[None]) -> Steps[None]:
        for some in chunks(rows):
            for row in some:
                self._journal.remove(row)
            yield
        yield from steps


class DurableSet(_DurableSet[StoredJob]):
    """Scheduled jobs, retries, or the dead; beyond `limit` the first ones are dropped."""

    def __init__(self, journal: Journal, place: str, limit: int | None = None) -> None:
        super().__init__(journal)
        self._place = place
        self._limit = limit

    def add(self, score: int, member: bytes, value: StoredJob) -> None:
        super().add(score, member, value)
        if self._limit is not None and len(self) > self._limit:
            first = self.first()
            assert first is not None
            next(self.pop_until(first))

    def _record(self, score: int, value: StoredJob) -> int:
        row = self._journal.add(self._place, score, value.payload)
        if value.failure is not None:
            _keep_runs(self._journal, row, value)
        return row


class DurableWorking(_DurableSet[Reservation]):
    """The jobs that workers have, by the number of the reservation."""

    def shadow(self, member: bytes) -> None:
        """Note that a newer reservation of the same jid has come: see `DurableReservations`."""
        entry = self._entries.get(member)
        if entry is not None:
            self._journal.remove(self._rows[member])
            self._rows[member] = self._record(*entry, "shadowed")

    def _record(self, score: int, value: Reservation, place: str = "working") -> int:
        job = value.job
        row = self._journal.add(place, score, job.payload, value.wid, value.reserved_at)
        if job.failure is not None:
            _keep_runs(self._journal, row, job)
        return row


def _keep_runs(journal: Journal, row: int, job: StoredJob) -> None:
    if job.runs is not None:
        journal.keep_runs(row, job.runs.write())


class DurableReservations(dict[str, Reservation]):
    """The newest reservation of each jid: an older one is never found by the jid again."""

    def __init__(self, journal: Journal, working: DurableWorking) -> None:
        super().__init__()
        self._journal = journal
        self._working = working

    def __setitem__(self, jid: str, reservation: Reservation) -> None:
        older = self.get(jid)
        dict.__setitem__(self, jid, reservation)
        if older is not None and older.member != reservation.member:
            self._working.shadow(older.member)

    def pop(self, jid: str, default: Any = None, /) -> Any:
        found = dict.pop(self, jid, default)
        if found is not None:
            self._journal.change()  # after FLUSH only counters do
        return found


class DurableEntries(SortedSet[T]):
    """A set whose members are entries, written by `write` and read by `read`."""

    def __init__(
        self,
        journal: Journal,
        kind: str,
        write: Callable[[T], object],
        read: Callable[[Any], T],
    ) -> None:
        super().__init__()
        self.kind = kind
        self._journal = journal
        self._write = write
        self._read = read

    def add(self, score: int, member: bytes, value: T) -> None:
        super().add(score, member, value)
        self._journal.touch(self, member)

    def remove(self, member: bytes) -> bool:
        removed = super().remove(member)
        if removed:
            self._journal.touch(self, member)
        return removed

    def clear(self) -> Steps[None]:
        return self._free_entries(list(self._entries), super().clear())

    def _free_entries(self, members: Iterable[bytes], steps: Steps[None]) -> Steps[None]:
        for some in chunks(members):
            for member in some:
                self._journal.touch(self, member)
            yield
        yield from steps

    def entry(self, key: bytes) -> Value | None:
        entry = self._entries.get(key)
        return None if entry is None else (to_column(entry[0]), self._write(entry[1]))

    def load(self) -> None:
        """Add the members of the file."""
        for member, score, value in self._journal.entries(self.kind):
            super().add(int(score), member, self._read(value))

"""Records what changes, and writes it in one commit.

Rules: a job has a row in `jobs` for each place where it is, made when it comes and deleted when it
goes; after its commit a row never changes. What changes in place is an entry: it is only noted as
touched, and written as it is at the commit. Nothing here forgets a change that was not committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from .file import DataFile

Row = tuple[int, str, int | str, str | None, int | None, bytes]
"""A row of `jobs`: id, place, at, wid, reserved_at, job. Of a job in a queue there is nothing
between its place, "queue", and the job."""

Value = tuple[int | str, object]
"""What an entry has beside kind and key: `at`, `value`."""

_BIG = 1 << 63


class Source(Protocol):
    """What has entries of one kind."""

    kind: str

    def entry(self, key: bytes) -> Value | None:
        """Return an entry as it is now, None if it is not there any more."""


def to_column(number: int) -> int | str:
    """Return a number as SQLite takes it: beyond 64 bits as text."""
    return number if -_BIG <= number < _BIG else str(number)


class Journal:
    """The changes since the last commit. The file is open from the beginning until `close`."""

    def __init__(self, path: str, sync: str) -> None:
        """Open the file; DataFileError if it cannot be used."""
        self._file = DataFile(path, sync)
        self._connection = self._file.connection
        self.pending = False
        """Something is to be committed."""
        self.on_change: Callable[[], object] = lambda: None
        """Called at the first change after a commit."""
        self.counters: Callable[[], dict[str, int]] = dict
        """Returns the numbers that are kept, by name."""
        self._counted: dict[str, int] = {}
        self._last = self._file.last_row
        self._queued: dict[int, tuple[int, bytes]] = {}
        """New rows of queues: id and job. Most are such, and take a quarter less time so."""
        self._added: dict[int, Row] = {}
        self._runs: list[tuple[str, int]] = []
        """The failed runs of new rows: few have any, and the others do not pay for them."""
        self._removed: list[tuple[int]] = []
        self._touched: dict[tuple[str, bytes], Source] = {}
        self._cleared = False

    @property
    def rows(self) -> int:
        """How many jobs have come or gone since the last commit."""
        return len(self._queued) + len(self._added) + len(self._removed)

    # Changes.

    def append(self, job: bytes) -> int:
        """Add a job to its queue; return its row's id."""
        self._last = row = self._last + 1
        self._queued[row] = (row, job)
        if not self.pending:
            self.change()
        return row

    def add(
        self,
        place: str,
        at: int,
        job: bytes,
        wid: str | None = None,
        reserved_at: int | None = None,
    ) -> int:
        """Add a job in another place; return its row's id."""
        self._last = row = self._last + 1
        self._added[row] = (row, place, to_column(at), wid, reserved_at, job)
        if not self.pending:
            self.change()
        return row

    def keep_runs(self, row: int, runs: str) -> None:
        """Keep the failed runs of a job that has just been added."""
        self._runs.append((runs, row))

    def remove(self, row: int) -> None:
        """Remove a job from where it was added."""
        if self._queued.pop(row, None) is None and self._added.pop(row, None) is None:
            self._removed.append((row,))
        if not self.pending:
            self.change()

    def touch(self, source: Source, key: bytes) -> None:
        """Note that an entry is new, changed or gone."""
        self._touched[source.kind, key] = source
        if not self.pending:
            self.change()

    def change(self) -> None:
        """Note that something has changed, counters at least."""
        if not self.pending:
            self.pending = True
            self.on_change()

    def clear(self) -> None:
        """Delete everything."""
        self._forget()
        self._cleared = True
        self._counted = {}
        self.change()

    # The file.

    def jobs(self) -> Iterator[tuple[int, str, Any, str | None, int | None, bytes, str | None]]:
        """Iterate over the jobs, oldest first."""
        yield from self._connection.execute("SELECT * FROM jobs ORDER BY id")

    def entries(self, kind: str) -> Iterator[tuple[bytes, Any, Any]]:
        """Iterate over the entries of one kind: key, at, value."""
        query = "SELECT key, at, value FROM entries WHERE kind = ? ORDER BY key"
        yield from self._connection.execute(query, (kind,))

    def commit(self) -> None:
        """Write all changes; whatever this raises, the file has all of them or none."""
        execute, executemany = self._connection.execute, self._connection.executemany
        execute("BEGIN IMMEDIATE")
        if self._cleared:
            execute("DELETE FROM jobs")
            execute("DELETE FROM entries")
        if self._removed:
            executemany("DELETE FROM jobs WHERE id = ?", self._removed)
        if self._queued:
            queued = "INSERT INTO jobs (id, place, job) VALUES (?, 'queue', ?)"
            executemany(queued, self._queued.values())
        if self._added:
            columns = "id, place, at, wid, reserved_at, job"
            added = f"INSERT INTO jobs ({columns}) VALUES (?, ?, ?, ?, ?, ?)"
            executemany(added, self._added.values())
        if self._runs:
            executemany("UPDATE jobs SET runs = ? WHERE id = ?", self._runs)
        counters = self.counters()
        if self._touched or counters != self._counted:
            self._write_entries(counters)
        execute("COMMIT")
        self._counted = counters
        self._forget()

    def close(self) -> None:
        """Close the file; what was not committed is lost."""
        self._file.close()

    def _write_entries(self, counters: dict[str, int]) -> None:
        kept: list[tuple[str, bytes, int | str, object]] = []
        gone: list[tuple[str, bytes]] = []
        for (kind, key), source in self._touched.items():
            value = source.entry(key)
            if value is None:
                gone.append((kind, key))
            else:
                kept.append((kind, key, *value))
        for name, number in counters.items():
            if number != self._counted.get(name):
                kept.append(("counter", name.encode(), 0, to_column(number)))
        self._connection.executemany("DELETE FROM entries WHERE kind = ? AND key = ?", gone)
        self._connection.executemany("REPLACE INTO entries VALUES (?, ?, ?, ?)", kept)

    def _forget(self) -> None:
        self.pending = self._cleared = False
        self._queued.clear()
        self._added.clear()
        self._runs.clear()
        self._removed.clear()
        self._touched.clear()

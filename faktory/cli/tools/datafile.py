"""`server --data FILE --check` says what is in a data file, `--export URL` moves it to a server.

What has been moved leaves the file in the same commit in which that is known: a run that ends
before its end is continued by the next one, and one more moves nothing. A server never notices a
jid that it has already. So a run that ends while jobs for queues are sent, and not answered, leaves
a note of them, and the next one says which may be there twice. Jobs for a set are the same entry of
the server's each time: see `wire.commands.push_in_time`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from time import time
from typing import Any, Final

from ...client import Client
from ...exceptions import FaktoryServerError
from ...proto import encode_push, load_json
from ...server.disk.file import DataFile, open_to_read
from ...server.disk.lock import holder
from ...server.errors import DataFileError
from ...server.go import time as go_time
from ...server.go.time import SECOND
from ...wire import commands
from ..exits import Exit
from . import output

CHUNK: Final = 250
"""Jobs of a PUSHB: a server of 1.10 stops after five seconds."""

_NEVER: Final = "9999-12-31T23:59:59.419827653Z"
"""The time of jobs that are pushed in order to be killed: only MUTATE brings a job to the dead."""

_MAX_SHOWN = 20
"""Jobs that are named one by one."""

_PLACES: Final = {
    "dead": "dead",
    "queue": "in queues",
    "scheduled": "scheduled",
    "retries": "to be retried, now scheduled for that time",
    "working": "that workers had, now scheduled for the end of their reservations",
}
"""What is moved, in this order: to kill takes the longer the more jobs are scheduled."""

_ENTERPRISE: Final = {"batch": "batches", "lock": "locks of unique jobs", "track": "tracked jobs"}
"""What only a server with Enterprise features has, by kind of entry."""


def check(path: str) -> int:
    """Show what is in a file; return 1 if it is damaged."""
    connection = open_to_read(path)
    try:
        # One moment for all of it: a server may be writing.
        connection.execute("BEGIN")
        for line in _about(connection, path):
            output.show(line)
        found = [line for (line,) in connection.execute("PRAGMA integrity_check(10)")]
    except (sqlite3.Error, ValueError) as error:
        found = [str(error)]
    finally:
        connection.close()
    if found == ["ok"]:
        output.show("the file is sound")
        return Exit.DONE
    raise DataFileError(
        f"the data file {path!r} is damaged: {'; '.join(found)}. Put a backup in its place, or "
        "save what can be read: sqlite3 FILE .recover"
    )


def _about(connection: sqlite3.Connection, path: str) -> Iterator[str]:
    def one(query: str, *values: object) -> Any:
        return connection.execute(query, values).fetchone()[0]

    pid = holder(path)
    size = os.path.getsize(path)
    new = os.path.getsize(f"{path}-wal") if os.path.exists(f"{path}-wal") else 0
    unused = one("PRAGMA freelist_count") * one("PRAGMA page_size")
    yield f"{path}, version {one('PRAGMA user_version')}, " + (
        "not in use" if pid is None else f"in use by the server with the pid {pid}"
    )
    yield f"{size:,} bytes, {unused:,} of them free, and {new:,} of new pages"
    counters = dict(_entries(connection, "counter"))
    yield ", ".join(
        f"{int(counters.get(name.encode(), 0)):,} {name}" for name in ("processed", "failures")
    )
    now = time()
    names = {bytes(key).decode(): paused for key, paused in _entries(connection, "queue")}
    waiting: dict[str, tuple[int, str]] = dict.fromkeys(names, (0, ""))
    for (payload,) in connection.execute("SELECT job FROM jobs WHERE place = 'queue' ORDER BY id"):
        job = load_json(payload)
        count, since = waiting.get(job["queue"], (0, ""))
        waiting[job["queue"]] = count + 1, since or job.get("enqueued_at", "")
    for name, (count, since) in sorted(waiting.items()):
        line = f"queue {name}: {output.jobs(count)}"
        if since:
            line += f", the oldest waits for {_age(now, go_time.read(since))}"
        yield line + (", paused" if names.get(name) else "")
    for place, what in (
        ("scheduled", "scheduled"),
        ("retries", "to be retried"),
        ("dead", "dead"),
        ("working", "reserved by workers"),
    ):
        times = [
            int(at) for (at,) in connection.execute("SELECT at FROM jobs WHERE place = ?", (place,))
        ]
        line = f"{what}: {output.jobs(len(times))}"
        if times:
            verb = "the first is forgotten" if place == "dead" else "the first is due"
            line += f", {verb} at {_instant(min(times))}"
        yield line
    for kind, what in _ENTERPRISE.items():
        if count := one("SELECT count(*) FROM entries WHERE kind = ?", kind):
            yield f"{what}: {count:,}"


def export(path: str, url: str) -> int:
    """Move the jobs of a file to a server; return 1 if some stay."""
    if not os.path.exists(path):
        raise DataFileError(f"the data file is {path!r}: there is no such file.")
    file = DataFile(path, "full")
    try:
        with Client(url) as client:
            client.info()  # before anything is noted
            return _Export(file.connection, client).run()
    except sqlite3.Error as error:
        raise DataFileError(f"the data file {path!r} cannot be written: {error}.") from error
    finally:
        file.close()


class _Export:
    """One run: from a file to a server."""

    def __init__(self, connection: sqlite3.Connection, client: Client) -> None:
        self._connection = connection
        self._client = client
        self._refused: dict[int, str] = {}

    def run(self) -> int:
        for (value,) in self._connection.execute("SELECT value FROM entries WHERE kind = 'export'"):
            output.show(f"A run before this one ended in the middle; may be there twice: {value}")
        moved = dict.fromkeys(_PLACES, 0)
        moved["queue"] = self._pause()
        for place in _PLACES:
            moved[place] += sum(self._move(place, rows) for rows in self._chunks(place))
        for place, count in moved.items():
            if count:
                output.show(f"moved: {output.jobs(count)} {_PLACES[place]}")
        return self._show_what_stays(sum(moved.values()))

    def _chunks(self, place: str) -> Iterator[list[tuple[int, Any, bytes]]]:
        last = 0
        query = "SELECT id, at, job FROM jobs WHERE place = ? AND id > ? ORDER BY id LIMIT ?"
        while rows := self._connection.execute(query, (place, last, CHUNK)).fetchall():
            yield rows
            last = rows[-1][0]

    def _pause(self) -> int:
        """Pause the queues that were, each as soon as it has a job: it can only be then.

        Returns how many jobs were pushed for that.
        """
        count = 0
        self._connection.create_function("queue_of", 1, lambda job: load_json(job)["queue"])
        query = (
            "SELECT id, at, job FROM jobs WHERE place = 'queue' AND queue_of(job) = ? ORDER BY id "
            "LIMIT 1"
        )
        for key, paused in list(_entries(self._connection, "queue")):
            if paused:
                name = bytes(key).decode()
                self._client.pause_queues(name)
                count += self._move("queue", self._connection.execute(query, (name,)).fetchall())
                self._client.pause_queues(name)
        return count

    def _move(self, place: str, rows: Sequence[tuple[int, Any, bytes]]) -> int:
        """Push some jobs, delete those that the server has taken; return how many."""
        if not rows:
            return 0
        jobs = [_changed(load_json(job), place, at) for _, at, job in rows]
        lines = [encode_push(job) for job in jobs]
        execute = self._connection.execute
        if place == "queue":
            jids = f"{output.jobs(len(jobs))}, from {jobs[0]['jid']} to {jobs[-1]['jid']}"
            execute("REPLACE INTO entries VALUES ('export', x'', 0, ?)", (jids,))
        try:
            refused = self._client.call(commands.push_bulk_of(lines, jobs))
        except FaktoryServerError as error:  # one of them, which it cannot read at all
            if len(rows) > 1:
                return sum(self._move(place, [row]) for row in rows)
            refused = {jobs[0]["jid"]: str(error)}
        if place == "dead":
            kill = commands.mutate("kill", "scheduled", matching=f'*"at":"{_NEVER}"*')
            assert kill is not None
            self._client.call(kill)
        taken = [
            (row[0],) for row, job in zip(rows, jobs, strict=True) if job["jid"] not in refused
        ]
        execute("BEGIN IMMEDIATE")
        self._connection.executemany("DELETE FROM jobs WHERE id = ?", taken)
        execute("DELETE FROM entries WHERE kind = 'export'")
        execute("COMMIT")
        for row, job in zip(rows, jobs, strict=True):
            if job["jid"] in refused:
                self._refused[row[0]] = f"{job['jid']}: {refused[job['jid']]}"
        return len(taken)

    def _show_what_stays(self, moved: int) -> int:
        for line in list(self._refused.values())[:_MAX_SHOWN]:
            output.show(f"stays in the file, refused: {line}")
        if len(self._refused) > _MAX_SHOWN:
            output.show(f"and {len(self._refused) - _MAX_SHOWN} more were refused")
        copies = "SELECT count(*) FROM jobs WHERE place = 'shadowed'"
        left = {"older copies of jobs that were pushed twice": copies}
        for kind, what in _ENTERPRISE.items():
            left[what] = f"SELECT count(*) FROM entries WHERE kind = '{kind}'"
        for what, query in left.items():
            (count,) = self._connection.execute(query).fetchone()
            if count:
                output.show(f"cannot be moved, stays in the file: {what}, {count:,}")
        if moved:
            output.show("cannot be moved: the counts of processed and failed jobs")
        else:
            output.show("nothing was moved")
        return Exit.FAILED if self._refused else Exit.DONE


def _changed(job: dict[str, Any], place: str, at: Any) -> dict[str, Any]:
    """Return a job as it is to be pushed."""
    job.pop("at", None)
    if place == "dead":
        job["at"] = _NEVER
    elif place != "queue":
        job["at"] = go_time.write(int(at))
    return job


def _entries(connection: sqlite3.Connection, kind: str) -> Iterator[tuple[bytes, Any]]:
    yield from connection.execute("SELECT key, value FROM entries WHERE kind = ?", (kind,))


def _age(now: float, since: int) -> str:
    return output.duration(max(now - since / SECOND, 0))


def _instant(nanoseconds: int) -> str:
    try:
        return go_time.write(nanoseconds // SECOND * SECOND)
    except (ValueError, OverflowError, OSError):
        return "a time beyond the calendar"

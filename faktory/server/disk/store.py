"""A store that is mirrored in a file: see `..store`.

Rules: the store works as ever; the queues and sets that it is given here record what changes.
"""

from __future__ import annotations

import json
import sqlite3
from collections import deque
from collections.abc import Callable
from datetime import date
from itertools import islice

from ..enterprise.batches import Batches, Stage, StoredBatch
from ..enterprise.locks import Locks
from ..enterprise.store import EnterpriseStore
from ..enterprise.tracking import Track, Tracks
from ..errors import DataFileError
from ..go import json as go_json
from ..job import JOB, Reservation, StoredJob
from ..runs import read_runs
from ..series import Series
from ..slices import Steps
from ..store import Store
from .journal import Journal, Value
from .sets import (
    MAX_DEAD,
    DurableEntries,
    DurableQueue,
    DurableReservations,
    DurableSet,
    DurableWorking,
)


class DurableStore(Store):
    """All jobs. `load` is called once, before anything else."""

    def __init__(self, clock: Callable[[], int], journal: Journal) -> None:
        super().__init__(clock)
        self._journal = journal
        self._named = _Queues(self)
        self._sets = {
            "scheduled": DurableSet(journal, "scheduled"),
            "retries": DurableSet(journal, "retries"),
            "dead": DurableSet(journal, "dead", MAX_DEAD),
        }
        self.scheduled, self.retries, self.dead = self._sets.values()
        self.working = self._reserved_jobs = DurableWorking(journal)
        self.reservations = DurableReservations(journal, self._reserved_jobs)
        journal.counters = self.counters
        self._days = _Days(self.series, journal)

    def counters(self) -> dict[str, int]:
        """Return the numbers that are kept."""
        return {
            "processed": self.processed,
            "failures": self.failures,
            "expired": self.expired,
            **self.enqueued,
        }

    def load(self) -> None:
        """Take what the file has; DataFileError if that makes no sense."""
        try:
            self._load()
        except (ValueError, TypeError, sqlite3.DatabaseError) as error:
            raise DataFileError(
                f"the data file is damaged: {error}. Put a backup in its place."
            ) from error

    def _load(self) -> None:
        for key, _, paused in self._journal.entries("queue"):
            name = key.decode()
            self.queues[name] = DurableQueue(self._journal)
            if paused:
                self.paused.add(name)
        counters = {key.decode(): int(value) for key, _, value in self._journal.entries("counter")}
        self.processed = counters.pop("processed", 0)
        self.failures = counters.pop("failures", 0)
        self.expired = counters.pop("expired", 0)
        self.enqueued.update(counters)
        self._days.load((self.processed, self.failures), self.clock())
        for row, place, at, wid, reserved_at, payload, runs in self._journal.jobs():
            job = read_job(payload)
            if runs is not None and job.failure is not None:
                job.failure.runs = read_runs(runs)
            if self.quota is not None:
                self.quota.keep(job)
            if place == "queue":
                queue = self._queue(job.queue)
                assert isinstance(queue, DurableQueue)
                queue.restore(row, job)
            elif place in self._sets:
                self._sets[place].restore(row, int(at), payload, job)
            else:
                self._reserved += 1
                member = b"%d" % self._reserved
                reservation = Reservation(job, wid or "", reserved_at or 0, int(at), member)
                self._reserved_jobs.restore(row, int(at), member, reservation)
                if place == "working":
                    dict.__setitem__(self.reservations, job.jid, reservation)

    def _pop_reservation(self, jid: str) -> Reservation:
        reservation = super()._pop_reservation(jid)
        # When an older copy of the job has expired, this one stays reserved, and is not found.
        self._reserved_jobs.shadow(reservation.member)
        return reservation

    def _new_queue(self, name: str, /) -> deque[StoredJob]:
        self._journal.touch(self._named, name.encode())
        return DurableQueue(self._journal)

    def pause(self, name: str) -> None:
        super().pause(name)
        self._journal.touch(self._named, name.encode())

    def resume(self, name: str) -> None:
        super().resume(name)
        self._journal.touch(self._named, name.encode())

    def remove(self, name: str) -> Steps[None]:
        self._journal.touch(self._named, name.encode())
        yield from super().remove(name)

    def flush(self) -> Steps[None]:
        self._journal.change()  # of an empty store the counters at least
        yield from super().flush()


class _Queues:
    """The entries of the queues: their names, and whether each is paused."""

    kind = "queue"

    def __init__(self, store: Store) -> None:
        self._store = store

    def entry(self, key: bytes) -> Value | None:
        name = key.decode()
        return (0, int(name in self._store.paused)) if name in self._store.queues else None


class _Days:
    """The entries of the days, by date, and one of the last sample."""

    kind = "day"

    def __init__(self, series: Series, journal: Journal) -> None:
        self._series = series
        self._journal = journal
        series.on_change = self._touch

    def load(self, counters: tuple[int, int], now: int) -> None:
        """Take what the file has. What was counted after the last sample is of its day."""
        series = self._series
        last, series.sampled_at = counters, now  # without a sample nobody knows the days
        for key, at, value in self._journal.entries(self.kind):
            processed, failures = map(int, json.loads(value))
            if key == _LAST_SAMPLE:
                series.sampled_at = int(at)
                last = (processed, failures)
            else:
                day = date.fromisoformat(key.decode()).toordinal() - _EPOCH
                series.days[day] = (processed, failures)
        series.sampled = last
        series.sample(series.sampled_at, counters)
        self._touch([])

    def entry(self, key: bytes) -> Value | None:
        if key == _LAST_SAMPLE:
            return self._series.sampled_at, json.dumps(self._series.sampled)
        counts = self._series.days.get(date.fromisoformat(key.decode()).toordinal() - _EPOCH)
        return None if counts is None else (0, json.dumps(counts))

    def _touch(self, days: list[int]) -> None:
        self._journal.touch(self, _LAST_SAMPLE)
        for day in days:
            self._journal.touch(self, date.fromordinal(_EPOCH + day).isoformat().encode())


_EPOCH = date(1970, 1, 1).toordinal()

_LAST_SAMPLE = b"last sample"


class DurableEnterpriseStore(DurableStore, EnterpriseStore):
    """All jobs, with batches, locks and tracking."""

    def __init__(self, clock: Callable[[], int], journal: Journal) -> None:
        super().__init__(clock, journal)
        self.batches: DurableBatches = DurableBatches(self._push_callback, journal)
        self._held: DurableEntries[str] = DurableEntries(journal, "lock", str, str)
        self.locks = Locks(self._held)
        self._known = DurableEntries(journal, "track", _write_track, _read_track)
        self.tracks = Tracks(self._known)

    def _load(self) -> None:
        super()._load()
        self._held.load()
        self._known.load()
        self.batches.load()


class DurableBatches(Batches):
    """Batches: an entry for each, and one for each member that is not acknowledged."""

    def __init__(self, push: Callable[[StoredJob], None], journal: Journal) -> None:
        super().__init__(push)
        self._journal = journal
        self._entries = DurableEntries(journal, "batch", _write_batch, _read_batch)
        self.table = self._entries
        self._members = _Members(self)

    def load(self) -> None:
        """Take what the file has."""
        self._entries.load()
        for _, bid, batch in self.table:
            batch.bid = bid.decode()
        for key, _, failed in self._journal.entries("member"):
            bid, _, jid = key.partition(b"\0")
            found = self.table.get(bid)
            if found is not None:
                found.members[jid.decode()] = bool(failed)
                found.failed += failed

    def new(
        self,
        parent_bid: str,
        description: str,
        complete: StoredJob | None,
        success: StoredJob | None,
        now: int,
    ) -> str:
        bid = super().new(parent_bid, description, complete, success, now)
        self._touch(self.table.get(parent_bid.encode()))
        return bid

    def add_member(self, batch: StoredBatch, jid: str) -> None:
        super().add_member(batch, jid)
        self._touch(batch)
        self._touch_member(batch.bid, jid)

    def on_success(self, bid: str, jid: str) -> None:
        super().on_success(bid, jid)
        self._touch_member(bid, jid)

    def on_failure(self, bid: str, jid: str) -> None:
        super().on_failure(bid, jid)
        self._touch_member(bid, jid)

    def _advance(self, batch: StoredBatch | None) -> None:
        self._touch(batch)
        super()._advance(batch)

    def _finish(self, batch: StoredBatch, stage: Stage) -> StoredBatch | None:
        parent = super()._finish(batch, stage)
        self._touch(batch)
        self._touch(parent)
        return parent

    def sweep(self, now: int, limit: int | None = None) -> None:
        for batch in islice(self.table.pop_until(now), limit):
            self._forget_members(batch)

    def clear(self) -> Steps[None]:
        batches = [batch for _, _, batch in self.table]
        return self._clear(batches, super().clear())

    def _clear(self, batches: list[StoredBatch], steps: Steps[None]) -> Steps[None]:
        for batch in batches:
            self._forget_members(batch)
            yield
        yield from steps

    def _forget_members(self, batch: StoredBatch) -> None:
        for jid in batch.members:
            self._touch_member(batch.bid, jid)

    def _touch(self, batch: StoredBatch | None) -> None:
        if batch is not None:
            self._journal.touch(self._entries, batch.bid.encode())

    def _touch_member(self, bid: str, jid: str) -> None:
        self._journal.touch(self._members, f"{bid}\0{jid}".encode())


class _Members:
    """The entries of the members of batches: whether each has failed."""

    kind = "member"

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def entry(self, key: bytes) -> Value | None:
        bid, _, jid = key.partition(b"\0")
        batch = self._batches.table.get(bid)
        failed = None if batch is None else batch.members.get(jid.decode())
        return None if failed is None else (0, int(failed))


def read_job(payload: bytes) -> StoredJob:
    """Make the job of a payload; ValueError if it is none."""
    job = StoredJob(go_json.read_struct(JOB, go_json.load(payload.decode())))
    job.payload = payload
    return job


def _write_track(track: Track) -> str:
    return json.dumps([track.state, track.percent, track.desc, track.updated_at])


def _read_track(text: str) -> Track:
    track = Track()
    track.state, track.percent, track.desc, track.updated_at = json.loads(text)
    return track


def _write_batch(batch: StoredBatch) -> str:
    return json.dumps(
        {
            "parent_bid": batch.parent_bid,
            "description": batch.description,
            "created_at": batch.created_at,
            "committed": batch.committed,
            "total": batch.total,
            "stages": [_write_stage(stage) for stage in batch.stages],
        }
    )


def _write_stage(stage: Stage) -> dict[str, object]:
    callback = stage.callback
    payload = None if callback is None else (callback.payload or callback.render()).decode()
    return {"callback": payload, "state": stage.state, "children": stage.children}


def _read_batch(text: str) -> StoredBatch:
    fields = json.loads(text)
    stages = [_read_stage(stage) for stage in fields["stages"]]
    batch = StoredBatch(fields["parent_bid"], fields["description"], stages, fields["created_at"])
    batch.committed = fields["committed"]
    batch.total = fields["total"]
    return batch


def _read_stage(fields: dict[str, object]) -> Stage:
    payload = fields["callback"]
    stage = Stage(read_job(payload.encode()) if isinstance(payload, str) else None)
    stage.state = str(fields["state"])
    stage.children = int(str(fields["children"]))
    return stage

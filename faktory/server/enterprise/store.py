"""A store that also does what Faktory Enterprise does: batches, unique and expiring jobs, tracking.

Rules: the features are told by the hooks below what happens to jobs, and know nothing of one
another. MUTATE, QUEUE REMOVE and the like do not tell them: what waits for a job that was deleted
waits until it is forgotten. FLUSH makes all of them forget.

A job with `expires_at` (RFC 3339) or `expires_in` (seconds from its push or, if it is scheduled,
from its time) in `custom` is dropped when a worker would get it after that, also for a retry.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from ...proto import new_jid
from ...wire.payload import MAX_RESERVE
from ..go import json as go_json
from ..go import time as go_time
from ..go.time import SECOND
from ..job import Job
from ..store import Refused, Store
from .batches import Batches
from .locks import Locks
from .options import Marks, read, stamp
from .tracking import Tracks

_LAST = go_time.read("9999-12-31T23:59:59Z")

_log = logging.getLogger("faktory.server")


class EnterpriseStore(Store):
    """All jobs, and what Enterprise knows of them."""

    edition = "Faktory Enterprise"

    def __init__(self, clock: Callable[[], int], random: Random | None = None) -> None:
        super().__init__(clock, random)
        self.batches = Batches(self._call_back)
        self.locks = Locks()
        self.tracks = Tracks()

    # Commands of its own.

    def new_batch(self, fields: dict[str, Any]) -> str:
        """Begin a batch from the fields of BATCH NEW; return its bid."""
        complete, success = (self._callback(fields, name) for name in ("complete", "success"))
        if complete is None and success is None:
            raise Refused("a batch must have a success or a complete callback")
        return self.batches.new(
            fields.get("parent_bid", ""),
            fields.get("description", ""),
            complete,
            success,
            self.clock(),
        )

    def report(self, fields: dict[str, Any]) -> None:
        """Note how far a job is, from the fields of TRACK SET, and extend its reservation.

        A job that is not tracked may report if a worker has it; only the reservation is of use.
        """
        jid = fields.get("jid", "")
        now = self.clock()
        until = _reserve_until(fields.get("reserve_until", ""))
        reservation = self.reservations.get(jid)
        if jid not in self.tracks:
            if reservation is None:
                raise Refused(f"No such job {jid}")
            if read(reservation.job.custom).track:
                self.tracks.note(jid, "working", now)
        if jid in self.tracks:
            self.tracks.report(jid, fields.get("percent"), fields.get("desc"), now)
        if reservation is not None and until > reservation.expires_at:
            # No longer than a day at once, as it is with `reserve_for`.
            until = max(min(until, now + MAX_RESERVE * SECOND), reservation.expires_at)
            if self.working.get(reservation.member) is not None:
                self.reservations[jid] = longer = reservation._replace(expires_at=until)
                self.working.add(until, longer.member, longer)

    # Jobs come in.

    def push(self, job: Job) -> None:
        marks = read(job.custom)
        now = self.clock()
        begins = _begins(job, now)
        batch = None if marks.bid is None else self.batches.to_fill(marks.bid)
        if marks.unique_for is not None:
            self.locks.check(job)
        if batch is not None and batch.parent_bid:
            stamp(job, {"_pbid": batch.parent_bid})
        _set_expiry(job, marks, begins)
        super().push(job)
        if batch is not None:
            self.batches.joined(batch, job.jid)
        if marks.unique_for is not None:
            self.locks.take(job, begins + marks.unique_for)
        if marks.track:
            self.tracks.note(job.jid, "enqueued", now)

    def _callback(self, fields: dict[str, Any], name: str) -> Job | None:
        """Make a callback job, looking now at what could be wrong with it later."""
        if name not in fields:
            return None
        given = {"jid": new_jid(), **fields[name]}
        try:
            read(Job(given).custom)
            Store(self.clock).push(Job(given))  # a store of its own, to see what it thinks of it
        except Refused as error:
            raise Refused(f"{name} callback: {error}") from None
        return Job(given)

    def _call_back(self, job: Job) -> None:
        """Enqueue a callback. It takes no lock: it must not be lost to another job's."""
        marks = read(job.custom)
        now = self.clock()
        _set_expiry(job, marks, _begins(job, now))
        try:
            super().push(job)
        except Refused as error:
            # It had an `at`, and so a queue whose name nobody looked at: see `Store.sweep`.
            _log.warning("the callback %s is lost: %s", job.jid, error)
            return
        if marks.track:
            self.tracks.note(job.jid, "enqueued", now)

    # Workers take jobs and report back.

    def fetch(self, wid: str, queues: Iterable[str]) -> bytes | None:
        if self.ripe:
            self.serve()
        queues = list(queues)
        for name in queues:
            if self._drop_expired(name):
                break
        return super().fetch(wid, queues)

    def _serve_queue(self, name: str) -> None:
        self._drop_expired(name)
        super()._serve_queue(name)

    def _drop_expired(self, name: str) -> bool:
        """Drop what has expired from the head of a queue; tell whether there is another job."""
        queue = self.queues.get(name)
        while queue:
            job = queue[0]
            marks = read(job.custom)
            if marks.expires_at is None or marks.expires_at > self.clock():
                return True
            queue.popleft()
            _log.info("the job %s has expired", job.jid)
            self.tracks.forget(job.jid)
            if marks.bid is not None:
                self.batches.failed(marks.bid, job.jid)
        return False

    def _reserve(self, wid: str, job: Job) -> bytes:
        payload = super()._reserve(wid, job)
        marks = read(job.custom)
        if marks.until_start:
            self.locks.release(job)
        if marks.track:
            self.tracks.note(job.jid, "working", self.clock())
        return payload

    def acknowledge(self, jid: str) -> None:
        reservation = self.reservations.get(jid)
        super().acknowledge(jid)
        if reservation is None:
            return
        marks = read(reservation.job.custom)
        if marks.unique_for is not None:
            self.locks.release(reservation.job)
        if marks.track:
            self.tracks.note(jid, "success", self.clock())
        if marks.bid is not None:
            self.batches.succeeded(marks.bid, jid)
        if marks.callback_of is not None:
            self.batches.called_back(marks.callback_of, jid)

    def _failed(self, job: Job, errtype: str, message: str, backtrace: list[str]) -> None:
        super()._failed(job, errtype, message, backtrace)
        marks = read(job.custom)
        if marks.track:
            assert job.failure is not None
            buried = job.retry != 0 and job.failure.retry_count >= job.retry
            self.tracks.note(job.jid, "dead" if buried else "failed", self.clock())
        if marks.bid is not None:
            self.batches.failed(marks.bid, job.jid)

    # Time passes.

    def next_due(self) -> int | None:
        times = (self.batches.first(), self.locks.first(), self.tracks.first())
        return min((at for at in (*times, super().next_due()) if at is not None), default=None)

    def sweep(self) -> None:
        super().sweep()
        now = self.clock()
        self.batches.sweep(now)
        self.locks.sweep(now)
        self.tracks.sweep(now)

    # Administration.

    def flush(self) -> None:
        super().flush()
        self.batches.clear()
        self.locks.clear()
        self.tracks.clear()


def _begins(job: Job, now: int) -> int:
    """Return when a job that is pushed now can begin."""
    try:
        return max(now, go_time.read(job.at)) if job.at else now
    except ValueError:
        return now  # it is about to be refused for that


def _set_expiry(job: Job, marks: Marks, begins: int) -> None:
    """Turn `expires_in` into `expires_at`, once and for all retries."""
    if marks.expires_in is not None and marks.expires_at is None:
        stamp(job, {"expires_at": go_time.write(min(begins + marks.expires_in, _LAST))})


def _reserve_until(text: str) -> int:
    if not text:
        return 0
    try:
        return go_time.read(text)
    except ValueError as error:
        raise Refused(
            f"invalid timestamp for 'reserve_until': {go_json.quote(text)}: {error}"
        ) from None

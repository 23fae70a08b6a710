"""A store with batches, unique and expiring jobs, and tracking.

Rules: the hooks below call the features when something happens to a job; no feature knows another
one. MUTATE, QUEUE REMOVE and the like do not call them: what waits for a deleted job waits until it
is forgotten. FLUSH clears all of them.

A job with `expires_at` (RFC 3339) or `expires_in` (seconds from its push or, if it is scheduled,
from its time) in `custom` is dropped if a worker would get it later than that, also as a retry.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from ...proto import new_jid
from ...wire.log import Log
from ...wire.payload import MAX_RESERVE
from ..errors import CommandError
from ..go import json as go_json
from ..go import time as go_time
from ..go.time import SECOND
from ..job import LAST, Reservation, StoredJob
from ..slices import SWEPT, Steps
from ..store import Store
from .batches import Batches
from .locks import Locks
from .options import EnterpriseOptions, read_options, set_custom
from .tracking import Tracks

_log = Log(logging.getLogger("faktory.server"))


class EnterpriseStore(Store):
    """All jobs, with batches, locks and tracking."""

    edition = "Faktory Enterprise"

    def __init__(self, clock: Callable[[], int], random: Random | None = None) -> None:
        super().__init__(clock, random)
        self.batches = Batches(self._push_callback)
        self.locks = Locks()
        self.tracks = Tracks()

    # Commands of Enterprise.

    def new_batch(self, fields: dict[str, Any]) -> str:
        """Begin a batch from the fields of BATCH NEW; return its bid."""
        complete, success = (self._callback(fields, name) for name in ("complete", "success"))
        if complete is None and success is None:
            raise CommandError("a batch must have a success or a complete callback")
        return self.batches.new(
            fields.get("parent_bid", ""),
            fields.get("description", ""),
            complete,
            success,
            self.clock(),
        )

    def report(self, fields: dict[str, Any]) -> None:
        """Set the progress of a job from the fields of TRACK SET, and extend its reservation.

        For a job that a worker has and that is not tracked, only the reservation is extended.
        """
        jid = fields.get("jid", "")
        now = self.clock()
        until = _reserve_until(fields.get("reserve_until", ""))
        reservation = self.reservations.get(jid)
        if jid not in self.tracks:
            if reservation is None:
                raise CommandError(f"No such job {jid}")
            if read_options(reservation.job.custom).track:
                self.tracks.set_state(jid, "working", now)
        if jid in self.tracks:
            self.tracks.report(jid, fields.get("percent"), fields.get("desc"), now)
        if reservation is not None and until > reservation.expires_at:
            # At most a day ahead, as with `reserve_for`.
            until = max(min(until, now + MAX_RESERVE * SECOND), reservation.expires_at)
            if self.working.get(reservation.member) is not None:
                self.reservations[jid] = longer = reservation._replace(expires_at=until)
                self.working.add(until, longer.member, longer)

    # Incoming jobs.

    def push(self, job: StoredJob) -> None:
        options = read_options(job.custom)
        now = self.clock()
        starts_at = _starts_at(job, now)
        batch = None if options.bid is None else self.batches.require_open(options.bid)
        if options.unique_for is not None:
            self.locks.check(job)
        if batch is not None and batch.parent_bid:
            set_custom(job, {"_pbid": batch.parent_bid})
        _set_expiry(job, options, starts_at)
        super().push(job)
        if batch is not None:
            self.batches.add_member(batch, job.jid)
        if options.unique_for is not None:
            self.locks.acquire(job, starts_at + options.unique_for)
        if options.track:
            self.tracks.set_state(job.jid, "enqueued", now)

    def _callback(self, fields: dict[str, Any], name: str) -> StoredJob | None:
        """Make a callback job; it is checked now, so that it cannot be rejected later."""
        if name not in fields:
            return None
        given = {"jid": new_jid(), **fields[name]}
        try:
            read_options(StoredJob(given).custom)
            Store(self.clock).push(StoredJob(given))  # a throw-away store makes its checks
        except CommandError as error:
            raise CommandError(f"{name} callback: {error}") from None
        return StoredJob(given)

    def _push_callback(self, job: StoredJob) -> None:
        """Enqueue a callback. It acquires no lock, so that another job's lock cannot reject it."""
        options = read_options(job.custom)
        now = self.clock()
        _set_expiry(job, options, _starts_at(job, now))
        try:
            super().push(job)
        except CommandError as error:
            # It had an `at`, with which the name of its queue is not checked: see `Store.push`.
            _log.warning("the callback %s is lost: %s", job.jid, error)
            return
        if options.track:
            self.tracks.set_state(job.jid, "enqueued", now)

    # Workers.

    def fetch(self, wid: str, queues: Iterable[str]) -> bytes | None:
        if self.unserved:
            self.serve()
        first: list[str] = []
        for name in queues:
            has_job = self._drop_expired(name)
            if has_job:
                first.append(name)
                break
            if has_job is None:
                self.unserved.append(name)
        return super().fetch(wid, first)

    def _serve_queue(self, name: str) -> None:
        if self._drop_expired(name) is not None:
            super()._serve_queue(name)
        elif name in self._waiting:
            self.unserved.append(name)

    def _drop_expired(self, name: str) -> bool | None:
        """Drop expired jobs from the head of a queue; return whether a job is left.

        None if the next one may have expired, too: others have their turn first.
        """
        queue = self.queues.get(name)
        for _ in range(SWEPT):
            if not queue:
                return False
            job = queue[0]
            options = read_options(job.custom)
            if options.expires_at is None or options.expires_at > self.clock():
                return True
            queue.popleft()
            _log.info("the job %s has expired", job.jid)
            self.tracks.forget(job.jid)
            if options.bid is not None:
                self.batches.on_failure(options.bid, job.jid)
        return None

    def _reserve(self, wid: str, job: StoredJob) -> bytes:
        payload = super()._reserve(wid, job)
        options = read_options(job.custom)
        if options.until_start:
            self.locks.release(job)
        if options.track:
            self.tracks.set_state(job.jid, "working", self.clock())
        return payload

    def acknowledge(self, jid: str) -> None:
        reservation = self.reservations.get(jid)
        super().acknowledge(jid)
        if reservation is None:
            return
        options = read_options(reservation.job.custom)
        if options.unique_for is not None:
            self.locks.release(reservation.job)
        if options.track:
            self.tracks.set_state(jid, "success", self.clock())
        if options.bid is not None:
            self.batches.on_success(options.bid, jid)
        if options.callback_of is not None:
            self.batches.on_callback(options.callback_of, jid)

    def _fail_job(
        self, reservation: Reservation, errtype: str, message: str, backtrace: list[str]
    ) -> None:
        super()._fail_job(reservation, errtype, message, backtrace)
        job = reservation.job
        options = read_options(job.custom)
        if options.track:
            assert job.failure is not None
            is_dead = job.retry != 0 and job.failure.retry_count >= job.retry
            self.tracks.set_state(job.jid, "dead" if is_dead else "failed", self.clock())
        if options.bid is not None:
            self.batches.on_failure(options.bid, job.jid)

    # Time.

    def next_due(self) -> int | None:
        times = (self.batches.first(), self.locks.first(), self.tracks.first())
        return min((at for at in (*times, super().next_due()) if at is not None), default=None)

    def sweep(self, limit: int | None = None) -> None:
        super().sweep(limit)
        now = self.clock()
        self.batches.sweep(now, limit)
        self.locks.sweep(now, limit)
        self.tracks.sweep(now, limit)

    # Administration.

    def flush(self) -> Steps[None]:
        freed = [self.batches.clear(), self.locks.clear(), self.tracks.clear()]
        yield from super().flush()
        for steps in freed:
            yield from steps


def _starts_at(job: StoredJob, now: int) -> int:
    """Return when a job that is pushed now can start."""
    try:
        return max(now, go_time.read(job.at)) if job.at else now
    except ValueError:
        return now  # the push is about to be rejected for that


def _set_expiry(job: StoredJob, options: EnterpriseOptions, starts_at: int) -> None:
    """Turn `expires_in` into `expires_at`, which then holds for retries, too."""
    if options.expires_in is not None and options.expires_at is None:
        set_custom(job, {"expires_at": go_time.write(min(starts_at + options.expires_in, LAST))})


def _reserve_until(text: str) -> int:
    if not text:
        return 0
    try:
        return go_time.read(text)
    except ValueError as error:
        raise CommandError(
            f"invalid timestamp for 'reserve_until': {go_json.quote(text)}: {error}"
        ) from None

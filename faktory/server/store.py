"""All jobs: queues, the sets (scheduled, retries, dead), and the reservations of workers.

There is no socket and no thread here, and no clock but the one that is passed in. `sweep` does what
is due, `serve` hands jobs to clients that wait. `[Go: file]` names the place in the real server
that sets the rule.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from random import Random
from typing import Final

from ..wire.log import Log
from ..wire.payload import MAX_RESERVE
from ..wire.validate import QUEUE_NAME
from . import failures
from .errors import CommandError
from .go import json as go_json
from .go import time as go_time
from .go.time import SECOND
from .job import Failure, Quota, Reservation, StoredJob, move_expiry
from .operations import DEAD_FOR, Operations
from .runs import Run, Runs
from .series import Series
from .sorted_set import SortedSet

DEFAULT_RESERVATION: Final = 1800
"""Seconds that a worker has for a job [Go: manager/manager.go]."""

MIN_RESERVATION: Final = 60
"""Seconds; a shorter reservation is made as long [Go: manager/working.go]."""

_QUEUE_RULE = r"queue names must match \A[a-zA-Z0-9._-]+\z"

# What Go strips as white space; Python strips more.
_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)

_log = Log(logging.getLogger("faktory.server"))


class Waiter:
    """A FETCH that waits; `deliver` is called with the payload of a job from one of its queues."""

    __slots__ = ("deliver", "queues", "wid")

    def __init__(self, wid: str, queues: Sequence[str], deliver: Callable[[bytes], None]) -> None:
        self.wid = wid
        self.queues = queues
        self.deliver = deliver


class Store(Operations):
    """All jobs. Not safe to use from several threads."""

    edition = "Faktory"
    """How INFO describes the server."""

    def __init__(self, clock: Callable[[], int], random: Random | None = None) -> None:
        """`clock` returns nanoseconds since the epoch."""
        self.clock = clock
        self.offset: Callable[[], int] = lambda: 0
        """Returns the nanoseconds by which `clock` is ahead of the clients'."""
        self.queues: dict[str, deque[StoredJob]] = {}
        self.scheduled: SortedSet[StoredJob] = SortedSet()
        self.retries: SortedSet[StoredJob] = SortedSet()
        self.dead: SortedSet[StoredJob] = SortedSet()
        self.working: SortedSet[Reservation] = SortedSet()
        # The newest of each jid; FLUSH keeps it [Go: manager/working.go].
        self.reservations: dict[str, Reservation] = {}
        self.paused: set[str] = set()
        self.processed = 0
        self.failures = 0
        self.series = Series()
        """What these two numbers were, by day and by minute."""
        self.expired = 0
        self.enqueued = {"Scheduled": 0, "Retries": 0}
        self.quota: Quota | None = None
        """What the jobs may take together; a job is charged before `push`."""
        self.unserved: deque[str] = deque()
        """Queues that got a job for which a client waits, in order; `serve` is to be called."""
        self._waiting: dict[str, dict[Waiter, None]] = {}
        self._random = random or Random()
        self._reserved = 0

    # Incoming jobs.

    def check(self, job: StoredJob) -> None:
        """Check what can be without the time; CommandError if a job cannot be pushed."""
        if len(job.jid) < 8 and len(job.jid.encode()) < 8:
            raise CommandError("jobs must have a reasonable jid parameter")
        if not job.jobtype:
            raise CommandError("jobs must have a jobtype parameter")
        if job.args is None:
            raise CommandError("jobs must have an args parameter")
        if job.reserve_for > MAX_RESERVE:
            raise CommandError("jobs cannot be reserved for more than one day")

    def push(self, job: StoredJob) -> None:
        """Queue a new job, or keep it until its time [Go: manager/manager.go, Push]."""
        self.check(job)
        now = self.clock()
        if not job.created_at:
            job.created_at = go_time.write(now)
        if not job.queue:
            job.queue = "default"
        if job.at:
            try:
                at = go_time.read(job.at)
            except ValueError as error:
                raise CommandError(
                    f"invalid timestamp for 'at': {go_json.quote(job.at)}: {error}"
                ) from None
            if at > now:
                if job.failure is not None:
                    self._note_run(job, job.failure, at - now)
                # The name of the queue is checked when the time has come.
                self.scheduled.add(at, job.render(), job)
                return
        self._enqueue(job)

    def _note_run(self, job: StoredJob, failure: Failure, wait: int) -> None:
        """Keep the history of a job that its worker pushes again, for the next attempt.

        The run has just failed, as the record says that comes with it; if it is the old record, a
        worker that stops returns the job.
        """
        reservation = self.reservations.get(job.jid)
        if reservation is None or failure.runs is not None:
            return
        before = reservation.job.failure
        old = None if before is None else before.runs
        failure.runs = Runs() if old is None else old.copy()
        if before is None or not failure.is_record_of(before):
            failures.log_retry(job, failure, wait)
            failure.runs.add(
                Run(
                    reservation.reserved_at,
                    self.clock(),
                    reservation.wid,
                    _clean(failure.errtype, 100),
                    _clean(failure.message, 1000),
                )
            )
        if job.charge is not None and not job.charge.extend(failure.runs.size()):
            failure.runs = None

    def _enqueue(self, job: StoredJob) -> None:
        try:
            queue = self._queue(job.queue)
        except CommandError as error:
            raise CommandError(f"cannot get {go_json.quote(job.queue)} queue: {error}") from None
        job.enqueued_at = go_time.write(self.clock())
        job.render()
        queue.append(job)
        if job.queue in self._waiting:
            self.unserved.append(job.queue)

    def _queue(self, name: str) -> deque[StoredJob]:
        """Return a queue, made if need be [Go: storage/redis.go, GetQueue]."""
        queue = self.queues.get(name)
        if queue is None:
            if not name:
                raise CommandError("queue name cannot be blank")
            if not QUEUE_NAME.fullmatch(name):
                raise CommandError(_QUEUE_RULE)
            queue = self.queues[name] = self._new_queue(name)
        return queue

    def _new_queue(self, _name: str, /) -> deque[StoredJob]:
        return deque()

    def _announce(self, name: str) -> None:
        if name in self._waiting:
            self.unserved.append(name)

    # Workers.

    def active(self, queues: Iterable[str]) -> list[str]:
        """Return the queues that are not paused."""
        return [name for name in queues if name not in self.paused]

    def fetch(self, wid: str, queues: Iterable[str]) -> bytes | None:
        """Reserve the oldest job of the first queue that has one; return its payload.

        A FETCH that already waits is served before.
        """
        if self.unserved:
            self.serve()
        for name in queues:
            queue = self.queues.get(name)
            if queue:
                return self._reserve(wid, queue.popleft())
        return None

    def wait(self, wid: str, queues: Sequence[str], deliver: Callable[[bytes], None]) -> Waiter:
        """Wait for a job from these queues, which have none; `deliver` gets its payload."""
        waiter = Waiter(wid, queues, deliver)
        for name in queues:
            self._waiting.setdefault(name, {})[waiter] = None
        return waiter

    def stop_waiting(self, waiter: Waiter) -> None:
        """Take back a `wait`; harmless if it is over."""
        for name in waiter.queues:
            waiters = self._waiting.get(name)
            if waiters is not None:
                waiters.pop(waiter, None)
                if not waiters:
                    del self._waiting[name]

    def serve(self) -> None:
        """Hand jobs to the clients that wait for them, to the longest waiting first.

        What `unserved` holds afterwards is for the next call.
        """
        for _ in range(len(self.unserved)):
            self._serve_queue(self.unserved.popleft())

    def _serve_queue(self, name: str) -> None:
        queue, waiters = self.queues.get(name), self._waiting.get(name)
        if queue and waiters:
            waiter = next(iter(waiters))
            self.stop_waiting(waiter)
            waiter.deliver(self._reserve(waiter.wid, queue.popleft()))

    def _reserve(self, wid: str, job: StoredJob) -> bytes:
        seconds = job.reserve_for or DEFAULT_RESERVATION
        seconds = min(max(seconds, MIN_RESERVATION), MAX_RESERVE)
        now = self.clock()
        self._reserved += 1
        member = b"%d" % self._reserved
        reservation = Reservation(job, wid, now, now + seconds * SECOND, member)
        self.working.add(reservation.expires_at, member, reservation)
        self.reservations[job.jid] = reservation
        return job.payload if not (ahead := self.offset()) else _as_client_sees_it(job, ahead)

    def acknowledge(self, jid: str) -> None:
        """End a job; one that is not reserved is ignored [Go: manager/working.go, Acknowledge]."""
        reservation = self.reservations.pop(jid, None)
        if reservation is not None:
            self.working.remove(reservation.member)
            self.processed += 1

    def fail(self, jid: str, errtype: str, message: str, backtrace: list[str]) -> None:
        """Retry a job later, move it to the dead, or drop it [Go: manager/retry.go, Fail]."""
        if not jid:
            raise CommandError("missing JID")
        reservation = self._pop_reservation(jid)
        # After FLUSH there is a reservation without a job: nothing happens.
        if self.working.remove(reservation.member):
            self._fail_job(
                reservation,
                _clean(errtype, 100),
                _clean(message, 1000),
                backtrace[:50],
            )

    def _pop_reservation(self, jid: str) -> Reservation:
        reservation = self.reservations.pop(jid, None)
        if reservation is None:
            raise CommandError(f"Job not found {jid}")
        return reservation

    def _fail_job(
        self, reservation: Reservation, errtype: str, message: str, backtrace: list[str]
    ) -> None:
        """[Go: manager/retry.go, processFailure]"""
        job = reservation.job
        self.processed += 1
        self.failures += 1
        now = self.clock()
        failure = job.failure
        charge, before = job.charge, 0
        if failure is None:
            failure = Failure({"failed_at": go_time.write(now), "remaining": job.retry})
            job.failure = failure
        else:
            before = 0 if charge is None else failure.size()
            failure.retry_count = _int64(failure.retry_count + 1)
            if failure.remaining > 0:
                failure.remaining -= 1
        failure.errtype = errtype
        failure.message = message
        failure.backtrace = backtrace
        if job.retry == 0:
            failures.log_dropped(job, failure)
            return
        if failure.runs is None:
            failure.runs = Runs()
        failure.runs.add(Run(reservation.reserved_at, now, reservation.wid, errtype, message))
        if charge is not None and not charge.extend(failure.size() - before):
            failure.backtrace = []  # a job that was accepted is kept all the same
            failure.runs.drop_last()
        if failure.retry_count < job.retry:
            at = now + _int64(self.retry_wait(failure.retry_count) * SECOND)
            failure.next_at = go_time.write(at)
            self.retries.add(at, job.render(), job)
            failures.log_retry(job, failure, at - now)
        else:
            self.dead.add(now + DEAD_FOR * SECOND, job.render(), job)
            failures.log_dead(job, failure)

    def retry_wait(self, count: int) -> int:
        """Return the seconds until the next attempt of a job whose `retry_count` this is."""
        return _int64(count**4 + 15 + self._random.randrange(30) * (count + 1))

    # Time.

    def next_due(self) -> int | None:
        """Return when `sweep` will next have something to do."""
        times = (self.scheduled.first(), self.retries.first(), self.working.first())
        return min((at for at in (*times, self.dead.first()) if at is not None), default=None)

    def sweep(self, limit: int | None = None) -> None:
        """Queue the jobs whose time has come, end expired reservations, forget old dead jobs.

        At most `limit` of each: while more is due, `next_due` is in the past.
        """
        now = self.clock()
        for name, jobs in (("Scheduled", self.scheduled), ("Retries", self.retries)):
            if name == "Retries" and _is_due(self.scheduled, now):
                return  # first come those that were scheduled
            for job in islice(jobs.pop_until(now), limit):
                try:
                    self._enqueue(job)
                except CommandError as error:
                    # As in the real server [Go: storage/sorted_redis.go, RemoveBefore].
                    _log.warning("the job %s is due, but lost: %s", job.jid, error)
                else:
                    self.enqueued[name] += 1
        for expired in islice(self.working.pop_until(now), limit):
            # Two copies of a job share the newer reservation.
            try:
                reservation = self._pop_reservation(expired.job.jid)
            except CommandError:
                continue
            self.expired += 1
            self._fail_job(reservation, "ReservationExpired", "Faktory job reservation expired", [])
        for _ in islice(self.dead.pop_until(now), limit):
            pass


def _int64(number: int) -> int:
    """Let a number overflow as Go's int does: a job may come with any `retry_count`."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def _is_due(jobs: SortedSet[StoredJob], now: int) -> bool:
    first = jobs.first()
    return first is not None and first <= now


def _clean(text: str, limit: int) -> str:
    """Strip a text and cut it to `limit` bytes; "unknown" if it is empty [Go: manager/retry.go]."""
    return go_json.decode(text.strip(_SPACE).encode()[:limit]) or "unknown"


def _as_client_sees_it(job: StoredJob, ahead: int) -> bytes:
    """Return the payload for a client whose clock is so many nanoseconds behind."""
    custom, payload = job.custom, job.payload
    move_expiry(job, -ahead)
    if job.custom is custom:
        return payload
    seen = job.render()
    job.custom, job.payload = custom, payload
    return seen

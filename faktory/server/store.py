"""What the server keeps: queues, the sets of jobs that wait, and the jobs in workers' hands.

No socket and no thread in here, and no clock but the one that is passed in. What is due is done
when `sweep` is called, jobs go to waiting workers when `serve` is called.
`[Go: file]` names the place in the real server that sets the rule.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any, Final

from ..wire.payload import MAX_RESERVE
from ..wire.validate import QUEUE_NAME
from .go import json as go_json
from .go import time as go_time
from .go.time import SECOND
from .job import Failure, Job, Reservation
from .sorted_set import SortedSet, glob

DEFAULT_RESERVATION: Final = 1800
"""Seconds that a worker has for a job [Go: manager/manager.go]."""

MIN_RESERVATION: Final = 60
"""Seconds; a shorter reservation is made as long [Go: manager/working.go]."""

DEAD_FOR: Final = 180 * 86400
"""Seconds until a dead job is forgotten [Go: manager/manager.go]."""

_QUEUE_RULE = r"queue names must match \A[a-zA-Z0-9._-]+\z"

# What Go takes for white space at the ends of a text; Python takes more.
_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)

_log = logging.getLogger("faktory.server")


class Refused(Exception):
    """A command that the server answers with an error; made from the error's message."""

    code = "ERR"


class Waiter:
    """Someone who waits for a job from one of some queues; `deliver` is given its payload."""

    __slots__ = ("deliver", "queues", "wid")

    def __init__(self, wid: str, queues: Sequence[str], deliver: Callable[[bytes], None]) -> None:
        self.wid = wid
        self.queues = queues
        self.deliver = deliver


class Store:
    """All jobs. Not safe to use from several threads."""

    edition = "Faktory"
    """How INFO describes the server."""

    def __init__(self, clock: Callable[[], int], random: Random | None = None) -> None:
        """`clock` tells nanoseconds since the epoch."""
        self.clock = clock
        self.queues: dict[str, deque[Job]] = {}
        self.scheduled: SortedSet[Job] = SortedSet()
        self.retries: SortedSet[Job] = SortedSet()
        self.dead: SortedSet[Job] = SortedSet()
        self.working: SortedSet[Reservation] = SortedSet()
        # The newest one of each jid; FLUSH leaves it alone [Go: manager/working.go].
        self.reservations: dict[str, Reservation] = {}
        self.paused: set[str] = set()
        self.processed = 0
        self.failures = 0
        self.expired = 0
        self.enqueued = {"Scheduled": 0, "Retries": 0}
        self.ripe: deque[str] = deque()
        """Queues that got a job while someone waited for it, in order: `serve` is to be called."""
        self._waiting: dict[str, dict[Waiter, None]] = {}
        self._random = random or Random()
        self._reserved = 0

    # Jobs come in.

    def push(self, job: Job) -> None:
        """Queue a new job, or keep it until its time [Go: manager/manager.go, Push]."""
        if len(job.jid) < 8 and len(job.jid.encode()) < 8:
            raise Refused("jobs must have a reasonable jid parameter")
        if not job.jobtype:
            raise Refused("jobs must have a jobtype parameter")
        if job.args is None:
            raise Refused("jobs must have an args parameter")
        if job.reserve_for > MAX_RESERVE:
            raise Refused("jobs cannot be reserved for more than one day")
        now = self.clock()
        if not job.created_at:
            job.created_at = go_time.write(now)
        if not job.queue:
            job.queue = "default"
        if job.at:
            try:
                at = go_time.read(job.at)
            except ValueError as error:
                raise Refused(
                    f"invalid timestamp for 'at': {go_json.quote(job.at)}: {error}"
                ) from None
            if at > now:
                # The queue's name is not looked at before the time has come.
                self.scheduled.add(at, job.render(), job)
                return
        self._enqueue(job)

    def _enqueue(self, job: Job) -> None:
        try:
            queue = self._queue(job.queue)
        except Refused as error:
            raise Refused(f"cannot get {go_json.quote(job.queue)} queue: {error}") from None
        job.enqueued_at = go_time.write(self.clock())
        job.render()
        queue.append(job)
        if job.queue in self._waiting:
            self.ripe.append(job.queue)

    def _queue(self, name: str) -> deque[Job]:
        """Return a queue, made if need be [Go: storage/redis.go, GetQueue]."""
        queue = self.queues.get(name)
        if queue is None:
            if not name:
                raise Refused("queue name cannot be blank")
            if not QUEUE_NAME.fullmatch(name):
                raise Refused(_QUEUE_RULE)
            queue = self.queues[name] = deque()
        return queue

    # Workers take jobs and report back.

    def active(self, queues: Iterable[str]) -> list[str]:
        """Return those that are not paused."""
        return [name for name in queues if name not in self.paused]

    def fetch(self, wid: str, queues: Iterable[str]) -> bytes | None:
        """Take the oldest job of the first queue that has one; return its payload.

        Whoever waits already comes first.
        """
        if self.ripe:
            self.serve()
        for name in queues:
            queue = self.queues.get(name)
            if queue:
                return self._reserve(wid, queue.popleft())
        return None

    def wait(self, wid: str, queues: Sequence[str], deliver: Callable[[bytes], None]) -> Waiter:
        """Wait in line for a job of these queues, which have none."""
        waiter = Waiter(wid, queues, deliver)
        for name in queues:
            self._waiting.setdefault(name, {})[waiter] = None
        return waiter

    def give_up(self, waiter: Waiter) -> None:
        """Leave the line."""
        for name in waiter.queues:
            line = self._waiting.get(name)
            if line is not None:
                line.pop(waiter, None)
                if not line:
                    del self._waiting[name]

    def serve(self) -> None:
        """Hand jobs to those who wait for them, for each queue to the one who waits longest."""
        while self.ripe:
            self._serve_queue(self.ripe.popleft())

    def _serve_queue(self, name: str) -> None:
        queue, line = self.queues.get(name), self._waiting.get(name)
        if queue and line:
            waiter = next(iter(line))
            self.give_up(waiter)
            waiter.deliver(self._reserve(waiter.wid, queue.popleft()))

    def _reserve(self, wid: str, job: Job) -> bytes:
        seconds = job.reserve_for or DEFAULT_RESERVATION
        seconds = min(max(seconds, MIN_RESERVATION), MAX_RESERVE)
        now = self.clock()
        self._reserved += 1
        member = b"%d" % self._reserved
        reservation = Reservation(job, wid, now, now + seconds * SECOND, member)
        self.working.add(reservation.expires_at, member, reservation)
        self.reservations[job.jid] = reservation
        return job.payload

    def acknowledge(self, jid: str) -> None:
        """End a job; one that nobody has is no error [Go: manager/working.go, Acknowledge]."""
        reservation = self.reservations.pop(jid, None)
        if reservation is not None:
            self.working.remove(reservation.member)
            self.processed += 1

    def fail(self, jid: str, errtype: str, message: str, backtrace: list[str]) -> None:
        """Retry a job later, bury it or drop it [Go: manager/retry.go, Fail]."""
        if not jid:
            raise Refused("missing JID")
        reservation = self._end(jid)
        # After FLUSH the reservation is known and the job is not: nothing happens.
        if self.working.remove(reservation.member):
            self._failed(
                reservation.job,
                _clean(errtype, 100),
                _clean(message, 1000),
                backtrace[:50],
            )

    def _end(self, jid: str) -> Reservation:
        reservation = self.reservations.pop(jid, None)
        if reservation is None:
            raise Refused(f"Job not found {jid}")
        return reservation

    def _failed(self, job: Job, errtype: str, message: str, backtrace: list[str]) -> None:
        """[Go: manager/retry.go, processFailure]"""
        self.processed += 1
        self.failures += 1
        now = self.clock()
        failure = job.failure
        if failure is None:
            failure = Failure({"failed_at": go_time.write(now), "remaining": job.retry})
            job.failure = failure
        else:
            failure.retry_count += 1
            if failure.remaining > 0:
                failure.remaining -= 1
        failure.errtype = errtype
        failure.message = message
        failure.backtrace = backtrace
        if job.retry == 0:
            return
        if failure.retry_count < job.retry:
            count = failure.retry_count
            seconds = count**4 + 15 + self._random.randrange(30) * (count + 1)
            at = now + seconds * SECOND
            failure.next_at = go_time.write(at)
            self.retries.add(at, job.render(), job)
        else:
            self.dead.add(now + DEAD_FOR * SECOND, job.render(), job)

    # Time passes.

    def next_due(self) -> int | None:
        """Return when `sweep` has something to do next."""
        times = (self.scheduled.first(), self.retries.first(), self.working.first())
        return min((at for at in (*times, self.dead.first()) if at is not None), default=None)

    def sweep(self) -> None:
        """Do what is due: queue jobs whose time has come, end reservations, forget the dead."""
        now = self.clock()
        for name, jobs in (("Scheduled", self.scheduled), ("Retries", self.retries)):
            for job in jobs.pop_until(now):
                try:
                    self._enqueue(job)
                except Refused as error:
                    # So the real one does it, too [Go: storage/sorted_redis.go, RemoveBefore].
                    _log.warning("the job %s is lost, its time having come: %s", job.jid, error)
                else:
                    self.enqueued[name] += 1
        for expired in self.working.pop_until(now):
            # Two copies of a job share the reservation that is the newer one.
            try:
                reservation = self._end(expired.job.jid)
            except Refused:
                continue
            self.expired += 1
            self._failed(
                reservation.job, "ReservationExpired", "Faktory job reservation expired", []
            )
        for _ in self.dead.pop_until(now):
            pass

    # Administration.

    def pause(self, name: str) -> None:
        """Give no more jobs from a queue; one that does not exist stays unpaused."""
        if name in self.queues:
            self.paused.add(name)

    def resume(self, name: str) -> None:
        """Give jobs from a queue again."""
        self.paused.discard(name)

    def remove(self, name: str) -> None:
        """Delete a queue with its jobs; it is paused no more."""
        self.queues.pop(name, None)
        self.paused.discard(name)

    def latency(self, name: str) -> float:
        """Return the seconds that the oldest job of a queue has waited."""
        queue = self.queues.get(name)
        if not queue:
            return 0.0
        try:
            return (self.clock() - go_time.read(queue[0].enqueued_at)) / SECOND
        except ValueError as error:
            # A scheduled job that MUTATE requeued was never enqueued as such.
            raise Refused(f"QUEUE: {error}") from None

    def flush(self) -> None:
        """Delete all jobs; what queues there are, and which are paused, stays known."""
        for queue in self.queues.values():
            queue.clear()
        for jobs in (self.scheduled, self.retries, self.dead, self.working):
            jobs.clear()
        self.processed = self.failures = 0

    def discard(self, target: str, chosen: Callable[[bytes], object] | None) -> None:
        """Delete the chosen jobs of a set, all of them if None."""
        jobs = self._target(target)
        if chosen is None:
            jobs.clear()
            return
        for _, payload, _ in jobs:
            if chosen(payload):
                jobs.remove(payload)

    def kill(self, target: str, chosen: Callable[[bytes], object] | None) -> None:
        """Move the chosen jobs of a set to the dead."""
        jobs = self._target(target)
        until = self.clock() + DEAD_FOR * SECOND
        for _, payload, job in jobs:
            if chosen is None or chosen(payload):
                jobs.remove(payload)
                self.dead.add(until, payload, job)

    def requeue(self, target: str, chosen: Callable[[bytes], object] | None) -> None:
        """Move the chosen jobs of a set to their queues, as they are."""
        jobs = self._target(target)
        for _, payload, job in jobs:
            if chosen is None or chosen(payload):
                self._queue(job.queue).append(job)
                jobs.remove(payload)
                if job.queue in self._waiting:
                    self.ripe.append(job.queue)

    def _target(self, name: str) -> SortedSet[Job]:
        if name == "retries":
            return self.retries
        if name == "scheduled":
            return self.scheduled
        if name == "dead":
            return self.dead
        raise Refused("invalid target for mutation command")


def chooser(filter: dict[str, Any] | None) -> Callable[[bytes], object] | None:
    """Compile a filter of MUTATE; None where it chooses everything [Go: server/mutate.go].

    jids win over all; a pattern is matched against the whole payload, and so is a job type that
    stands alone, with its wildcards.
    """
    if filter is None:
        return None
    jids = filter.get("jids")
    if jids:
        wanted = [_in_payload("jid", jid) for jid in jids]
        return lambda payload: any(text in payload for text in wanted)
    pattern, jobtype = filter.get("regexp", ""), filter.get("jobtype", "")
    if pattern:
        matches = glob(pattern.encode())
        if not jobtype:
            return matches
        text = _in_payload("jobtype", jobtype)
        return lambda payload: text in payload and matches(payload)
    if jobtype:
        return glob(b"*" + _in_payload("jobtype", jobtype) + b"*")
    return lambda _: True


def _in_payload(field: str, value: str) -> bytes:
    return f'"{field}":{go_json.quote(value)}'.encode()


def _clean(text: str, limit: int) -> str:
    """Trim a text and cut it to `limit` bytes; nothing is "unknown" [Go: manager/retry.go]."""
    return go_json.decode(text.strip(_SPACE).encode()[:limit]) or "unknown"

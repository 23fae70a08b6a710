"""A server in memory that takes the place of every connection, in fake and inline mode.

It is the embedded server without its sockets, with Enterprise features: commands reach it as the
bytes that would be sent, so jobs pass through JSON and every check of production. Any number of
threads may use it.

Rules: a job that is taken to be run is reserved, and answered by ACK or FAIL as a worker would,
so callbacks of batches come and locks of unique jobs go. In inline mode what a command made
runnable is run by the thread that sent it, before it has its answer. The lock is not held while
jobs run. Time passes by `travel` alone: nothing becomes due while a test takes its time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from itertools import count
from threading import RLock
from time import sleep, time_ns
from typing import Any, Final, Self, TypeVar

from ..client import fork
from ..client.network import MemoryNetwork
from ..exceptions import Discard, FaktoryError
from ..jobs import registry
from ..jobs.context import JobContext, run_in
from ..jobs.middleware import open_batch
from ..proto import load_json
from ..server.dispatch import State, Wait, answer
from ..server.enterprise import EnterpriseStore
from ..server.gotime import SECOND
from ..server.sets import SortedSet
from ..server.store import Refused
from ..server.stored import Job
from ..server.workers import Worker
from ..wire import failure
from ..wire.commands import Command
from ..wire.session import Answer, ClientSession, encode_bulk, encode_simple
from ..worker.executor import call, with_middleware

T = TypeVar("T")

MOST_JOBS: Final = 10_000
"""Jobs that `drain` runs, besides those that waited when it began, before it takes them for jobs
that push each other without end."""

_WAIT = 0.01
"""Seconds that a FETCH without a job takes: a worker that runs here must not spin."""


class EmptyQueueError(LookupError):
    """There is no job to perform."""


class MemoryServer(MemoryNetwork):
    """What fake and inline mode put in a server's place; use `fake` and `inline`.

    Jobs are shown as the dicts that a worker would fetch, those that are scheduled among them.
    Jobs of `faktory.external` are kept and never run.
    """

    def __init__(self, *, inline: bool = False, middleware: bool = False) -> None:
        self.inline = inline
        self._middleware = middleware
        self._lock = RLock()
        self._offset = 0
        self._state = State(self._clock, enterprise=True)
        self._store = self._state.store = _Store(self._clock)
        fork.register(self)

    def __repr__(self) -> str:
        return f"<{'inline' if self.inline else 'fake'} mode, {len(self.jobs)} jobs>"

    # In a connection's place.

    def connect(self, *_: object, **__: object) -> Self:
        """Take the place of a connection to any server."""
        return self

    def exchange(self, sent: Sequence[Command[Any]]) -> list[Answer]:
        """Answer commands as a server would."""
        answers = self._and_run(lambda: [self._answer(command) for command in sent])
        if any(answer.command.name == "FETCH" and answer.value is None for answer in answers):
            sleep(_WAIT)
        return answers

    def close(self) -> None:
        """Be left alone: there is nothing to close."""

    def abort(self) -> None:
        """Be left alone: there is nothing to close."""

    def reset_after_fork(self) -> None:
        """Go on with the parent's jobs, which are the child's own now: for `fork`, in the child."""
        self._lock = RLock()

    # What there is.

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """All jobs that wait, in the order in which they came: were pushed, or became due."""
        with self._lock:
            return [_shown(job) for job in self._waiting()]

    @property
    def queues(self) -> dict[str, list[dict[str, Any]]]:
        """The jobs of each queue, by its name."""
        by_name = _Queues()
        for job in self.jobs:
            by_name.setdefault(job["queue"], []).append(job)
        return by_name

    def jobs_of(self, jobtype: str) -> list[dict[str, Any]]:
        """The jobs of one type."""
        return [job for job in self.jobs if job["jobtype"] == jobtype]

    def clear(self, jobtype: str | None = None) -> None:
        """Forget the jobs that wait, or those of one type."""
        with self._lock:
            if jobtype is None:
                self._store.flush()
                return
            for job in self._waiting(jobtype):
                self._remove(job)
                self._store.locks.release(job)

    def travel(self, seconds: float) -> None:
        """Move the clock forward: what becomes due is due, in inline mode it is run."""
        if seconds < 0:
            raise ValueError("time goes forward only.")

        def arrive() -> None:
            self._offset += round(seconds * SECOND)
            self._store.sweep()

        self._and_run(arrive)

    # Running them.

    def perform_one(self, jobtype: str | None = None) -> None:
        """Run the job that waits longest, of one type if given; EmptyQueueError without one."""
        while jobs := self._runnable(jobtype):
            if any(self._perform(job) for job in jobs):
                return
        raise EmptyQueueError(
            f"no job {f'of type {jobtype!r} ' if jobtype else ''}waits to be performed."
        )

    def drain(self, jobtype: str | None = None) -> int:
        """Run all jobs, or those of one type, and those that they push; return how many.

        Scheduled ones too. What a job raises comes out, and the rest stays.
        """
        done = 0
        jobs = self._runnable(jobtype)
        most = MOST_JOBS + len(jobs)
        while jobs:
            for job in jobs:
                if done == most:
                    raise RuntimeError(
                        f"{most} jobs were run, and there are more: do jobs push each other "
                        "without end?"
                    )
                done += self._perform(job)
            jobs = self._runnable(jobtype)
        return done

    def _runnable(self, jobtype: str | None) -> list[Job]:
        with self._lock:
            waiting = self._waiting(jobtype)
        return [job for job in waiting if job.jobtype not in registry.external]

    def _perform(self, job: Job) -> bool:
        """Run a job and answer for it; what it raises comes out.

        Returns False where it is no longer there: it has expired, or others took or cleared it.
        """
        with self._lock:
            payload = self._take(job)
        if payload is None:
            return False
        jid = payload["jid"]
        try:
            # In a context of its own, where no batch is open: that is so on a worker, too.
            copy_context().run(self._run, JobContext(payload))
        except Discard:
            pass
        except BaseException as error:
            if isinstance(error, FaktoryError):
                error._raised_by_job = True
            report = failure.describe(error, backtrace=payload.get("backtrace") or 0)
            with suppress(Refused):  # the job cleared itself, or travelled until it was given up
                self._and_run(lambda: self._store.fail(jid, *report))
            raise
        self._and_run(lambda: self._store.acknowledge(jid))
        return True

    def _run(self, context: JobContext) -> None:
        job = registry.find(context.jobtype)
        if job is None:
            raise registry.unknown(context.jobtype, registry.names())
        run = with_middleware(job.run) if self._middleware else job.run
        open_batch.set(None)
        run_in(context, lambda: call(context, run))

    def _and_run(self, action: Callable[[], T]) -> T:
        """Do something to the store; in inline mode run what it made runnable."""
        with self._lock:
            result = action()
            fresh = self._store.take_fresh()
        if self.inline:
            for job in fresh:
                if job.jobtype not in registry.external:
                    self._perform(job)
        return result

    # The store, under the lock.

    def _clock(self) -> int:
        return time_ns() + self._offset

    def _answer(self, command: Command[Any]) -> Answer:
        session = ClientSession()
        line = session.send([command]).removesuffix(b"\r\n")
        said: object = encode_simple("OK")
        if not line.startswith(b"BEAT "):  # nobody said HELLO, so nobody is known
            said = answer(self._state, Worker({}), line)
        if isinstance(said, Wait):
            said = encode_bulk(None)
        assert isinstance(said, bytes)
        session.parser.feed(said)
        answered = session.next_answer()
        assert isinstance(answered, Answer)
        return answered

    def _waiting(self, jobtype: str | None = None) -> list[Job]:
        store = self._store
        found = [job for queue in store.queues.values() for job in queue]
        found += [job for _, _, job in store.scheduled]
        if jobtype is not None:
            found = [job for job in found if job.jobtype == jobtype]
        return sorted(found, key=store.numbers.__getitem__)

    def _take(self, job: Job) -> dict[str, Any] | None:
        """Fetch this very job, as a worker would; None where it has expired, or is not there.

        In place of one that has expired, a callback may come that waited for it.
        """
        if not self._remove(job):
            return None
        store = self._store
        others = store.queues.get(job.queue, deque())
        alone = store.queues[job.queue] = deque([job])
        payload = store.fetch("", [job.queue])
        others.extend(alone)  # callbacks, as above
        store.queues[job.queue] = others
        return None if payload is None else load_json(payload)

    def _remove(self, job: Job) -> bool:
        self._store.numbers.pop(job, None)
        if self._store.scheduled.get(job.payload) is job:
            return self._store.scheduled.remove(job.payload)
        try:
            self._store.queues[job.queue].remove(job)
        except (KeyError, ValueError):
            return False
        return True


class _Store(EnterpriseStore):
    """Knows in which order the jobs that wait came, and which came last."""

    def __init__(self, clock: Callable[[], int]) -> None:
        super().__init__(clock)
        self.scheduled = _Scheduled(self._note)
        self.numbers: dict[Job, int] = {}
        self._count = count()
        self._fresh: list[Job] = []

    def take_fresh(self) -> list[Job]:
        """Return the jobs that came since this was called last."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def requeue(self, target: str, chosen: Callable[[bytes], object] | None) -> None:
        super().requeue(target, chosen)
        for queue in self.queues.values():
            for job in queue:
                if job not in self.numbers:
                    self._note(job)

    def flush(self) -> None:
        super().flush()
        self.numbers.clear()

    def _enqueue(self, job: Job) -> None:
        super()._enqueue(job)
        self._note(job)

    def _reserve(self, wid: str, job: Job) -> bytes:
        self.numbers.pop(job, None)
        return super()._reserve(wid, job)

    def _note(self, job: Job) -> None:
        self.numbers[job] = next(self._count)
        self._fresh.append(job)


class _Scheduled(SortedSet[Job]):
    """Jobs whose time has not come, which tell that they came."""

    def __init__(self, note: Callable[[Job], None]) -> None:
        super().__init__()
        self._note = note

    def add(self, score: int, member: bytes, value: Job) -> None:
        super().add(score, member, value)
        self._note(value)


class _Queues(dict[str, list[dict[str, Any]]]):
    """Queues by name; one that was never used is empty."""

    def __missing__(self, name: str) -> list[dict[str, Any]]:
        return []


def _shown(job: Job) -> dict[str, Any]:
    return load_json(job.payload)  # type: ignore[no-any-return]

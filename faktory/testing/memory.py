"""A server in memory that takes the place of every connection, in fake and inline mode.

It is the embedded server without its sockets, with Enterprise features: commands reach it as the
bytes that would be sent, so jobs pass through JSON and every check of production. Any number of
threads may use it.

Rules: a job that is taken to be run is reserved, and answered by ACK or FAIL as a worker would,
so callbacks of batches come and locks of unique jobs go. In inline mode what a command made
runnable is run by the thread that sent it, before it has its answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from threading import RLock
from time import sleep, time_ns
from typing import Any, Final, TypeVar

from ..client import transport
from ..exceptions import Discard
from ..jobs import registry
from ..jobs.context import JobContext, run_in
from ..proto import load_json
from ..server.dispatch import State, Wait, answer
from ..server.enterprise import EnterpriseStore
from ..server.gotime import SECOND
from ..server.stored import Job
from ..server.workers import Worker
from ..wire import failure
from ..wire.commands import Command
from ..wire.session import Answer, ClientSession, encode_bulk, encode_simple
from ..worker.executor import call, with_middleware

T = TypeVar("T")

MOST_JOBS: Final = 10_000
"""Jobs that `drain` runs before it takes them for jobs that push each other without end."""

_WAIT = 0.01
"""Seconds that a FETCH without a job takes: a worker that runs here must not spin."""


class EmptyQueueError(LookupError):
    """There is no job to perform."""


class MemoryServer(transport.Memory):
    """What fake and inline mode put in a server's place; use `fake` and `inline`.

    Jobs are shown as the dicts that a worker would fetch, those that are scheduled among them.
    Jobs of `faktory.external` are kept and never run.
    """

    def __init__(self, *, inline: bool = False, middleware: bool = False) -> None:
        self.inline = inline
        self._middleware = middleware
        self._lock = RLock()
        self._offset = 0
        self._state = State(lambda: time_ns() + self._offset, enterprise=True)
        self._numbers = count()
        self._order: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<{'inline' if self.inline else 'fake'} mode, {len(self.jobs)} jobs>"

    # In a connection's place.

    def exchange(self, sent: Sequence[Command[Any]]) -> list[Answer]:
        """Answer commands as a server would."""
        return self._and_run(lambda: [self._answer(command) for command in sent])

    def close(self) -> None:
        """Be left alone: there is nothing to close."""

    def abandon(self) -> None:
        """Be left alone: there is nothing to close."""

    # What there is.

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """All jobs that wait, in the order in which they were pushed."""
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
                self._order.clear()
                return
            for job in self._waiting():
                if job.jobtype == jobtype:
                    self._remove(job)
                    self._store.locks.release(job)

    def travel(self, seconds: float) -> None:
        """Move the clock forward: what becomes due is due, in inline mode it is run."""
        if seconds < 0:
            raise ValueError("time goes forward only.")
        self._offset += round(seconds * SECOND)
        self._and_run(self._store.sweep)

    # Running them.

    def perform_one(self, jobtype: str | None = None) -> None:
        """Run the job that waits longest, of one type if given; EmptyQueueError without one."""
        if not self._perform_next(jobtype):
            raise EmptyQueueError(
                f"no job {f'of type {jobtype!r} ' if jobtype else ''}waits to be performed."
            )

    def drain(self, jobtype: str | None = None) -> int:
        """Run all jobs, or those of one type, and those that they push; return how many.

        Scheduled ones too. What a job raises comes out, and the rest stays.
        """
        for done in range(MOST_JOBS):
            if not self._perform_next(jobtype):
                return done
        raise RuntimeError(
            f"{MOST_JOBS} jobs were run, and there are more: do jobs push each other without end?"
        )

    def _perform_next(self, jobtype: str | None) -> bool:
        while True:
            with self._lock:
                job = self._first(
                    lambda job: (
                        (jobtype or job.jobtype) == job.jobtype
                        and job.jobtype not in registry.external
                    )
                )
                if job is None:
                    return False
                payload = self._take(job)
            if payload is not None:
                self._perform(payload)
                return True

    def _perform(self, payload: dict[str, Any]) -> None:
        """Run a job that was taken, and answer for it; what it raises comes out."""
        jid = payload["jid"]
        try:
            job = registry.find(payload["jobtype"])
            if job is None:
                raise registry.unknown(payload["jobtype"], registry.names())
            run = with_middleware(job.run) if self._middleware else job.run
            context = JobContext(payload)
            run_in(context, lambda: call(context, run))
        except Discard:
            pass
        except BaseException as error:
            report = failure.describe(error, backtrace=payload.get("backtrace") or 0)
            self._and_run(lambda: self._store.fail(jid, *report))
            raise
        self._and_run(lambda: self._store.acknowledge(jid))

    def _and_run(self, action: Callable[[], T]) -> T:
        """Do something to the store; in inline mode run what it made runnable."""
        with self._lock:
            before = {id(job): job for job in self._waiting()} if self.inline else {}
            result = action()
            fresh = [job for job in self._waiting() if id(job) not in before] if self.inline else []
        for job in fresh:
            if job.jobtype in registry.external:
                continue
            with self._lock:
                payload = self._take(job)
            if payload is not None:
                self._perform(payload)
        return result

    # The store, under the lock.

    @property
    def _store(self) -> EnterpriseStore:
        store = self._state.store
        assert isinstance(store, EnterpriseStore)
        return store

    def _answer(self, command: Command[Any]) -> Answer:
        for jid in command.jids:
            self._order.setdefault(jid, next(self._numbers))
        session = ClientSession()
        line = session.begin([command]).removesuffix(b"\r\n")
        said: object = encode_simple("OK")
        if not line.startswith(b"BEAT "):  # nobody said HELLO, so nobody is known
            said = answer(self._state, Worker({}), line)
        if isinstance(said, Wait):
            sleep(_WAIT)
            said = encode_bulk(None)
        assert isinstance(said, bytes)
        session.parser.feed(said)
        answered = session.answer()
        assert isinstance(answered, Answer)
        return answered

    def _waiting(self) -> list[Job]:
        store = self._store
        found = [job for queue in store.queues.values() for job in queue]
        found += [job for _, _, job in store.scheduled]
        return sorted(found, key=self._number)

    def _first(self, wanted: Callable[[Job], bool]) -> Job | None:
        store = self._store
        firsts = [next(filter(wanted, queue), None) for queue in store.queues.values()]
        firsts += [job for _, _, job in store.scheduled if wanted(job)]
        return min((job for job in firsts if job is not None), key=self._number, default=None)

    def _number(self, job: Job) -> int:
        number = self._order.get(job.jid)
        if number is None:  # a callback: nobody pushed it
            number = self._order[job.jid] = next(self._numbers)
        return number

    def _take(self, job: Job) -> dict[str, Any] | None:
        """Fetch this very job, as a worker would; None where it has expired."""
        self._remove(job)
        store = self._store
        others = store.queues.get(job.queue, deque())
        alone = store.queues[job.queue] = deque([job])
        payload = store.fetch("", [job.queue])
        others.extend(alone)  # a callback, if the job was the last one of a batch and has expired
        store.queues[job.queue] = others
        return None if payload is None else load_json(payload)

    def _remove(self, job: Job) -> None:
        if not self._store.scheduled.remove(job.payload):
            self._store.queues[job.queue].remove(job)


class _Queues(dict[str, list[dict[str, Any]]]):
    """Queues by name; one that was never used is empty."""

    def __missing__(self, name: str) -> list[dict[str, Any]]:
        return []


def _shown(job: Job) -> dict[str, Any]:
    return load_json(job.payload)  # type: ignore[no-any-return]

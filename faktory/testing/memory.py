"""A server in memory, in place of every connection, in fake and inline mode.

It is the embedded server without its sockets, with Enterprise features: commands reach it as the
bytes that would be sent, so jobs pass through JSON and every check of production. Any number of
threads may use it.

Rules: a job is reserved before it runs, and answered by ACK or FAIL as by a worker, so batches
push their callbacks and unique jobs release their locks. In inline mode the thread that sent a
command runs the jobs that became runnable by it, before it gets its answer. The lock is not held
while jobs run. Only `travel` passes time: no job becomes due because a test is slow. What a job
raises comes out, except what is not a failure: Discard, what it declares in `discard_on`, and a
Retry that is granted.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count, pairwise
from threading import RLock
from time import sleep
from typing import Any, Final, Self, TypeVar

from ..client import fork
from ..client.network import MemoryNetwork
from ..exceptions import MAX_DELAY, FaktoryError, Retry
from ..jobs import registry, retries
from ..jobs.batch import open_batch
from ..jobs.chains import ChainBroken, next_job
from ..jobs.context import JobContext
from ..jobs.retries import Verdict
from ..jobs.runner import JobRunner, in_context
from ..proto import load_json
from ..server.calls import Wait
from ..server.clock import check_travel
from ..server.commands import execute
from ..server.enterprise.store import EnterpriseStore
from ..server.errors import CommandError
from ..server.go.time import SECOND
from ..server.job import StoredJob
from ..server.operations import Which
from ..server.slices import Steps, finish
from ..server.sorted_set import SortedSet
from ..server.state import ServerState
from ..server.workers import ClientRecord
from ..wire import commands, failure
from ..wire.commands import Command
from ..wire.log import Log
from ..wire.session import Answer, ClientSession, encode_bulk, encode_simple
from . import coroutines
from .periodic import ticks

T = TypeVar("T")

_log: Final = Log(logging.getLogger("faktory.testing"))

DRAIN_LIMIT: Final = 10_000
"""Jobs that `drain` runs, besides those that waited when it began, before it raises: such jobs
probably push each other without end."""

_FETCH_WAIT = 0.01
"""Seconds that a FETCH without a job takes, so that a worker does not spin."""


class EmptyQueueError(LookupError):
    """There is no job to perform."""


class MemoryServer(MemoryNetwork):
    """The server of fake and inline mode; `fake` and `inline` create it.

    Jobs are shown as the dicts that a worker would fetch, scheduled ones among them. Jobs of
    `faktory.external` are kept and never run.
    """

    drain_limit = DRAIN_LIMIT

    def __init__(self, *, inline: bool = False, middleware: bool = False) -> None:
        self.inline = inline
        self._runner = JobRunner(middleware=middleware)
        self._lock = RLock()
        self._state = ServerState(enterprise=True)
        self._store = self._state.store = _Store(self._state.clock)
        self._store.offset = lambda: self._state.offset
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
            sleep(_FETCH_WAIT)
        return answers

    async def exchange_on_loop(self, sent: Sequence[Command[Any]]) -> list[Answer]:
        """Answer commands of a client on an event loop, on which async jobs run in inline mode."""
        if not self.inline:
            return self.exchange(sent)
        return await coroutines.beside_loop(lambda: self.exchange(sent))

    def interrupt(self) -> None:
        """Do nothing: every answer is there at once."""

    def close(self) -> None:
        """Do nothing: no socket is open."""

    def abort(self) -> None:
        """Do nothing: no socket is open."""

    def reset_after_fork(self) -> None:
        """Keep a copy of the parent's jobs in a forked child, and replace the lock."""
        self._lock = RLock()

    # Looking at the jobs.

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """All waiting jobs, in the order in which they were pushed or became due."""
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
        """Forget the waiting jobs, or those of one type."""
        with self._lock:
            if jobtype is None:
                finish(self._store.flush())
                return
            for job in self._waiting(jobtype):
                self._remove(job)
                self._store.locks.release(job)

    def travel(self, seconds: float, *, periodic: bool = True) -> None:
        """Move the clock forward and queue the jobs that became due; inline mode runs them.

        Ticks of periodic jobs on the way are pushed, and inline mode stops at each to run it: at
        most 10,000 of them, or ValueError; none with `periodic=False`.
        """
        check_travel(seconds, self._state.clock())
        stops = self._push_ticks(seconds) if periodic and registry.schedules else []

        def advance(by: int) -> None:
            self._state.offset += by
            self._store.sweep()

        for earlier, stop in pairwise((0, *stops, seconds)):
            self._and_run(partial(advance, round(stop * SECOND) - round(earlier * SECOND)))

    def _push_ticks(self, seconds: float) -> Iterable[float]:
        """Push the ticks of so many seconds; return after which of them inline mode stops."""
        now = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=self._state.clock() // 1000)
        found = ticks(now, now + timedelta(seconds=seconds))
        if found:
            with self._lock:
                self._answer(commands.push_bulk([tick.job for tick in found]))
                self._store.take_fresh()  # they run when they are due
        if not self.inline:
            return ()
        return dict.fromkeys((tick.at.astimezone(UTC) - now).total_seconds() for tick in found)

    # Running them.

    def perform_one(self, jobtype: str | None = None) -> None:
        """Run the job that waits longest, of one type if given; EmptyQueueError without one.

        If it raises, its exception comes out; a Retry does only after the last attempt.
        """
        while jobs := self._runnable(jobtype):
            if any(self._perform(job) for job in jobs):
                return
        raise EmptyQueueError(
            f"no job {f'of type {jobtype!r} ' if jobtype else ''}waits to be performed."
        )

    def drain(self, jobtype: str | None = None) -> int:
        """Run all jobs, or those of one type, and those that they push; return how many.

        Scheduled jobs run, too, but one that is to be tried again waits for the next call: this one
        would not end while a job raises Retry. If a job raises, its exception comes out and the
        others stay.
        """
        with coroutines.job_loop():
            return self._drain(jobtype)

    def _drain(self, jobtype: str | None) -> int:
        done = 0
        again: set[str] = set()
        jobs = self._runnable(jobtype)
        most = self.drain_limit + len(jobs)
        while jobs:
            for job in jobs:
                if done == most:
                    raise RuntimeError(
                        f"{most} jobs were run, and there are more: do jobs push each other "
                        "without end?"
                    )
                done += self._perform(job, again)
            jobs = [job for job in self._runnable(jobtype) if job.jid not in again]
        return done

    def _runnable(self, jobtype: str | None) -> list[StoredJob]:
        with self._lock:
            waiting = self._waiting(jobtype)
        return [job for job in waiting if job.jobtype not in registry.external]

    def _perform(self, job: StoredJob, again: set[str] | None = None) -> bool:
        """Run a job and report it to the store; its exception comes out.

        Returns False if it no longer waits: it has expired, or was taken or cleared meanwhile.
        `again` gets its jid if it is to be tried again.
        """
        self._check_no_loop(job.jobtype)
        with self._lock:
            payload = self._take(job)
        if payload is None:
            return False
        context = JobContext(payload)
        context.in_test_thread = True
        following: dict[str, Any] | None = None
        try:
            following = next_job(context.as_fetched())  # first: without it the job is not run
            self._run(context)
        except BaseException as error:
            following = None
            verdict = retries.judge(registry.find(job.jobtype), context, error)
            if verdict.outcome != "discard":
                if isinstance(error, FaktoryError):
                    error._raised_by_job = True
                exhausted = self._report_failure(context, error, verdict)
                if self.inline or exhausted or not isinstance(error, Retry):
                    raise
                if again is not None:
                    again.add(context.jid)
                return True
        self._and_run(lambda: self._end(context, following))
        return True

    def _check_no_loop(self, jobtype: str) -> None:
        """Raise RuntimeError for an async job in a running loop, which cannot wait for it."""
        task = registry.find(jobtype)
        if task is not None and task.is_async and coroutines.in_running_loop():
            remedy = "use await job.aperform(...), which runs it on this loop"
            if not self.inline:
                remedy = "run the jobs in a thread, await asyncio.to_thread(testing.drain_all)"
            raise RuntimeError(
                f"{jobtype} is an async job, and code in a running event loop cannot wait for it: "
                f"{remedy}."
            )

    def _end(self, job: JobContext, following: dict[str, Any] | None) -> None:
        """Push the next job of a chain, then acknowledge this one, which fails without that."""
        if following is not None:
            refusal = self._answer(commands.push(following)).error
            if refusal is not None:
                error = ChainBroken(f"the next job of the chain is refused: {refusal}")
                with suppress(CommandError):  # as when the job itself fails
                    self._store.fail(job.jid, *failure.describe(error))
                raise error
        self._store.acknowledge(job.jid)

    def _report_failure(self, job: JobContext, error: BaseException, verdict: Verdict) -> bool:
        """Do with a failed job what a worker does; return whether it has failed permanently.

        In inline mode it is not pushed again, which would run it at once.
        """
        if verdict.note:
            _log.warning("%s fail: %s", job, verdict.note)
        report = failure.describe(error, backtrace=job.payload.get("backtrace") or 0)
        if not self.inline:
            verdict = self._kept_in_sight(job, error, verdict)
            if verdict.outcome == "again" and self._push_again(job, verdict, report):
                return False
        exhausted = verdict.outcome == "bury" or not job.retries_remaining
        if exhausted:
            in_context(job, lambda: self._fire_exhausted(job, error))

        def fail() -> None:
            self._store.fail(job.jid, *report)
            kill = commands.mutate("kill", "retries", jids=[job.jid])
            if verdict.outcome == "bury" and kill is not None:
                self._answer(kill)

        with suppress(CommandError):  # the job cleared itself, or travelled beyond its reservation
            self._and_run(fail)
        return exhausted

    def _kept_in_sight(self, job: JobContext, error: BaseException, verdict: Verdict) -> Verdict:
        """Return how a job is tried again that the server itself would keep among its retries.

        One that asks for a retry, or has a backoff, waits among `jobs` all the same, as long as
        the server would have it wait.
        """
        policy = getattr(registry.find(job.jobtype), "policy", None)
        asks = issubclass(type(error), Retry) or (policy is not None and policy.backoff is not None)
        if not asks or verdict.outcome != "fail" or not job.retries_remaining:
            return verdict
        if retries.kept_by_server(job):
            return verdict
        with self._lock:
            seconds = self._store.retry_wait(job.attempt - 1)
        return Verdict("again", min(seconds, MAX_DELAY))

    def _fire_exhausted(self, job: JobContext, error: BaseException) -> None:
        from ..worker.events import of_process  # loads the whole worker

        open_batch.set(None)
        task = registry.find(job.jobtype)
        own = () if task is None else task.exhausted_handlers
        of_process.fire(_log.logger, "exhausted", job, error, own=own)

    def _push_again(
        self, job: JobContext, verdict: Verdict, report: tuple[str, str, list[str]]
    ) -> bool:
        """Push a job for its next attempt; return False if the server does not take it."""
        with self._lock:
            if job.jid not in self._store.reservations:  # it is not this run's any more
                return True
            now = datetime.fromtimestamp(self._state.clock() / SECOND, UTC)
            sent = retries.again(job.as_fetched(), verdict, report, now)
            if self._answer(commands.push(sent)).error is not None:
                return False
            self._store.take_fresh()
            self._store.acknowledge(job.jid)
            return True

    def _run(self, job: JobContext) -> None:
        def run() -> None:
            open_batch.set(None)  # as on a worker
            task = self._runner.find(job.jobtype)
            self._runner.call(coroutines.AsyncCall(task) if task.is_async else task, job)

        in_context(job, run)

    def _and_run(self, action: Callable[[], T]) -> T:
        """Do something with the store; in inline mode run the jobs that became runnable by it."""
        with self._lock:
            result = action()
            fresh = self._store.take_fresh()
        if self.inline:
            for job in fresh:
                if job.jobtype not in registry.external:
                    self._perform(job)
        return result

    # Using the store, with the lock held.

    def _answer(self, command: Command[Any]) -> Answer:
        session = ClientSession()
        line = session.send([command]).removesuffix(b"\r\n")
        reply: object = encode_simple("OK")
        if not line.startswith(b"BEAT "):  # no worker is known, as there was no HELLO
            reply = execute(self._state, ClientRecord({}), line)
        if isinstance(reply, Wait):
            reply = encode_bulk(None)
        assert isinstance(reply, bytes)
        session.parser.feed(reply)
        answered = session.next_answer()
        assert isinstance(answered, Answer)
        return answered

    def _waiting(self, jobtype: str | None = None) -> list[StoredJob]:
        store = self._store
        found = [job for queue in store.queues.values() for job in queue]
        found += [job for _, _, job in store.scheduled]
        if jobtype is not None:
            found = [job for job in found if job.jobtype == jobtype]
        return sorted(found, key=store.numbers.__getitem__)

    def _take(self, job: StoredJob) -> dict[str, Any] | None:
        """Fetch this job as a worker would; None if it has expired or no longer waits.

        If it has expired, a callback that waited for it may be fetched instead.
        """
        if not self._remove(job):
            return None
        store = self._store
        others = store.queues.get(job.queue, deque())
        alone = store.queues[job.queue] = deque([job])
        payload = store.fetch("", [job.queue])
        others.extend(alone)  # callbacks that were pushed meanwhile
        store.queues[job.queue] = others
        return None if payload is None else load_json(payload)

    def _remove(self, job: StoredJob) -> bool:
        self._store.numbers.pop(job, None)
        if self._store.scheduled.get(job.payload) is job:
            return self._store.scheduled.remove(job.payload)
        try:
            self._store.queues[job.queue].remove(job)
        except (KeyError, ValueError):
            return False
        return True


class _Store(EnterpriseStore):
    """Numbers the waiting jobs in the order of their arrival."""

    def __init__(self, clock: Callable[[], int]) -> None:
        super().__init__(clock)
        self.scheduled = _Scheduled(self._note)
        self.numbers: dict[StoredJob, int] = {}
        self._count = count()
        self._fresh: list[StoredJob] = []

    def take_fresh(self) -> list[StoredJob]:
        """Return the jobs that arrived since the last call."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def requeue(self, target: str, which: Which) -> Steps[int]:
        count = yield from super().requeue(target, which)
        for queue in self.queues.values():
            for job in queue:
                if job not in self.numbers:
                    self._note(job)
        return count

    def flush(self) -> Steps[None]:
        yield from super().flush()
        self.numbers.clear()

    def _enqueue(self, job: StoredJob) -> None:
        super()._enqueue(job)
        self._note(job)

    def _reserve(self, wid: str, job: StoredJob) -> bytes:
        self.numbers.pop(job, None)
        return super()._reserve(wid, job)

    def _note(self, job: StoredJob) -> None:
        self.numbers[job] = next(self._count)
        self._fresh.append(job)


class _Scheduled(SortedSet[StoredJob]):
    """Scheduled jobs; each is numbered when it is added."""

    def __init__(self, note: Callable[[StoredJob], None]) -> None:
        super().__init__()
        self._note = note

    def add(self, score: int, member: bytes, value: StoredJob) -> None:
        super().add(score, member, value)
        self._note(value)


class _Queues(dict[str, list[dict[str, Any]]]):
    """The jobs of each queue; those of an unknown queue are an empty list."""

    def __missing__(self, name: str) -> list[dict[str, Any]]:
        return []


def _shown(job: StoredJob) -> dict[str, Any]:
    return load_json(job.payload)  # type: ignore[no-any-return]

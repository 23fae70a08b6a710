"""What workers have done, in numbers: counted per thread, added up when they are read.

Rules: each number has one writer, so that counting needs no lock, and waits for nothing whatever
user code does meanwhile. A supervisor shares the memory of the numbers with its workers, so that
what one has counted is there after its end. A run is counted once, when the server has answered its
report. Before a report goes out, its outcome is noted: if the process dies before it
has read the answer, its supervisor counts that run, by the answer that it gets (`count_dead`). A
reader sees numbers of slightly different moments.
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import count
from time import time
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from ..client import fork, pushes
from ..jobs import registry
from ..jobs.context import JobContext

if TYPE_CHECKING:
    from .delivery import Delivery

OUTCOMES: Final = ("done", "failed", "discarded", "exhausted", "retried")
"""How a run ended. "failed": the server tries it again; "exhausted": that was its last attempt;
"retried": the worker has pushed it again, as the job or its options asked for."""

DONE, FAILED, DISCARDED, EXHAUSTED, RETRIED = range(len(OUTCOMES))

OF_END: Final = {"done": DONE, "discarded": DISCARDED, "again": RETRIED, "bury": EXHAUSTED}
"""The outcome of what a processor calls it; "fail" is one of two."""

BUCKETS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
    *(60.0, 300.0, 900.0, 1800.0, 3600.0),
)
"""Upper bounds of the histograms in seconds: from the pause of a worker that polls to jobs beyond
the reservation of half an hour that is the default."""

_SHORTEST: Final = BUCKETS[0]

OTHER: Final = "other"
"""The label of job types and queues that nothing declares, so that there are not any number."""

MAX_SERIES: Final = 500
"""Pairs of queue and job type that are counted apart; more are "other", too."""

_LABEL: Final = 120
"""Bytes of a label; the rest of a longer name is cut."""

_NAMES: Final = 256
"""Bytes for the two of a pair."""

# The numbers of a process, beside those of its threads. Times are those of `time.monotonic`.
PROCESS, CLOCK, REASON, STUCK, BEAT_DUE, BEAT_AT, REPLACED, DROPPED, PUSHES = range(9)
_HEAD: Final = 16

# Those of a thread: whether it runs a job, and what its supervisor has to know of that if it dies;
# two histograms, each with a bucket without an upper bound and a sum; then pairs, by outcome.
_RUNNING, _JOB, _IF_DIED, _IF_REPORTED, _BEFORE, _SECONDS = range(6)
_SUM: Final = len(BUCKETS) + 1
_WAIT: Final = _SECONDS + _SUM + 1
_PAIRS: Final = _WAIT + _SUM + 1
_ROW: Final = _PAIRS + MAX_SERIES * len(OUTCOMES)

SPARE_ROWS: Final = 2
"""Threads beside those of jobs: one for the supervisor, one that an overdue job may still hold."""


Row: TypeAlias = "memoryview[float] | list[float]"
"""The numbers of a thread; a list takes a third of the time."""


class Page:
    """The numbers of a process, with those of `threads` threads; in shared memory, or grows."""

    def __init__(self, threads: int | None = None) -> None:
        rows = 0 if threads is None else threads + SPARE_ROWS
        names = MAX_SERIES * _NAMES
        size = 8 * _HEAD + names + rows * 8 * _ROW
        memory = bytearray(size) if threads is None else mmap.mmap(-1, size)
        view = memoryview(memory)
        self.head = view[: 8 * _HEAD].cast("d")
        self.names = view[8 * _HEAD : 8 * _HEAD + names]
        rest = view[8 * _HEAD + names :].cast("d")
        self.rows: list[Row] = [rest[at * _ROW : (at + 1) * _ROW] for at in range(rows)]
        self.is_shared = threads is not None

    def add_row(self) -> Row:
        """Return the numbers of one more thread, which only this process sees."""
        row: Row = [0.0] * _ROW
        self.rows.append(row)  # another worker of this process may add one, too
        return row

    def name(self, index: int, queue: str, jobtype: str) -> None:
        """Note of which queue and job type the numbers at an index are."""
        entry = f"{queue}\n{jobtype}\n".encode("utf-8", "replace")
        start = index * _NAMES
        self.names[start + 1 : start + len(entry)] = entry[1:]
        self.names[start] = entry[0]  # last: a reader may look at any moment

    def pairs(self) -> Iterator[tuple[int, str, str]]:
        """Yield the indices that are in use, each with queue and job type."""
        for index, start in enumerate(range(0, len(self.names), _NAMES)):
            if self.names[start]:
                entry = bytes(self.names[start : start + _NAMES]).decode("utf-8", "replace")
                queue, jobtype, _ = entry.split("\n", 2)
                yield index, queue, jobtype

    def count_dead(self, jids: Collection[str]) -> dict[str, Held]:
        """Note that the process is gone; return what is known of those jobs that are reported now.

        Others that it had wait out their reservations, and are not counted.
        """
        by_hash = {_hash(jid): jid for jid in jids}
        held = dict.fromkeys(jids, Held(_PAIRS + FAILED, None))
        for row in self.rows:
            if job := row[_JOB]:
                died, reported = int(row[_IF_DIED]), int(row[_IF_REPORTED])
                if reported and row[reported] != row[_BEFORE]:  # it died just after this
                    found = Held(None, None)
                else:
                    found = Held(died, reported or None)
                if (jid := by_hash.get(int(job))) is not None:
                    held[jid] = found
            row[_JOB] = row[_RUNNING] = 0.0
        for cell in (PROCESS, CLOCK, REASON, STUCK, BEAT_DUE, BEAT_AT):
            self.head[cell] = 0.0
        return held

    def add(self, at: int | None) -> None:
        """Count a run for a process that is gone: only its supervisor does that, in its row."""
        if at is not None:
            self.rows[0][at] += 1


class Held(NamedTuple):
    """Which number grows by the job of a dead process: if it is failed now, or was reported."""

    if_failed: int | None
    if_reported: int | None


class Counts:
    """The counters of this process; `declare` says which queues and job types have a label.

    `dropped` returns how many lines of the log were dropped.
    """

    def __init__(self, page: Page | None = None) -> None:
        self.page = page or Page()
        self.dropped: Callable[[], int] = lambda: 0
        self._tasks: list[Mapping[str, object]] = []
        self._queues: set[str] = set()
        self._begin()
        fork.register(self)

    def _begin(self) -> None:
        head = self.page.head
        self._free = self.page.rows[1:]
        self._dropped_before = head[DROPPED]
        self.pushes = pushes.Pushes(head[PUSHES : PUSHES + len(pushes.OUTCOMES)])
        found = {(queue, jobtype): index for index, queue, jobtype in self.page.pairs()}
        self.firsts = {pair: _first(index) for pair, index in found.items()}
        """Where the numbers of a pair of queue and job type begin, in a thread's."""
        self._indices = count(max(found.values(), default=-1) + 1)
        self._other = self.first(OTHER, OTHER)

    def reset_after_fork(self) -> None:
        """Begin at 0: the numbers so far are the parent's."""
        self.page = Page()
        self._begin()
        if current is self:
            pushes.current = self.pushes

    def declare(self, tasks: Mapping[str, object], queues: Collection[str]) -> None:
        """Have these queues and job types counted apart, and those that `faktory.job` declares.

        A pair that is known beforehand is there with 0, so that its first failure is an increase.
        """
        self._tasks.append(tasks)
        self._queues.update(queues)
        for jobtype, queue in registry.queues().items():
            self.first(queue, jobtype)

    def first(self, queue: str, jobtype: str) -> int:
        """Return where the numbers of a job begin, by what is declared."""
        declared = any(jobtype in tasks for tasks in self._tasks) or registry.find(jobtype)
        known = queue in self._queues or queue in registry.queues().values()
        pair = (_label(queue) if known else OTHER, _label(jobtype) if declared else OTHER)
        if (first := self.firsts.get(pair)) is not None:
            return first
        index = next(self._indices)
        if index >= MAX_SERIES:
            return self._other
        first = self.firsts.setdefault(pair, _first(index))  # another thread may have been first
        if first == _first(index):
            self.page.name(index, *pair)
        return first

    def tally(self) -> Tally:
        """Return the counters of one more thread, or of one that has ended."""
        try:
            row = self._free.pop()
        except IndexError:
            row = self.page.add_row()
        return Tally(self, row, self.page.is_shared)

    def release(self, tally: Tally) -> None:
        """Have the next thread go on with the counters of one that has ended."""
        self._free.append(tally.row)

    def ended(self, tallies: Iterable[Tally]) -> dict[str, int]:
        """Return how many runs ended in each of OUTCOMES; of `tallies` those not answered yet, too.

        For a thread that shows them: a run may be there twice at the moment of its answer.
        """
        rows, firsts = self.page.rows.copy(), {*self.firsts.copy().values(), self._other}
        found = [
            int(sum(row[first + number] for row in rows for first in firsts))
            for number in range(len(OUTCOMES))
        ]
        for tally in tallies:
            if at := tally.at:
                found[(at - _PAIRS) % len(OUTCOMES)] += 1
        return dict(zip(OUTCOMES, found, strict=True))

    def publish(self, reason: int, stuck: int, beat_due: float, now: float) -> None:
        """Note the state of the worker: for the thread that manages it."""
        head = self.page.head
        head[REASON], head[STUCK], head[BEAT_DUE] = reason, stuck, beat_due
        head[DROPPED] = self._dropped_before + self.dropped()
        head[CLOCK] = now


class Tally:
    """The counters of one thread that runs jobs, and the run that it is at."""

    def __init__(self, counts: Counts, row: Row, is_shared: bool) -> None:
        self.row = row
        self._counts = counts
        self._firsts = counts.firsts
        self._is_shared = is_shared
        self._first = counts._other
        self._at = 0
        """The number that grows when the report is answered."""
        self._job: JobContext | None = None

    @property
    def at(self) -> int:
        """The number that grows when the report of a run that has ended is answered, or 0."""
        return self._at

    def begin(self, job: JobContext) -> None:
        """A job was fetched, and is about to run."""
        row, payload = self.row, job.payload
        pair = (payload.get("queue", "default"), payload["jobtype"])
        self._first = first = self._firsts.get(pair) or self._counts.first(*pair)
        self._job = job
        self._at = 0
        row[_RUNNING] = 1.0
        if self._is_shared:
            fresh = "failure" not in payload and (payload.get("retry") or 0) > 0
            row[_IF_DIED] = first + (FAILED if fresh else self._failing())
            row[_IF_REPORTED] = 0.0
            row[_JOB] = _hash(payload["jid"])
        try:
            seconds = time() - datetime.fromisoformat(payload["enqueued_at"]).timestamp()
        except (KeyError, TypeError, ValueError, OverflowError):  # of another kind of server
            return
        if not seconds > 0:
            seconds = 0.0
        row[_WAIT + bisect_left(BUCKETS, seconds)] += 1
        row[_WAIT + _SUM] += seconds

    def end(self, outcome: str, seconds: float | None) -> None:
        """Note how a run ended, and after how long; it is counted when its report is answered."""
        row = self.row
        row[_RUNNING] = 0.0
        if seconds is not None:
            bucket = bisect_left(BUCKETS, seconds) if seconds > _SHORTEST else 0
            row[_SECONDS + bucket] += 1
            row[_SECONDS + _SUM] += seconds
        found = OF_END.get(outcome)
        at = self._first + (self._failing() if found is None else found)
        if self._is_shared:
            self._expect(at)
        else:
            self._at = at

    def refuse(self) -> None:
        """Note that a job that cannot be run is failed."""
        self._job = None
        self._expect(self._counts._other + FAILED)

    def count(self) -> None:
        """Count the run: its report was answered, or is not to be sent any more."""
        row = self.row
        if self._at:
            row[self._at] += 1
        self._at = 0
        self._job = None
        row[_RUNNING] = 0.0
        if self._is_shared:
            row[_JOB] = 0.0

    def follow(self, delivery: Delivery) -> None:
        """Note what is sent instead of what the run has led to."""
        if delivery.commands[0].name == "FAIL":
            self.lose()

    def lose(self) -> None:
        """Note that the run has failed after all: the server counts it so."""
        if self._at - self._first not in (FAILED, EXHAUSTED) and self._job is not None:
            self._expect(self._first + self._failing())

    def settle(self, outcome: str) -> None:
        """Count the run of a thread whose job was taken from it."""
        self.end(outcome, None)
        self.count()

    def _failing(self) -> int:
        job = self._job
        return FAILED if job is None or job.retries_remaining else EXHAUSTED

    def _expect(self, at: int) -> None:
        if self._is_shared:
            row = self.row
            if self._at:
                row[_IF_REPORTED] = 0.0
            row[_BEFORE] = row[at]
            row[_IF_REPORTED] = at
        self._at = at


class Histogram(NamedTuple):
    """Observed seconds: how many up to each of BUCKETS, how many at all, and their sum."""

    up_to: Sequence[float]
    number: float
    total: float


class Numbers(NamedTuple):
    """What processes have counted, added up."""

    jobs: dict[tuple[str, str, str], float]
    """By queue, job type and outcome."""
    seconds: Histogram
    wait: Histogram
    running: float
    pushes: dict[str, float]
    """By outcome."""
    beat_at: float | None
    """When the server answered the heartbeat that is the oldest of their last ones."""
    replaced: float
    dropped: float


def read(pages: Sequence[Page], dropped: int = 0) -> Numbers:
    """Add up the numbers of processes; `dropped` are lines of the log of this one."""
    jobs: dict[tuple[str, str, str], float] = {}
    rows = [row for page in pages for row in page.rows]
    for page in pages:
        for index, queue, jobtype in page.pairs():
            for number, outcome in enumerate(OUTCOMES, _first(index)):
                key = (queue, jobtype, outcome)
                jobs[key] = jobs.get(key, 0.0) + sum(row[number] for row in page.rows)
    heads = [page.head for page in pages]
    return Numbers(
        jobs,
        _histogram(rows, _SECONDS),
        _histogram(rows, _WAIT),
        sum(row[_RUNNING] for row in rows),
        {
            outcome: sum(head[PUSHES + number] for head in heads)
            for number, outcome in enumerate(pushes.OUTCOMES)
        },
        min((head[BEAT_AT] for head in heads if head[BEAT_AT]), default=None),
        sum(head[REPLACED] for head in heads),
        sum(head[DROPPED] for head in heads) + dropped,
    )


def _histogram(rows: Sequence[Row], at: int) -> Histogram:
    up_to: list[float] = []
    total = 0.0
    for bucket in range(len(BUCKETS) + 1):
        total += sum(row[at + bucket] for row in rows)
        up_to.append(total)
    return Histogram(up_to[:-1], total, sum(row[at + _SUM] for row in rows))


def _label(text: str) -> str:
    """Return a label as it fits into a page."""
    return text.replace("\n", " ").encode("utf-8", "replace")[:_LABEL].decode("utf-8", "ignore")


def _first(index: int) -> int:
    return _PAIRS + index * len(OUTCOMES)


def _hash(jid: str) -> int:
    """Return a number by which a process that was forked knows the jid: all hash with one seed."""
    return hash(jid) & 0xFFFFFFFF or 1


current: Counts | None = None
"""The counters of this process, if something reads them."""


def enable(page: Page | None = None) -> Counts:
    """Count from now on what workers of this process do that begin to run; return the counters."""
    global current
    if current is None:
        current = Counts(page)
        current.page.head[PROCESS] = os.getpid()
        pushes.current = current.pushes
    return current


def disable() -> None:
    """Count no more: for tests."""
    global current
    current = pushes.current = None

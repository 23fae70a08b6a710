"""Makes models from the state, in the server's thread, in slices, and of lists one page only.

Rule: what returns Steps runs in that thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import islice
from typing import Final, NamedTuple, TypeVar

from ..administration import VERSION
from ..go.time import SECOND
from ..job import StoredJob
from ..lookup import queue_page
from ..operations import DEAD_FOR
from ..slices import Steps, chunks, in_order
from ..state import ServerState
from ..store import Store
from .models import (
    BusyPage,
    Counts,
    Found,
    IndexPage,
    JobList,
    JobPage,
    JobRow,
    Point,
    QueueList,
    QueuePage,
    SearchPage,
)
from .rows import (
    copy_of,
    job_row,
    queue_row,
    read_instant,
    reserved_row,
    row_of,
    set_row,
    worker_row,
)

T = TypeVar("T")

FOUND: Final = 100
"""Jobs that a search shows."""

COPIES: Final = 20
"""Places of a job that its page shows."""

SETS: Final = {"retries": "Retries", "scheduled": "Scheduled", "dead": "Dead"}
"""The sets, and the titles of their lists."""

PATHS: Final = {"retries": "/retries", "scheduled": "/scheduled", "dead": "/morgue"}

_LATELY: Final = 100
"""Retries at both ends among which those that failed last are looked for."""


class Facts(NamedTuple):
    """What every page needs beside its own model."""

    counts: Counts
    now: int
    edition: str
    durable: str | None


class Window(NamedTuple):
    """The page of a list that is asked for."""

    page: int
    size: int

    def of(self, total: int) -> tuple[int, int, int]:
        """Return the page, how many there are, and where it starts; beyond the last is the last."""
        pages = max(1, -(-total // self.size))
        page = min(max(self.page, 1), pages)
        return page, pages, (page - 1) * self.size


def with_facts(
    page: Callable[[ServerState], Steps[T]],
) -> Callable[[ServerState], Steps[tuple[Facts, T]]]:
    """Return what reads a page together with its facts."""

    def read(state: ServerState) -> Steps[tuple[Facts, T]]:
        facts = yield from _facts(state)
        model = yield from page(state)
        return facts, model

    return read


def _facts(state: ServerState) -> Steps[Facts]:
    store = state.store
    enqueued = 0
    for queues in chunks(list(store.queues.values())):
        enqueued += sum(map(len, queues))
        yield
    path = getattr(state, "path", None)
    return Facts(
        Counts(
            store.processed,
            store.failures,
            len(store.working),
            enqueued,
            len(store.retries),
            len(store.scheduled),
            len(store.dead),
        ),
        state.clock(),
        store.edition,
        None if path is None else os.path.basename(path),
    )


# The pages.


def index(days: int) -> Callable[[ServerState], Steps[IndexPage]]:
    """Read the first page."""

    def read(state: ServerState) -> Steps[IndexPage]:
        failing = yield from _last_failed(state.store)
        by_day = [Point(*each) for each in state.store.by_day(days)]
        yield
        by_minute = [Point(*each) for each in state.store.by_minute()]
        return IndexPage(
            days,
            by_day,
            by_minute,
            VERSION,
            (state.clock() - state.started_at) // SECOND,
            state.connection_count,
            state.command_count,
            _memory_mb(),
            failing,
        )

    return read


def _last_failed(store: Store) -> Steps[list[JobRow]]:
    """Return the last jobs that failed: the newest dead, and retries that are near or far.

    A job's first retry is soon, and its last one after all others, so that those in the middle
    failed before unless there are very many.
    """
    found: list[tuple[int, JobRow]] = []
    near = store.retries.page(0, _LATELY)
    far = store.retries.page(max(len(near), len(store.retries) - _LATELY), _LATELY)
    yield
    for score, _, job in near + far:
        found.append((_failed_at(job, score), set_row("retries", score, job)))
    yield
    for score, _, job in store.dead.page(0, 5, reverse=True):
        if job.failure is not None:
            found.append((score - DEAD_FOR * SECOND, set_row("dead", score, job)))
    found.sort(key=lambda each: each[0], reverse=True)
    return [row for _, row in found[:5]]


def _failed_at(job: StoredJob, due: int) -> int:
    if job.runs is not None and job.runs.kept:
        return job.runs.kept[-1].ended_at
    count = 0 if job.failure is None else job.failure.retry_count
    return due - (min(count, 100) ** 4 + 15) * SECOND  # at the earliest


def queues(window: Window) -> Callable[[ServerState], Steps[QueueList]]:
    """Read a page of the queues, by name."""

    def read(state: ServerState) -> Steps[QueueList]:
        store = state.store
        total = len(store.queues)
        page, pages, start = window.of(total)
        names = yield from in_order(list(store.queues))
        rows = []
        for some in chunks(islice(names, start, start + window.size), 50):
            rows += [queue_row(store, name) for name in some if name in store.queues]
            yield
        return QueueList(rows, total, page, pages, window.size, "/queues")

    return read


def queue(name: str, window: Window) -> Callable[[ServerState], Steps[QueuePage | None]]:
    """Read a queue and a page of its jobs; None if it is not there."""

    def read(state: ServerState) -> Steps[QueuePage | None]:
        store = state.store
        jobs = store.queues.get(name)
        yield
        if jobs is None:
            return None
        total = len(jobs)
        page, pages, start = window.of(total)
        rows = []
        for some in chunks(queue_page(jobs, start, window.size), 20):
            rows += [job_row(job, read_instant(job.enqueued_at), job.jid) for job in some]
            yield
        path = f"/queues/{name}"
        listed = JobList(name, "queue", rows, total, page, pages, window.size, path)
        return QueuePage(queue_row(store, name), listed)

    return read


def jobs(place: str, window: Window) -> Callable[[ServerState], Steps[JobList]]:
    """Read a page of a set: what is due first, or died last, comes first."""

    def read(state: ServerState) -> Steps[JobList]:
        members = state.store.sorted_set(place)
        total = len(members)
        page, pages, start = window.of(total)
        rows = []
        reverse = place == "dead"
        for some in chunks(members.page(start, window.size, reverse), 20):
            rows += [set_row(place, score, job) for score, _, job in some]
            yield
        return JobList(SETS[place], place, rows, total, page, pages, window.size, PATHS[place])

    return read


def busy(window: Window) -> Callable[[ServerState], Steps[BusyPage]]:
    """Read a page of the workers and one of the jobs that they have."""

    def read(state: ServerState) -> Steps[BusyPage]:
        store, workers = state.store, state.workers.table
        total = max(len(workers), len(store.working))
        page, pages, start = window.of(total)
        shown = list(islice(workers.values(), start, start + window.size))
        has: dict[str, int] = {record.wid: 0 for record in shown}
        for some in chunks(store.working):
            for _, _, reservation in some:
                if reservation.wid in has:
                    has[reservation.wid] += 1
            yield
        rows = []
        for members in chunks(store.working.page(start, window.size), 20):
            rows += [reserved_row(each) for _, _, each in members]
            yield
        listed = JobList(
            "Busy", "busy", rows, len(store.working), page, pages, window.size, "/busy"
        )
        return BusyPage([worker_row(each, has) for each in shown], len(workers), listed)

    return read


def search(text: str) -> Callable[[ServerState], Steps[SearchPage]]:
    """Read what is found."""

    def read(state: ServerState) -> Steps[SearchPage]:
        hits = yield from state.store.search(text, FOUND)
        rows = []
        for some in chunks(hits.found, 20):
            rows += [Found(each.place, row_of(each)) for each in some]
            yield
        return SearchPage(rows, FOUND, not hits.is_all)

    return read


def job(jid: str, path: str) -> Callable[[ServerState], Steps[JobPage | None]]:
    """Read a job wherever it is, None if it is not there; its texts are for `readable`."""

    def read(state: ServerState) -> Steps[JobPage | None]:
        found = yield from state.store.find(jid)
        copies = [copy_of(each) for each in found[:COPIES]]
        return JobPage(jid, path, copies) if copies else None

    return read


def _memory_mb() -> int:
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    except (OSError, ValueError, AttributeError):
        return 0

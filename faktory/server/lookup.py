"""Looks into queues and sets: a page of one, a job by its jid, jobs by a text.

Rules: nothing is copied but what is returned. What takes long is `Steps`, while other connections
go on: a job that they move meanwhile is named where it was seen last, one that they push may be
left out.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Final, NamedTuple

from .go import time as go_time
from .job import Reservation, StoredJob
from .series import Point, Series
from .slices import ITEMS, Steps, chunks
from .sorted_set import SortedSet

Key = tuple[int, str]
"""What names a job of a set: score and jid."""

_CHUNK: Final = 5000
"""Jobs of a queue that are looked at before it is looked where they are by now."""

_WINDOW: Final = 16 * 1024
"""Bytes or characters that are searched at a time, of a long text or of several jobs."""

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


class Found(NamedTuple):
    """Where a job is: "queue", "busy", "retries", "scheduled" or "dead"."""

    place: str
    job: StoredJob
    score: int = 0
    """In a set, and of a reservation, in nanoseconds: when it is due."""
    reservation: Reservation | None = None


class Hits(NamedTuple):
    """What `search` has found: at most as many as it should, and whether that is all."""

    found: list[Found]
    is_all: bool


class _Some(NamedTuple):
    """Some of the jobs of a place; in a set with the rest of what `Found` has."""

    place: str
    jobs: list[StoredJob]
    details: list[tuple[int, Reservation | None]] | None = None

    def found(self, number: int) -> Found:
        details = (0, None) if self.details is None else self.details[number]
        return Found(self.place, self.jobs[number], *details)


def write_key(score: int, jid: str) -> str:
    """Write a key as text."""
    return f"{score}|{jid}"


def read_key(text: str) -> Key | None:
    """Read a key, also of the real server's form, `RFC3339|jid`; None if it is none."""
    score, bar, jid = text.partition("|")
    if not bar or len(score) > 40:
        return None
    try:
        if score.lstrip("-").isdecimal() and score.isascii():
            return int(score), jid
        return go_time.read(score), jid
    except ValueError:
        return None


def queue_page(queue: deque[StoredJob], start: int, count: int) -> list[StoredJob]:
    """Return up to `count` jobs of a queue after the first `start` ones."""
    if start >= len(queue):
        return []
    # To iterate over what comes before takes a hundred times as long in a long queue.
    deque.rotate(queue, -start)
    try:
        return list(islice(queue, min(count, len(queue) - start)))
    finally:
        deque.rotate(queue, start)


def queue_chunks(queue: deque[StoredJob]) -> Iterator[tuple[int, list[StoredJob]]]:
    """Iterate over all jobs, some at a time, with where these begin; the queue may be changed."""
    start = 0
    while some := queue_page(queue, start, _CHUNK):
        yield start, some
        start = _position(queue, some[-1], start + len(some)) + 1


def _position(queue: deque[StoredJob], job: StoredJob, end: int) -> int:
    """Return where a job is that was before `end`, or about where it was if it is gone."""
    for begin in (end - _CHUNK, 0):
        with suppress(ValueError):
            return queue.index(job, max(begin, 0), end)
    return max(end - _CHUNK, 0) - 1


def members_of(jobs: SortedSet[StoredJob], keys: Iterable[Key]) -> Iterator[StoredJob | None]:
    """Iterate over the jobs of a set with these keys, with None where others have their turn."""
    wanted: dict[int, set[str]] = {}
    for score, jid in keys:
        wanted.setdefault(score, set()).add(jid)
    for score, jids in wanted.items():
        for number, (at, _, job) in enumerate(jobs.since(score)):
            if at != score:
                break
            if job.jid in jids:
                yield job
            if number % ITEMS == ITEMS - 1:
                yield None
        yield None


class Lookup:
    """What a store has, looked at."""

    clock: Callable[[], int]
    queues: dict[str, deque[StoredJob]]
    scheduled: SortedSet[StoredJob]
    retries: SortedSet[StoredJob]
    dead: SortedSet[StoredJob]
    working: SortedSet[Reservation]
    processed: int
    failures: int
    series: Series

    def sample(self) -> None:
        """Bring `series` up to date."""
        self.series.sample(self.clock(), (self.processed, self.failures))

    def by_day(self, days: int) -> list[Point]:
        """Return what was processed and failed on each of the last days in UTC, oldest first."""
        self.sample()
        return self.series.by_day(self.clock(), days)

    def by_minute(self) -> list[Point]:
        """Return what was processed and failed in each of the last 60 minutes, oldest first."""
        self.sample()
        return self.series.by_minute(self.clock())

    def page(self, name: str, start: int, count: int) -> list[StoredJob]:
        """Return up to `count` jobs of a queue after the first `start` ones, the next one first."""
        queue = self.queues.get(name)
        return queue_page(queue, start, count) if queue else []

    def find(self, jid: str) -> Steps[list[Found]]:
        """Find a job wherever it is; it may be in several places."""
        found: dict[int, Found] = {}
        for some in self._walk():
            jids = [job.jid for job in some.jobs]
            if jid in jids:
                for number, job in enumerate(some.jobs):
                    if job.jid == jid:
                        found[id(job)] = some.found(number)
            yield
        return list(found.values())

    def search(self, text: str, limit: int) -> Steps[Hits]:
        """Find jobs with a text in jid, job type, arguments, custom values or error.

        Case does not matter, nor how JSON escapes the text. Of each place: the job that is due
        first, of the dead the latest. At most `limit` jobs.
        """
        needle = text.casefold()
        found: dict[int, Found] = {}
        if not needle:
            return Hits([], True)
        for some in self._walk():
            searched = 0
            for number, job in enumerate(some.jobs):
                searched += len(job.payload)
                if searched > _WINDOW:
                    searched = len(job.payload)
                    yield
                if len(job.payload) > _WINDOW:
                    has_it = yield from _search_long(job, needle)
                else:
                    has_it = needle in _text_of(job)
                if has_it:
                    if len(found) >= limit and id(job) not in found:
                        return Hits(list(found.values()), False)
                    found[id(job)] = some.found(number)
            yield
        return Hits(list(found.values()), True)

    def _walk(self) -> Iterator[_Some]:
        """Iterate over all jobs, some at a time, so that few of those that move are missed."""
        yield from self._at_work()
        for place, jobs in (
            ("retries", self.retries),
            ("dead", reversed(self.dead)),
            ("scheduled", self.scheduled),
        ):
            for members in chunks(jobs):
                yield _Some(
                    place,
                    [job for _, _, job in members],
                    [(score, None) for score, _, _ in members],
                )
        for names in chunks(list(self.queues)):
            for name in names:
                queue = self.queues.get(name)
                for _, queued in queue_chunks(queue) if queue else ():
                    for some in chunks(queued):
                        yield _Some("queue", some)
            yield _Some("queue", [])
        yield from self._at_work()

    def _at_work(self) -> Iterator[_Some]:
        for members in chunks(self.working):
            jobs = [each.job for _, _, each in members]
            yield _Some("busy", jobs, [(score, each) for score, _, each in members])


# Texts.


def _text_of(job: StoredJob) -> str:
    """Return all texts of a job as they are searched."""
    text = job.args or ""
    if job.custom is not None:
        text = f"{text}\n{job.custom}"
    if "\\" in text:
        text = _ESCAPE.sub(_unescape, text)
    text = f"{job.jid}\n{job.jobtype}\n{text}"
    if job.failure is not None:
        text = "\n".join((text, *job.failure.texts()))
    return text.casefold()


def _unescape(match: re.Match[str]) -> str:
    code, character = match.groups()
    return chr(int(code, 16)) if code else _ESCAPED.get(character, character)


def _search_long(job: StoredJob, needle: str) -> Steps[bool]:
    failure = () if job.failure is None else job.failure.texts()
    for text in (job.jid, job.jobtype, *failure):
        if (yield from _search_text(text, needle, has_escapes=False)):
            return True
    for json in (job.args, job.custom):
        if json and (yield from _search_text(json, needle, has_escapes=True)):
            return True
    return False


def _search_text(text: str, needle: str, has_escapes: bool) -> Steps[bool]:
    """Search a text in windows that overlap, each of which begins and ends between escapes."""
    tail, begin = "", 0
    while begin < len(text):
        window = text[begin : begin + _WINDOW]
        if has_escapes and begin + _WINDOW < len(text):
            window = _cut(window)
        begin += len(window)
        if has_escapes and "\\" in window:
            window = _ESCAPE.sub(_unescape, window)
        tail += window.casefold()
        if needle in tail:
            return True
        tail = tail[-len(needle) :]
        yield
    return False


def _cut(window: str) -> str:
    """Cut off an escape whose end is not in the window."""
    last = window.rfind("\\", len(window) - 5)
    if last >= 0:
        before = window[: last + 1]
        if (len(before) - len(before.rstrip("\\"))) % 2:
            return window[:last]
    return window

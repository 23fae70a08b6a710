"""Makes rows of jobs, queues and workers, and the texts in them.

Rule: what is long, such as a job's arguments in lines, is taken along as it is, and made readable
by `readable`, outside of the server's thread.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Final

from ..errors import CommandError
from ..go import time as go_time
from ..go.time import SECOND
from ..job import Reservation, StoredJob
from ..lookup import Found, write_key
from ..operations import DEAD_FOR
from ..store import Store
from ..workers import ClientRecord
from .models import JobCopy, JobPage, JobRow, QueueRow, Run, WorkerRow

SHORT: Final = 300
"""Characters of arguments and errors in a list."""

LONG: Final = 64 * 1024
"""Characters of a text on a job's page."""

ACTIONS: Final = {
    "queue": ["delete"],
    "busy": [],
    "retries": ["retry", "kill", "delete"],
    "scheduled": ["add to queue", "kill", "delete"],
    "dead": ["retry", "delete"],
}
"""What can be done with a job in each place."""

_STATES: Final = {"": "running", "quiet": "quiet", "terminate": "stopping"}

_ESCAPE: Final = re.compile(r"\\(u003c|u003e|u0026|u2028|u2029|.)", re.DOTALL)


def job_row(
    job: StoredJob,
    at: int | None,
    key: str,
    wid: str = "",
) -> JobRow:
    """Make a row of a job."""
    failure = job.failure
    error = "" if failure is None else f"{failure.errtype}: {failure.message}"
    return JobRow(
        key,
        job.jid,
        job.jobtype,
        job.queue,
        cut(unescape(cut(job.args or "", 4 * SHORT)), SHORT),
        at,
        0 if failure is None else failure.retry_count + 1,
        job.retry,
        cut(error, SHORT),
        wid,
    )


def set_row(place: str, score: int, job: StoredJob) -> JobRow:
    """Make a row of a job of a set."""
    at = score - DEAD_FOR * SECOND if place == "dead" else score
    return job_row(job, at, write_key(score, job.jid))


def reserved_row(reservation: Reservation) -> JobRow:
    """Make a row of a job that a worker has."""
    job = reservation.job
    return job_row(job, reservation.reserved_at, job.jid, reservation.wid)


def row_of(found: Found) -> JobRow:
    """Make a row of a job that was found."""
    if found.reservation is not None:
        return reserved_row(found.reservation)
    if found.place == "queue":
        return job_row(found.job, read_instant(found.job.enqueued_at), found.job.jid)
    return set_row(found.place, found.score, found.job)


def queue_row(store: Store, name: str) -> QueueRow:
    """Make a row of a queue."""
    try:
        latency = store.latency(name)
    except CommandError:  # a job without `enqueued_at`
        latency = 0.0
    return QueueRow(name, len(store.queues.get(name, ())), latency, name in store.paused)


def worker_row(record: ClientRecord, has: dict[str, int]) -> WorkerRow:
    """Make a row of a worker; `has` is how many jobs each has."""
    return WorkerRow(
        record.wid,
        record.hostname,
        record.pid,
        [cut(label, SHORT) for label in record.labels[:20]],
        _STATES.get(record.state, record.state),
        record.started_at,
        record.beat_at,
        len(record.peers),
        record.rss_kb,
        has.get(record.wid, 0),
    )


def copy_of(found: Found) -> JobCopy:
    """Make what the page of a job shows of one place."""
    job, failure, runs = found.job, found.job.failure, found.job.runs
    return JobCopy(
        found.place,
        row_of(found),
        list(_fields(job)),
        job.args or "",
        job.custom,
        "" if failure is None else failure.errtype,
        "" if failure is None else failure.message,
        [] if failure is None else list(failure.backtrace),
        [] if runs is None else [Run(*each) for each in reversed(runs.kept)],
        0 if runs is None else runs.dropped,
        list(ACTIONS[found.place]),
    )


def _fields(job: StoredJob) -> Iterable[tuple[str, str]]:
    failure = job.failure
    pairs: list[tuple[str, object]] = [
        ("created_at", job.created_at),
        ("enqueued_at", job.enqueued_at),
        ("at", job.at),
        ("reserve_for", f"{job.reserve_for} s" if job.reserve_for else ""),
        ("retry", job.retry),
        ("backtrace", job.backtrace or ""),
    ]
    if failure is not None:
        pairs += [
            ("remaining", failure.remaining),
            ("failed_at", failure.failed_at),
            ("next_at", failure.next_at),
        ]
    return [(name, cut(str(value), SHORT)) for name, value in pairs if value != ""]


# Texts.


def readable(page: JobPage | None) -> JobPage | None:
    """Return a job's page with its JSON in lines, and no text longer than `LONG`."""
    if page is None:
        return None
    copies = [
        copy._replace(
            row=copy.row._replace(jobtype=limited(copy.row.jobtype)),
            args=pretty(copy.args),
            custom=None if copy.custom is None else pretty(copy.custom),
            errtype=limited(copy.errtype),
            message=limited(copy.message),
            backtrace=limited("\n".join(copy.backtrace)).splitlines(),
        )
        for copy in page.copies
    ]
    return page._replace(copies=copies)


def pretty(text: str) -> str:
    """Return JSON in lines, cut at `LONG` characters with a note of its size."""
    if len(text) <= LONG:
        try:
            text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
        except (ValueError, RecursionError):
            text = unescape(text)
        if len(text) <= LONG:
            return text
    return limited(text, unescape)


def limited(text: str, change: Callable[[str], str] = str) -> str:
    """Return a text cut at `LONG` characters, what is left changed, with a note of its size."""
    if len(text) <= LONG:
        return text
    return f"{change(text[:LONG])}\n… ({len(text):,} characters in all)"


def unescape(text: str) -> str:
    """Return JSON without the escapes that Go writes for HTML."""
    return _ESCAPE.sub(_unescaped, text) if "\\" in text else text


def _unescaped(match: re.Match[str]) -> str:
    return chr(int(match[1][1:], 16)) if len(match[1]) > 1 else match[0]


def cut(text: str, limit: int) -> str:
    """Return a text cut to `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def read_instant(text: str) -> int | None:
    """Return an instant of a job, None if it has none."""
    try:
        return go_time.read(text) if text else None
    except ValueError:
        return None

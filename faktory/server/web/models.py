"""What the templates are given: copies, of which nothing changes any more.

Times are nanoseconds since the epoch by the server's clock, `None` where there is none. Texts are
as they are: the templates escape them. Lists have the rows of one page.
"""

from __future__ import annotations

from typing import NamedTuple


class Site(NamedTuple):
    """What is around every page, as `site`."""

    root: str
    """The prefix of every link: "" or "/faktory"."""
    token: str
    """Of the forms; "" where nothing can be posted."""
    read_only: bool
    version: str
    edition: str
    durable: str | None
    """The name of the file that has the jobs, None in memory."""
    tab: str
    """"index", "queues", "busy", "retries", "scheduled", "morgue", "search" or ""."""
    notice: str
    """What the last action did, or ""."""
    query: str
    """What is searched for, or ""."""


class Counts(NamedTuple):
    """How many jobs there are, as `counts`; None beside a `message` that nobody may see more of."""

    processed: int
    failures: int
    busy: int
    enqueued: int
    retries: int
    scheduled: int
    dead: int


class Point(NamedTuple):
    """What was processed, and what failed, from `at` to the next point."""

    at: int
    processed: int
    failures: int


class JobRow(NamedTuple):
    """A job in a list."""

    key: str
    """Its form value: `key` in a set, `bkey` in a queue."""
    jid: str
    jobtype: str
    queue: str
    args: str
    """JSON, cut at 300 characters."""
    at: int | None
    """Of a retry and a scheduled job: when it is due; else since when it is where it is."""
    attempts: int
    """How often it has failed."""
    retry: int | None
    error: str
    """The last one, cut at 300 characters; "" if there is none."""
    wid: str


class JobList(NamedTuple):
    """A page of a list of jobs."""

    title: str
    place: str
    """"queue", "busy", "retries", "scheduled" or "dead"."""
    rows: list[JobRow]
    total: int
    page: int
    pages: int
    count: int  # type: ignore[assignment]
    path: str
    """Without the root, percent-encoded: "/queues/default"."""


class IndexPage(NamedTuple):
    """`page` of index.html."""

    days: int
    by_day: list[Point]
    by_minute: list[Point]
    """The last hour."""
    version: str
    uptime: int
    """Seconds."""
    connections: int
    commands: int
    memory_mb: int
    failing: list[JobRow]
    """The last jobs that failed."""


class QueueRow(NamedTuple):
    """A queue."""

    name: str
    size: int
    latency: float
    """Seconds that its oldest job has waited."""
    paused: bool


class QueueList(NamedTuple):
    """`page` of queues.html."""

    rows: list[QueueRow]
    total: int
    page: int
    pages: int
    count: int  # type: ignore[assignment]
    path: str


class QueuePage(NamedTuple):
    """`page` of queue.html."""

    queue: QueueRow
    jobs: JobList


class WorkerRow(NamedTuple):
    """A worker that is connected."""

    wid: str
    hostname: str
    pid: int
    labels: list[str]
    state: str
    """"running", "quiet" or "stopping"."""
    started_at: int
    beat_at: int
    connections: int
    rss_kb: int
    busy: int
    """Jobs that it has."""


class BusyPage(NamedTuple):
    """`page` of busy.html: a page of the workers and one of the jobs, both of the same number."""

    workers: list[WorkerRow]
    worker_total: int
    jobs: JobList
    """Its `pages` are those of the longer list."""


class Found(NamedTuple):
    """A job that was found, and where: a place of JobList."""

    place: str
    row: JobRow


class SearchPage(NamedTuple):
    """`page` of search.html; what is searched for is `site.query`."""

    rows: list[Found]
    limit: int
    """So many are shown at most."""
    more: bool
    """There are more."""


class Run(NamedTuple):
    """A run of a job that failed."""

    started_at: int | None
    ended_at: int
    wid: str
    errtype: str
    message: str


class JobCopy(NamedTuple):
    """A job in one of its places, with all that is known of it."""

    place: str
    row: JobRow
    fields: list[tuple[str, str]]
    args: str
    """JSON in lines, cut at 64 kB with a note of its size."""
    custom: str | None
    """The same."""
    errtype: str
    message: str
    backtrace: list[str]
    runs: list[Run]
    """Newest first."""
    runs_dropped: int
    """How many older ones are not known any more."""
    actions: list[str]
    """What can be done with it: the `action` of a form, and the text of its button."""


class JobPage(NamedTuple):
    """`page` of job.html; a job may be in several places."""

    jid: str
    path: str
    copies: list[JobCopy]

"""The dicts that go over the wire as JSON: jobs, and what the server answers about them.

Fields, units and meaning are the server's (`client/job.go`, `server/commands.go` of Faktory).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, NotRequired, Required, TypeAlias, TypedDict


class JobPayload(TypedDict, total=False):
    """A job to push."""

    jobtype: Required[str]
    args: Required[list[Any] | tuple[Any, ...]]
    """Values that JSON can hold."""
    jid: str | None
    """8 bytes or more; one is made unless given."""
    queue: str
    """"default" unless given."""
    retry: int | None
    """Attempts after the first: 25 unless given; 0 drops it when it fails, -1 buries it."""
    reserve_for: float | timedelta | None
    """Seconds that a worker has for it: 1,800 unless given."""
    at: datetime | str | float | None
    """When it is to run: an aware datetime, RFC 3339 text, or seconds since the epoch."""
    backtrace: int | None
    """Lines of a failure's traceback to keep."""
    custom: dict[str, Any] | None
    """Values of your own, and the options of Faktory Enterprise."""
    created_at: datetime | str | float | None


class JobFailure(TypedDict):
    """How a job failed last."""

    retry_count: int
    """How often it was retried."""
    remaining: int
    """How many attempts are left."""
    failed_at: str
    next_at: NotRequired[str]
    errtype: NotRequired[str]
    message: NotRequired[str]
    backtrace: NotRequired[list[str]]


class FetchedJob(TypedDict):
    """A job as FETCH hands it out; times are RFC 3339 text."""

    jid: str
    jobtype: str
    args: list[Any]
    queue: str
    retry: int
    created_at: str
    enqueued_at: str
    at: NotRequired[str]
    reserve_for: NotRequired[int]
    backtrace: NotRequired[int]
    custom: NotRequired[dict[str, Any]]
    failure: NotRequired[JobFailure]


AnyJob: TypeAlias = JobPayload | FetchedJob | dict[str, Any]
"""What can be pushed: a job made by hand, one that was fetched, or any dict with the same keys."""


class FaktoryInfo(TypedDict):
    """What INFO says about jobs."""

    queues: dict[str, int]
    """Size of each queue, by name."""
    sets: dict[str, int]
    """Size of "scheduled", "retries", "dead" and "working"."""
    tasks: dict[str, dict[str, Any]]
    """What the server does regularly, by name."""
    total_enqueued: int
    total_processed: int
    total_failures: int
    total_queues: int


class ProcessInfo(TypedDict):
    """What INFO says about the server's process."""

    description: str
    faktory_version: str
    uptime: int
    """Seconds."""
    connections: int
    command_count: int
    used_memory_mb: NotRequired[int]


class ServerInfo(TypedDict):
    """What INFO answers."""

    now: str
    server_utc_time: str
    faktory: FaktoryInfo
    server: ProcessInfo


class BatchStatus(TypedDict):
    """How far a batch is."""

    bid: str
    total: int
    """Jobs."""
    pending: int
    """Jobs that have not succeeded yet."""
    failed: int
    """Jobs that have failed, and not succeeded since."""
    created_at: str
    complete_st: str
    """State of the callback for when all have run: "", "1" for enqueued, "2" for succeeded."""
    success_st: str
    """State of the callback for when all have succeeded."""
    description: NotRequired[str]
    parent_bid: NotRequired[str]


class JobProgress(TypedDict):
    """How far a tracked job is."""

    jid: str
    state: str
    """"enqueued", "working", "success", "failed", "dead" or "unknown"."""
    updated_at: str
    percent: NotRequired[int]
    desc: NotRequired[str]

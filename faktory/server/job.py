"""A job as the real server keeps it: the fields of its struct, and the JSON that goes to workers.

Rules: unknown fields are dropped; the others come out in the order of the struct, empty ones not at
all. `args` and `custom` are rendered once.
"""

from __future__ import annotations

from sys import getsizeof, intern
from typing import Any, Final, NamedTuple

from .errors import CommandError
from .go import json as go_json
from .go import time as go_time
from .go.json import INT, STRING, STRINGS, GoType
from .runs import Runs

DEFAULT_RETRY: Final = 25
"""Retries of a job that has no `retry` (`client/job.go`). In the real server the `retry` of one job
becomes the default for all jobs that follow; not here."""

FAILURE: Final = GoType(
    "client.Failure",
    dict,
    {
        "failed_at": STRING,
        "next_at": STRING,
        "message": STRING,
        "errtype": STRING,
        "backtrace": STRINGS,
        "retry_count": INT,
        "remaining": INT,
    },
)

JOB: Final = GoType(
    "client.Job",
    dict,
    {
        "retry": INT,
        "failure": FAILURE,
        "custom": go_json.OBJECT,
        "jid": STRING,
        "queue": STRING,
        "jobtype": STRING,
        "created_at": STRING,
        "enqueued_at": STRING,
        "at": STRING,
        "args": go_json.ANYTHINGS,
        "reserve_for": INT,
        "backtrace": INT,
    },
)


OVERHEAD: Final = 1024
"""Bytes that a job takes beside its texts: the object, instants, its place in a queue or set (600
for each of a million small jobs in a queue, 900 in a set)."""


class Quota:
    """How much memory the stored jobs may take together, and how much they take, in bytes.

    It is an estimate: `OVERHEAD` for each job, and twice its texts, which are kept as such and in
    the payload.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def charge(self, job: StoredJob) -> None:
        """Count a job until it is deleted; CommandError if that would be too much."""
        size = self._size(job)
        if self.used + size > self.limit:
            raise CommandError(
                f"no memory for this job: the stored jobs have reached the limit of "
                f"{self.limit >> 20} MiB (--max-memory) of this embedded server"
            )
        job.charge = Charge(self, size)

    def keep(self, job: StoredJob) -> None:
        """Count a job that was accepted earlier, whatever the limit is."""
        job.charge = Charge(self, self._size(job))

    def _size(self, job: StoredJob) -> int:
        size = OVERHEAD + 2 * sum(
            getsizeof(text) - _EMPTY
            for text in (job.args, job.custom, job.jid, job.queue, job.jobtype)
            if text is not None
        )
        if job.failure is not None:
            size += job.failure.size()
        return size


class Charge:
    """What one job takes of a quota; it ends with the job, whatever becomes of that."""

    __slots__ = ("_quota", "_size")

    def __init__(self, quota: Quota, size: int) -> None:
        quota.used += size
        self._quota = quota
        self._size = size

    def extend(self, size: int) -> bool:
        """Add to it; return False, and do not, if that is too much."""
        if self._quota.used + size > self._quota.limit:
            return False
        self._quota.used += size
        self._size += size
        return True

    def __del__(self) -> None:
        self._quota.used -= self._size


_EMPTY = getsizeof("")

LAST: Final = go_time.read("9999-12-31T23:59:59Z")
"""The last instant that can be written, in nanoseconds since the epoch."""


class Failure:
    """The failures of a job so far."""

    __slots__ = (
        "backtrace",
        "errtype",
        "failed_at",
        "message",
        "next_at",
        "remaining",
        "retry_count",
        "runs",
    )

    def __init__(self, fields: dict[str, Any]) -> None:
        get = fields.get
        self.failed_at: str = get("failed_at", "")
        self.next_at: str = get("next_at", "")
        self.message: str = get("message", "")
        self.errtype: str = get("errtype", "")
        self.backtrace: list[str] = get("backtrace", [])
        self.retry_count: int = get("retry_count", 0)
        self.remaining: int = get("remaining", 0)
        self.runs: Runs | None = None
        """The runs that failed here, None before the first; not in the payload."""

    def is_record_of(self, other: Failure) -> bool:
        """Return whether both are the record of the same failure."""
        return (self.retry_count, self.failed_at) == (other.retry_count, other.failed_at)

    def texts(self) -> tuple[str, ...]:
        """Return error type, message and backtrace."""
        return (self.errtype, self.message, *self.backtrace)

    def size(self) -> int:
        """Return about how many bytes it takes, in the payload too."""
        size = 2 * sum(getsizeof(text) for text in self.texts())
        return size if self.runs is None else size + self.runs.size()

    def render(self) -> str:
        """Return it as JSON."""
        return (
            f'{{"failed_at":{go_json.dump(self.failed_at)}'
            + _unless_empty("next_at", self.next_at)
            + _unless_empty("message", self.message)
            + _unless_empty("errtype", self.errtype)
            + _unless_empty("backtrace", self.backtrace)
            + f',"retry_count":{self.retry_count},"remaining":{self.remaining}}}'
        )


class StoredJob:
    """A job; after a change to it, call `render`.

    `payload` is the JSON of the last `render`; `args` and `custom` are JSON, too.
    """

    __slots__ = (
        "args",
        "at",
        "backtrace",
        "charge",
        "created_at",
        "custom",
        "enqueued_at",
        "failure",
        "jid",
        "jobtype",
        "payload",
        "queue",
        "reserve_for",
        "retry",
    )

    def __init__(self, fields: dict[str, Any]) -> None:
        """Take what `go_json.read_struct` returned; JSONError for a number beyond doubles."""
        get = fields.get
        failure = get("failure")
        custom = get("custom")
        args = get("args")
        self.retry: int = get("retry", DEFAULT_RETRY)
        self.failure = None if failure is None else Failure(failure)
        self.custom = go_json.dump(custom) if custom else None
        self.jid: str = get("jid", "")
        # Millions of jobs share few queues and types.
        self.queue: str = intern(get("queue", ""))
        self.jobtype: str = intern(get("jobtype", ""))
        self.created_at: str = get("created_at", "")
        self.enqueued_at: str = get("enqueued_at", "")
        self.at: str = get("at", "")
        self.args = None if args is None else go_json.dump(args)
        self.reserve_for: int = get("reserve_for", 0)
        self.backtrace: int = get("backtrace", 0)
        self.payload = b""
        self.charge: Charge | None = None

    @property
    def runs(self) -> Runs | None:
        """The runs that failed, None before the first."""
        return None if self.failure is None else self.failure.runs

    def render(self) -> bytes:
        """Bring `payload` up to date and return it."""
        text = f'{{"retry":{self.retry}'
        if self.failure is not None:
            text += f',"failure":{self.failure.render()}'
        if self.custom is not None:
            text += f',"custom":{self.custom}'
        dump = go_json.dump
        text += f',"jid":{dump(self.jid)},"queue":{dump(self.queue)},"jobtype":{dump(self.jobtype)}'
        if self.created_at:
            text += f',"created_at":{dump(self.created_at)}'
        if self.enqueued_at:
            # The server's or, in a job that was never in a queue, the client's.
            text += f',"enqueued_at":{dump(self.enqueued_at)}'
        if self.at:
            text += f',"at":{dump(self.at)}'
        text += ',"args":'
        end = ""
        if self.reserve_for:
            end += f',"reserve_for":{self.reserve_for}'
        if self.backtrace:
            end += f',"backtrace":{self.backtrace}'
        self.payload = f"{text}{self.args}{end}}}".encode()  # few copies: it may be large
        return self.payload


def move_expiry(job: StoredJob, by: int) -> None:
    """Move the `expires_at` in a job's `custom`, if there is one, by so many nanoseconds.

    A client's clock stays where it is when a test moves the server's: what a job carries is
    translated when it comes and when it goes.
    """
    if job.custom is None or '"expires_at"' not in job.custom:
        return
    fields = go_json.load(job.custom)
    try:
        at = go_time.read(fields["expires_at"]) + by
    except (KeyError, TypeError, ValueError):  # of another meaning
        return
    fields["expires_at"] = go_time.write(min(max(at, 0), LAST))
    job.custom = go_json.dump(fields)


class Reservation(NamedTuple):
    """A job that a worker has until `expires_at`; `member` is its key in the set of all of them."""

    job: StoredJob
    wid: str
    reserved_at: int
    expires_at: int
    member: bytes


def _unless_empty(name: str, value: object) -> str:
    return f',"{name}":{go_json.dump(value)}' if value else ""

"""The client: one line a command, over a connection that opens when first needed.

Rules: what a command says and how its answer is read stands in `wire.commands`, how a line is
opened, shared and mended in `line`. A client may be shared by threads, and works on in a forked
child.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from ..exceptions import FaktoryServerError
from ..proto import encode_command
from ..wire import commands, failure
from ..wire.address import Address, find_url, parse
from ..wire.commands import Command, Operation, State, Target
from ..wire.payload import DEFAULT_RETRY, prepare
from ..wire.session import Answer
from ..wire.validate import check_instant, check_timeout
from . import bulk, compat
from .connection import Connection

if TYPE_CHECKING:
    from ssl import SSLContext

T = TypeVar("T")

DEFAULT_TIMEOUT = 10.0
"""Seconds: above the 5 that the server gives itself for a command."""


class Client:
    """A producer's, or a worker's, connection to a Faktory server.

    `faktory` is the address; without one it is the environment's. `timeout` is the seconds for
    connecting and for each answer (FETCH and PUSHB have more). With a `worker_id` it counts as a
    worker from the moment it connects, which must beat; `labels` show beside it in the server's
    pages. `log` hears of `connect`, `disconnect` and `queue`. Every method but `disconnect` and
    `close` connects if need be; FaktoryConnectionError and those below it say that it could not,
    or that the line broke. FaktoryServerError is the server's refusal, after which the connection
    goes on; ValueError and FaktoryPayloadError are ours, and nothing was sent.

    With `at_least_once`, a push whose outcome is unknown is sent again, once: the job may be
    queued twice then. At level DEBUG the log shows every command and answer, what jobs hold only
    with `log_payloads`; the password never.

    As in faktory 1.0.0, `connection` is an object that takes the server's place in a test; it
    serves `queue`, see `compat.FakeConnection`. `buffer_size` is accepted and has no effect.
    """

    def __init__(
        self,
        faktory: str | None = None,
        connection: compat.FakeConnection | None = None,
        *,
        timeout: float | timedelta = DEFAULT_TIMEOUT,
        buffer_size: int = 4096,  # noqa: ARG002
        labels: Sequence[str] | None = None,
        worker_id: str | None = None,
        log: logging.Logger | None = None,
        ssl_context: SSLContext | None = None,
        at_least_once: bool = False,
        log_payloads: bool = False,
    ) -> None:
        self.faktory: Address
        self.log = log or logging.getLogger("faktory.connection")
        self.timeout = check_timeout("timeout", timeout, allow_zero=False)
        many = isinstance(labels, Iterable) and not isinstance(labels, str)
        texts = list(labels or ()) if many else []
        if labels is not None and not (many and all(isinstance(text, str) for text in texts)):
            raise ValueError(f"labels is {labels!r}: pass a list of texts, like ['python'].")
        if worker_id is not None and (not isinstance(worker_id, str) or not worker_id):
            raise ValueError(f"worker_id is {worker_id!r}: it must be text, and not empty.")
        identity: dict[str, object] = {"labels": texts}
        if worker_id is not None:
            identity["wid"] = worker_id
        self._wid = worker_id
        self._announced = False
        self._temporary = compat.TemporaryConnections()
        self._connection: Connection | compat.CompatConnection
        if connection is None:
            self.faktory = parse(faktory or find_url(os.environ))
            if ssl_context is not None and not self.faktory.tls:
                raise ValueError(
                    f"there is an ssl_context, but {self.faktory} is spoken to in plain text: "
                    "the address of a server with TLS begins with tcp+tls://."
                )
            self._connection = Connection(
                self.faktory,
                identity,
                self.timeout,
                ssl_context,
                at_least_once=at_least_once,
                log=self.log,
                log_payloads=log_payloads,
            )
        else:
            self.faktory = connection  # type: ignore[assignment]  # as in 1.0.0, for tests alone
            self._connection = compat.CompatConnection(connection)

    def __repr__(self) -> str:
        state = "connected" if self.is_connected else "not connected"
        return f"<faktory.Client {self.faktory}, {state}>"

    def __enter__(self) -> Client:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection; it may be broken without having been noticed."""
        return self._connection.is_open

    def connect(self) -> bool:
        """Connect now, if not yet connected; return True."""
        if isinstance(self._connection, compat.CompatConnection):
            self._connection.open()
            return self.is_connected
        if not self.is_connected:
            self.log.info("Connecting to %s:%s", self.faktory.host, self.faktory.port)
            if self.faktory.tls:
                self.log.debug("Using TLS")
            self._connection.open()
            self._announced = True
            self.log.debug("Connected to Faktory")
        return True

    def disconnect(self) -> None:
        """Say goodbye and close; the next command connects anew."""
        self._connection.close()
        if self._announced:
            self._announced = False
            self.log.info("Disconnected")

    def close(self) -> None:
        """Disconnect."""
        self.disconnect()

    def random_job_id(self) -> str:
        """Make the jid of a job that `queue` was given none for; may be overridden."""
        return uuid.uuid4().hex

    def queue(
        self,
        task: str,
        args: Iterable[Any] | None = None,
        queue: str = "default",
        priority: int = 5,
        jid: str | None = None,
        custom: dict[str, Any] | None = None,
        reserve_for: int | None = None,
        at: str | None = None,
        retry: int | None = 5,
        backtrace: int = 0,
    ) -> bool:
        """Queue a job as in faktory 1.0.0; return False, and log why, where the server refuses it.

        A client that is not connected is connected for this one job, and disconnected after.
        ValueError for an empty name and for `args` that are no list, tuple, set or iterator; else
        nothing is checked but that JSON can hold it (FaktoryPayloadError). The server ignores
        `priority`. `push` says more, and raises.
        """
        jid = jid or self.random_job_id()
        job = compat.make_job(
            task, args, queue, priority, jid, custom, reserve_for, at, retry, backtrace
        )
        if isinstance(self._connection, compat.CompatConnection):
            with self._temporary.connected(self):
                refusal = self._connection.push(job)
        else:
            refusal = self._queue(job)
        if refusal is not None:
            self.log.warning("%s %s is not queued: %s", task, jid, refusal)
        return refusal is None

    def _queue(self, job: dict[str, Any]) -> str | None:
        """Push a job of `queue`; return why it is not queued, or None if it is."""
        if job["retry"] is None:
            job["retry"] = DEFAULT_RETRY  # what the server means by None, and does not keep to
        command = commands.push(job)  # before connecting: JSON may not be able to hold it
        if (reason := compat.why_lost(job)) is not None:
            return reason
        with self._temporary.connected(self):
            # The answer tells, not an exception: in inline mode that is the job's own.
            error = self.exchange(command)[0].error
        if error is not None and not isinstance(error, FaktoryServerError):
            raise error
        return None if error is None else str(error)

    def push(self, job: dict[str, Any]) -> str:
        """Queue a job, a dict with `jobtype` and `args` at least; return its jid.

        It may also have `jid`, `queue` ("default"), `retry` (25), `reserve_for` (seconds), `at` (a
        datetime, RFC 3339 or epoch seconds), `backtrace` (lines) and `custom` (a dict). It is not
        changed. FaktoryPayloadError where the job cannot be sent as it is, FaktoryServerError where
        the server refuses it, FaktoryOutcomeUnknown where it may or may not be queued.
        """
        sent = prepare(job)
        self.call(commands.push(sent))
        return sent["jid"]  # type: ignore[no-any-return]

    def push_bulk(self, jobs: Iterable[dict[str, Any]], batch_size: int = 1000) -> dict[str, str]:
        """Queue many jobs; return what was refused, by our checks or the server: jid to reason.

        Any iterable is streamed in chunks of `batch_size`. FaktoryBulkError where the line broke,
        or the iterable did when a chunk was out: it says what was refused till then, which jids
        are unknown and which were never sent.
        """
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(
                f"batch_size is {batch_size!r}: it must be a whole number of 1 or more."
            )
        return bulk.push_all(self.call, jobs, batch_size)

    def fetch(self, *queues: str) -> dict[str, Any] | None:
        """Take a job from the first of the queues that has one; None after 2 s without.

        The job is a dict with `jid`, `jobtype`, `args`, `queue`, `retry`, `created_at`, and where
        that was given `custom`, `reserve_for`, `backtrace`, `at`; after a failure `failure` has
        `retry_count`, `remaining`, `message`, `errtype` and more. It is reserved until it is
        answered by `ack` or `fail`, or its `reserve_for` is over.
        """
        return self.call(commands.fetch(queues))

    def ack(self, jid: str) -> None:
        """Report a job as done; the server also takes a jid that it does not know."""
        self.call(commands.ack(jid))

    def fail(
        self,
        jid: str,
        error: BaseException | None = None,
        *,
        errtype: str | None = None,
        message: str | None = None,
        backtrace: int | Sequence[str] | None = None,
    ) -> None:
        """Report a job as failed: the server retries it, or buries it.

        `error` gives type, message and traceback; `errtype` and `message` replace its. `backtrace`
        is lines of text, or how many lines of the traceback to send (none unless asked for).
        FaktoryServerError for a jid that the server does not know.
        """
        if backtrace is not None and not isinstance(backtrace, (int, Sequence)):
            raise ValueError(
                f"backtrace is {backtrace!r}: pass lines of text, or how many of them to send."
            )
        report = failure.describe(error, errtype, message, backtrace)
        self.call(commands.fail(jid, *report))

    def beat(self, current_state: str | None = None, rss_kb: int | None = None) -> State | None:
        """Report this worker as alive; return "quiet" or "terminate" if the server wants that.

        The server gives a worker up after 60 seconds without. `rss_kb` is the memory it takes, in
        KiB, for the server's pages.
        """
        if self._wid is None:
            raise ValueError("only a worker beats: make the client with worker_id=.")
        return self.call(commands.beat(self._wid, current_state, rss_kb))

    def info(self) -> dict[str, Any]:
        """Return the server's state, a dict as it sends it.

        `["faktory"]` has `queues` (name to size), `tasks`, `total_processed`, `total_failures` and
        more, `["server"]` `faktory_version`, `uptime` (seconds), `connections`, `description`.
        """
        return self.call(commands.info())

    def flush(self) -> None:
        """Delete every job of every queue and set on the server."""
        self.call(commands.flush())

    def pause_queues(self, *names: str) -> None:
        """Let the server hand out no jobs of these queues, "*" for all; it must have seen them."""
        self.call(commands.pause_queues(names))

    def resume_queues(self, *names: str) -> None:
        """Let the server hand out jobs of these queues again, "*" for all."""
        self.call(commands.resume_queues(names))

    def remove_queues(self, *names: str) -> None:
        """Delete these queues, "*" for all, and every job in them."""
        self.call(commands.remove_queues(names))

    def queue_latency(self, *names: str) -> dict[str, float]:
        """Return how many seconds the oldest job of each queue waits, 0 in one without jobs."""
        return self.call(commands.queue_latency(names))

    def clear(self, target: Target) -> None:
        """Delete every job of "retries", "scheduled" or "dead"."""
        self._mutate("clear", target)

    def discard(
        self,
        target: Target,
        *,
        jobtype: str | None = None,
        jids: Iterable[str] | None = None,
        matching: str | None = None,
    ) -> None:
        """Delete jobs of "retries", "scheduled" or "dead": all, or those of a filter.

        Choose by `jids`, or by `jobtype` and `matching`, a glob over the job's stored JSON. The
        server does not say how many there were.
        """
        self._mutate("discard", target, jobtype, jids, matching)

    def kill(
        self,
        target: Target,
        *,
        jobtype: str | None = None,
        jids: Iterable[str] | None = None,
        matching: str | None = None,
    ) -> None:
        """Move jobs to the dead ones; for the filter see `discard`."""
        self._mutate("kill", target, jobtype, jids, matching)

    def requeue(
        self,
        target: Target,
        *,
        jobtype: str | None = None,
        jids: Iterable[str] | None = None,
        matching: str | None = None,
    ) -> None:
        """Put jobs back into their queues; for the filter see `discard`."""
        self._mutate("requeue", target, jobtype, jids, matching)

    def batch_new(
        self,
        *,
        success: dict[str, Any] | None = None,
        complete: dict[str, Any] | None = None,
        description: str | None = None,
        parent_bid: str | None = None,
    ) -> str:
        """Make a batch and return its bid; jobs join it by `custom={"bid": bid}`.

        `success` is a job, a dict as `push` takes it, to be pushed when all jobs of the batch have
        succeeded, `complete` one for when all have run, either way; one of them is needed. The
        batch takes jobs until `batch_commit`. Faktory Enterprise, as the rest of batches and
        tracking: FaktoryEnterpriseRequired without it.
        """
        if success is None and complete is None:
            raise ValueError("a batch needs a callback: pass success=, complete= or both.")
        definition: dict[str, object] = {}
        if description is not None:
            definition["description"] = description
        if parent_bid is not None:
            definition["parent_bid"] = parent_bid
        if success is not None:
            definition["success"] = prepare(success)
        if complete is not None:
            definition["complete"] = prepare(complete)
        return self.call(commands.batch_new(definition))

    def batch_open(self, bid: str) -> None:
        """Open a batch again for more jobs. Faktory Enterprise."""
        self.call(commands.batch_open(bid))

    def batch_commit(self, bid: str) -> None:
        """Close a batch: its callbacks follow when its jobs are done. Faktory Enterprise."""
        self.call(commands.batch_commit(bid))

    def batch_status(self, bid: str) -> dict[str, Any]:
        """Return how far a batch is. Faktory Enterprise.

        A dict with `bid`, `total`, `pending` and `failed` (numbers of jobs), `description`,
        `created_at`, `complete_st` and `success_st` (how far the callbacks are).
        """
        return self.call(commands.batch_status(bid))

    def track_get(self, jid: str) -> dict[str, Any]:
        """Return how far a job says it is. Faktory Enterprise.

        A dict with `jid`, `state` ("enqueued", "working"...), `updated_at`, and what the job has
        said: `percent` and `desc`.
        """
        return self.call(commands.track_get(jid))

    def track_set(
        self,
        jid: str,
        percent: int | None = None,
        desc: str | None = None,
        reserve_until: datetime | str | float | None = None,
    ) -> None:
        """Say how far a job is, a whole number of percent; `reserve_until` asks for more time.

        Faktory Enterprise.
        """
        if percent is not None and not (isinstance(percent, int) and 0 <= percent <= 100):
            raise ValueError(f"percent is {percent!r}: it must be a whole number from 0 to 100.")
        if desc is not None and not isinstance(desc, str):
            raise ValueError(f"desc is {desc!r}: it must be text.")
        until = None if reserve_until is None else check_instant("reserve_until", reserve_until)
        self.call(commands.track_set(jid, percent, desc, until))

    def command(self, verb: str, *words: str, json: object = None) -> Any:
        """Send any command and return the answer as it comes: text, bytes or None.

        It is taken for one that may not be repeated.
        """
        line = encode_command(verb, *words, json=json)
        return self.call(
            Command(
                verb, line, lambda reply: reply, idempotent=False, min_timeout=commands.BULK_TIMEOUT
            )
        )

    def call(self, command: Command[T]) -> T:
        """Send a command of `wire.commands` and return its value, or raise its error."""
        answer = self._connection.exchange(command)[0]
        if answer.error is not None:
            raise answer.error
        value: T = answer.value
        return value

    def exchange(self, *sent: Command[Any]) -> list[Answer]:
        """Send commands in one piece; return an answer for each, refusals among them.

        What a broken line left unanswered goes out again on a new one, once, if it may; else
        FaktoryOutcomeUnknown or the line's own error.
        """
        return self._connection.exchange(*sent)

    def _mutate(
        self,
        operation: Operation,
        target: Target,
        jobtype: str | None = None,
        jids: Iterable[str] | None = None,
        matching: str | None = None,
    ) -> None:
        command = commands.mutate(operation, target, jobtype, jids, matching)
        if command is not None:
            self.call(command)


def maker(make: str | Callable[[], Client]) -> Callable[[], Client]:
    """Return what makes clients of an address, or what is given where that makes some."""
    if isinstance(make, str):
        parse(make)
        return lambda: Client(make)
    if not callable(make):
        raise TypeError(f"{make!r} is no address, nor a function that makes a client.")
    return make


def get_client(*args: Any, **kwargs: Any) -> Client:
    """Make a client, not connected yet; see `Client` for the arguments."""
    return Client(*args, **kwargs)


@contextmanager
def connection(*args: Any, **kwargs: Any) -> Iterator[Client]:
    """Lend a connected client for a `with` block and disconnect it after; see `Client`."""
    with Client(*args, **kwargs) as client:
        yield client

"""The client: a method for each command, over a connection that opens when first needed.

Rules: `wire.commands` holds what a command sends and how its answer is read; `connection` opens,
shares and reopens the connection. Threads may share a client, and a forked child may go on using
one.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ..exceptions import FaktoryError, FaktoryServerError
from ..wire import commands
from ..wire.address import Address
from ..wire.commands import Command, Target, WorkerState
from ..wire.log import Log
from ..wire.payload import DEFAULT_RETRY, prepare
from ..wire.session import Answer
from ..wire.types import AnyJob, BatchStatus, FetchedJob, JobProgress, ServerInfo
from ..wire.validate import clip
from . import bulk, compat, pushes, settings
from .connections import Connection

if TYPE_CHECKING:
    from ssl import SSLContext

T = TypeVar("T")


class Client:
    """A producer's, or a worker's, connection to a Faktory server.

    Every method but `disconnect`, `close` and `interrupt` connects if need be, and raises
    FaktoryConnectionError, or a class below it, if it cannot or if the connection breaks. After
    FaktoryServerError, from the server, the connection is fine; after ValueError and
    FaktoryPayloadError nothing was sent.

    Without `faktory`, `timeout`, `ssl_context` or `tcp_keepalive`, those of `faktory.configure`
    count as they are when the client is made, then the variables.

    Args:
        faktory: The server's address.
        connection: For tests, as in faktory 1.0.0: takes the server's place for `queue`, see
            `compat.FakeConnection`.
        timeout: Seconds (10) for connecting and, without progress, for each answer: PUSHB has 15 at
            least, and FETCH waits as long as the server's machine is there.
        buffer_size: Accepted, as in faktory 1.0.0, without effect.
        labels: What the server's pages show of a worker.
        worker_id: With one the server counts the client as a worker from the moment it connects,
            and expects beats.
        log: Gets messages of `connect`, `disconnect` and `queue`. At level DEBUG it shows every
            command and answer, and never the password.
        ssl_context: For an address with TLS; by default the system's certificates are trusted.
        tcp_keepalive: Seconds (15) without traffic after which the system asks whether the server's
            machine is there; without an answer for twice as long, or four times after a FETCH, the
            connection is broken.
        at_least_once: A push whose outcome is unknown is sent again, once: the job may be queued
            twice then.
        log_payloads: The log at level DEBUG has the contents of jobs, too.
    """

    def __init__(
        self,
        faktory: str | None = None,
        connection: compat.FakeConnection | None = None,
        *,
        timeout: float | timedelta = settings.CONFIGURED,
        buffer_size: int = 4096,  # noqa: ARG002
        labels: Sequence[str] | None = None,
        worker_id: str | None = None,
        log: logging.Logger | None = None,
        ssl_context: SSLContext | None = None,
        tcp_keepalive: float | timedelta | None = None,
        at_least_once: bool = False,
        log_payloads: bool = False,
    ) -> None:
        self.faktory: Address
        self.log = log or logging.getLogger("faktory.connection")
        self._log = Log(self.log)
        self._settings = using = settings.current
        identity = settings.check_identity(labels, worker_id)
        self._wid = worker_id
        self._announced = False
        self._temporary = compat.TemporaryConnections()
        self._connection: Connection | compat.CompatConnection
        if connection is None:
            found = settings.find_endpoint(
                using, faktory, timeout, tcp_keepalive, ssl_context, identity
            )
            self.faktory = found.address
            self.timeout, self.tcp_keepalive = found.timeout, found.keepalive
            self.ssl_context = found.ssl_context
            self._connection = Connection(
                found, at_least_once=at_least_once, log=self.log, log_payloads=log_payloads
            )
        else:
            self.timeout = using.find_timeout(timeout)
            self.tcp_keepalive = using.find_tcp_keepalive(tcp_keepalive)
            self.ssl_context = settings.check_context(ssl_context)
            self.faktory = connection  # type: ignore[assignment]  # as in 1.0.0
            self._connection = compat.CompatConnection(connection)

    def __repr__(self) -> str:
        state = "connected" if self.is_connected else "not connected"
        return f"<faktory.Client {self.faktory}, {state}>"

    def __enter__(self) -> Self:
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
            self._log.info("Connecting to %s:%s", self.faktory.host, self.faktory.port)
            if self.faktory.tls:
                self._log.debug("Using TLS")
            self._connection.open()
            self._announced = True
            self._log.debug("Connected to Faktory")
        return True

    def disconnect(self) -> None:
        """Send END and close; the next command connects again."""
        self._connection.close()
        if self._announced:
            self._announced = False
            self._log.info("Disconnected")

    def close(self) -> None:
        """Disconnect."""
        self.disconnect()

    def random_job_id(self) -> str:
        """Make the jid of a job for `queue`, unless one is passed; may be overridden."""
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
        """Queue a job as in faktory 1.0.0; return False, and log why, if the server refuses it.

        A client that is not connected connects for this one job, and disconnects after it.
        ValueError for an empty name and for `args` that are not a list, tuple, set or iterator;
        otherwise JSON must be able to hold the job (FaktoryPayloadError), and nothing else is
        checked. The server ignores `priority`. `push` raises instead of returning False.
        """
        jid = jid or self.random_job_id()
        job = compat.make_job(
            task, args, queue, priority, jid, custom, reserve_for, at, retry, backtrace
        )
        if isinstance(self._connection, compat.CompatConnection):
            with self._temporary.connected(self):
                rejection = self._connection.push(job)
        else:
            rejection = self._queue(job)
        if rejection is not None:
            self._log.warning("%s %s is not queued: %s", task, jid, rejection)
        return rejection is None

    def _queue(self, job: dict[str, Any]) -> str | None:
        """Push a job of `queue`; return why it is not queued, or None if it is."""
        if job["retry"] is None:
            job["retry"] = DEFAULT_RETRY  # the server's meaning of None, which it does not keep to
        command = commands.push(job)  # as 1.0.0 had it; raises before anything connects
        if (reason := compat.why_lost(job)) is not None:
            return reason
        with self._temporary.connected(self):
            # A rejection is an answer; an exception may be the job's own, in inline mode.
            error = self.exchange(command)[0].error
        pushes.note(command, error)
        if error is not None and not isinstance(error, FaktoryServerError):
            raise error
        return None if error is None else str(error)

    def push(self, job: AnyJob) -> str:
        """Queue a job, a dict with `jobtype` and `args` at least; return its jid.

        It may also have `jid`, `queue` ("default"), `retry` (25), `reserve_for` (seconds), `at` (a
        datetime, RFC 3339 or epoch seconds), `backtrace` (lines) and `custom` (a dict). The dict is
        not changed. FaktoryPayloadError if the job cannot be sent as it is, FaktoryServerError if
        the server refuses it, FaktoryOutcomeUnknown if it may or may not be queued.
        """
        sent = prepare(job)
        self.call(commands.push_exactly(sent))
        return sent["jid"]  # type: ignore[no-any-return]

    def push_bulk(self, jobs: Iterable[AnyJob], batch_size: int = 1000) -> dict[str, str]:
        """Queue many jobs; return those refused, by our checks or by the server: jid to reason.

        Any iterable is streamed in chunks of `batch_size`. FaktoryBulkError if the connection
        breaks, or if the iterable raises after a chunk was sent: it has the jobs refused so far,
        the jids whose outcome is unknown and those that were not sent.
        """
        return bulk.push_all(self.call, jobs, batch_size)

    def fetch(self, *queues: str) -> FetchedJob | None:
        """Take a job from the first of the queues that has one; None after 2 s without.

        The job is a dict, reserved until `ack` or `fail` reports it, or its `reserve_for` is over.
        """
        return self.call(commands.fetch(queues))

    def ack(self, jid: str) -> None:
        """Report a job as done; the server accepts a jid that it does not know."""
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

        `error` gives type, message and traceback; `errtype` and `message` replace its own.
        `backtrace` is lines of text, or how many lines of the traceback to send (by default none).
        FaktoryServerError for a jid that the server does not know.
        """
        self.call(commands.fail_with(jid, error, errtype, message, backtrace))

    def beat(
        self, current_state: str | None = None, rss_kb: int | None = None
    ) -> WorkerState | None:
        """Report this worker as alive; return "quiet" or "terminate" if the server wants that.

        The server drops a worker after 60 seconds without a beat. `rss_kb` is the worker's memory
        in KiB, for the server's pages.
        """
        return self.call(commands.beat(self._wid, current_state, rss_kb))

    def info(self) -> ServerInfo:
        """Return the server's state, a dict as the server sends it."""
        return self.call(commands.info())

    def flush(self) -> None:
        """Delete every job of every queue and set on the server."""
        self.call(commands.flush())

    def pause_queues(self, *names: str) -> None:
        """Stop handing out jobs of these queues, "*" for all; only known queues can be paused."""
        self.call(commands.pause_queues(names))

    def resume_queues(self, *names: str) -> None:
        """Hand out jobs of these queues again, "*" for all."""
        self.call(commands.resume_queues(names))

    def remove_queues(self, *names: str) -> None:
        """Delete these queues, "*" for all, and every job in them."""
        self.call(commands.remove_queues(names))

    def queue_latency(self, *names: str) -> dict[str, float]:
        """Return for how many seconds the oldest job of each queue has waited, 0 without a job.

        A queue whose latency the server does not know, since its oldest job was never enqueued
        before (`requeue`), is left out, and logged; FaktoryServerError if it is the only one.
        """
        try:
            return self.call(commands.queue_latency(names))
        except FaktoryServerError as error:  # one such job makes the server refuse all
            if len(names) == 1:
                raise
            refused = error
        found: dict[str, float] = {}
        for name in dict.fromkeys(names):
            try:
                latency = self.call(commands.queue_latency([name]))
                found.update(latency)
            except FaktoryServerError as error:
                self._log.warning("the latency of queue %s is unknown: %s", name, clip(str(error)))
        if not found:
            raise refused
        return found

    def clear(self, target: Target) -> None:
        """Delete every job of "retries", "scheduled" or "dead"."""
        self._mutate(commands.mutate("clear", target))

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
        server does not return how many there were.
        """
        self._mutate(commands.mutate("discard", target, jobtype, jids, matching))

    def kill(
        self,
        target: Target,
        *,
        jobtype: str | None = None,
        jids: Iterable[str] | None = None,
        matching: str | None = None,
    ) -> None:
        """Move jobs to the dead ones; for the filter see `discard`."""
        self._mutate(commands.mutate("kill", target, jobtype, jids, matching))

    def requeue(
        self,
        target: Target,
        *,
        jobtype: str | None = None,
        jids: Iterable[str] | None = None,
        matching: str | None = None,
    ) -> None:
        """Put jobs back into their queues; for the filter see `discard`."""
        self._mutate(commands.mutate("requeue", target, jobtype, jids, matching))

    def batch_new(
        self,
        *,
        success: AnyJob | None = None,
        complete: AnyJob | None = None,
        description: str | None = None,
        parent_bid: str | None = None,
    ) -> str:
        """Make a batch and return its bid; jobs join it by `custom={"bid": bid}`.

        `success` is a job, a dict as for `push`, that the server pushes when all jobs of the batch
        have succeeded, `complete` one for when all have run, either way; one of them is needed. The
        batch takes jobs until `batch_commit`. Faktory Enterprise, like all of batches and tracking:
        FaktoryEnterpriseRequired without it.
        """
        return self.call(commands.batch_new(success, complete, description, parent_bid))

    def batch_open(self, bid: str) -> None:
        """Open a batch again for more jobs. Faktory Enterprise."""
        self.call(commands.batch_open(bid))

    def batch_commit(self, bid: str) -> None:
        """Close a batch: its callbacks follow when its jobs are done. Faktory Enterprise."""
        self.call(commands.batch_commit(bid))

    def batch_status(self, bid: str) -> BatchStatus:
        """Return the state of a batch, a dict as the server sends it. Faktory Enterprise."""
        return self.call(commands.batch_status(bid))

    def track_get(self, jid: str) -> JobProgress:
        """Return the progress of a job, a dict as the server sends it. Faktory Enterprise."""
        return self.call(commands.track_get(jid))

    def track_set(
        self,
        jid: str,
        percent: int | None = None,
        desc: str | None = None,
        reserve_until: datetime | str | float | None = None,
    ) -> None:
        """Report a job's progress in whole percent; `reserve_until` extends its reservation.

        Faktory Enterprise.
        """
        self.call(commands.track_set(jid, percent, desc, reserve_until))

    def command(self, verb: str, *words: str, json: object = None) -> str | bytes | int | None:
        """Send any command and return the answer as it comes: text, bytes, a number or None.

        It is not sent again if the connection breaks.
        """
        return self.call(commands.other(verb, words, json))

    def call(self, command: Command[T]) -> T:
        """Send a command of `wire.commands`; return the answer's value or raise its error."""
        try:
            answer = self._connection.exchange(command)[0]
        except FaktoryError as error:
            pushes.note(command, error)
            raise
        if pushes.current is not None:
            pushes.note(command, answer.error or answer.value)
        if answer.error is not None:
            raise answer.error
        value: T = answer.value
        return value

    def exchange(self, *sent: Command[Any]) -> list[Answer]:
        """Send commands in one piece; return an answer for each, see `Connection.exchange`."""
        return self._connection.exchange(*sent)

    def interrupt(self) -> None:
        """End the command that another thread waits for, with FaktoryTimeout. From any thread.

        A command that was sent, and may not be sent again, ends with FaktoryOutcomeUnknown.
        """
        self._connection.interrupt()

    def _mutate(self, command: Command[None] | None) -> None:
        if command is not None:
            self.call(command)

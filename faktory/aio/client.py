"""The async client: a method for each command, over a connection that its tasks share.

Rules: `wire.commands` holds what a command sends and how its answer is read, as for the blocking
client, whose methods these are: a test holds their parameters and their bytes together.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ..client import pushes, settings
from ..exceptions import FaktoryError, FaktoryServerError
from ..wire import commands
from ..wire.commands import Command, Target, WorkerState
from ..wire.log import Log
from ..wire.payload import prepare
from ..wire.session import Answer
from ..wire.types import AnyJob, BatchStatus, FetchedJob, JobProgress, ServerInfo
from ..wire.validate import clip
from . import bulk
from .connections import Connection

if TYPE_CHECKING:
    from ssl import SSLContext

T = TypeVar("T")


class AsyncClient:
    """A connection to a Faktory server that any number of tasks of one event loop share.

    Arguments, settings, methods and errors are those of `Client`. Commands go out at once and in
    order on one connection, and their answers come back in that order; so a FETCH holds up what
    stands behind it for 2 s: fetch with a client of its own. `timeout` of a command begins when it
    is the oldest one without an answer.

    A task may be cancelled at any moment. Before its command was sent nothing has happened; after
    that the answer is dropped and the connection goes on: a push is logged with its jid, at level
    WARNING, and a job that a fetch brings is kept for the next `fetch`. `aclose` waits for a FETCH
    under way, and reports the jobs that are left as failed.

    The client belongs to the loop that uses it first, until it is closed: RuntimeError from another
    one. A forked child has a connection of its own.
    """

    def __init__(
        self,
        faktory: str | None = None,
        *,
        timeout: float | timedelta = settings.CONFIGURED,
        labels: Sequence[str] | None = (),
        worker_id: str | None = None,
        log: logging.Logger | None = None,
        ssl_context: SSLContext | None = None,
        tcp_keepalive: float | timedelta | None = None,
        at_least_once: bool = False,
        log_payloads: bool = False,
    ) -> None:
        self.log = log or logging.getLogger("faktory.connection")
        self._log = Log(self.log)
        self._settings = settings.current
        self._wid = worker_id
        identity = settings.check_identity(labels, worker_id)
        found = settings.find_endpoint(
            self._settings, faktory, timeout, tcp_keepalive, ssl_context, identity
        )
        self.faktory = found.address
        self.timeout, self.tcp_keepalive = found.timeout, found.keepalive
        self.ssl_context = found.ssl_context
        self._connection = Connection(
            found, at_least_once=at_least_once, log=self.log, log_payloads=log_payloads
        )

    def __repr__(self) -> str:
        state = "connected" if self.is_connected else "not connected"
        return f"<faktory.AsyncClient {self.faktory}, {state}>"

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection; it may be broken without having been noticed."""
        return self._connection.is_open

    async def connect(self) -> bool:
        """Connect now, if not yet connected; return True."""
        connected = self.is_connected
        if not connected:
            self._log.info("Connecting to %s:%s", self.faktory.host, self.faktory.port)
        await self._connection.open()
        if not connected:
            self._log.debug("Connected to Faktory")
        return True

    async def aclose(self) -> None:
        """Wait for the answers to what was sent, send END and close; the next command reopens it.

        Jobs that were fetched for cancelled tasks are reported as failed, so that the server tries
        them again. Cancelled, it closes at once and logs what is left.
        """
        connected = self.is_connected
        await self._connection.close()
        if connected:
            self._log.info("Disconnected")

    async def disconnect(self) -> None:
        """Close; the next command connects again, from any loop."""
        await self.aclose()

    async def push(self, job: AnyJob) -> str:
        """Queue a job; return its jid. See `Client.push`."""
        sent = prepare(job)
        await self.call(commands.push_exactly(sent))
        return sent["jid"]  # type: ignore[no-any-return]

    async def push_bulk(
        self, jobs: Iterable[AnyJob] | AsyncIterable[AnyJob], batch_size: int = 1000
    ) -> dict[str, str]:
        """Queue many jobs; return those refused, jid to reason. See `Client.push_bulk`.

        The iterable may be asynchronous. Other tasks have a turn at least every 5 ms.
        """
        return await bulk.push_all(self.call, jobs, batch_size)

    async def fetch(self, *queues: str) -> FetchedJob | None:
        """Take a job from the first of the queues that has one; None after 2 s without.

        A job that an earlier, cancelled `fetch` of this client has brought comes first, whatever
        its queue. See `Client.fetch`.
        """
        return await self._connection.fetch(commands.fetch(queues))

    async def ack(self, jid: str) -> None:
        """Report a job as done. See `Client.ack`."""
        await self.call(commands.ack(jid))

    async def fail(
        self,
        jid: str,
        error: BaseException | None = None,
        *,
        errtype: str | None = None,
        message: str | None = None,
        backtrace: int | Sequence[str] | None = None,
    ) -> None:
        """Report a job as failed. See `Client.fail`."""
        await self.call(commands.fail_with(jid, error, errtype, message, backtrace))

    async def beat(
        self, current_state: str | None = None, rss_kb: int | None = None
    ) -> WorkerState | None:
        """Report this worker as alive; return what the server wants. See `Client.beat`."""
        return await self.call(commands.beat(self._wid, current_state, rss_kb))

    async def info(self) -> ServerInfo:
        """Return the server's state, a dict as the server sends it."""
        return await self.call(commands.info())

    async def flush(self) -> None:
        """Delete every job of every queue and set on the server."""
        await self.call(commands.flush())

    async def pause_queues(self, *names: str) -> None:
        """Stop handing out jobs of these queues, "*" for all; only known queues can be paused."""
        await self.call(commands.pause_queues(names))

    async def resume_queues(self, *names: str) -> None:
        """Hand out jobs of these queues again, "*" for all."""
        await self.call(commands.resume_queues(names))

    async def remove_queues(self, *names: str) -> None:
        """Delete these queues, "*" for all, and every job in them."""
        await self.call(commands.remove_queues(names))

    async def queue_latency(self, *names: str) -> dict[str, float]:
        """Return for how long the oldest job of each queue waits. See `Client.queue_latency`."""
        try:
            return await self.call(commands.queue_latency(names))
        except FaktoryServerError as error:  # one such job makes the server refuse all
            if len(names) == 1:
                raise
            refused = error
        found: dict[str, float] = {}
        for name in dict.fromkeys(names):
            try:
                latency = await self.call(commands.queue_latency([name]))
                found.update(latency)
            except FaktoryServerError as error:
                self._log.warning("the latency of queue %s is unknown: %s", name, clip(str(error)))
        if not found:
            raise refused
        return found

    async def clear(self, target: Target) -> None:
        """Delete every job of "retries", "scheduled" or "dead"."""
        await self._mutate(commands.mutate("clear", target))

    async def discard(
        self,
        target: Target,
        *,
        jobtype: str | None = None,
        jids: Iterable[str] | None = None,
        matching: str | None = None,
    ) -> None:
        """Delete jobs of a set: all, or those of a filter. See `Client.discard`."""
        await self._mutate(commands.mutate("discard", target, jobtype, jids, matching))

    async def kill(
        self,
        target: Target,
        *,
        jobtype: str | None = None,
        jids: Iterable[str] | None = None,
        matching: str | None = None,
    ) -> None:
        """Move jobs to the dead ones; for the filter see `Client.discard`."""
        await self._mutate(commands.mutate("kill", target, jobtype, jids, matching))

    async def requeue(
        self,
        target: Target,
        *,
        jobtype: str | None = None,
        jids: Iterable[str] | None = None,
        matching: str | None = None,
    ) -> None:
        """Put jobs back into their queues; for the filter see `Client.discard`."""
        await self._mutate(commands.mutate("requeue", target, jobtype, jids, matching))

    async def batch_new(
        self,
        *,
        success: AnyJob | None = None,
        complete: AnyJob | None = None,
        description: str | None = None,
        parent_bid: str | None = None,
    ) -> str:
        """Make a batch and return its bid. Faktory Enterprise. See `Client.batch_new`."""
        return await self.call(commands.batch_new(success, complete, description, parent_bid))

    async def batch_open(self, bid: str) -> None:
        """Open a batch again for more jobs. Faktory Enterprise."""
        await self.call(commands.batch_open(bid))

    async def batch_commit(self, bid: str) -> None:
        """Close a batch: its callbacks follow when its jobs are done. Faktory Enterprise."""
        await self.call(commands.batch_commit(bid))

    async def batch_status(self, bid: str) -> BatchStatus:
        """Return the state of a batch, a dict as the server sends it. Faktory Enterprise."""
        return await self.call(commands.batch_status(bid))

    async def track_get(self, jid: str) -> JobProgress:
        """Return the progress of a job, a dict as the server sends it. Faktory Enterprise."""
        return await self.call(commands.track_get(jid))

    async def track_set(
        self,
        jid: str,
        percent: int | None = None,
        desc: str | None = None,
        reserve_until: datetime | str | float | None = None,
    ) -> None:
        """Report a job's progress. Faktory Enterprise. See `Client.track_set`."""
        await self.call(commands.track_set(jid, percent, desc, reserve_until))

    async def command(
        self, verb: str, *words: str, json: object = None
    ) -> str | bytes | int | None:
        """Send any command and return the answer as it comes. See `Client.command`."""
        return await self.call(commands.other(verb, words, json))

    async def call(self, command: Command[T]) -> T:
        """Send a command of `wire.commands`; return the answer's value or raise its error."""
        try:
            answer = (await self._connection.exchange(command))[0]
        except FaktoryError as error:
            pushes.note(command, error)
            raise
        if pushes.current is not None:
            pushes.note(command, answer.error or answer.value)
        if answer.error is not None:
            raise answer.error
        value: T = answer.value
        return value

    async def exchange(self, *sent: Command[Any]) -> list[Answer]:
        """Send commands in one piece; return an answer for each, see `Connection.exchange`."""
        return await self._connection.exchange(*sent)

    async def _mutate(self, command: Command[None] | None) -> None:
        if command is not None:
            await self.call(command)

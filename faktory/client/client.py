"""The client: one line a command, over a connection that opens when first needed.

Rules: what a command says and how its answer is read stands in `wire.commands`, how a line is
opened, shared and mended in `line`. A client may be shared by threads, and works on in a forked
child.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from ..exceptions import (
    FaktoryBulkError,
    FaktoryError,
    FaktoryJSONError,
    FaktoryOutcomeUnknown,
    FaktoryPayloadError,
    FaktoryServerError,
)
from ..proto import encode_command, new_jid
from ..wire import commands, failure
from ..wire.address import Address, find_url, parse
from ..wire.commands import Command, Operation, State, Target
from ..wire.payload import instant, prepare, seconds
from ..wire.session import Answer
from .line import Line

if TYPE_CHECKING:
    from ssl import SSLContext

T = TypeVar("T")

DEFAULT_TIMEOUT = 10.0
"""Seconds: above the 5 that the server gives itself for a command."""


class Client:
    """A producer's, or a worker's, connection to a Faktory server.

    `faktory` is the address; None takes the environment's. `timeout` is the seconds for
    connecting and for each answer (FETCH and PUSHB have more). With a `worker_id` it counts as a
    worker from the moment it connects, which must beat; `labels` show beside it in the server's
    pages. Every method but `disconnect` and `close` connects if need be; FaktoryConnectionError
    and those below it say that it could not, or that the line broke.
    """

    def __init__(
        self,
        faktory: str | None = None,
        *,
        timeout: float | timedelta = DEFAULT_TIMEOUT,
        labels: Sequence[str] | None = None,
        worker_id: str | None = None,
        ssl_context: SSLContext | None = None,
    ) -> None:
        self.faktory: Address = parse(find_url(os.environ) if faktory is None else faktory)
        self.timeout = seconds("timeout", timeout)
        if self.timeout <= 0:
            raise ValueError(f"timeout is {timeout!r}: it must be more than 0 seconds.")
        identity: dict[str, object] = {"labels": list(labels or ())}
        if worker_id is not None:
            identity["wid"] = worker_id
        self._wid = worker_id
        self._line = Line(self.faktory, identity, self.timeout, ssl_context)

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
        return self._line.is_open

    def connect(self) -> bool:
        """Connect now, if not yet connected; return True."""
        self._line.open()
        return True

    def disconnect(self) -> None:
        """Say goodbye and close; the next command connects anew."""
        self._line.close()

    def close(self) -> None:
        """Disconnect."""
        self.disconnect()

    def push(self, job: dict[str, Any]) -> str:
        """Queue a job, a dict with `jobtype` and `args` at least; return its jid.

        FaktoryPayloadError where the job cannot be sent as it is, FaktoryServerError where the
        server refuses it, FaktoryOutcomeUnknown where it may or may not be queued.
        """
        sent = prepare(job)
        self.call(commands.push(sent))
        return sent["jid"]  # type: ignore[no-any-return]

    def push_bulk(self, jobs: Iterable[dict[str, Any]], batch_size: int = 1000) -> dict[str, str]:
        """Queue many jobs; return what was refused, by our checks or the server: jid to reason.

        Any iterable is streamed in chunks of `batch_size`. FaktoryBulkError where the line broke:
        it says what was refused till then, which jids are unknown and which were never sent.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: it must be 1 or more.")
        refused: dict[str, str] = {}
        source = iter(jobs)
        while chunk := list(islice(source, batch_size)):
            self._push_chunk(chunk, refused)
        return refused

    def fetch(self, *queues: str) -> dict[str, Any] | None:
        """Take a job from the first of the queues that has one; None after 2 s without.

        The job is reserved until it is answered by `ack` or `fail`, or its `reserve_for` is over.
        """
        return self.call(commands.fetch(queues))

    def ack(self, jid: str) -> None:
        """Report a job as done."""
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
        """
        report = failure.describe(error, errtype, message, backtrace)
        self.call(commands.fail(jid, *report))

    def beat(self, current_state: str | None = None, rss_kb: int | None = None) -> State | None:
        """Report this worker as alive; return "quiet" or "terminate" if the server wants that."""
        if self._wid is None:
            raise ValueError("only a worker beats: make the client with worker_id=.")
        return self.call(commands.beat(self._wid, current_state, rss_kb))

    def info(self) -> dict[str, Any]:
        """Return the server's state: its queues, sets and counters."""
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

        `success` is a job to be pushed when all jobs of the batch have succeeded, `complete` one
        for when all have run, either way; one of them is needed. Faktory Enterprise.
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
        """Return how far a batch is: `total`, `pending`, `failed`... Faktory Enterprise."""
        return self.call(commands.batch_status(bid))

    def track_get(self, jid: str) -> dict[str, Any]:
        """Return how far a job says it is: `percent`, `desc`, `state`... Faktory Enterprise."""
        return self.call(commands.track_get(jid))

    def track_set(
        self,
        jid: str,
        percent: int | None = None,
        desc: str | None = None,
        reserve_until: datetime | str | float | None = None,
    ) -> None:
        """Say how far a job is; `reserve_until` asks for more time. Faktory Enterprise."""
        if percent is not None and not 0 <= percent <= 100:
            raise ValueError(f"percent is {percent}: it must be 0 to 100.")
        until = None if reserve_until is None else instant("reserve_until", reserve_until)
        self.call(commands.track_set(jid, percent, desc, until))

    def command(self, verb: str, *words: str, json: object = None) -> Any:
        """Send any command and return the answer as it comes: text, bytes or None.

        It is taken for one that may not be repeated.
        """
        line = encode_command(verb, *words, json=json)
        return self.call(
            Command(verb, line, lambda reply: reply, repeatable=False, floor=commands.BULK_FLOOR)
        )

    def call(self, command: Command[T]) -> T:
        """Send a command of `wire.commands` and return its value, or raise its error."""
        answer = self.exchange(command)[0]
        if answer.error is not None:
            raise answer.error
        value: T = answer.value
        return value

    def exchange(self, *sent: Command[Any]) -> list[Answer]:
        """Send commands in one piece; return an answer for each, refusals among them.

        What a broken line left unanswered goes out again on a new one, once, if it may; else
        FaktoryOutcomeUnknown or the line's own error.
        """
        return self._line.exchange(*sent)

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

    def _push_chunk(self, chunk: list[dict[str, Any]], refused: dict[str, str]) -> None:
        ready = []
        for job in chunk:
            try:
                ready.append(prepare(job))
            except FaktoryPayloadError as error:
                refused[_name(job)] = str(error)
        try:
            command = commands.push_bulk(ready)
        except FaktoryPayloadError:
            ready = [job for job in ready if _encodes(job, refused)]
            command = commands.push_bulk(ready)
        if not ready:
            return
        try:
            said_no = self.call(command)
        except FaktoryServerError as error:  # all of them, for the sake of one perhaps
            said_no = dict.fromkeys(command.jids, str(error))
        except FaktoryError as error:
            doubtful = isinstance(error, (FaktoryOutcomeUnknown, FaktoryJSONError))
            fate = "may or may not be queued" if doubtful else "were not queued"
            raise FaktoryBulkError(
                f"{len(ready)} jobs {fate}: {error}",
                refused=refused,
                unknown=command.jids if doubtful else (),
                unsent=() if doubtful else command.jids,
            ) from error
        refused.update(said_no)


def _name(job: object) -> str:
    """The jid under which a job that was never sent is reported."""
    jid = job.get("jid") if isinstance(job, dict) else None
    return jid if isinstance(jid, str) and jid else new_jid()


def _encodes(job: dict[str, Any], refused: dict[str, str]) -> bool:
    """Tell whether a job can be put into JSON, or why not."""
    try:
        commands.push(job)
        return True
    except FaktoryPayloadError as error:
        refused[job["jid"]] = str(error)
        return False


def get_client(faktory: str | None = None, **options: Any) -> Client:
    """Make a client, not connected yet; see `Client` for the options."""
    return Client(faktory, **options)


@contextmanager
def connection(faktory: str | None = None, **options: Any) -> Iterator[Client]:
    """Lend a connected client for a `with` block and disconnect it after; see `Client`."""
    with Client(faktory, **options) as client:
        yield client

"""The client: one line a command, over a connection that opens when first needed.

Rules: what a command says and how its answer is read stands in `wire.commands`; whether it is
sent again after a line broke is decided in `wire.recovery`, once, here asked for every command.
A client may be shared by threads: commands take turns. A forked child lets go of the parent's
connection without a word and opens its own.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from threading import Lock
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
from ..wire import commands, failure, recovery
from ..wire.address import Address, find_url, parse
from ..wire.commands import Command, State, Target
from ..wire.payload import prepare, seconds
from ..wire.session import Answer
from . import fork, transport

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
        self._identity: dict[str, object] = {"labels": list(labels or ())}
        if worker_id is not None:
            self._identity["wid"] = worker_id
        self._ssl_context = ssl_context
        self._line: transport.Transport | None = None
        self._turn = Lock()
        fork.starts_anew(self)

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
        return self._line is not None

    def connect(self) -> bool:
        """Connect now, if not yet connected; return True."""
        with self._turn:
            self._open()
        return True

    def disconnect(self) -> None:
        """Say goodbye and close; the next command connects anew."""
        with self._turn:
            line, self._line = self._line, None
        if line is not None:
            line.close()

    def close(self) -> None:
        """Disconnect."""
        self.disconnect()

    def start_anew(self) -> None:
        """Forget the connection, which is the parent's: for `fork`, in the child."""
        self._turn = Lock()
        self._drop()

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
        wid = self._identity.get("wid")
        if not isinstance(wid, str):
            raise ValueError("only a worker beats: make the client with worker_id=.")
        return self.call(commands.beat(wid, current_state, rss_kb))

    def info(self) -> dict[str, Any]:
        """Return the server's state: its queues, sets and counters."""
        return self.call(commands.info())

    def flush(self) -> None:
        """Delete every job of every queue and set on the server."""
        self.call(commands.flush())

    def requeue(
        self,
        target: Target,
        *,
        jobtype: str | None = None,
        jids: Iterable[str] | None = None,
        matching: str | None = None,
    ) -> None:
        """Put jobs of "retries", "scheduled" or "dead" back into their queues, all unless chosen.

        `matching` is a glob over the job's stored JSON.
        """
        command = commands.mutate("requeue", target, jobtype, jids, matching)
        if command is not None:
            self.call(command)

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
        answers: list[Answer] = []
        rest = sent
        doubtful = 0  # how many of the rest may have happened before the line broke
        with self._turn:
            for repeated in (False, True):
                try:
                    fresh = self._open().exchange(*rest)
                except recovery.LineBroken as broken:
                    self._drop()
                    answers += map(recovery.settle, broken.answers[:doubtful])
                    answers += broken.answers[doubtful:]
                    rest = sent[len(answers) :]
                    if repeated or not recovery.may_repeat(rest, broken.sent):
                        error = recovery.outcome(rest, broken.sent, broken.cause)
                        raise error from error.__cause__
                    doubtful = recovery.left_whole(rest, broken.sent)
                except BaseException:  # no connection, or an interrupt
                    self._drop()
                    raise
                else:
                    answers += map(recovery.settle, fresh[:doubtful])
                    return answers + fresh[doubtful:]
        raise AssertionError("the second round returns or raises")

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

    def _open(self) -> transport.Transport:
        if self._line is None:
            identity = {"hostname": socket.gethostname(), "pid": os.getpid(), **self._identity}
            self._line = transport.connect(self.faktory, identity, self.timeout, self._ssl_context)
        return self._line

    def _drop(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.abandon()


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

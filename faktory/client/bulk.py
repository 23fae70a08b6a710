"""Many jobs through one client, in chunks, however many there are.

Rules: memory holds two chunks at most, the one that the server works on and the next, which is
prepared meanwhile. A job that cannot be sent is left out, not the chunk that it is in. Where the
line breaks, or the source does, FaktoryBulkError says what became of every job that was taken
from it. An interrupt does not wait for the chunk that is under way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import chain, islice
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from ..exceptions import (
    FaktoryBulkError,
    FaktoryError,
    FaktoryJSONError,
    FaktoryOutcomeUnknown,
    FaktoryPayloadError,
    FaktoryServerError,
)
from ..proto import new_jid
from ..wire import commands
from ..wire.commands import Command
from ..wire.payload import prepare
from . import network

T = TypeVar("T")
Bulk = Command[dict[str, str]]


def push_all(
    call: Callable[[Bulk], dict[str, str]], jobs: Iterable[dict[str, Any]], size: int
) -> dict[str, str]:
    """Push jobs in chunks of `size` by `call`; return what was refused, jid to reason."""
    if isinstance(jobs, (dict, str, bytes)) or not hasattr(type(jobs), "__iter__"):
        raise FaktoryPayloadError(
            f"push_bulk takes many jobs, not a {type(jobs).__name__}. For a single one: [job]."
        )
    refused: dict[str, str] = {}
    chunks = _chunks(jobs, size, refused)
    thread: _Thread | None = None
    under_way: Callable[[], dict[str, str]] | None = None
    try:
        while True:
            try:
                chunk = next(chunks, None)
            except _SourceBroke as broke:
                _settle(under_way, broke.jids, refused)
                if under_way is None and not refused:
                    raise broke.cause from None
                raise FaktoryBulkError(
                    f"{len(broke.jids)} jobs were not sent, nor any after them, since their source "
                    f"broke: {broke.cause!r}",
                    refused=refused,
                    unsent=broke.jids,
                ) from broke.cause
            _settle(under_way, () if chunk is None else chunk.jids, refused)
            if chunk is None:
                return refused
            under_way = partial(push_chunk, call, chunk)
            # One that is not full is the last, as a rule; jobs of inline mode run in this thread.
            if thread is None and len(chunk.jids) == size and not network.current.in_process:
                thread = _Thread.start_one()
            if thread is not None:
                under_way = thread.start_call(under_way)
    finally:
        if thread is not None:
            thread.end()


class _Thread:
    """A thread that calls one function after the other; nobody waits for it at the end."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()

    @classmethod
    def start_one(cls) -> _Thread | None:
        """Start one; None where there are no more to be had, at the interpreter's exit say."""
        made = cls()
        try:
            Thread(target=made._run, name="faktory-bulk", daemon=True).start()
        except RuntimeError:
            return None
        return made

    def start_call(self, function: Callable[[], T]) -> Callable[[], T]:
        """Have a function called; return what waits for its result."""
        future: Future[T] = Future()
        self._calls.put((function, future))
        return future.result

    def end(self) -> None:
        """Let it end when what it was given is done."""
        self._calls.put(None)

    def _run(self) -> None:
        while (given := self._calls.get()) is not None:
            function, future = given
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)
            del given, function, future


class _SourceBroke(Exception):
    """The jobs of a caller raised; `jids` were taken from them and not sent."""

    def __init__(self, cause: Exception, jids: list[str]) -> None:
        self.cause = cause
        self.jids = jids


def _settle(
    result: Callable[[], dict[str, str]] | None, following: Sequence[str], refused: dict[str, str]
) -> None:
    """Wait for what became of a chunk, if one is under way; others may be ready to follow it."""
    if result is None:
        return
    try:
        refused.update(result())
    except FaktoryBulkError as broken:
        broken.refused = refused
        broken.unsent += following
        raise


def push_chunk(call: Callable[[Bulk], dict[str, str]], chunk: Bulk) -> dict[str, str]:
    """Push one chunk by `call`; return what was refused, jid to reason.

    A chunk that the server refuses whole is refused job by job. FaktoryBulkError where the line
    broke: all of its jobs are `unknown` then, or `unsent`.
    """
    try:
        return call(chunk)
    except FaktoryServerError as error:
        if error._raised_by_job:
            raise
        return dict.fromkeys(chunk.jids, str(error))
    except FaktoryError as error:
        if error._raised_by_job:
            raise
        doubtful = isinstance(error, (FaktoryOutcomeUnknown, FaktoryJSONError))
        fate = "may or may not be queued" if doubtful else "were not queued"
        raise FaktoryBulkError(
            f"{len(chunk.jids)} jobs {fate}: {error}",
            unknown=chunk.jids if doubtful else (),
            unsent=() if doubtful else chunk.jids,
        ) from error


def _chunks(jobs: Iterable[dict[str, Any]], size: int, refused: dict[str, str]) -> Iterator[Bulk]:
    """Make a command of each chunk of jobs; what cannot be sent goes into `refused`.

    A job is prepared as soon as it is taken: a chunk of them at hand besides would keep the garbage
    collector busy.
    """
    source = enumerate(jobs)
    while True:
        try:
            first = next(source, None)
        except Exception as error:
            raise _SourceBroke(error, []) from None
        if first is None:
            return
        ready: list[dict[str, Any]] = []
        try:
            for index, job in chain((first,), islice(source, size - 1)):
                try:
                    ready.append(prepare(job))
                except FaktoryPayloadError as error:
                    jid = job.get("jid") if isinstance(job, dict) else None
                    if isinstance(jid, str) and jid:
                        refused[jid] = str(error)
                    else:  # nobody knows it by a jid
                        refused[new_jid()] = f"jobs[{index}]: {error}"
        except Exception as error:
            raise _SourceBroke(error, [job["jid"] for job in ready]) from None
        try:
            command = commands.push_bulk(ready)
        except FaktoryPayloadError:
            ready = [job for job in ready if _encodes(job, refused)]
            command = commands.push_bulk(ready)
        if ready:
            yield command


def _encodes(job: dict[str, Any], refused: dict[str, str]) -> bool:
    """Tell whether a job can be put into JSON, or why not."""
    try:
        commands.push(job)
        return True
    except FaktoryPayloadError as error:
        refused[job["jid"]] = str(error)
        return False

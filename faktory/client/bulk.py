"""Any number of jobs through one client, in chunks.

Rules: memory holds at most two chunks, the one that the server works on and the next, which is
prepared meanwhile. A job that cannot be sent is left out, and the rest of its chunk is sent. If the
connection breaks, or the source of jobs raises, FaktoryBulkError accounts for every job that was
taken from it. An interrupt does not wait for the chunk in flight.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import chain, islice
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
from ..proto import complete_job, new_jid
from ..wire import commands
from ..wire.commands import Command
from ..wire.payload import DEFAULT_RETRY, prepare
from ..wire.validate import valid_queues
from . import network

T = TypeVar("T")
Bulk = Command[dict[str, str]]

_END: Any = object()


def push_all(
    call: Callable[[Bulk], dict[str, str]], jobs: Iterable[Mapping[str, object]], size: int
) -> dict[str, str]:
    """Push jobs in chunks of `size` by `call`; return those refused, jid to reason."""
    check_bulk(jobs, size, "__iter__")
    refused: dict[str, str] = {}
    chunks = _chunks(jobs, size, refused)
    thread: _Thread | None = None
    in_flight: Callable[[], dict[str, str]] | None = None
    try:
        while True:
            try:
                chunk = next(chunks, None)
            except _SourceError as error:
                _settle(in_flight, error.jids, refused)
                if in_flight is None and not refused:
                    raise error.cause from None
                raise source_failed(error.cause, error.jids, refused) from error.cause
            _settle(in_flight, () if chunk is None else chunk.jids, refused)
            if chunk is None:
                return refused
            in_flight = partial(push_chunk, call, chunk)
            # A chunk that is not full is the last one as a rule; inline jobs run in this thread.
            if thread is None and len(chunk.jids) == size and not network.current.in_process:
                thread = _Thread.started()
            if thread is not None:
                in_flight = thread.start_call(in_flight)
    finally:
        if thread is not None:
            thread.end()


def check_bulk(jobs: object, size: object, *kinds: str) -> None:
    """Raise unless these are jobs that can be iterated over, by one of these methods."""
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"batch_size is {size!r}: it must be a whole number of 1 or more.")
    if isinstance(jobs, (dict, str, bytes)) or not any(hasattr(type(jobs), kind) for kind in kinds):
        raise FaktoryPayloadError(
            f"push_bulk takes many jobs, not a {type(jobs).__name__}. For a single one: [job]."
        )


def refuse(job: object, index: int, error: FaktoryPayloadError, refused: dict[str, str]) -> None:
    """Put a job that cannot be sent among those refused, under its jid or a new one."""
    jid = job.get("jid") if isinstance(job, dict) else None
    if isinstance(jid, str) and jid:
        refused[jid] = str(error)
    else:  # it has no jid of its own
        refused[new_jid()] = f"jobs[{index}]: {error}"


def source_failed(error: Exception, unsent: list[str], refused: dict[str, str]) -> FaktoryBulkError:
    """Return the error for jobs whose source has raised after some were sent."""
    return FaktoryBulkError(
        f"{len(unsent)} jobs were not sent, nor any after them, as their source raised {error!r}",
        refused=refused,
        unsent=unsent,
    )


_Call = tuple[Callable[[], Any], Future[Any]]


class _Thread:
    """A daemon thread that calls one function after the other."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = (
            queue.SimpleQueue()
        )

    @classmethod
    def started(cls) -> _Thread | None:
        """Start one; None where that fails, for example at the interpreter's exit."""
        made = cls()
        try:
            Thread(target=made._run, name="faktory-bulk", daemon=True).start()
        except RuntimeError:
            return None
        return made

    def start_call(self, function: Callable[[], T]) -> Callable[[], T]:
        """Call a function in the thread; return one that waits for its result."""
        future: Future[T] = Future()
        self._calls.put((function, future))
        return future.result

    def end(self) -> None:
        """Let the thread end after the calls so far."""
        self._calls.put(None)

    def _run(self) -> None:
        while (given := self._calls.get()) is not None:
            function, future = given
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)
            del given, function, future


class _SourceError(Exception):
    """The caller's iterable of jobs raised; `jids` were taken from it and not sent."""

    def __init__(self, cause: Exception, jids: list[str]) -> None:
        self.cause = cause
        self.jids = jids


def _settle(
    result: Callable[[], dict[str, str]] | None, following: Sequence[str], refused: dict[str, str]
) -> None:
    """Wait for the result of a chunk, if one is in flight; `following` jobs are not sent yet."""
    if result is None:
        return
    try:
        refused.update(result())
    except FaktoryBulkError as broken:
        broken.refused = refused
        broken.unsent += following
        raise


def push_chunk(call: Callable[[Bulk], dict[str, str]], chunk: Bulk) -> dict[str, str]:
    """Push one chunk by `call`; return the jobs refused, jid to reason.

    If the server refuses the whole chunk, that is the reason for each job. FaktoryBulkError if the
    connection breaks: all of its jobs are `unknown` then, or `unsent`.
    """
    try:
        return call(chunk)
    except FaktoryError as error:
        return refused_of(chunk, error)


def refused_of(chunk: Bulk, error: FaktoryError) -> dict[str, str]:
    """Return the jobs of a chunk that an error refuses; raise it, or FaktoryBulkError, else."""
    if error._raised_by_job:
        raise error
    if isinstance(error, FaktoryServerError):
        return dict.fromkeys(chunk.jids, str(error))
    unknown = isinstance(error, (FaktoryOutcomeUnknown, FaktoryJSONError))
    outcome = "may or may not be queued" if unknown else "were not queued"
    raise FaktoryBulkError(
        f"{len(chunk.jids)} jobs {outcome}: {error}",
        unknown=chunk.jids if unknown else (),
        unsent=() if unknown else chunk.jids,
    ) from error


def _chunks(
    jobs: Iterable[Mapping[str, object]], size: int, refused: dict[str, str]
) -> Iterator[Bulk]:
    """Make a command of each chunk of jobs; those that cannot be sent go into `refused`.

    A job is prepared as soon as it is taken: a whole chunk of dicts beside the prepared ones would
    keep the garbage collector busy.
    """
    source = iter(jobs)
    start = 0  # the index of the chunk's first job
    while True:
        try:
            first = next(source, _END)
        except Exception as error:
            raise _SourceError(error, []) from None
        if first is _END:
            return
        ready: list[dict[str, Any]] = []
        wrong = 0
        try:
            for job in chain((first,), islice(source, size - 1)):
                try:
                    # What `prepare` does first, too: one call less for an ordinary job.
                    ready.append(complete_job(job, valid_queues, DEFAULT_RETRY) or prepare(job))
                except FaktoryPayloadError as error:
                    refuse(job, start + len(ready) + wrong, error, refused)
                    wrong += 1
        except Exception as error:
            raise _SourceError(error, [job["jid"] for job in ready]) from None
        start += len(ready) + wrong
        try:
            command = commands.push_bulk(ready)
        except FaktoryPayloadError:
            ready = [job for job in ready if _encodes(job, refused)]
            command = commands.push_bulk(ready)
        if ready:
            yield command


def _encodes(job: dict[str, Any], refused: dict[str, str]) -> bool:
    """Return whether JSON can hold a job; put the reason into `refused` if not."""
    try:
        commands.push(job)
        return True
    except FaktoryPayloadError as error:
        refused[job["jid"]] = str(error)
        return False

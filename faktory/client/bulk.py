"""Many jobs through one client, in chunks, however many there are.

Rules: memory holds two chunks at most, the one that the server works on and the next, which is
prepared meanwhile. A job that cannot be sent is left out, not the chunk that it is in. Where the
line breaks, FaktoryBulkError says what became of every job that was taken from the source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import Any

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

Bulk = Command[dict[str, str]]


def push_all(
    call: Callable[[Bulk], dict[str, str]], jobs: Iterable[dict[str, Any]], size: int
) -> dict[str, str]:
    """Push jobs in chunks of `size` by `call`; return what was refused, jid to reason."""
    if isinstance(jobs, (dict, str, bytes)):
        raise FaktoryPayloadError(
            f"push_bulk takes many jobs, not a {type(jobs).__name__}. For a single one: [job]."
        )
    refused: dict[str, str] = {}
    chunks = _chunks(jobs, size, refused)
    first, second = next(chunks, None), next(chunks, None)
    if first is None:
        return refused
    if second is None:
        _settle(lambda: push_chunk(call, first), None, refused)
        return refused
    with ThreadPoolExecutor(1, "faktory-bulk") as thread:
        sent: Bulk | None = first
        while sent is not None:
            answer = thread.submit(push_chunk, call, sent)
            following = second if sent is first else next(chunks, None)
            _settle(answer.result, following, refused)
            sent = following
    return refused


def _settle(
    result: Callable[[], dict[str, str]], following: Bulk | None, refused: dict[str, str]
) -> None:
    """Wait for what became of a chunk, behind which another may be ready."""
    try:
        refused.update(result())
    except FaktoryBulkError as broken:
        broken.refused = refused
        broken.unsent += following.jids if following is not None else ()
        raise


def push_chunk(call: Callable[[Bulk], dict[str, str]], chunk: Bulk) -> dict[str, str]:
    """Push one chunk by `call`; return what was refused, jid to reason.

    A chunk that the server refuses whole is refused job by job. FaktoryBulkError where the line
    broke: all of its jobs are `unknown` then, or `unsent`.
    """
    try:
        return call(chunk)
    except FaktoryServerError as error:
        return dict.fromkeys(chunk.jids, str(error))
    except FaktoryError as error:
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
    for first in source:
        ready = []
        for index, job in chain((first,), islice(source, size - 1)):
            try:
                ready.append(prepare(job))
            except FaktoryPayloadError as error:
                jid = job.get("jid") if isinstance(job, dict) else None
                if isinstance(jid, str) and jid:
                    refused[jid] = str(error)
                else:  # nobody knows it by a jid
                    refused[new_jid()] = f"jobs[{index}]: {error}"
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

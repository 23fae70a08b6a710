"""Many jobs through one client, in chunks, however many there are.

Rules: memory holds two chunks at most, the one that the server works on and the next, which is
prepared meanwhile. A job that cannot be sent is left out, not the chunk that it is in. Where the
line breaks, FaktoryBulkError says what became of every job that was taken from the source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
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
    refused: dict[str, str] = {}
    chunks = _chunks(jobs, size, refused)
    first, second = next(chunks, None), next(chunks, None)
    if first is None:
        return refused
    if second is None:
        _settle(lambda: call(first), first, None, refused)
        return refused
    with ThreadPoolExecutor(1, "faktory-bulk") as thread:
        sent: Bulk | None = first
        while sent is not None:
            answer: Future[dict[str, str]] = thread.submit(call, sent)
            following = second if sent is first else next(chunks, None)
            _settle(answer.result, sent, following, refused)
            sent = following
    return refused


def _chunks(jobs: Iterable[dict[str, Any]], size: int, refused: dict[str, str]) -> Iterator[Bulk]:
    """Make a command of each chunk of jobs; what cannot be sent goes into `refused`."""
    source = iter(jobs)
    while chunk := list(islice(source, size)):
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
        if ready:
            yield command


def _settle(
    result: Callable[[], dict[str, str]],
    sent: Bulk,
    following: Bulk | None,
    refused: dict[str, str],
) -> None:
    """Wait for the answer to a chunk, behind which another is ready."""
    try:
        refused.update(result())
    except FaktoryServerError as error:  # all of them, for the sake of one perhaps
        refused.update(dict.fromkeys(sent.jids, str(error)))
    except FaktoryError as error:
        doubtful = isinstance(error, (FaktoryOutcomeUnknown, FaktoryJSONError))
        fate = "may or may not be queued" if doubtful else "were not queued"
        waiting = list(following.jids) if following is not None else []
        raise FaktoryBulkError(
            f"{len(sent.jids)} jobs {fate}: {error}",
            refused=refused,
            unknown=sent.jids if doubtful else (),
            unsent=waiting if doubtful else [*sent.jids, *waiting],
        ) from error


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

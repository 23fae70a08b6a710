"""Any number of jobs through one async client, in chunks, with the errors of `client.bulk`.

Rules: memory holds at most two chunks, the one that the server works on and the next, which is
prepared meanwhile. Other tasks have a turn every few milliseconds, however long the chunks are:
jobs are encoded one by one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

from ..client import network
from ..client.bulk import Bulk, check_bulk, refuse, refused_of, source_failed
from ..exceptions import FaktoryBulkError, FaktoryError, FaktoryPayloadError
from ..proto import encode_push
from ..wire import commands
from ..wire.payload import prepare

TURN: Final = 0.002
"""Seconds of work after which other tasks have a turn: with a chunk to write, less than 5 ms."""

Jobs = Iterable[Mapping[str, object]] | AsyncIterable[Mapping[str, object]]
Call = Callable[[Bulk], Awaitable[dict[str, str]]]


class Turns:
    """Gives other tasks a turn after each TURN seconds of work."""

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._until = self._clock() + TURN

    @property
    def is_due(self) -> bool:
        """Whether it is time for `give`."""
        return self._clock() >= self._until

    async def give(self) -> None:
        """Let other tasks run."""
        await asyncio.sleep(0)
        self._until = self._clock() + TURN


async def push_all(call: Call, jobs: Jobs, size: int) -> dict[str, str]:
    """Push jobs in chunks of `size` by `call`; return those refused, jid to reason."""
    check_bulk(jobs, size, "__iter__", "__aiter__")
    refused: dict[str, str] = {}
    chunks = _Chunks(jobs, size, refused)
    in_flight: asyncio.Task[dict[str, str]] | None = None
    begun = False
    try:
        while True:
            chunk = await chunks.next()
            unsent = chunks.left if chunk is None else list(chunk.jids)
            if in_flight is not None:
                try:
                    refused.update(await in_flight)
                except FaktoryBulkError as broken:
                    broken.refused = refused
                    broken.unsent += unsent
                    raise
                in_flight = None
            if (error := chunks.error) is not None:
                if not begun and not refused:
                    raise error
                raise source_failed(error, unsent, refused) from error
            if chunk is None:
                return refused
            begun = True
            if network.current.in_process:
                refused.update(await push_chunk(call, chunk))
            else:
                in_flight = asyncio.create_task(push_chunk(call, chunk))
    finally:
        if in_flight is not None:
            in_flight.cancel()


async def push_chunk(call: Call, chunk: Bulk) -> dict[str, str]:
    """Push one chunk; return the jobs refused. FaktoryBulkError if the connection breaks."""
    try:
        return await call(chunk)
    except FaktoryError as error:
        return refused_of(chunk, error)


class _Chunks:
    """Makes a command of each chunk of jobs; those that cannot be sent go into `refused`."""

    def __init__(self, jobs: Jobs, size: int, refused: dict[str, str]) -> None:
        self.error: Exception | None = None
        """What the source of the jobs raised."""
        self.left: list[str] = []
        """The jobs that were taken from it before, and are not sent."""
        self._jobs = aiter(jobs) if isinstance(jobs, AsyncIterable) else iter(jobs)
        self._size = size
        self._refused = refused
        self._index = -1
        self._turns = Turns()

    async def next(self) -> Bulk | None:
        """Return the next chunk; None at the end, or where the source raised."""
        source = self._jobs
        ready: list[dict[str, Any]] = []
        lines: list[bytes] = []
        while not ready:
            for _ in range(self._size):
                try:
                    job = await anext(source) if isinstance(source, AsyncIterator) else next(source)
                except (StopIteration, StopAsyncIteration):
                    return commands.push_bulk_of(lines, ready) if ready else None
                except Exception as error:
                    self.error = error
                    self.left = [job["jid"] for job in ready]
                    return None
                self._index += 1
                self._encode(job, ready, lines)
                if self._turns.is_due:
                    await self._turns.give()
        await self._turns.give()  # a whole chunk takes a while to be put together and written
        return commands.push_bulk_of(lines, ready)

    def _encode(
        self, job: Mapping[str, object], ready: list[dict[str, Any]], lines: list[bytes]
    ) -> None:
        sent = job
        try:
            sent = prepare(job)
            lines.append(encode_push(sent))
            ready.append(sent)
        except FaktoryPayloadError as error:
            refuse(sent, self._index, error, self._refused)

"""Many jobs of one type, pushed on an event loop: the steps of `bulk.py`.

Rules: other tasks have a turn every few milliseconds, however many rows there are and whatever
middleware does with each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from ..aio.bulk import Turns, push_chunk
from ..exceptions import FaktoryPayloadError
from ..wire import commands
from ..wire.commands import Command
from ..wire.payload import prepare
from . import options as job_options
from . import schedule
from .bulk import BulkPush, Encode
from .middleware import client_middleware
from .schedule import Spread
from .sending import async_client

_SLICE: Final = 50
"""Rows that are encoded at a time."""


class Rows(Protocol):
    """The job whose rows are pushed, see `push.py`."""

    def _around_bulk(
        self, spread: Spread | None, bulk: Callable[..., Awaitable[object]] | None
    ) -> Callable[..., Awaitable[object]] | None: ...

    def _shared(
        self, at: str | None, spread: Spread | None
    ) -> tuple[dict[str, Any], Callable[[dict[str, Any]], Encode]]: ...

    def _check_rows(self, rows: Sequence[Sequence[object]]) -> None: ...

    def payload(self, args: Sequence[object]) -> dict[str, Any]: ...

    def complete(self, payload: dict[str, Any]) -> None: ...

    async def acheck_enterprise(self) -> None: ...


async def push_rows(
    push: Rows, rows: Iterable[Sequence[object]], at: str | None, spread: Spread | None
) -> list[str]:
    """Push a job for each row; return the jids."""
    bulk = BulkPush(rows)
    around = push._around_bulk(spread, client_middleware.abulk)
    fields, render = push._shared(at, spread)
    each = _Each(push, at, spread)
    turns = Turns()

    async def send(command: Command[dict[str, str]]) -> list[str]:
        if not command.jids:
            return []
        with bulk.sending(command.jids):
            client = await async_client()
            await push.acheck_enterprise()
            refused = await push_chunk(client.call, command)
        return bulk.sent(command.jids, refused)

    async def push_all(fields: dict[str, Any], count: int) -> list[str]:  # noqa: ARG001
        return await send(await _encode(render(fields), chunk, bulk.first, turns))

    while True:
        with bulk.chunk():
            chunk = bulk.next_chunk()
            if not chunk:
                return bulk.end()
            if around is None:
                await send(await each.encode(chunk, bulk.first))
            else:
                await around(push_all, job_options.copy_of(fields), len(chunk))


async def _encode(
    encode: Encode, rows: list[Sequence[object]], first: int, turns: Turns
) -> Command[dict[str, str]]:
    """Render rows from one template, some at a time."""
    parts: list[Command[dict[str, str]]] = []
    for start in range(0, len(rows), _SLICE):
        try:
            parts.append(encode(rows[start : start + _SLICE], first + start))
        except (FaktoryPayloadError, TypeError):
            encode(rows, first)  # its error counts the rows of the whole chunk
            raise
        if turns.is_due:
            await turns.give()
    return commands.join_bulk(parts)


class _Each:
    """Runs the middleware for each row."""

    def __init__(self, push: Rows, at: str | None, spread: Spread | None) -> None:
        self._push = push
        self._at = at
        self._spread = spread
        self._turns = Turns()

    async def encode(self, rows: list[Sequence[object]], first: int) -> Command[dict[str, str]]:
        """Return a PUSHB of the jobs that no middleware has stopped."""
        push, spread = self._push, self._spread
        jobs: list[dict[str, Any]] = []

        async def keep(payload: dict[str, Any]) -> str:
            push.complete(payload)
            # A copy: a change after `call_next` comes too late, as it does for a single job.
            jobs.append(job_options.copy_of(prepare(payload)))
            return jobs[-1]["jid"]  # type: ignore[no-any-return]

        push._check_rows(rows)
        times = None if spread is None else spread.times(first, len(rows))
        for index, row in enumerate(rows):
            try:
                payload = push.payload(row)
                schedule.put_time(payload, self._at if times is None else times[index])
                await client_middleware.arun(keep, payload)
            except FaktoryPayloadError as error:
                raise FaktoryPayloadError(f"rows[{index}]: {error}") from None
            if self._turns.is_due:
                await self._turns.give()
        return commands.push_bulk(jobs)

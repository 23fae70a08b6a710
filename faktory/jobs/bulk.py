"""Many jobs of one type: the steps of their push, without what waits for the server.

`Push.perform_bulk` and, on an event loop, `async_bulk.py` go through them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from itertools import islice
from typing import Any

from ..exceptions import FaktoryBulkError, FaktoryError
from ..wire.commands import Command

BULK_CHUNK = 1000
"""Jobs in one PUSHB: the round trip hardly counts, and the server's 5 s for it are far."""

Encode = Callable[[Sequence[Sequence[object]], int], Command[dict[str, str]]]
"""Makes a PUSHB of rows, the first of which has this number."""

Asked = tuple[list[Sequence[object]], int] | Command[dict[str, str]]
"""Rows to encode, the first of which has this number; or a PUSHB to be sent."""


def bulk_steps(rows: Iterable[Sequence[object]]) -> Generator[Asked, Any, list[str]]:
    """Push rows in chunks; return the jids.

    It does nothing itself: it asks for the PUSHB of some rows, and for what a PUSHB is answered by:
    the jobs refused, jid to reason. The caller sends that in, or throws in what went wrong.
    """
    pushed: list[str] = []
    refused: dict[str, str] = {}
    source = iter(rows)
    taken = 0
    while True:
        try:
            chunk = list(islice(source, BULK_CHUNK))
            command: Command[dict[str, str]] = yield chunk, taken
            jids = command.jids
        except Exception as error:  # of a wrong row, or raised by `rows` itself
            sent = len(pushed) + len(refused)
            if not sent:
                raise
            raise FaktoryBulkError(
                f"{sent} jobs were sent before an error in the rows, "
                f"here counted from row {taken} on: {error}",
                jids=pushed,
                refused=refused,
            ) from error
        if not chunk:
            break
        taken += len(chunk)
        if not jids:
            continue
        try:
            rejected: dict[str, str] = yield command
        except FaktoryBulkError as broken:
            broken.jids, broken.refused = pushed, refused
            raise
        except FaktoryError as error:  # no client in time, or a server without Enterprise
            if (not pushed and not refused) or error._raised_by_job:
                raise
            raise FaktoryBulkError(
                f"{len(jids)} jobs were not queued: {error}",
                jids=pushed,
                refused=refused,
                unsent=jids,
            ) from error
        refused.update(rejected)
        pushed.extend([jid for jid in jids if jid not in rejected] if rejected else jids)
    if refused:
        jid, reason = next(iter(refused.items()))
        raise FaktoryBulkError(
            f"the server refused {len(refused)} of {len(pushed) + len(refused)} jobs, "
            f"{jid} for example: {reason}",
            jids=pushed,
            refused=refused,
        )
    return pushed

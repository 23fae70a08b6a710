"""Many jobs of one type: the account of their push, without what renders and sends them.

`Push.perform_bulk` and, on an event loop, `async_bulk.py` keep it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final

from ..exceptions import FaktoryBulkError, FaktoryError, FaktoryPayloadError
from ..wire.commands import Command
from ..wire.payload import prepare
from ..wire.validate import show

BULK_CHUNK = 1000
"""Jobs in one PUSHB: the round trip hardly counts, and the server's 5 s for it are far."""

Encode = Callable[[Sequence[Sequence[object]], int], Command[dict[str, str]]]
"""Makes a PUSHB of rows, the first of which has this number."""


_OF_EACH: Final = ("jid", "args")
"""Fields of which each job of a PUSHB has its own."""


class BulkPush:
    """Rows in chunks, and which of their jobs are queued so far.

    first     the number of the chunk's first row, from 0
    pushed    the jids of the jobs that are queued
    refused   jid -> the server's reason
    """

    def __init__(self, rows: Iterable[Sequence[object]]) -> None:
        self._source = iter(rows)
        self._chunk: list[Sequence[object]] = []
        self._failed: Exception | None = None
        self.first = 0
        self.pushed: list[str] = []
        self.refused: dict[str, str] = {}

    def next_chunk(self) -> list[Sequence[object]]:
        """Return the next rows; none at the end."""
        self.first += len(self._chunk)
        self._chunk = list(islice(self._source, BULK_CHUNK))
        return self._chunk

    @contextmanager
    def chunk(self) -> Iterator[None]:
        """Give an error of a chunk, of a wrong row for example, the account of those before it.

        One that `sending` has seen has it already.
        """
        try:
            yield
        except Exception as error:
            sent = len(self.pushed) + len(self.refused)
            if error is self._failed or not sent:
                raise
            raise FaktoryBulkError(
                f"{sent} jobs were sent before an error in the rows, "
                f"here counted from row {self.first} on: {error}",
                jids=self.pushed,
                refused=self.refused,
            ) from error

    @contextmanager
    def sending(self, jids: Sequence[str]) -> Iterator[None]:
        """Give an error of a PUSHB of these jobs the account of all jobs."""
        try:
            yield
        except FaktoryBulkError as broken:
            broken.jids, broken.refused = list(self.pushed), dict(self.refused)
            self._failed = broken
            raise
        except FaktoryError as error:  # no client in time, or a server without Enterprise
            self._failed = error
            if not (self.pushed or self.refused) or error._raised_by_job:
                raise
            self._failed = FaktoryBulkError(
                f"{len(jids)} jobs were not queued: {error}",
                jids=self.pushed,
                refused=self.refused,
                unsent=jids,
            )
            raise self._failed from error
        except Exception as error:
            self._failed = error
            raise

    def sent(self, jids: Sequence[str], refused: Mapping[str, str]) -> list[str]:
        """Note the answer to a PUSHB of these jobs; return the jids of those that are queued."""
        queued = [jid for jid in jids if jid not in refused] if refused else list(jids)
        self.refused.update(refused)
        self.pushed += queued
        return queued

    def end(self) -> list[str]:
        """Return all jids. FaktoryBulkError if the server refused some."""
        if self.refused:
            jid, reason = next(iter(self.refused.items()))
            raise FaktoryBulkError(
                f"the server refused {len(self.refused)} of "
                f"{len(self.pushed) + len(self.refused)} jobs, {jid} for example: {reason}",
                jids=self.pushed,
                refused=self.refused,
            )
        return self.pushed


def check_shared(shared: Mapping[str, Any], spread: bool) -> dict[str, Any]:
    """Return the fields that all jobs of a PUSHB share, completed and checked, after middleware.

    Jobs that are `spread` share no time.
    """
    own: list[tuple[str, Any]] = [(name, shared[name]) for name in _OF_EACH if name in shared]
    fields = prepare({**shared, "args": []})
    if spread:
        custom = fields.get("custom") or {}
        timed = {"at": fields.get("at"), "custom.expires_in": custom.get("expires_in")}
        own += [(name, value) for name, value in timed.items() if value is not None]
    for name, value in own:
        raise FaktoryPayloadError(
            f"a bulk middleware has set {name} to {show(value)}, and each job of a PUSHB has its "
            "own: leave it out, or add the middleware without bulk=, so that it is called for each "
            "job."
        )
    for name in _OF_EACH:
        del fields[name]
    return fields

"""The state of a server with a file, and its connections: no answer is sent before its commit.

Rules: the first change after a commit schedules the next one, for the end of the turn of the loop.
It is put off once if jobs are about to be handed to waiting clients, so that a job that comes and
goes costs one commit; and while a long command goes on and no answer waits, up to MAX_ROWS. On a
slow disk the clients that the last commit answered are awaited, for half of its time: else those
that are first with their next command take a commit alone, for which all others wait. While
something is to be committed, no answer is sent, not even one that changes nothing: it may mention
what is not in the file yet. When a commit fails the server ends: all connections are cut without
their answers.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from typing import Any, Final

from ...wire.log import Log
from ..clock import monotonic
from ..connection import MAX_UNSENT, ServerConnection
from ..enterprise.store import EnterpriseStore
from ..errors import DataFileError
from ..job import Quota
from ..state import ServerState
from ..store import Store
from .file import unusable
from .journal import Journal
from .store import DurableEnterpriseStore, DurableStore

MAX_ROWS: Final = 2000
"""Changes of jobs that are not put off any more: they take the disk some 10 ms."""

SLOW: Final = 0.001
"""Seconds of a commit from which on others are awaited; a timer of the loop has milliseconds."""

_log = Log(logging.getLogger("faktory.server"))


class DurableState(ServerState):
    """A state that is in a file from `open` to `close`."""

    def __init__(self, path: str, sync: str, **options: Any) -> None:
        """`options` are those of ServerState."""
        self.journal: Journal | None = None
        super().__init__(**options)
        self.path = path
        self._sync = sync
        self.on_failure: Callable[[Exception], object] = lambda _: None
        self._held_answers: list[DurableConnection] = []
        self._held_calls: list[Callable[[], object]] = []
        self._put_off = False
        self._took = 0.0
        """Seconds of the last commit."""
        self._expected = 0
        """How many connections it answered."""
        self._timer: asyncio.TimerHandle | None = None
        """Ends the wait for them."""

    def open(self) -> None:
        """Open the file and load what it has; DataFileError if it cannot be used."""
        self.failure = None
        self.journal = Journal(self.path, self._sync)
        try:
            self.store = self._new_store(type(self.store))
            assert isinstance(self.store, DurableStore)
            self.store.load()
            if self.journal.pending:
                self.journal.commit()
        except sqlite3.Error as error:
            self.close()
            raise unusable(self.path, error) from error
        except BaseException:
            self.close()
            raise
        self.journal.on_change = self._on_change

    def close(self) -> None:
        """Close the file; the jobs can still be looked at."""
        if self.journal is not None:
            self.journal.close()
            self.journal = None

    def detach(self) -> None:
        self.store.sample()
        self.commit()
        super().detach()

    def reset(self) -> None:
        if self.journal is None:
            raise RuntimeError("the server has no file while it is stopped: start it, then reset.")
        self.journal.clear()
        super().reset()

    @property
    def must_commit(self) -> bool:
        """Whether something has changed since the last commit."""
        return self.journal is not None and self.journal.pending

    def commit(self) -> None:
        """Write what has changed, and send the answers that waited for it."""
        journal = self.journal
        self._put_off = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if journal is None or self.failure is not None or not journal.pending:
            return
        began = monotonic()
        try:
            journal.commit()
        except Exception as error:
            self._fail(error)
            return
        self._took = monotonic() - began
        held, self._held_answers = self._held_answers, []
        self._expected = len(held)
        for peer in held:
            peer.send_held()
        self._call_held()

    def hold_answers(self, peer: DurableConnection) -> None:
        """Have the answers of a connection sent after the commit."""
        self._held_answers.append(peer)
        if self._timer is not None and len(self._held_answers) >= self._expected:
            self.loop.call_soon(self.commit)

    def after_commit(self, function: Callable[[], object]) -> None:
        self._held_calls.append(function)
        if not self.must_commit or self.failure is not None:
            self._call_held()

    def _call_held(self) -> None:
        calls, self._held_calls = self._held_calls, []
        for call in calls:
            call()

    def _on_change(self) -> None:
        if self._attached:
            self.loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        assert self.journal is not None
        serves = self._serving and not self._put_off
        awaited = self._held_answers or self._held_calls
        goes_on = self.long_commands and not awaited and self.journal.rows < MAX_ROWS
        if self.must_commit and (serves or goes_on):
            self._put_off = serves or self._put_off
            self.loop.call_soon(self._end_turn)
        elif self._took > SLOW and len(self._held_answers) < self._expected:
            if self._timer is None:
                self._timer = self.loop.call_later(self._took / 2, self.commit)
        else:
            self.commit()

    def _fail(self, error: Exception) -> None:
        self.failure = DataFileError(
            f"the data file {self.path!r} cannot be written: {error}. The server ends: what it "
            "has answered is in the file. Free the disk or repair it, then start the server again."
        )
        self._held_answers.clear()
        for peer in list(self.peers):
            peer.abort()
        self._call_held()
        _log.error("%s", self.failure)
        self.on_failure(self.failure)

    def _new_store(self, kind: type[Store]) -> Store:
        if self.journal is None:
            return super()._new_store(kind)
        enterprise = issubclass(kind, EnterpriseStore)
        durable = DurableEnterpriseStore if enterprise else DurableStore
        store = durable(self.clock, self.journal)
        store.offset = lambda: self.offset
        if self._max_memory is not None:
            store.quota = Quota(self._max_memory)
        return store


class DurableConnection(ServerConnection):
    """A connection whose answers wait for the commit."""

    _state: DurableState
    _holds = False

    def close(self) -> None:
        self._commit()
        super().close()

    def reject(self, limit: str) -> None:
        self._commit()
        super().reject(limit)

    def eof_received(self) -> bool:
        goes_on = super().eof_received()
        self._commit()  # with TLS nothing can be sent afterwards
        return goes_on

    def send_held(self) -> None:
        """Send what was held."""
        self._holds = False
        super()._flush()

    def _flush(self) -> None:
        state = self._state
        if not self._replies or state.failure is not None:
            return
        if not state.must_commit:
            super()._flush()
            return
        if not self._holds:
            self._holds = True
            state.hold_answers(self)
        if self._unsent > MAX_UNSENT:
            state.commit()

    def _commit(self) -> None:
        """Commit now if answers wait for it."""
        self._flush()
        if self._holds:
            self._state.commit()

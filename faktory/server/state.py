"""What the connections of an embedded server share: its state, its clock, its alarm, its faults.

Rules: all of this happens in the loop's thread. One alarm stands for all that will be due, and is
set anew when something is due before it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from .commands import State
from .faults import Faults
from .go.time import SECOND
from .workers import Worker

if TYPE_CHECKING:
    from .connection import Connection

MAX_CONNECTIONS: Final = 2000
"""Connections at once [Go: server/config.go, DefaultMaxPoolSize]."""

MAX_COMMAND: Final = 128 * 1024 * 1024
"""Bytes of a command line; the real server knows no limit."""

MAX_RECORDED: Final = 16 * 1024 * 1024
"""Bytes of commands that are kept for `EmbeddedServer.commands`."""

MAX_RECORDS: Final = 100_000
"""Commands that are kept for `EmbeddedServer.commands`."""

_LONGEST_SLEEP: Final = 30.0
"""Seconds after which to look at the clock anyway: it may have been set."""


class Core:
    """What connections share; it outlives the loop that it is attached to."""

    def __init__(
        self,
        password: str | None,
        max_connections: int,
        max_command: int,
        *,
        enterprise: bool = False,
    ) -> None:
        self.password = password
        self.max_connections = max_connections
        self.max_command = max_command
        self.offset = 0
        """Nanoseconds by which our clock is ahead of the machine's."""
        self.state = State(self.clock, enterprise=enterprise)
        self.faults = Faults()
        self.shutting_down = False
        self.connections: set[Connection] = set()
        self.buffer = memoryview(bytearray(256 * 1024))
        self.records: deque[tuple[bytes, bytes]] = deque()
        self._recorded = 0
        self._held: dict[bytes, list[tuple[Connection, bytes]]] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0
        self._serving = False

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to work in a loop."""
        self.loop = loop
        self.state.started_at = self.clock()
        self.state.commands = self.state.connections = 0
        self._alarm = None
        self._serving = False
        self.settle()

    def clock(self) -> int:
        return time.time_ns() + self.offset

    def challenge(self) -> tuple[str, int]:
        """Return salt and iterations for a greeting, or nothing where there is no password."""
        if not self.password:
            return "", 0
        return f"{secrets.randbits(63):x}", 4000 + secrets.randbelow(4096)

    def join(self, connection: Connection, worker: Worker) -> None:
        self.state.connections += 1
        self.state.workers.join(worker, connection, self.clock())

    def leave(self, connection: Connection, worker: Worker) -> None:
        self.state.connections -= 1
        self.state.workers.leave(worker, connection)

    def record(self, verb: bytes, line: bytes) -> None:
        records = self.records
        records.append((verb, line))
        self._recorded += len(line)
        while self._recorded > MAX_RECORDED or len(records) > MAX_RECORDS:
            self._recorded -= len(records.popleft()[1])

    def clear_records(self) -> None:
        self.records.clear()
        self._recorded = 0

    def hold(self, verb: bytes, connection: Connection, line: bytes) -> None:
        self._held.setdefault(verb, []).append((connection, line))

    def release(self, verb: bytes) -> None:
        self.faults.held.discard(verb)
        for connection, line in self._held.pop(verb, ()):
            connection.proceed(line)

    def settle(self) -> None:
        """After commands: see to those who wait, and be awake when something is due.

        Jobs are handed over after all that has already arrived on the other connections, so that
        one which was closed before the job came gets none.
        """
        store = self.state.store
        if store.ripe and not self._serving:
            self._serving = True
            self.loop.call_soon(self._serve)
        # Workers need no look while there is an alarm: what they are due for only moves away.
        due = self._next_due() if self._alarm is None else store.next_due()
        if due is not None and (self._alarm is None or due < self._alarm_at):
            self._set_alarm(due)

    def _serve(self) -> None:
        self._serving = False
        self.state.store.serve()

    def _next_due(self) -> int | None:
        times = (self.state.store.next_due(), self.state.workers.next_due())
        return min((at for at in times if at is not None), default=None)

    def _set_alarm(self, due: int) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        seconds = min(max((due - self.clock()) / SECOND, 0.0), _LONGEST_SLEEP)
        self._alarm_at = due
        self._alarm = self.loop.call_later(seconds, self._wake)

    def _wake(self) -> None:
        self._alarm = None
        self.sweep()
        self.settle()

    def sweep(self) -> None:
        """Do what is due."""
        self.state.store.sweep()
        for connection in self.state.workers.reap(self.clock()):
            connection.close()

    def reset(self) -> None:
        """Forget everything but who is connected, and be in the present again."""
        self.offset = 0
        self.state.store = type(self.state.store)(self.clock)
        self.faults.clear()
        for verb in list(self.faults.held):
            self.release(verb)
        self.clear_records()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self.settle()

    def travel(self, nanoseconds: int) -> None:
        """Move the clock forward, stopping wherever something is due."""
        target = self.offset + nanoseconds
        while (due := self._next_due()) is not None:
            ahead = due - time.time_ns()
            if ahead > target:
                break
            self.offset = max(self.offset, ahead)
            self.sweep()
        self.offset = target
        self.state.store.serve()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self.settle()

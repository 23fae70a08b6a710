"""What the connections of an embedded server share: jobs, workers, clock, alarm, planned faults.

Rules: only one thread uses it, the one of the event loop while the server runs. One alarm stands
for everything that will be due; it is set again when something is due before it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from . import clock
from .enterprise.store import EnterpriseStore
from .faults import Faults
from .go.long import LONG
from .go.time import SECOND
from .job import Quota
from .series import SAMPLED
from .slices import SWEPT, Steps
from .store import Store
from .workers import ClientRecord, Peer, Workers

MAX_CONNECTIONS: Final = 2000
"""Connections at once [Go: server/config.go, DefaultMaxPoolSize]."""

MAX_COMMAND: Final = 128 * 1024 * 1024
"""Bytes of a command line; the real server has no limit."""

MAX_UNFINISHED: Final = 256 * 1024 * 1024
"""Bytes of unfinished commands, of all connections together, and of replies that nobody reads."""

_MAX_SLEEP: Final = 30.0
"""Seconds after which the alarm looks at the clock anyway: the clock may have been set."""


class Timing(NamedTuple):
    """How long the server waits, in seconds; tests make it shorter."""

    fetch_wait: float = 2.0
    """How long FETCH waits for a job [Go: manager/fetch.go, brpop]."""
    handshake_timeout: float = 2.0
    """From the connection to the end of HELLO [Go: server/server.go, startConnection]."""
    close_timeout: float = 2.0
    """How long a client may take to read the last replies."""
    accept_interval: float = 1.0
    """Between attempts to accept a connection when the system has no file descriptors left."""


DEFAULT_TIMING: Final = Timing()


class CommandLog:
    """The last commands that clients sent, as verb and line, oldest first."""

    def __init__(self, max_count: int = 100_000, max_bytes: int = 16 * 1024 * 1024) -> None:
        self.entries: deque[tuple[bytes, bytes]] = deque()
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._bytes = 0

    def add(self, verb: bytes, line: bytes) -> None:
        """Add a command, and drop the oldest ones beyond the limits."""
        entries = self.entries
        entries.append((verb, line))
        self._bytes += len(line)
        while self._bytes > self._max_bytes or len(entries) > self._max_count:
            self._bytes -= len(entries.popleft()[1])

    def clear(self) -> None:
        """Forget all."""
        self.entries.clear()
        self._bytes = 0


class ServerState:
    """All that commands and connections work on; it may be attached to one loop after another."""

    failure: Exception | None = None
    """Why the server has ended by itself; in memory there is no reason."""

    def __init__(
        self,
        *,
        enterprise: bool = False,
        password: str | None = None,
        max_connections: int = MAX_CONNECTIONS,
        max_command: int = MAX_COMMAND,
        max_memory: int | None = None,
        timing: Timing = DEFAULT_TIMING,
        now: Callable[[], int] = clock.time_ns,
    ) -> None:
        """`now` is the machine's clock: it returns nanoseconds since the epoch.

        `max_memory` limits the stored jobs, in bytes.
        """
        self.password = password
        self.max_connections = max_connections
        self.max_command = max_command
        self.timing = timing
        self.offset = 0
        """Nanoseconds by which the server's clock is ahead of the machine's."""
        self._now = now
        self._max_memory = max_memory
        self.store = self._new_store(EnterpriseStore if enterprise else Store)
        self.workers = Workers()
        self.faults = Faults()
        self.log = CommandLog()
        self.started_at = self.clock()
        self.command_count = 0
        self.connection_count = 0
        """Connections that have said HELLO; `peers` holds all."""
        self.peers: set[Peer] = set()
        self.unfinished = 0
        """Bytes of commands that were received and are not finished."""
        self.long_commands = 0
        """Commands that are being executed in slices."""
        self.shutting_down = False
        self.loop: asyncio.AbstractEventLoop
        self.buffer: memoryview
        """The one receive buffer of all connections."""
        self._held: dict[bytes, list[tuple[Peer, bytes]]] = {}
        self._attached = False
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0
        self._serving = False
        """`_serve` has been scheduled."""
        self._sampler: asyncio.TimerHandle

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to work in a loop."""
        self.loop = loop
        self.buffer = memoryview(bytearray(256 * 1024))
        self.started_at = self.clock()
        self.command_count = self.connection_count = 0
        self.unfinished = self.long_commands = 0
        self._attached = True
        self._serving = False
        self._sampler = loop.call_later(SAMPLED, self._sample)
        self.schedule()

    def detach(self) -> None:
        """Leave the loop, which is about to end."""
        self._attached = False
        self._sampler.cancel()
        self.store.sample()
        self._cancel_alarm()

    def clock(self) -> int:
        """Return the server's time in nanoseconds since the epoch."""
        return self._now() + self.offset

    def after_commit(self, function: Callable[[], object]) -> None:
        """Call a function when what has changed is on disk, or the server has failed."""
        function()

    # Connections.

    def challenge(self) -> tuple[str, int]:
        """Return salt and iterations for a HI, "" and 0 where there is no password."""
        if not self.password:
            return "", 0
        return f"{secrets.randbits(63):x}", 4000 + secrets.randbelow(4096)

    def join(self, peer: Peer, client: ClientRecord) -> None:
        """Note that a connection has said HELLO."""
        self.connection_count += 1
        self.workers.join(client, peer, self.clock())

    def leave(self, peer: Peer, client: ClientRecord) -> None:
        """Note that a connection that had said HELLO is closed."""
        self.connection_count -= 1
        self.workers.leave(client, peer)

    def hold(self, verb: bytes, peer: Peer, line: bytes) -> None:
        """Keep a command until its verb is released."""
        self._held.setdefault(verb, []).append((peer, line))

    def release(self, verb: bytes) -> None:
        """Execute the commands that were held, and hold no more of this verb."""
        self.faults.held.discard(verb)
        for peer, line in self._held.pop(verb, ()):
            peer.resume(line)

    def count_unfinished(self, more: int) -> None:
        """Count bytes of commands that are not finished; reject a command if they are too many.

        It is the longest of those that are being received. If all of these are short, others are
        being executed: they take the memory, and will soon have ended.
        """
        self.unfinished += more
        if self.unfinished > MAX_UNFINISHED:
            longest = max(self.peers, key=lambda peer: peer.received)
            if longest.received > LONG:
                longest.reject(
                    f"the unfinished commands of all clients have more than {MAX_UNFINISHED} bytes"
                )

    def check_unsent(self) -> None:
        """Cut the connection of the client that reads the least, if all of them read too little."""
        unsent = {peer: peer.unsent for peer in self.peers}
        if sum(unsent.values()) > MAX_UNFINISHED:
            max(unsent, key=unsent.__getitem__).abort()

    # Time.

    def schedule(self) -> None:
        """Schedule what the last commands call for: jobs for clients that wait, and the alarm.

        Jobs are handed over after all that has already arrived on other connections is executed,
        so that a connection that was closed before the job came does not get it.
        """
        if not self._attached:
            return
        store = self.store
        if store.unserved and not self._serving:
            self._serving = True
            self.loop.call_soon(self._serve)
        # With an alarm set, workers need no look: a BEAT only moves what they are due for.
        due = self._next_due() if self._alarm is None else store.next_due()
        if due is not None and (self._alarm is None or due < self._alarm_at):
            self._set_alarm(due)

    def sweep(self) -> None:
        """Do what is due, or the first of it: others have their turn before the rest."""
        self.store.sweep(SWEPT)
        for peer in self.workers.reap(self.clock()):
            peer.close()

    def travel(self, nanoseconds: int) -> Steps[None]:
        """Move the clock forward, stopping wherever something is due."""
        target = self.offset + nanoseconds
        self.store.sample()
        while (due := self._next_due()) is not None:
            ahead = due - self._now()
            if ahead > target:
                break
            self.offset = max(self.offset, ahead)
            self.sweep()
            self.store.sample()
            yield
        self.offset = target
        while self.store.unserved:
            self.store.serve()
            yield
        self._cancel_alarm()
        self.schedule()

    def reset(self) -> None:
        """Forget everything but the connections, and set the clock back to the machine's."""
        self.offset = 0
        self.store = self._new_store(type(self.store))
        self.faults.clear()
        for verb in list(self.faults.held):
            self.release(verb)
        self.log.clear()
        self._cancel_alarm()
        self.schedule()

    def _sample(self) -> None:
        self._sampler = self.loop.call_later(SAMPLED, self._sample)
        self.store.sample()

    def _serve(self) -> None:
        self._serving = False
        self.store.serve()
        self.schedule()

    def _new_store(self, kind: type[Store]) -> Store:
        store = kind(self.clock)
        store.offset = lambda: self.offset
        if self._max_memory is not None:
            store.quota = Quota(self._max_memory)
        return store

    def _next_due(self) -> int | None:
        times = (self.store.next_due(), self.workers.next_due())
        return min((at for at in times if at is not None), default=None)

    def _set_alarm(self, due: int) -> None:
        self._cancel_alarm()
        seconds = min(max((due - self.clock()) / SECOND, 0.0), _MAX_SLEEP)
        self._alarm_at = due
        self._alarm = self.loop.call_later(seconds, self._on_alarm)

    def _cancel_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _on_alarm(self) -> None:
        self._alarm = None
        self.sweep()
        self.schedule()

"""Who is connected as a worker, and what each of them was told [Go: server/workers.go].

The connections of one wid share an entry that is made of the first one's HELLO. A worker goes from
running to quiet to terminate and never back, and is cut off after 60 seconds without a beat.
"""

from __future__ import annotations

from typing import Any, Final

from .go import json as go_json
from .go.json import INT, STRING, STRINGS, UINT8, GoType
from .go.time import SECOND

SILENT_AFTER: Final = 60
"""Seconds without a BEAT after which a worker counts as dead."""

HELLO: Final = GoType(
    "server.ClientData",
    dict,
    {
        "hostname": STRING,
        "wid": STRING,
        "pwdhash": STRING,
        "username": STRING,
        "labels": STRINGS,
        "pid": INT,
        "rss_kb": INT,
        "v": UINT8,
    },
)

_ORDER = {"": 0, "quiet": 1, "terminate": 2}


class Worker:
    """What one HELLO said; `state` is empty while running, then quiet, then terminate.

    Connections without a wid, which are no workers, have one too.
    """

    def __init__(self, hello: dict[str, Any]) -> None:
        self.wid: str = hello.get("wid", "")
        self.hostname: str = hello.get("hostname", "")
        self.pid: int = hello.get("pid", 0)
        self.labels: list[str] = hello.get("labels", [])
        self.version: int = hello.get("v", 0)
        self.password_hash: str = hello.get("pwdhash", "")
        self.rss_kb: int = hello.get("rss_kb", 0)
        self.state = ""
        self.started_at = 0
        self.beat_at = 0
        self.connections: set[Any] = set()

    def signal(self, state: str) -> None:
        """Tell it to be quiet or to terminate; there is no way back."""
        if _ORDER.get(state, 0) > _ORDER[self.state]:
            self.state = state


class Workers:
    """The table of workers by wid; `connection` is whatever stands for one."""

    def __init__(self) -> None:
        self.table: dict[str, Worker] = {}
        self.reaped = 0

    def join(self, worker: Worker, connection: Any, now: int) -> None:
        """Note that a connection said HELLO as this worker."""
        if not worker.wid:
            return
        entry = self.table.setdefault(worker.wid, worker)
        if entry is worker:
            worker.started_at = worker.beat_at = now
        entry.connections.add(connection)

    def leave(self, worker: Worker, connection: Any) -> None:
        """Note that a connection is gone; the last one takes the entry along."""
        entry = self.table.get(worker.wid)
        if entry is not None:
            entry.connections.discard(connection)
            if not entry.connections:
                del self.table[worker.wid]

    def beat(self, wid: str, state: str, rss_kb: int, now: int) -> Worker | None:
        """Note a sign of life; None where there is no such worker."""
        entry = self.table.get(wid)
        if entry is not None:
            entry.rss_kb = rss_kb
            entry.beat_at = now
            entry.signal(state)
        return entry

    def next_due(self) -> int | None:
        """Return when the next one has been silent for too long."""
        beats = (worker.beat_at for worker in self.table.values())
        first = min(beats, default=None)
        return None if first is None else first + SILENT_AFTER * SECOND

    def reap(self, now: int) -> list[Any]:
        """Remove those who are silent for too long; return their connections, to be closed."""
        limit = now - SILENT_AFTER * SECOND
        silent = [wid for wid, worker in self.table.items() if worker.beat_at <= limit]
        self.reaped += len(silent)
        return [connection for wid in silent for connection in self.table.pop(wid).connections]


def read_hello(line: bytes) -> Worker | None:
    """Read a HELLO line; None for what the real server hangs up on without a word."""
    if not line.startswith(b"HELLO {"):
        return None
    try:
        return Worker(go_json.read_struct(HELLO, go_json.load(go_json.decode(line[6:]))))
    except ValueError:
        return None

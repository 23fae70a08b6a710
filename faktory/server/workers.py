"""The connected workers, and the state that each is asked to enter [Go: server/workers.go].

All connections with one wid share a record, made from the HELLO of the first. A worker goes from
running to quiet to terminate and never back. After 60 seconds without a BEAT it is disconnected.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

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


class Peer(Protocol):
    """A client's connection, as the state that it shares with others sees it."""

    received: int
    """Bytes of commands that were received and not begun."""

    @property
    def unsent(self) -> int:
        """Bytes of replies that the client does not read."""

    def close(self) -> None:
        """Send the replies that are ready and close."""

    def abort(self) -> None:
        """Close at once."""

    def reject(self, limit: str) -> None:
        """Reply that a limit was exceeded, and close."""

    def resume(self, line: bytes) -> None:
        """Execute a command that was held."""


class ClientRecord:
    """What a HELLO says of its client; `state` is "" (running), "quiet" or "terminate".

    A client without a wid is not a worker, and has a record all the same.
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
        self.peers: set[Peer] = set()

    def signal(self, state: str) -> None:
        """Make the worker quiet or terminate; an earlier state is ignored."""
        if _ORDER.get(state, 0) > _ORDER[self.state]:
            self.state = state


class Workers:
    """The records of workers by wid."""

    def __init__(self) -> None:
        self.table: dict[str, ClientRecord] = {}
        self.reaped = 0

    def join(self, client: ClientRecord, peer: Peer, now: int) -> None:
        """Add a connection after its HELLO."""
        if not client.wid:
            return
        record = self.table.setdefault(client.wid, client)
        if record is client:
            client.started_at = client.beat_at = now
        record.peers.add(peer)

    def leave(self, client: ClientRecord, peer: Peer) -> None:
        """Remove a connection; the last one takes the record along."""
        record = self.table.get(client.wid)
        if record is not None:
            record.peers.discard(peer)
            if not record.peers:
                del self.table[client.wid]

    def beat(self, wid: str, state: str, rss_kb: int, now: int) -> ClientRecord | None:
        """Note a BEAT; return the worker's record, None if there is none."""
        record = self.table.get(wid)
        if record is not None:
            record.rss_kb = rss_kb
            record.beat_at = now
            record.signal(state)
        return record

    def next_due(self) -> int | None:
        """Return when the next worker will have been silent for too long."""
        first = min((record.beat_at for record in self.table.values()), default=None)
        return None if first is None else first + SILENT_AFTER * SECOND

    def reap(self, now: int) -> list[Peer]:
        """Remove workers that are silent for too long; return their connections, to be closed."""
        limit = now - SILENT_AFTER * SECOND
        silent = [wid for wid, record in self.table.items() if record.beat_at <= limit]
        self.reaped += len(silent)
        return [peer for wid in silent for peer in self.table.pop(wid).peers]


def read_hello(line: bytes) -> ClientRecord | None:
    """Read a HELLO line; None where the real server hangs up without a reply."""
    if not line.startswith(b"HELLO {"):
        return None
    try:
        return ClientRecord(go_json.read_struct(HELLO, go_json.load(go_json.decode(line[6:]))))
    except go_json.JSONError:
        return None

"""A clock that a test sets, stores that use it, and raw connections to an embedded server."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

from faktory.server import EmbeddedServer
from faktory.server.enterprise.store import EnterpriseStore
from faktory.server.go.time import SECOND, read
from faktory.server.job import StoredJob
from faktory.server.store import Store


class Clock:
    """Nanoseconds since the epoch; 2026-01-01 at first."""

    def __init__(self) -> None:
        self.now = read("2026-01-01T00:00:00Z")

    def __call__(self) -> int:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += round(seconds * SECOND)


class RawClient:
    """A connection that sends commands as text and returns replies as bytes."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.file = sock.makefile("rb")

    def send(self, *lines: str | bytes) -> None:
        data = [line.encode() if isinstance(line, str) else line for line in lines]
        self.socket.sendall(b"".join(line + b"\r\n" for line in data))

    def call(self, line: str | bytes) -> Any:
        self.send(line)
        return self.reply()

    def reply(self) -> Any:
        """Return the next reply without its line end, None for nil; EOFError at the end."""
        line = self.file.readline()
        if not line:
            raise EOFError
        if not line.startswith(b"$"):
            return line[:-2]
        length = int(line[1:])
        return None if length < 0 else self.file.read(length + 2)[:-2]

    def is_closed(self) -> bool:
        """Wait for the end; return whether it came without a further reply."""
        try:
            return self.file.read(1) == b""
        except ConnectionResetError:
            return True

    def push(self, jid: str, queue: str = "default", **fields: object) -> Any:
        job = {"jid": jid, "queue": queue, "jobtype": "T", "args": [], **fields}
        return self.call("PUSH " + json.dumps(job))

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Store:
    return Store(clock, Random(1))


@pytest.fixture
def enterprise(clock: Clock) -> EnterpriseStore:
    """A store with the features of Faktory Enterprise."""
    return EnterpriseStore(clock, Random(1))


@pytest.fixture
def new_job() -> Callable[..., StoredJob]:
    """`new_job(jid, **fields)`: a job as PUSH makes it."""

    def make(jid: str, **fields: object) -> StoredJob:
        return StoredJob({"jid": jid, "jobtype": "T", "args": [], **fields})

    return make


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def dial(server: EmbeddedServer) -> Iterator[Callable[..., RawClient]]:
    """`dial(wid=...)`: a new connection after its HELLO, before its HI with `handshake=False`."""
    clients: list[RawClient] = []

    def dial(*, to: EmbeddedServer = server, handshake: bool = True, **hello: Any) -> RawClient:
        client = RawClient(socket.create_connection(("127.0.0.1", to.port), timeout=10))
        clients.append(client)
        if handshake:
            assert client.reply() == b'+HI {"v":2}'
            assert client.call(b"HELLO " + json.dumps({"v": 2, **hello}).encode()) == b"+OK"
        return client

    yield dial
    for client in clients:
        client.close()

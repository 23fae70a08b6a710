"""Raw connections to a server, and the servers that the contract holds for."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from faktory.proto import new_jid
from faktory.server import EmbeddedServer
from faktory.server.state import DEFAULT_TIMING, Timing
from faktory.wire.address import parse
from faktory.wire.session import password_hash


class RawClient:
    """A connection that sends commands as text and returns replies as bytes.

    A bulk reply is returned without its length, nil as None.
    """

    def __init__(self, url: str, **hello: object) -> None:
        self.address = parse(url)
        self.socket = socket.create_connection((self.address.host, self.address.port), timeout=10)
        self.received = b""
        hi = json.loads(self.read_line().removeprefix(b"+HI "))
        if "s" in hi:
            assert self.address.password is not None
            hello["pwdhash"] = password_hash(self.address.password, hi["s"], hi["i"])
        self.hello = b"HELLO " + json.dumps({"v": 2, **hello}).encode()

    def shake_hands(self) -> None:
        self.send(self.hello)
        assert self.reply() == b"+OK"

    def send(self, *lines: str | bytes) -> None:
        data = [line.encode() if isinstance(line, str) else line for line in lines]
        self.socket.sendall(b"".join(line + b"\r\n" for line in data))

    def call(self, line: str | bytes) -> Any:
        """Send a command and return its reply."""
        self.send(line)
        return self.reply()

    def reply(self, timeout: float = 10) -> Any:
        """Return the next reply; TimeoutError if there is none in time."""
        self.socket.settimeout(timeout)
        line = self.read_line()
        if not line.startswith(b"$"):
            return line
        length = int(line[1:])
        if length < 0:
            return None
        return self.read(length + 2)[:-2]

    def read_line(self) -> bytes:
        while b"\n" not in self.received:
            self._receive()
        line, _, self.received = self.received.partition(b"\r\n")
        return line

    def read(self, length: int) -> bytes:
        while len(self.received) < length:
            self._receive()
        data, self.received = self.received[:length], self.received[length:]
        return data

    def is_closed(self) -> bool:
        """Wait for the end; return whether it came without a further reply."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def _receive(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError
        self.received += data

    # Shorthands.

    def push(self, jid: str, queue: str, **fields: object) -> Any:
        # `retry` is always given: a real server lets it leak from job to job.
        job = {"jid": jid, "queue": queue, "jobtype": "T", "args": [], "retry": 25, **fields}
        return self.call("PUSH " + json.dumps(job))

    def fetch(self, *queues: str) -> Any:
        """Fetch a job, decoded; None for nil."""
        reply = self.call("FETCH " + " ".join(queues))
        return reply if reply is None else json.loads(reply)

    def mutate(self, command: str, target: str, **chosen: object) -> Any:
        request = {"cmd": command, "target": target, "filter": chosen}
        return self.call("MUTATE " + json.dumps(request, separators=(",", ":"), ensure_ascii=False))


Dial = Callable[..., RawClient]


def dialer(url: str, make: Callable[..., RawClient] = RawClient) -> Iterator[Dial]:
    clients: list[RawClient] = []

    def dial(*, handshake: bool = True, **hello: object) -> RawClient:
        client = make(url, **hello)
        clients.append(client)
        if handshake:
            client.shake_hands()
        return client

    yield dial
    for client in clients:
        client.socket.close()


@pytest.fixture
def true_waits() -> None:
    """Let the embedded server wait as long as the real one, where a test requests this."""


@pytest.fixture(params=["embedded", "real"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of each server in turn; the real one is the one in FAKTORY_URL."""
    if request.param == "real":
        yield request.getfixturevalue("real_server_url")
        return
    true_waits = "true_waits" in request.fixturenames
    timing = DEFAULT_TIMING if true_waits else Timing(fetch_wait=0.2)
    with EmbeddedServer(timing=timing) as server:
        yield server.url


@pytest.fixture
def dial(url: str) -> Iterator[Dial]:
    """`dial(wid=...)`: a new connection to the server, after its HELLO."""
    yield from dialer(url)


@pytest.fixture
def both(real_server_url: str) -> Iterator[tuple[Dial, Dial]]:
    """`dial` for an embedded server, and for the real one."""
    with EmbeddedServer() as server:
        ours, real = dialer(server.url), dialer(real_server_url)
        yield next(ours), next(real)
        for one in (ours, real):
            next(one, None)


@pytest.fixture
def name() -> Callable[[], str]:
    """`name()`: a jid, queue or job type that no other test and no other run uses."""
    run, numbers = new_jid(), count(1)
    return lambda: f"{run}-{next(numbers)}"

"""What several benchmarks need: servers to talk to, and a line without a client."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from faktory.wire.address import Address, parse
from faktory.wire.session import password_hash


class Line:
    """A connection after its HELLO."""

    def __init__(self, address: Address) -> None:
        self.socket = socket.create_connection((address.host, address.port), timeout=30)
        self.file = self.socket.makefile("rb")
        hi = json.loads(self.file.readline()[4:])
        hello: dict[str, object] = {"v": 2}
        if "s" in hi:
            hello["pwdhash"] = password_hash(address.password or "", hi["s"], hi["i"])
        assert self.say(b"HELLO " + json.dumps(hello).encode() + b"\r\n") == b"+OK\r\n"

    def say(self, line: bytes) -> bytes:
        self.socket.sendall(line)
        return self.reply()

    def reply(self) -> bytes:
        line = self.file.readline()
        return line if line[:1] != b"$" else self.file.read(int(line[1:]) + 2)

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[str, Address]]:
    """The embedded server, as a process of its own, and the real one in FAKTORY_URL."""
    command = [sys.executable, "-m", "faktory", "server", "--bind", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = {"embedded": parse(process.stdout.readline().rpartition("=")[2].strip())}
        if os.environ.get("FAKTORY_URL"):
            found["real"] = parse(os.environ["FAKTORY_URL"])
        yield found
        process.terminate()

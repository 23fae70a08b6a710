"""Send bytes to a server and read its replies, without a client."""

from __future__ import annotations

import json
import socket

from faktory.wire.address import Address
from faktory.wire.session import password_hash


class Connection:
    """A connection after its HELLO."""

    def __init__(self, address: Address) -> None:
        assert not address.tls, "the benchmarks do not support TLS: use a tcp:// address"
        self.socket = socket.create_connection((address.host, address.port), timeout=30)
        self.file = self.socket.makefile("rb")
        hi = json.loads(self.file.readline()[4:])
        hello: dict[str, object] = {"v": 2}
        if "s" in hi:
            hello["pwdhash"] = password_hash(address.password or "", hi["s"], hi["i"])
        assert self.call(b"HELLO " + json.dumps(hello).encode() + b"\r\n") == b"+OK\r\n"

    def call(self, command: bytes) -> bytes:
        """Send a command line; return its reply, which still has its line end."""
        self.socket.sendall(command)
        return self.reply()

    def reply(self) -> bytes:
        """Read one reply: a whole line, or the body of a bulk reply."""
        line = self.file.readline()
        return line if line[:1] != b"$" else self.file.read(int(line[1:]) + 2)

    def close(self) -> None:
        self.file.close()
        self.socket.close()

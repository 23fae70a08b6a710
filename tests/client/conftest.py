"""A server that plays a script, for faults that no real one makes on demand; small helpers; and a
check that no test leaves a socket open.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import ssl
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from faktory.client import network
from faktory.client.transport import SocketTransport

from ..support import FakeNetwork

OK = b"+OK\r\n"

SHORT = 0.5
"""Seconds that a client waits for an answer that does not come."""

TIMEOUT = 20.0
"""Seconds that a script waits for its client before it fails."""

Step = bytes | str | dict[str, object] | Callable[[], object]
"""Bytes are sent; a text is the beginning of a line that must come; a dict is sent as a bulk reply
of JSON; something else is called. At the end of its script a connection is closed. And these:

    :greet      the handshake
    :silence    read everything, send nothing, until the client closes
    :reset?     read everything, send nothing, until the client resets the connection
    :trickle    send one byte after the other until the client closes
    :echo       answer each line by its second word until the client closes
    :reset      end the connection so that the client gets an error
"""


def job(number: int, **fields: object) -> dict[str, Any]:
    """Make a job; its number is in its jid and its argument."""
    return {"jid": f"job-{number:04}", "jobtype": "Resize", "args": [number], **fields}


def payload(line: bytes) -> Any:
    """Return the JSON of a command line."""
    return json.loads(line.partition(b" ")[2])


def connect_impatient(*args: Any) -> SocketTransport:
    """Open a transport that waits SHORT for each answer, though not for the handshake."""
    transport = SocketTransport(*args)
    transport._timeout = SHORT
    return transport


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients wait SHORT for each answer."""
    monkeypatch.setattr(network, "current", FakeNetwork(connect_impatient))


class Peer:
    """The server's end of one connection: `lines` are those that the client has sent."""

    def __init__(self, sock: socket.socket, lines: list[bytes]) -> None:
        self._sock = sock
        self._lines = lines
        self._buffer = bytearray()

    def play(self, step: Step) -> None:
        if isinstance(step, dict):
            data = json.dumps(step).encode()
            step = b"$%d\r\n%b\r\n" % (len(data), data)
        if isinstance(step, bytes):
            with suppress(ConnectionResetError, BrokenPipeError):  # the client has given up
                self._sock.sendall(step)
        elif not isinstance(step, str):
            step()
        elif step == ":greet":
            for part in (b'+HI {"v":2}\r\n', "HELLO {", b"+OK\r\n"):
                self.play(part)
        elif step == ":silence":
            with suppress(ConnectionResetError, ssl.SSLError):
                self._lines_until_closed()
        elif step == ":reset?":
            with pytest.raises(ConnectionResetError):
                self._lines_until_closed()
        elif step == ":echo":
            while line := self._line():
                if line != b"END\r\n":
                    self._sock.sendall(b"+" + line.split()[1] + b"\r\n")
        elif step == ":trickle":
            with suppress(ConnectionResetError, BrokenPipeError):
                while True:
                    self._sock.sendall(b"x")
        elif step == ":reset":
            linger = struct.pack("ii", 1, 0)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._sock.close()
        else:
            line = self._line()
            assert line.startswith(step.encode()), f"expected {step}, got {line!r}"

    def _lines_until_closed(self) -> None:
        while self._line():
            pass

    def _line(self) -> bytes:
        """Wait for a line; empty if the client closes instead."""
        scanned = 0
        while (end := self._buffer.find(b"\n", scanned) + 1) == 0:
            scanned = len(self._buffer)
            data = self._sock.recv(65536)
            if not data:
                return b""
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._lines.append(line)
        return line


class ScriptedServer:
    """Plays one script for each connection, in their order; any more connections are refused.

    `lines[n]` are those that connection n has sent, `ended[n]` is set when its script is over.
    `stop` raises if a script was not played to its end.
    """

    def __init__(self, *scripts: list[Step], context: ssl.SSLContext | None = None) -> None:
        self.lines: list[list[bytes]] = [[] for _ in scripts]
        self.ended = [threading.Event() for _ in scripts]
        self._scripts = scripts
        self._context = context
        self._errors: list[BaseException] = []
        self._players: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"tcp{'+tls' if context else ''}://127.0.0.1:{self.port}"
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def verbs(self, connection: int) -> list[str]:
        return [line.split(maxsplit=1)[0].decode() for line in self.lines[connection]]

    def stop(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the acceptor
        for thread in (self._acceptor, *self._players):
            thread.join()
        for error in self._errors:
            raise error
        assert len(self._players) == len(self._scripts), "not every script was played"

    def _accept(self) -> None:
        with self._listener:
            for number in range(len(self._scripts)):
                try:
                    sock, _ = self._listener.accept()
                except OSError:
                    return
                if number == len(self._scripts) - 1:
                    self._listener.close()  # before the client can see the end of this script
                player = threading.Thread(target=self._play, args=(sock, number))
                player.daemon = True
                self._players.append(player)
                player.start()

    def _play(self, sock: socket.socket, number: int) -> None:
        sock.settimeout(TIMEOUT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if self._context:
                try:
                    sock = self._context.wrap_socket(sock, server_side=True)
                except (ssl.SSLError, ConnectionResetError):
                    return  # the client does not trust the certificate
            peer = Peer(sock, self.lines[number])
            for step in self._scripts[number]:
                peer.play(step)
        except BaseException as error:
            self._errors.append(error)
        finally:
            sock.close()
            self.ended[number].set()


Scripted = Callable[..., ScriptedServer]


@pytest.fixture
def scripted() -> Iterator[Callable[..., ScriptedServer]]:
    """`scripted([step, ...], [step, ...])` starts a server that plays these scripts; see Step."""
    servers: list[ScriptedServer] = []

    def start(*scripts: list[Step], context: ssl.SSLContext | None = None) -> ScriptedServer:
        servers.append(ScriptedServer(*scripts, context=context))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(autouse=True)
def no_socket_is_left_open(wait_until: Callable[..., object]) -> Iterator[None]:
    """Daemon threads have time to end."""
    before = _open_sockets()
    yield
    if _open_sockets() - before:
        gc.collect()  # an unreferenced socket warns, which is an error
        wait_until(lambda: not _open_sockets() - before)


def _open_sockets() -> set[str]:
    """Return the sockets of this process, where the system shows them."""
    found: set[str] = set()
    if not os.path.isdir("/proc/self/fd"):
        return found
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{number}")
            if target.startswith("socket:"):
                found.add(target)
    return found


@pytest.fixture
def server_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


@pytest.fixture
def client_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    """Make a client trust `server_tls`."""
    return ssl.create_default_context(cafile=str(certificate[0]))


@pytest.fixture
def in_child() -> Callable[[Callable[[], object]], object]:
    """`in_child(act)` forks, calls it in the child and returns its value, through JSON."""
    return _in_child


def _in_child(act: Callable[[], object]) -> object:
    readable, writable = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that there are threads
        pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(30)
            try:
                result = {"value": act()}
            except BaseException as error:
                result = {"error": repr(error)}
            os.write(writable, json.dumps(result).encode())
        finally:
            os._exit(0)
    os.close(writable)
    with open(readable, "rb") as pipe:
        result = json.loads(pipe.read() or b'{"error": "the child died"}')
    os.waitpid(pid, 0)
    assert "error" not in result, result
    return result["value"]

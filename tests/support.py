"""Functions and classes for the tests of several rooms; fixtures are in conftest.py."""

from __future__ import annotations

import json
import socket
import sysconfig
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Self, TypeVar

import pytest

T = TypeVar("T")

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
"""Whether this is a build of Python that can do without a GIL."""

counts_memory = pytest.mark.skipif(
    FREE_THREADED, reason="a free-threaded build of Python frees memory later, and takes more"
)


def half(**values: Sequence[Any]) -> pytest.MarkDecorator:
    """Parametrize a test with two lists: each value with half of the others, all in `make soak`."""
    (one, firsts), (two, seconds) = values.items()
    return pytest.mark.parametrize(
        (one, two),
        [
            pytest.param(first, second, marks=[pytest.mark.soak] * ((row + column) % 2))
            for row, first in enumerate(firsts)
            for column, second in enumerate(seconds)
        ],
    )


def wait_until(condition: Callable[[], T], timeout: float = 20) -> T:
    """Call `condition` until it is true, and return its result; fail after so many seconds."""
    deadline = time.monotonic() + timeout
    pause = 0.001
    while True:
        # Read before the condition: a machine that stood still does not fail a true one.
        late = time.monotonic() >= deadline
        if result := condition():
            return result
        if late:
            name = getattr(condition, "__qualname__", repr(condition))
            pytest.fail(f"{name} was still {result!r} after {timeout} seconds")
        time.sleep(pause)
        pause = min(pause * 1.2, 0.02)  # many a condition reads files, or all of /proc


class FakeNetwork:
    """A network whose transports the test makes: `connect(address, identity, timeout, context)`."""

    in_process = False

    def __init__(self, connect: Callable[..., Any]) -> None:
        self.connect = connect


class AnsweringServer:
    """A server that answers each line by a function, for answers that no real server sends.

    `answer` gets the line without its end and returns the bytes of the reply. HELLO and END are
    answered here, and so is BEAT unless `beats`. `lines` are those of all connections.
    """

    def __init__(
        self, answer: Callable[[str], bytes], hi: bytes = b'+HI {"v":2}\r\n', beats: bool = False
    ) -> None:
        self.lines: list[str] = []
        self._answer = answer
        self._hi = hi
        self._own = ("HELLO",) if beats else ("HELLO", "BEAT")
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"tcp://127.0.0.1:{self.port}"
        self._start(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._listener, *self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # wakes its thread
        for thread in self._threads:
            thread.join()

    def sent(self, verb: str) -> list[str]:
        """Return what followed a verb in each of its lines."""
        return [line.partition(" ")[2] for line in self.lines if line.split(" ")[0] == verb]

    def _start(self, target: Callable[..., None], *args: object) -> None:
        self._threads.append(threading.Thread(target=target, args=args, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with self._listener, suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._open.append(sock)
                self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with sock, sock.makefile("rb") as received, suppress(OSError):
            sock.sendall(self._hi)
            for data in received:
                line = data.decode().rstrip("\r\n")
                self.lines.append(line)
                verb = line.split(" ")[0]
                if verb == "END":
                    return
                sock.sendall(b"+OK\r\n" if verb in self._own else self._answer(line))


def bulk(data: object) -> bytes:
    """Return a bulk reply: of bytes as they are, of anything else as JSON."""
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    return b"$%d\r\n%b\r\n" % (len(body), body)

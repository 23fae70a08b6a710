"""The port of `--health`: /livez, /readyz and /metrics over HTTP.

Rules: one thread serves all connections and never waits for one of them, so that any number of slow
clients costs nothing; `http.server` reads a request that has arrived as a whole. A connection is
for one request, has a few seconds, and gives way to new ones when there are too many. In a process
that is forked it is closed, at once. A supervisor, which has no thread beside its own, waits for
`fileno` beside all else, and calls `serve`.
"""

from __future__ import annotations

import errno
import json
import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector
from threading import Thread
from time import monotonic
from typing import Any, Final, NamedTuple

from ..client import fork
from ..wire.log import Log
from .status import Probe, Probes

MAX_CONNECTIONS: Final = 100
"""At a time; then the oldest one is closed for a new one."""

MAX_REQUEST: Final = 8192
"""Bytes of a request: its line and headers; it has no body."""

REQUEST_TIMEOUT: Final = 5.0
"""Seconds for a request to arrive and for its answer to be taken."""

LINGER: Final = 1.0
"""Seconds for a client to close the connection after the answer."""

PAUSE: Final = 0.5
"""Seconds until connections are accepted again where the system has no more open files."""

BACKLOG: Final = 256
"""Connections that wait to be accepted."""


class Answer(NamedTuple):
    """An answer: its status, its content type, and its body."""

    status: int
    content_type: str
    body: bytes


def as_json(status: int, body: Mapping[str, Any]) -> Answer:
    """Return an answer in JSON."""
    return Answer(status, "application/json", json.dumps(body).encode() + b"\n")


Metrics = Callable[[str], Answer]
"""Makes the answer of /metrics by what the request accepts."""


class HealthServer:
    """Listens on an address, a host and a port; OSError where that cannot be.

    `probes` judge, `metrics` renders the numbers. `start` serves in a thread of its own; without
    that, call `serve` when `fileno` can be read, and at `due`.
    """

    def __init__(
        self, address: tuple[str, int], probes: Probes, metrics: Metrics, log: logging.Logger
    ) -> None:
        self.probes = probes
        self._metrics = metrics
        self._log = Log(log)
        self._listener = _listen(*address)
        self._listener.setblocking(False)
        self._selector = DefaultSelector()
        self._selector.register(self._listener, EVENT_READ)
        self._connections: dict[socket.socket, _Connection] = {}  # the oldest first
        self._accepts_at: float | None = None
        """When to accept again, if not now (`time.monotonic`)."""
        self._thread: Thread | None = None
        self._closed = False
        fork.register(self)

    @property
    def url(self) -> str:
        """Where it listens: "http://127.0.0.1:7431"."""
        host, port = self._listener.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def fileno(self) -> int:
        """Return a descriptor that can be read when there is something to do."""
        return self._selector.fileno()

    def due(self) -> float | None:
        """When to call `serve` at the latest (`time.monotonic`); None if nothing is under way."""
        if self._closed:
            return None
        times = [each.deadline for each in self._connections.values()]
        if self._accepts_at is not None:
            times.append(self._accepts_at)
        return min(times, default=None)

    def start(self) -> None:
        """Serve in a thread, until `close`; RuntimeError if the system gives no more threads."""
        thread = Thread(target=self._run, name="faktory-health", daemon=True)
        thread.start()
        self._thread = thread

    def close(self) -> None:
        """Stop serving, and close all connections."""
        self._closed = True
        if self._thread is None:
            self._close()
            return
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._thread.join()

    def reset_after_fork(self) -> None:
        """Close everything, in the child; the parent goes on."""
        self._closed = True
        self._close()

    def _close(self) -> None:
        # Not by `unregister`: a child shares its parent's epoll.
        for sock in (self._listener, *self._connections):
            sock.close()
        self._connections.clear()
        with suppress(OSError):
            self._selector.close()

    def _run(self) -> None:
        while not self._closed:
            due = self.due()
            self.serve(1.0 if due is None else min(max(0.0, due - monotonic()), 1.0))
        self._close()

    def serve(self, timeout: float = 0.0) -> None:
        """Do what can be done now, after a wait of `timeout` seconds at most. Never raises."""
        if self._closed:
            return
        try:
            self._serve(timeout)
        except Exception:
            self._log.exception("an error of the health server itself, please report it")

    def _serve(self, timeout: float) -> None:
        ready = self._selector.select(timeout)
        now = monotonic()
        for key, _ in ready:
            if key.fileobj is self._listener:
                self._accept(now)
            elif (connection := self._connections.get(key.fileobj)) is not None:  # type: ignore[call-overload]
                self._go_on(connection, now)
        for connection in [each for each in self._connections.values() if each.deadline <= now]:
            self._end(connection)
        if self._accepts_at is not None and now >= self._accepts_at:
            self._accepts_at = None
            self._selector.register(self._listener, EVENT_READ)

    def _accept(self, now: float) -> None:
        for _ in range(BACKLOG):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._make_room(now)
                    return
                continue  # it was closed by its client meanwhile
            sock.setblocking(False)
            if len(self._connections) >= MAX_CONNECTIONS:
                self._end(next(iter(self._connections.values())))
            connection = _Connection(sock, now + REQUEST_TIMEOUT)
            self._connections[sock] = connection
            try:
                self._selector.register(sock, EVENT_READ)
            except OSError:  # the system has no more of what a selector takes
                self._end(connection)
                continue
            self._go_on(connection, now)  # most requests are there already

    def _make_room(self, now: float) -> None:
        """Go on with one open file more, or later: the system has no more."""
        if self._connections:
            self._end(next(iter(self._connections.values())))
            return
        self._selector.unregister(self._listener)
        self._accepts_at = now + PAUSE

    def _go_on(self, connection: _Connection, now: float) -> None:
        try:
            if not connection.answer and not connection.is_answered:
                if not connection.receive():
                    return
                connection.answer = _answer(bytes(connection.received), self._find)
            if connection.answer and not connection.send():
                self._selector.modify(connection.sock, EVENT_WRITE)
                return
            if not connection.is_answered:
                connection.finish(now + LINGER)
                self._selector.modify(connection.sock, EVENT_READ)
            connection.drain()
        except BlockingIOError:
            return
        except (OSError, EOFError):
            self._end(connection)

    def _end(self, connection: _Connection) -> None:
        del self._connections[connection.sock]
        with suppress(KeyError, ValueError, OSError):
            self._selector.unregister(connection.sock)
        connection.sock.close()

    def _find(self, path: str, accept: str) -> Answer:
        """Return the answer to a GET."""
        try:
            if path == "/livez":
                return _of_probe(self.probes.livez())
            if path == "/readyz":
                return _of_probe(self.probes.readyz())
            if path == "/metrics":
                return self._metrics(accept)
        except Exception as error:
            self._log.exception("%s cannot be answered", path)
            return as_json(500, {"reason": "error", "text": repr(error)[:1000]})
        text = "there are /livez, /readyz and /metrics"
        return as_json(404, {"reason": "not found", "text": text})


class _Connection:
    """One client, until its answer is sent."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.sock = sock
        self.deadline = deadline
        self.received = bytearray()
        self.answer = b""
        """What is left to be sent."""
        self.is_answered = False

    def receive(self) -> bool:
        """Read what has arrived; return whether the request is complete, or too long."""
        data = self.sock.recv(MAX_REQUEST + 1 - len(self.received))
        if not data:
            raise EOFError
        self.received += data
        ended = b"\n\r\n" in self.received or b"\n\n" in self.received
        return ended or len(self.received) > MAX_REQUEST

    def send(self) -> bool:
        """Send what can be sent now; return whether that is all."""
        with suppress(BlockingIOError):
            while self.answer:
                self.answer = self.answer[self.sock.send(self.answer) :]
        return not self.answer

    def finish(self, deadline: float) -> None:
        """Say that this was all."""
        self.is_answered = True
        self.deadline = deadline
        self.sock.shutdown(socket.SHUT_WR)

    def drain(self) -> None:
        """Read until the client closes: to close before that would take the answer from it."""
        for _ in range(16):
            if not self.sock.recv(65536):
                break
        raise EOFError


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on the first address of a host where that is possible."""
    error: OSError | None = None
    for family, _, _, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        try:
            return socket.create_server(address, family=family, backlog=BACKLOG)
        except OSError as failed:
            error = error or failed
    raise error or OSError(f"{host} has no address")


def _of_probe(probe: Probe) -> Answer:
    return as_json(HTTPStatus.OK if probe.passes else HTTPStatus.SERVICE_UNAVAILABLE, probe.body)


def _answer(request: bytes, find: Callable[[str, str], Answer]) -> bytes:
    """Return the bytes that answer any request."""
    if len(request) > MAX_REQUEST:
        request = b"GET / HTTP/1.0\r\n\r\n"
        page = as_json(431, {"reason": "too long", "text": f"at most {MAX_REQUEST} bytes"})
        return _Handler(request, lambda *_: page).written
    return _Handler(request, find).written


class _Handler(BaseHTTPRequestHandler):
    """Reads a request from memory, and answers it there."""

    def __init__(self, request: bytes, find: Callable[[str, str], Answer]) -> None:
        # Not the base's, which serves a socket.
        self._find = find
        self.rfile, output = BytesIO(request), BytesIO()
        self.wfile = output
        self.client_address = ("", 0)
        self.close_connection = True
        self.handle_one_request()
        self.written = output.getvalue()

    def do_GET(self) -> None:
        """Answer with what is at the path."""
        path = self.path.partition("?")[0]
        self._send(self._find(path, self.headers.get("Accept", "")))

    do_HEAD = do_GET

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Answer a request that cannot be read, or has another method."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            text = f"{self.command[:20]}: there are GET and HEAD"
            self._send(as_json(405, {"reason": "wrong method", "text": text}), Allow="GET, HEAD")
        else:
            self._send(as_json(code, {"reason": "wrong request", "text": message or ""}))

    def _send(self, page: Answer, **headers: str) -> None:
        self.request_version = "HTTP/1.0"  # also where none could be read
        self.send_response(page.status)
        headers = {"Content-Type": page.content_type, "Cache-Control": "no-store", **headers}
        for name, value in (*headers.items(), ("Content-Length", str(len(page.body)))):
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.body)

    def version_string(self) -> str:
        """Return what the header Server says."""
        return "faktory-worker"

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: probes come every few seconds."""

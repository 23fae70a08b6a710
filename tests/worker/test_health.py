"""The port of `--health`, whatever its clients do."""

from __future__ import annotations

import http.client
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import NamedTuple

import pytest

from faktory.worker import health
from faktory.worker.counts import Page
from faktory.worker.health import Answer, HealthServer
from faktory.worker.status import Probes

LOG = logging.getLogger("test.health")
LARGE = b"x" * 30_000_000
"""More than the system buffers between two sockets."""


class Served(NamedTuple):
    """An answer as a client sees it."""

    status: int
    headers: dict[str, str]
    body: bytes


Ask = Callable[..., Served]


def metrics(accept: str) -> Answer:
    if accept == "raise":
        raise KeyError("lost")
    return Answer(200, "text/plain", LARGE if accept == "large" else accept.encode())


@pytest.fixture
def server() -> Iterator[HealthServer]:
    page = Page()
    page.head[0] = 1.0
    server = HealthServer(("127.0.0.1", 0), Probes([page]), metrics, LOG)
    server.start()
    yield server
    server.close()
    assert not [each for each in threading.enumerate() if each.name == "faktory-health"]


@pytest.fixture
def ask(server: HealthServer) -> Ask:
    """`ask("/livez")`: send a request; return what is answered."""

    def ask(path: str, method: str = "GET", **headers: str) -> Served:
        client = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=20)
        client.request(method, path, headers=headers)
        answer = client.getresponse()
        found = Served(answer.status, dict(answer.getheaders()), answer.read())
        client.close()
        return found

    return ask


@pytest.fixture
def connect(server: HealthServer) -> Iterator[Callable[[], socket.socket]]:
    """`connect()`: open a connection, closed after the test."""
    port = int(server.url.rpartition(":")[2])
    with ExitStack() as stack:
        yield lambda: stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))


def read(sock: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionResetError):
        while data := sock.recv(65536):
            received += data
    return received


def test_a_probe_is_answered_by_its_status_and_a_reason_as_json(ask: Ask) -> None:
    livez, readyz = ask("/livez"), ask("/readyz?verbose")
    assert (livez.status, json.loads(livez.body)) == (200, {"reason": "alive"})
    assert (readyz.status, json.loads(readyz.body)) == (503, {"reason": "starting"})
    assert readyz.headers["Content-Type"] == "application/json"
    assert readyz.headers["Cache-Control"] == "no-store"
    assert readyz.headers["Server"] == "faktory-worker"


def test_head_has_the_headers_alone(ask: Ask) -> None:
    head, get = ask("/readyz", "HEAD"), ask("/readyz")
    assert head.status == get.status
    assert head.headers["Content-Length"] == get.headers["Content-Length"] == str(len(get.body))
    assert head.body == b""


@pytest.mark.parametrize("path", ["/", "/metricsx", "/livez/", "//", "/%2e%2e/livez"])
def test_another_path_is_answered_with_those_that_there_are(ask: Ask, path: str) -> None:
    answer = ask(path)
    assert answer.status == 404
    assert json.loads(answer.body)["text"] == "there are /livez, /readyz and /metrics"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get"])
def test_another_method_is_answered_with_those_that_there_are(ask: Ask, method: str) -> None:
    answer = ask("/livez", method)
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD"
    assert json.loads(answer.body)["reason"] == "wrong method"


def test_metrics_get_what_the_request_accepts(ask: Ask) -> None:
    assert ask("/metrics", Accept="this").body == b"this"


def test_an_error_is_an_answer_and_a_line_of_the_log(
    ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    answer = ask("/metrics", Accept="raise")
    assert answer.status == 500
    assert json.loads(answer.body) == {"reason": "error", "text": "KeyError('lost')"}
    assert "/metrics cannot be answered" in caplog.text
    assert ask("/livez").status == 200


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /livez HTTP/x\r\n\r\n", b"400"),
        (b"GET /livez HTTP/2.0\r\n\r\n", b"505"),
        (b"GET /livez HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", b"431"),
        (b"GET /" + b"x" * 9000, b"431"),
        (b"POST /livez HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"405"),
        (b"GET /livez HTTP/1.1\n\n", b"200"),
        (b"\x00\xff\xfe\r\n\r\n", b"400"),
    ],
)
def test_a_request_that_cannot_be_read_is_answered(
    connect: Callable[[], socket.socket], ask: Ask, request_: bytes, status: bytes
) -> None:
    sock = connect()
    sock.sendall(request_)
    assert read(sock).split()[1:2] == [status]
    assert ask("/livez").status == 200


def test_a_request_may_come_byte_by_byte(connect: Callable[[], socket.socket]) -> None:
    sock = connect()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in b"GET /livez HTTP/1.1\r\nHost: me\r\n\r\n":
        sock.sendall(bytes([byte]))
    assert read(sock).startswith(b"HTTP/1.0 200 ")


def test_a_large_answer_waits_for_its_reader_and_nobody_else_for_it(
    connect: Callable[[], socket.socket], ask: Ask
) -> None:
    sock = connect()
    sock.sendall(b"GET /metrics HTTP/1.0\r\nAccept: large\r\n\r\n")
    assert sock.recv(9) == b"HTTP/1.0 "
    assert ask("/livez").status == 200
    assert read(sock).endswith(b"\r\n\r\n" + LARGE)


def test_a_client_that_takes_too_long_is_closed(
    server: HealthServer,
    connect: Callable[[], socket.socket],
    ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
    wait_until: Callable[..., object],
) -> None:
    monkeypatch.setattr(health, "REQUEST_TIMEOUT", 0.2)
    silent, begun, reading = connect(), connect(), connect()
    begun.sendall(b"GET /livez HTTP/1.1\r\n")
    reading.sendall(b"GET /metrics HTTP/1.0\r\nAccept: large\r\n\r\n")
    assert read(silent) == read(begun) == b""
    assert len(read(reading)) < len(LARGE)
    wait_until(lambda: not server._connections)
    assert ask("/livez").status == 200


def test_a_thousand_slow_clients_keep_nobody_from_an_answer(
    server: HealthServer, connect: Callable[[], socket.socket], ask: Ask
) -> None:
    slow = []
    for number in range(1000):
        slow.append(connect())
        if number % 2:
            slow[-1].sendall(b"GET /livez HTTP/1.1\r\nHost: ")
        if number % 100 == 0:
            assert ask("/livez").status == 200
            assert ask("/readyz").status == 503
    assert len(server._connections) <= health.MAX_CONNECTIONS
    assert len([each for each in threading.enumerate() if each.name == "faktory-health"]) == 1
    assert ask("/metrics", Accept="x").body == b"x"


def test_clients_that_leave_at_any_moment_leave_nothing_open(
    server: HealthServer, ask: Ask, wait_until: Callable[..., object]
) -> None:
    port = int(server.url.rpartition(":")[2])
    for sent in (b"", b"GET", b"GET /livez HTTP/1.1\r\n\r\n", b"x" * 20000):
        for linger in (False, True):
            sock = socket.create_connection(("127.0.0.1", port))
            if linger:  # closed by a reset
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            with suppress(ConnectionError):
                sock.sendall(sent)
            sock.close()
    wait_until(lambda: not server._connections)
    assert ask("/livez").status == 200


def test_where_the_system_has_no_more_files_it_goes_on_later(
    server: HealthServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = server._listener
    refused = []

    class Full:
        def __getattr__(self, name: str) -> object:
            return getattr(listener, name)

        def accept(self) -> object:
            if len(refused) < 2:
                refused.append(1)
                raise OSError(24, "too many open files")
            return listener.accept()

    server._selector.unregister(listener)
    server._listener = Full()  # type: ignore[assignment]
    server._selector.register(server._listener, 1)
    monkeypatch.setattr(health, "PAUSE", 0.05)
    assert ask("/livez").status == 200
    assert refused == [1, 1]
    server._selector.unregister(server._listener)
    server._listener = listener
    server._selector.register(listener, 1)


def test_a_connection_that_cannot_be_waited_for_is_closed_and_others_are_served() -> None:
    server = HealthServer(("127.0.0.1", 0), Probes([Page()]), metrics, LOG)
    selector = server._selector

    class Full:
        def __getattr__(self, name: str) -> object:
            return getattr(selector, name)

        def register(self, *_: object) -> None:
            raise OSError(28, "no space left on device")  # of epoll: max_user_watches

    place = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    server._selector = Full()  # type: ignore[assignment]
    with socket.create_connection(place, 20) as sock:
        server.serve(5)
        assert read(sock) == b""
    server._selector = selector
    with socket.create_connection(place, 20) as sock:
        sock.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        server.serve(5)
        server.serve(5)
        assert read(sock).startswith(b"HTTP/1.0 200 ")
    server.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_the_port_closed_and_its_parent_goes_on(
    server: HealthServer,
    connect: Callable[[], socket.socket],
    ask: Ask,
    wait_until: Callable[..., object],
) -> None:
    begun = connect()
    wait_until(lambda: len(server._connections) == 1)
    descriptors = [server._listener.fileno(), *(each.fileno() for each in server._connections)]
    child = os.fork()
    if child == 0:
        still_open = 0
        for descriptor in descriptors:
            with suppress(OSError):
                os.fstat(descriptor)
                still_open += 1
        os._exit(still_open)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    begun.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
    assert read(begun).startswith(b"HTTP/1.0 200 ")
    assert ask("/livez").status == 200


def test_a_port_that_is_taken_is_an_error(server: HealthServer) -> None:
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(OSError, match="ddress already in use"):
        HealthServer(("127.0.0.1", port), server.probes, metrics, LOG)


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_it_listens_on_an_address_of_ipv6() -> None:
    try:
        server = HealthServer(("::1", 0), Probes([Page()]), metrics, LOG)
    except OSError as error:
        pytest.skip(f"no address ::1 here: {error}")
    assert server.url.startswith("http://[::1]:")
    server.close()


def test_it_is_served_where_there_is_no_thread_too() -> None:
    server = HealthServer(("127.0.0.1", 0), Probes([Page()]), metrics, LOG)
    assert server.due() is None
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), 20) as sock:
        server.serve(5)
        assert server.due() is not None
        sock.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        server.serve(5)
        assert read(sock).startswith(b"HTTP/1.0 200 ")
    server.serve(5)
    assert server.due() is None
    server.close()
    assert server.due() is None

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from faktory.server import EmbeddedServer
from faktory.server.web import live as live_module
from faktory.server.web.live import Live, to_event

from .support import Stream, Web, fail, push, served


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "INTERVAL", 0.1)
    monkeypatch.setattr(live_module, "MAX_PAUSE", 0.1)


@pytest.fixture
def web(server: EmbeddedServer) -> Iterator[Web]:
    with served(server) as web:
        yield web


def live_of(web: Web) -> Live:
    found = web.runner._app.close.__self__  # type: ignore[attr-defined]
    assert isinstance(found, Live)
    return found


def test_a_stream_has_the_page_at_once_and_when_it_changes(
    server: EmbeddedServer, web: Web
) -> None:
    stream = Stream(web, "/queues")
    headers = {name.lower(): value for name, value in stream.headers}
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["vary"] == "Accept"
    first = stream.event()
    assert first.startswith("<main")
    assert first.endswith("</main>")
    push(server, queue="fresh")
    assert "/queues/fresh" in stream.until("fresh")
    stream.close()


@pytest.mark.parametrize(
    "path", ["/", "/queues", "/queues/failing", "/busy", "/retries", "/scheduled", "/morgue"]
)
def test_all_pages_of_lists_are_live(
    server: EmbeddedServer, web: Web, path: str, dial: Callable[..., object]
) -> None:
    fail(server, ValueError("first"))
    stream = Stream(web, path)
    before = stream.event()
    fail(server, ValueError("second"))
    fail(server, ValueError("third"), retry=-1)
    push(server, at="2050-01-01T00:00:00Z")
    push(server, queue="failing")
    dial(wid="worker-9", pid=9)
    assert stream.event() != before
    stream.close()


def test_the_page_of_a_job_is_live_too(server: EmbeddedServer, web: Web) -> None:
    jid = push(server)
    stream = Stream(web, f"/jobs/{jid}")
    assert jid in stream.event()
    web.act("/queues/default", {"action": "clear"}, "/queues")
    stream.until("No such job")
    stream.close()


def test_a_search_is_not_live(web: Web) -> None:
    assert web.get("/search?q=x", Accept="text/event-stream").status == 204


def test_a_page_without_changes_is_sent_once_and_then_comments(
    server: EmbeddedServer, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "SILENCE", 0.2)
    push(server, at="2050-01-01T00:00:00Z")
    stream = Stream(web, "/scheduled")
    lines = []
    while lines.count(b": still here\n") < 3:
        lines.append(stream.response.readline())
    assert sum(b"<main" in line for line in lines) == 1
    stream.close()


def test_a_page_is_rendered_once_for_all_its_streams(server: EmbeddedServer, web: Web) -> None:
    streams = [Stream(web, "/queues") for _ in range(5)]
    for stream in streams:
        stream.event()
    assert len(live_of(web)._feeds) == 1
    other = Stream(web, "/queues?page=2")
    other.event()
    assert len(live_of(web)._feeds) == 2
    push(server, queue="fresh")
    for stream in (*streams, other):
        stream.until("fresh")
        stream.close()


def test_sixty_streams_starve_nothing_and_are_released(
    server: EmbeddedServer, web: Web, wait_until: Callable[..., object]
) -> None:
    live = live_of(web)
    with ExitStack() as stack:
        for number in range(60):
            stream = Stream(web, f"/queues?page={number % 7}")
            stack.callback(stream.close)
            stream.event()
        assert live.streams == 60
        assert web.get("/busy").status == 200
        push(server)
    wait_until(lambda: not live.streams and not live._feeds)
    wait_until(lambda: len(web.runner._server.server_state.connections) <= 1)


def test_a_stream_that_is_closed_in_the_middle_is_released(
    server: EmbeddedServer, web: Web, wait_until: Callable[..., object]
) -> None:
    for each in range(200):
        push(server, "x" * 250, each)
    live = live_of(web)
    for _ in range(5):
        sock = web.connect()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
        sock.sendall(
            b"GET /queues/default?count=500 HTTP/1.1\r\nHost: localhost\r\n"
            b"Accept: text/event-stream\r\n\r\n"
        )
        sock.recv(10)
        sock.close()
    wait_until(lambda: not live.streams and not live._feeds)
    assert web.get("/").status == 200


def test_there_are_not_more_streams_than_the_limit(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "MAX_STREAMS", 2)
    streams = [Stream(web, "/queues") for _ in range(2)]
    for stream in streams:
        stream.event()
    assert web.ask_any("/queues").status == 200
    refused = Stream(web, "/queues")
    assert refused.response.status == 503
    for stream in (*streams, refused):
        stream.close()


def test_streams_end_with_the_pages(server: EmbeddedServer) -> None:
    with served(server) as web:
        streams = [Stream(web, "/queues") for _ in range(3)]
        for stream in streams:
            stream.event()
    for stream in streams:
        assert stream.event() == ""
        stream.close()


@pytest.mark.parametrize("durable", [False, True])
def test_streams_end_with_the_server_and_pages_come_back_with_it(
    tmp_path_factory: pytest.TempPathFactory, durable: bool
) -> None:
    data = tmp_path_factory.mktemp("data") / "jobs.db" if durable else None
    server = EmbeddedServer(data=data)
    server.start()
    with served(server) as web:
        push(server, queue="kept")
        stream = Stream(web, "/queues")
        stream.until("kept")
        server.stop()
        while stream.event():
            pass
        stream.close()
        assert web.ask_any("/queues").status == 503
        assert web.ask_any("/health").status == 503
        server.start()
        assert "kept" in web.get("/queues").text
        assert web.get("/health").status == 200
        stream = Stream(web, "/queues")
        stream.until("kept")
        stream.close()
        server.stop()


def test_an_event_has_each_line_as_data() -> None:
    assert to_event("a\nb\r\nc\rd\x0be\u2028f") == (
        "data: a\ndata: b\ndata: c\ndata: d\x0be\u2028f\n\n".encode()
    )

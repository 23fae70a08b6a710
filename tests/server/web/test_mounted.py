"""The pages in a program of somebody else: mounted, in another loop, without lifespan."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from faktory.server import EmbeddedServer

from .support import Stream, Web, application, push, serving

PASSWORD = {"Authorization": f"Basic {b64encode(b'any:geheim').decode()}"}


class Program:
    """An application that has the pages at a path."""

    def __init__(self, server: EmbeddedServer, **options: Any) -> None:
        from starlette.applications import Starlette
        from starlette.routing import Mount

        self.pages = application(server, **options)
        self._app = Starlette(routes=[Mount("/admin/jobs", self.pages)])

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)

    def close(self) -> None:
        self.pages.close()


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(password="geheim") as server:
        yield server


def mounted(server: EmbeddedServer, **options: Any) -> AbstractContextManager[Web]:
    return serving(Program(server, **options))


def test_all_links_and_forms_have_the_prefix(server: EmbeddedServer) -> None:
    jid = push(server)
    with mounted(server) as web:
        page = web.get("/admin/jobs/queues", **PASSWORD)
        assert page.status == 200
        assert 'href="/admin/jobs/static/page.css"' in page.text
        assert 'action="/admin/jobs/queues/default"' in page.text
        for path in ("/", "/busy", "/queues/default", "/retries", f"/jobs/{jid}", "/search?q=work"):
            found = web.get(f"/admin/jobs{path}", **PASSWORD)
            assert found.status == 200
            assert 'href="/queues' not in found.text
        assert web.get("/admin/jobs/static/page.js", **PASSWORD).status == 200
        assert web.get("/admin/jobs/nothing", **PASSWORD).status == 404
        moved = web.get("/admin/jobs/retries/x%7Cabcdefgh", **PASSWORD)
        assert moved["location"] == "/admin/jobs/jobs/abcdefgh"


def test_a_form_works_below_the_prefix(server: EmbeddedServer) -> None:
    push(server)
    with mounted(server) as web:
        token = web.get("/admin/jobs/queues", **PASSWORD).token
        done = web.post(
            "/admin/jobs/queues/default",
            {"token": token, "action": "clear"},
            Referer=f"{web.origin}/admin/jobs/queues",
            **PASSWORD,
        )
        assert done.status == 303
        assert done["location"].startswith("/admin/jobs/queues?done=")
        assert "1 job was deleted" in web.get(done["location"], **PASSWORD).text
        assert server.sizes["queued"] == 0


def test_the_password_of_the_server_is_asked_for(server: EmbeddedServer) -> None:
    with mounted(server) as web:
        assert web.get("/admin/jobs/").status == 401
        assert web.get("/admin/jobs/stats").status == 401
        assert web.get("/admin/jobs/health").status == 200


def test_it_may_be_read_only(server: EmbeddedServer) -> None:
    push(server)
    with mounted(server, read_only=True) as web:
        assert 'method="post"' not in web.get("/admin/jobs/queues", **PASSWORD).text
        assert web.post("/admin/jobs/queues/default", {}, **PASSWORD).status == 403


def test_a_program_may_know_a_prefix_that_its_proxy_takes_away(server: EmbeddedServer) -> None:
    jid = push(server)
    program = Program(server)

    class Behind:
        close = program.close

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await program({**scope, "root_path": "/proxy"}, receive, send)

    with serving(Behind()) as web:
        for path in ("/admin/jobs", "/proxy/admin/jobs"):
            assert web.get(f"{path}/health").status == 200
            assert web.get(f"{path}/jobs/{jid}", **PASSWORD).status == 200
            page = web.get(f"{path}/queues", **PASSWORD)
            assert page.status == 200
            assert 'action="/proxy/admin/jobs/queues/default"' in page.text


def test_streams_have_the_prefix_too() -> None:
    with EmbeddedServer() as server, mounted(server) as web:
        push(server)
        stream = Stream(web, "/admin/jobs/queues")
        assert 'href="/admin/jobs/queues/default"' in stream.event()
        stream.close()


def test_a_lifespan_is_not_needed_and_does_no_harm(server: EmbeddedServer) -> None:
    app = application(server)
    sent: list[str] = []

    async def run() -> None:
        messages = iter(("lifespan.startup", "lifespan.shutdown"))

        async def receive() -> Any:
            return {"type": next(messages)}

        async def send(message: Any) -> None:
            sent.append(message["type"])

        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)

    asyncio.run(run())
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_a_websocket_is_refused(server: EmbeddedServer) -> None:
    sent: list[str] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(application(server)({"type": "websocket"}, send, send))  # type: ignore[arg-type]
    assert sent == ["websocket.close"]


@pytest.mark.parametrize("durable", [False, True])
def test_the_server_may_stop_and_start_again(tmp_path: Path, durable: bool) -> None:
    server = EmbeddedServer(data=tmp_path / "jobs.db" if durable else None)
    with mounted(server) as web:
        assert web.ask_any("/admin/jobs/").status == 503
        assert web.ask_any("/admin/jobs/health").status == 503
        for _ in range(2):
            with server:
                push(server)
                assert web.get("/admin/jobs/queues").status == 200
            assert web.ask_any("/admin/jobs/queues").status == 503
            stats = web.ask_any("/admin/jobs/stats")
            assert stats.status == 503
            assert "frame-ancestors" in stats["content-security-policy"]

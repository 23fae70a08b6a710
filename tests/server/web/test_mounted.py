"""The pages in a program of somebody else: mounted, in another loop, without lifespan."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from faktory.server import EmbeddedServer

from .support import push

pytest.importorskip("httpx", reason="Starlette's TestClient needs httpx")

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from faktory.server.web import application


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(password="geheim") as server:
        yield server


def mounted(server: EmbeddedServer, **options: bool) -> TestClient:
    app = Starlette(routes=[Mount("/admin/jobs", application(server, **options))])
    return TestClient(app, auth=("any", "geheim"), follow_redirects=False)


def test_all_links_and_forms_have_the_prefix(server: EmbeddedServer) -> None:
    jid = push(server)
    client = mounted(server)
    page = client.get("/admin/jobs/queues")
    assert page.status_code == 200
    assert 'href="/admin/jobs/static/page.css"' in page.text
    assert 'action="/admin/jobs/queues/default"' in page.text
    for path in ("/", "/busy", "/queues/default", "/retries", f"/jobs/{jid}", "/search?q=work"):
        found = client.get(f"/admin/jobs{path}")
        assert found.status_code == 200
        assert 'href="/queues' not in found.text
    assert client.get("/admin/jobs/static/page.js").status_code == 200
    assert client.get("/admin/jobs/nothing").status_code == 404


def test_a_form_works_below_the_prefix(server: EmbeddedServer) -> None:
    push(server)
    client = mounted(server)
    token = client.get("/admin/jobs/queues").text.split('name="token" value="')[1].split('"')[0]
    done = client.post(
        "/admin/jobs/queues/default",
        data={"token": token, "action": "clear"},
        headers={"Origin": "http://testserver", "Referer": "http://testserver/admin/jobs/queues"},
    )
    assert done.status_code == 303
    assert done.headers["location"].startswith("/admin/jobs/queues?done=")
    assert "1 job was deleted" in client.get(done.headers["location"]).text
    assert server.sizes["queued"] == 0


def test_the_password_of_the_server_is_asked_for(server: EmbeddedServer) -> None:
    client = mounted(server)
    client.auth = None
    assert client.get("/admin/jobs/").status_code == 401
    assert client.get("/admin/jobs/health").status_code == 200
    client.auth = ("any", "wrong")
    assert client.get("/admin/jobs/stats").status_code == 401


def test_it_may_be_read_only(server: EmbeddedServer) -> None:
    push(server)
    client = mounted(server, read_only=True)
    assert 'method="post"' not in client.get("/admin/jobs/queues").text
    assert client.post("/admin/jobs/queues/default", data={}).status_code == 403


def test_a_lifespan_is_not_needed_and_does_no_harm(server: EmbeddedServer) -> None:
    app = application(server)
    with TestClient(app, auth=("any", "geheim")) as client:
        assert client.get("/").status_code == 200


@pytest.mark.parametrize("durable", [False, True])
def test_the_server_may_stop_and_start_again(tmp_path: Path, durable: bool) -> None:
    server = EmbeddedServer(password="geheim", data=tmp_path / "jobs.db" if durable else None)
    client = mounted(server)
    assert client.get("/admin/jobs/").status_code == 503
    assert client.get("/admin/jobs/health").status_code == 503
    for _ in range(2):
        with server:
            push(server)
            assert client.get("/admin/jobs/queues").status_code == 200
        assert client.get("/admin/jobs/queues").status_code == 503
        stats = client.get("/admin/jobs/stats")
        assert stats.status_code == 503
        assert "frame-ancestors" in stats.headers["content-security-policy"]

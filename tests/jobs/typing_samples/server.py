"""An embedded server as type checkers see it; for mypy and pyright only, never run."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

from starlette.applications import Starlette
from starlette.routing import Mount

from faktory.server import EmbeddedServer, web


def with_a_file(path: Path) -> None:
    with EmbeddedServer(data=path) as server:
        assert_type(server, EmbeddedServer)
        assert_type(server.sizes, dict[str, int])
        server.on_failure = print
    EmbeddedServer("127.0.0.1:0", data="jobs.db", sync="normal", enterprise=True)
    EmbeddedServer(data=path, sync="off")  # type: ignore[arg-type]
    EmbeddedServer(data=1)  # type: ignore[arg-type]


def in_a_browser(server: EmbeddedServer) -> Starlette:
    app = web.application(server, read_only=True, hosts=["jobs.example.com"])
    web.application(server, True)  # type: ignore[misc]
    web.application("tcp://localhost")  # type: ignore[arg-type]
    return Starlette(routes=[Mount("/jobs", app)])

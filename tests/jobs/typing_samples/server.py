"""An embedded server as type checkers see it; for mypy and pyright only, never run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, assert_type

from faktory.server import EmbeddedServer, web
from faktory.server.lookup import Found
from faktory.server.slices import Steps
from faktory.server.state import ServerState

Message = MutableMapping[str, Any]
ASGIApplication = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]


def with_a_file(path: Path) -> None:
    with EmbeddedServer(data=path) as server:
        assert_type(server, EmbeddedServer)
        assert_type(server.sizes, dict[str, int])
        assert_type(server.is_running, bool)
        server.on_failure = print
    EmbeddedServer("127.0.0.1:0", data="jobs.db", sync="normal", enterprise=True)
    assert_type(EmbeddedServer().start(), EmbeddedServer)
    EmbeddedServer(data=path, sync="off")  # type: ignore[arg-type]
    EmbeddedServer(data=1)  # type: ignore[arg-type]


def in_a_browser(server: EmbeddedServer) -> None:
    app: ASGIApplication = web.application(server, read_only=True, hosts=["jobs.example.com"])
    assert callable(app)
    web.application(server, True)  # type: ignore[call-arg]
    web.application("tcp://localhost")  # type: ignore[arg-type]


def hits(state: ServerState) -> Steps[int]:
    yield
    return len((yield from state.store.search("boom", 10)).found)


def works(server: EmbeddedServer) -> None:
    assert_type(server.perform(hits), Future[int])
    assert_type(server.perform(lambda state: state.store.find("jid")), Future[list[Found]])

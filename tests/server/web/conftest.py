from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from faktory.server import EmbeddedServer

if TYPE_CHECKING:
    from .support import Web


@pytest.fixture(scope="session")
def running() -> Iterator[tuple[EmbeddedServer, Web]]:
    """One server with its pages for all tests: they take a third of a second to stop."""
    from .support import served

    with EmbeddedServer() as server, served(server) as web:
        yield server, web


@pytest.fixture
def server(running: tuple[EmbeddedServer, Web]) -> EmbeddedServer:
    """A server in memory, without jobs."""
    running[0].reset()
    return running[0]


@pytest.fixture
def web(server: EmbeddedServer, running: tuple[EmbeddedServer, Web]) -> Web:
    """Its pages."""
    return running[1]


@pytest.fixture(params=["memory", "file"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A server in memory, and one with a file."""
    data = tmp_path / "jobs.db" if request.param == "file" else None
    with EmbeddedServer(data=data, sync="normal") as server:
        yield server

"""Fixtures of the tests of Django."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from faktory import Client
from faktory.server import EmbeddedServer
from faktory.server.state import Timing

from .support import Project


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    """A server whose FETCH takes 0.1 s, not 2: a worker that stops waits for it."""
    with EmbeddedServer(timing=Timing(fetch_wait=0.1)) as server:
        yield server


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[Client]:
    """A client of the server."""
    with Client(server.url) as client:
        yield client


@pytest.fixture
def project(tmp_path: Path, server: EmbeddedServer) -> Project:
    """The project, with a database file, and the server to push to."""
    project = Project(tmp_path, server.url)
    project.migrate()
    return project

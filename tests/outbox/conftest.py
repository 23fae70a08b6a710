from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from faktory.server import EmbeddedServer

from ..contrib.postgres import Postgres
from .support import AppDatabase


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AppDatabase]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        path = tmp_path / "app.db"
        with AppDatabase("sqlite", lambda: sqlite3.connect(path, timeout=20)) as app:
            yield app
        return
    cluster: Postgres = request.getfixturevalue("running_postgres")
    with (
        cluster.database() as name,
        AppDatabase("postgresql", lambda: cluster.connect(name)) as app,
    ):
        yield app

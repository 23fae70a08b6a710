from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from faktory.server import EmbeddedServer

from ..contrib.postgres import Postgres
from .support import Place


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        path = tmp_path / "app.db"
        with Place("sqlite", lambda: sqlite3.connect(path, timeout=20)) as place:
            yield place
        return
    cluster: Postgres = request.getfixturevalue("running_postgres")
    with (
        cluster.database() as name,
        Place("postgresql", lambda: cluster.connect(name)) as place,
    ):
        yield place

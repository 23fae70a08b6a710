"""The outbox of a Django project: its table, `add`, the admin page, and the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from faktory.server import EmbeddedServer

from .postgres import Postgres

pytest.importorskip("django", reason="needs Django (extra test)")

PROJECT = Path(__file__).parent / "outbox_project"


class Project:
    """The project in a process of its own for each command."""

    def __init__(self, databases: dict[str, Any], server: EmbeddedServer) -> None:
        kept = {name: text for name, text in os.environ.items() if not name.startswith("DJANGO")}
        self.environment = {
            **kept,
            "SHOP_DATABASES": json.dumps(databases),
            "FAKTORY_URL": server.url,
            "PYTHONWARNINGS": "error::ResourceWarning",
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "manage.py", *words],
            cwd=PROJECT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: str, code: int = 0) -> str:
        with self.start(*words) as process:
            output, _ = process.communicate(timeout=100)
        assert process.returncode == code, output
        return output


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        yield server


def settings(engine: str, **more: Any) -> dict[str, Any]:
    return {"ENGINE": f"django.db.backends.{engine}", **more}


@pytest.fixture
def sqlite(tmp_path: Path, server: EmbeddedServer) -> Project:
    """A project with two empty databases."""
    databases = {
        name: settings(
            "sqlite3",
            NAME=str(tmp_path / f"{name}.db"),
            TEST={"NAME": str(tmp_path / f"test-{name}.db")},
        )
        for name in ("default", "second")
    }
    return Project(databases, server)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.soak)])
def project(request: pytest.FixtureRequest, server: EmbeddedServer) -> Iterator[Project]:
    """The same for each database."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite")
        return
    cluster: Postgres = request.getfixturevalue("running_postgres")
    with cluster.database() as first, cluster.database() as second:
        databases = {
            name: settings("postgresql", NAME=database, HOST=str(cluster.folder), USER="test")
            for name, database in {"default": first, "second": second}.items()
        }
        yield Project(databases, server)


def jids(server: EmbeddedServer) -> list[str]:
    return [job["jid"] for job in server.queues.get("default", [])]


def test_the_tests_of_the_project_pass(project: Project) -> None:
    """On SQLite with an outbox in each database, on PostgreSQL in one, by a router."""
    project.environment["SHOP_ADMIN"] = "1"
    if "postgresql" in project.environment["SHOP_DATABASES"]:
        project.environment["SHOP_ROUTER"] = "1"
    assert "OK" in project.run("test", "--noinput")


def test_the_command_relays_each_database_until_it_is_terminated(
    project: Project, server: EmbeddedServer, wait_until: Callable[..., object]
) -> None:
    project.run("prepare")
    project.run("order", "jid-rolled-back", "--fail")
    project.run("order", "jid-committed-1")
    server.stop()
    with project.start("faktory_outbox") as relay:
        assert relay.stdout is not None
        assert "cannot push now, trying until it can" in relay.stdout.readline()
        server.start()
        wait_until(lambda: jids(server) == ["jid-committed-1"], timeout=60)
        project.run("order", "jid-committed-2", "--using", "second")
        wait_until(lambda: jids(server) == ["jid-committed-1", "jid-committed-2"])
        relay.send_signal(signal.SIGTERM)
        output, _ = relay.communicate(timeout=20)
    assert relay.returncode == 0, output


def test_an_empty_default_database_is_left_out(sqlite: Project) -> None:
    databases = json.loads(sqlite.environment["SHOP_DATABASES"])
    sqlite.environment["SHOP_DATABASES"] = json.dumps({**databases, "default": {}})
    sqlite.run("migrate", "--database", "second")
    assert sqlite.run("faktory_outbox", "--once") == "second: 0 jobs are pushed.\n"


def test_adding_without_the_app_says_what_to_do() -> None:
    script = (
        "from django.conf import settings; settings.configure(); import django; django.setup()\n"
        "from faktory.contrib.django.outbox import add; add({'jobtype': 'x', 'args': []})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "'faktory.contrib.django.outbox' is not in INSTALLED_APPS: add it" in done.stderr

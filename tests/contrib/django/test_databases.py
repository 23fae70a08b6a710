"""Connections to databases in a worker: one that died is replaced, none stays open."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from faktory import Client
from faktory.server import EmbeddedServer

from ..postgres import Postgres
from .support import Project, jobs_in

Wait = Callable[..., object]

ACTIVITY = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"


@pytest.fixture
def on_postgres(
    tmp_path: Path, server: EmbeddedServer, running_postgres: Postgres
) -> Iterator[tuple[Project, Callable[..., list[tuple[object]]]]]:
    """The project on PostgreSQL, and a function that asks its database."""
    with running_postgres.database() as name:
        project = Project(tmp_path, server.url)
        database = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": name,
            "HOST": str(running_postgres.folder),
            "USER": "test",
            "CONN_MAX_AGE": None,
        }
        project.env["DATABASE"] = json.dumps(database)
        connection = running_postgres.connect(name, autocommit=True)
        create = "id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text"
        connection.execute(f"CREATE TABLE shop_note ({create})")

        def ask(query: str, *args: object) -> list[tuple[object]]:
            return connection.execute(query, args or None).fetchall()

        def activity() -> list[tuple[object]]:
            return ask(ACTIVITY, name)

        ask.activity = activity  # type: ignore[attr-defined]
        yield project, ask
        connection.close()


@contextmanager
def working(project: Project, *args: str) -> Iterator[subprocess.Popen[str]]:
    with project.start("faktory", *args) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output


def test_a_job_works_after_the_database_has_closed_the_connection(
    on_postgres: tuple[Project, Callable[..., list[tuple[int]]]], client: Client, wait_until: Wait
) -> None:
    project, ask = on_postgres

    def count() -> int:
        return ask("SELECT count(*) FROM shop_note")[0][0]

    def push(jobtype: str, *args: object) -> None:
        done = count() + 1
        client.push({"jobtype": jobtype, "args": list(args)})
        wait_until(lambda: count() == done)

    with working(project, "-c", "1"):
        push("shop.tasks.which_connection")
        push("shop.tasks.which_connection")
        ((first,), (second,)) = ask("SELECT text FROM shop_note ORDER BY id")
        assert first == second  # the connection is kept, by CONN_MAX_AGE
        pid = int(str(first).removeprefix("served by "))
        assert ask("SELECT pg_terminate_backend(%s, 10000)", pid) == [(True,)]
        push("shop.tasks.note", "after that")
        push("shop.tasks.which_connection")
        push("count", "by a job of this package")
    texts = [text for (text,) in ask("SELECT text FROM shop_note ORDER BY id")]
    assert texts[2] == "after that"
    assert texts[3] != first
    assert client.info()["faktory"]["total_failures"] == 0
    wait_until(lambda: not ask.activity())  # type: ignore[attr-defined]


@pytest.mark.soak
def test_1000_async_tasks_leave_no_connection_to_postgresql(
    on_postgres: tuple[Project, Callable[..., list[tuple[int]]]], client: Client, wait_until: Wait
) -> None:
    project, ask = on_postgres
    tasks = [{"jobtype": "shop.tasks.alook", "args": [number]} for number in range(1000)]
    client.push_bulk(tasks)
    with working(project, "-c", "10"):
        wait_until(lambda: client.info()["faktory"]["total_processed"] == 1000, timeout=100)
        wait_until(lambda: not ask.activity())  # type: ignore[attr-defined]
    assert jobs_in(client.info()) == {"Retries": 0, "Dead": 0}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc, to see open files")
def test_300_async_tasks_leave_no_file_of_sqlite_open(
    project: Project, client: Client, wait_until: Wait
) -> None:
    tasks = [{"jobtype": "shop.tasks.alook", "args": [number]} for number in range(299)]
    client.push_bulk([*tasks, {"jobtype": "acount", "args": ["all"]}])
    with working(project, "-c", "10") as process:
        wait_until(lambda: client.info()["faktory"]["total_processed"] == 300, timeout=100)

        def open_files() -> list[str]:
            folder = Path(f"/proc/{process.pid}/fd")
            links = []
            for each in folder.iterdir():
                try:
                    links.append(os.readlink(each))
                except FileNotFoundError:
                    continue
            return [link for link in links if link.startswith(str(project.database))]

        wait_until(lambda: not open_files())
        threads = len(list(Path(f"/proc/{process.pid}/task").iterdir()))
        assert threads < 40
    assert jobs_in(client.info()) == {"Retries": 0, "Dead": 0}
    assert project.notes() == ["counted all on the loop"]

"""The block of docs/outbox.md that needs PostgreSQL; tests/test_docs.py runs the others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import faktory
from faktory.outbox import Outbox

from ..contrib.postgres import Postgres

PAGE = Path(__file__).parents[2] / "docs" / "outbox.md"


def test_the_block_about_psycopg_runs(running_postgres: Postgres, server) -> None:
    (block,) = re.findall(r"```text\n(import psycopg\n.*?)```", PAGE.read_text("utf-8"), re.S)
    with running_postgres.database() as name:
        place = " ".join(f"{key}={value}" for key, value in running_postgres.settings(name).items())
        connection = running_postgres.connect(name)
        connection.execute("CREATE TABLE orders (id serial, item text)")
        connection.commit()
        connection.close()
        Outbox(lambda: running_postgres.connect(name)).create_table()
        names: dict[str, Any] = {"Outbox": Outbox, "confirm": faktory.external("confirm")}
        exec(block.replace("dbname=shop", place), names)
        url = server.url
        assert Outbox(lambda: running_postgres.connect(name), faktory=url).relay_once() == 1
    assert [job["args"] for job in server.queues["default"]] == [[1]]


def test_the_sql_of_the_page_is_that_of_the_module() -> None:
    page = PAGE.read_text("utf-8")
    assert Outbox(lambda: None, dialect="postgresql").ddl in page  # type: ignore[arg-type]

"""The outbox as type checkers see it; never run. See jobs.py."""

from __future__ import annotations

import sqlite3
from threading import Event
from typing import assert_type

import faktory
from faktory.outbox import Outbox


@faktory.job
def confirm(order: int) -> None: ...


def connect() -> sqlite3.Connection:
    return sqlite3.connect("shop.db")


def uses(stop: Event) -> None:
    outbox = Outbox(connect)
    Outbox(connect, "app.jobs", "qmark", dialect="sqlite", faktory="tcp://a:7419", notify=False)
    Outbox(lambda: sqlite3.connect("shop.db"), table="jobs", paramstyle="named")
    cursor = connect().cursor()
    assert_type(outbox.add(cursor, confirm.message(1)), str)
    assert_type(outbox.add(cursor, faktory.chain(confirm.message(1), confirm.message(2))), str)
    assert_type(outbox.add(cursor, {"jobtype": "confirm", "args": [1]}), str)
    assert_type(outbox.relay_once(batch=10), int)
    assert_type(outbox.ddl, str)
    outbox.relay(stop)
    outbox.create_table()


def wrong(outbox: Outbox, stop: Event) -> None:
    Outbox("shop.db")  # type: ignore[arg-type]
    Outbox(connect, paramstyle="dollar")  # type: ignore[arg-type]
    outbox.add(connect().cursor(), "confirm")  # type: ignore[arg-type]
    outbox.add(connect().cursor())  # type: ignore[call-arg]
    outbox.relay()  # type: ignore[call-arg]

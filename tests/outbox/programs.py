"""Programs that the tests of crashes start, and kill: python programs.py write|relay DATABASE ...

write DATABASE ROWS SEED   commits transactions, rolls some back, until there are so many orders
relay DATABASE URL         relays until it is killed

DATABASE is JSON: {"kind": "sqlite", "path": ...}, or {"kind": "postgresql"} with the settings of
psycopg.
An order and its job are written in one transaction: the orders are the jobs that have to run.
"""

from __future__ import annotations

import json
import logging
import random
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event
from typing import Any

import faktory
from faktory.outbox import Outbox

BATCH = 100


@faktory.job
def order(number: int) -> None: ...


def connector(database: str) -> Callable[[], Any]:
    settings = json.loads(database)
    if settings.pop("kind") == "sqlite":

        def connect() -> Any:
            connection = sqlite3.connect(settings["path"], timeout=30)
            connection.execute("PRAGMA journal_mode=WAL")
            return connection

        return connect
    import psycopg

    return lambda: psycopg.connect(**settings)


def create(connect: Callable[[], Any]) -> None:
    Outbox(connect).create_table()
    connection = connect()
    connection.execute("CREATE TABLE orders (jid varchar(255) NOT NULL)")
    connection.commit()
    connection.close()


def orders(connect: Callable[[], Any], table: str = "orders") -> list[str]:
    """Return the jids of all committed orders, or of the rows of the outbox."""
    connection = connect()
    try:
        return [jid for (jid,) in connection.execute(f"SELECT jid FROM {table}").fetchall()]
    finally:
        connection.close()


def transact(connection: Any, outbox: Outbox, rng: random.Random) -> None:
    """Write some orders with their jobs in one transaction; roll one in four back."""
    mark = "?" if isinstance(connection, sqlite3.Connection) else "%s"
    cursor = connection.cursor()
    for _ in range(rng.randint(1, 8)):
        jid = outbox.add(cursor, order.message(rng.randint(1, 99)))
        cursor.execute(f"INSERT INTO orders (jid) VALUES ({mark})", (jid,))
    if rng.random() < 0.25:
        connection.rollback()
    else:
        connection.commit()


def write(database: str, rows: int, seed: str) -> None:
    connect = connector(database)
    outbox, rng = Outbox(connect), random.Random(seed)
    while True:
        with suppress(Exception):  # the database is away
            connection = connect()
            with suppress(Exception):
                for _ in range(50):
                    transact(connection, outbox, rng)
                    time.sleep(rng.uniform(0, 0.004))
            connection.close()
            if len(orders(connect)) >= rows:
                return
        time.sleep(0.05)


def main() -> None:
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    match sys.argv[1:]:
        case ["write", database, rows, seed]:
            write(database, int(rows), seed)
        case ["relay", database, url]:
            Outbox(connector(database), faktory=url).relay(Event(), BATCH)
        case _:
            sys.exit(f"unknown: {sys.argv}")


if __name__ == "__main__":
    main()

"""Jobs that are written with the data that they are about: python examples/outbox.py

This starts the embedded server, a worker and a relay. The database is an SQLite in a temporary
folder.
"""

import sqlite3
import tempfile
from pathlib import Path
from threading import Event, Thread

import faktory
from faktory.outbox import Outbox
from faktory.server import EmbeddedServer

confirmed = Event()


@faktory.job
def confirm(order: int, item: str) -> None:
    print(f"order {order} is confirmed: {item}", flush=True)
    confirmed.set()


def order(db: sqlite3.Connection, outbox: Outbox, item: str) -> None:
    """Write an order and its job: both, or neither."""
    with db:  # a transaction
        cursor = db.execute("INSERT INTO orders (item) VALUES (?)", (item,))
        outbox.add(cursor, confirm.message(cursor.lastrowid, item))
        if item == "nothing":
            raise ValueError("the order is empty")


with EmbeddedServer() as server, tempfile.TemporaryDirectory() as folder:

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(Path(folder) / "shop.db", timeout=20)

    outbox = Outbox(connect, faktory=server.url)
    outbox.create_table()
    db = connect()
    db.execute("CREATE TABLE orders (id integer PRIMARY KEY, item text)")

    try:
        order(db, outbox, "nothing")
    except ValueError as error:
        print(f"rolled back, and no job is sent: {error}")
    order(db, outbox, "a cup")
    db.close()

    worker = faktory.Worker(server.url, concurrency=1)
    stop = Event()
    threads = [Thread(target=worker.run), Thread(target=outbox.relay, args=(stop,))]
    for thread in threads:
        thread.start()
    confirmed.wait(10)
    stop.set()
    worker.stop()
    for thread in threads:
        thread.join()
    print(f"orders that wait for a confirmation: {outbox.relay_once()}")

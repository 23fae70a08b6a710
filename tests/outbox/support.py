"""A database with an outbox, and relays that run in threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Self

import faktory
from faktory.outbox import Outbox


@faktory.job(queue="mail", retry=3)
def welcome(user: int, text: str = "") -> None: ...


class AppDatabase:
    """A database, and a connection of the program to it."""

    settings: dict[str, Any] = {}
    """Of a connection to PostgreSQL."""

    def __init__(self, kind: str, connect: Callable[[], Any]) -> None:
        self.kind = kind
        self.connect = connect

    def __enter__(self) -> Self:
        self.outbox().create_table()
        self.program = self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.program.close()

    def outbox(self, server: Any = None, **options: Any) -> Outbox:
        url = None if server is None else server.url
        return Outbox(options.pop("connect", self.connect), faktory=url, **options)

    def add(self, *messages: Any, commit: bool = True) -> list[str]:
        """Write messages in one transaction; return their jids."""
        outbox = self.outbox()
        with closing(self.program.cursor()) as cursor:
            jids = [outbox.add(cursor, message) for message in messages]
        if commit:
            self.program.commit()
        else:
            self.program.rollback()
        return jids

    def execute(self, text: str) -> None:
        with closing(self.program.cursor()) as cursor:
            cursor.execute(text)
        self.program.commit()

    def rows(self) -> list[tuple[str, str | None]]:
        """Return jid and refusal of each row, by id."""
        with closing(self.program.cursor()) as cursor:
            cursor.execute("SELECT jid, refused FROM faktory_outbox ORDER BY id")
            found = [tuple(row) for row in cursor.fetchall()]
        self.program.rollback()
        return found


@contextmanager
def relaying(outbox: Outbox, batch: int = 1000) -> Iterator[threading.Thread]:
    """Relay in a thread for a `with` block; an error of the relay comes out at its end."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            outbox.relay(stop, batch)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]


def jids_of(server: Any, *queues: str) -> list[str]:
    """Return the jids in queues of an embedded server, oldest first."""
    found = server.queues
    names = queues or sorted(found)
    return [job["jid"] for name in names for job in found.get(name, [])]

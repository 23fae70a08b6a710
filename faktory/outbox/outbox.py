"""The public class: where the table is, writing a job into it, relaying what was written."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import Any

from ..client import Client
from ..exceptions import FaktoryPayloadError
from ..jobs.message import JobChain, Message
from ..jobs.schedule import created_at
from ..proto import encode_push
from ..wire.payload import prepare
from ..wire.types import AnyJob
from ..wire.validate import show
from . import sql
from .database import (
    AnotherRelay,
    Cursor,
    Database,
    DatabaseAway,
    DatabaseConnection,
    open_database,
    statements_for,
)
from .relay import Relay
from .sql import MAX_JID, Dialect, Paramstyle


class Outbox:
    """A table of jobs to push, in the database of a program.

    An outbox may be shared by threads.

    Args:
        connect: Returns a new connection of DB-API 2, which is used by the relay and by
            `create_table` only.
        table: Its name; it may have its schema before it, `app.faktory_outbox`.
        paramstyle: That of the driver: "qmark", "format", "pyformat", "numeric" or "named"; found
            from the connection, for most drivers.
        dialect: "postgresql", "mysql" or "sqlite"; found in the same way.
        faktory: The address that the relay pushes to, by default that of `faktory.configure` or of
            the variables.
        notify: With False no NOTIFY is sent on PostgreSQL, and the relay looks once a second.
    """

    def __init__(
        self,
        connect: Callable[[], DatabaseConnection],
        table: str = "faktory_outbox",
        paramstyle: Paramstyle | None = None,
        *,
        dialect: Dialect | None = None,
        faktory: str | None = None,
        notify: bool = True,
    ) -> None:
        if not callable(connect):
            raise TypeError(
                f"connect is {show(connect)}: pass a function that returns a new connection."
            )
        self._connect = connect
        self._table = sql.check_table(table)
        self._style = None if paramstyle is None else sql.check_paramstyle(paramstyle)
        self._dialect = None if dialect is None else sql.check_dialect(dialect)
        self._faktory = faktory
        self._notify = notify

    def __repr__(self) -> str:
        return f"<faktory.outbox.Outbox {self._table}>"

    @property
    def table(self) -> str:
        """The name of the table."""
        return self._table

    @property
    def ddl(self) -> str:
        """The SQL that creates the table; without a `dialect`, a connection is asked for it."""
        if self._dialect is not None:
            return sql.ddl(self._table, self._dialect)
        connection = self._connect()
        try:
            return sql.ddl(self._table, _dialect_of(connection))
        finally:
            connection.close()

    def create_table(self) -> None:
        """Create the table if it is not there, on a connection of its own."""
        connection = self._connect()
        try:
            statement = sql.ddl(self._table, self._dialect or _dialect_of(connection))
            connection.cursor().execute(statement)
            connection.commit()
        finally:
            connection.close()

    def add(self, cursor: Cursor, message: Message | JobChain | AnyJob) -> str:
        """Write a job into the table, in the transaction of `cursor`; return its jid.

        `message` is what `job.message(...)` or `chain` returns, or a job as a dict, as for
        `Client.push`. Nothing is committed here, and nothing is sent. Client middleware runs now;
        if one stops the job, no row is written, and its return value is returned. ValueError for a
        message whose job has a pool of its own, FaktoryPayloadError for a job that could not be
        sent.
        """
        if not isinstance(message, Message | JobChain):
            return self._write(cursor, message)
        return message.through_middleware(  # type: ignore[return-value]
            lambda payload: self._write(cursor, payload)
        )

    def relay(self, stop: Event, batch: int = 1000) -> None:
        """Push the jobs of the table until `stop` is set, `batch` at a time.

        Waits for a server or a database that is away. FaktoryAuthenticationError for a wrong
        password, ValueError for a driver that is not known.
        """
        self._relay(batch).run(stop)

    def relay_once(self, batch: int = 1000) -> int:
        """Push the jobs that are in the table now; return how many the server accepted.

        Errors of the database and FaktoryErrors of the server are raised; what was not pushed stays
        in the table. RuntimeError where another relay works on the same SQLite database.
        """
        try:
            return self._relay(batch).run_once()
        except DatabaseAway as away:
            raise away.__cause__ or away from None
        except AnotherRelay as other:
            raise RuntimeError(
                f"another relay works on the outbox {self._table}: it holds {other}, and SQLite "
                "takes one."
            ) from None

    def _relay(self, batch: int) -> Relay:
        return Relay(self._open, Client(self._faktory), self._table, batch)

    def _open(self) -> Database:
        return open_database(self._connect, self._table, self._dialect, self._style)

    def _write(self, cursor: Cursor, job: AnyJob) -> str:
        payload = prepare(job)
        jid: str = payload["jid"]
        if len(jid) > MAX_JID:
            raise FaktoryPayloadError(
                f"jid is {show(jid)}: in an outbox it has {MAX_JID} characters at most."
            )
        # The server keeps copies of a scheduled job once if they are the same, also in this.
        if payload.get("created_at") is None:
            payload["created_at"] = created_at()
        line = encode_push(payload)[len("PUSH ") : -len("\r\n")]
        statements = statements_for(cursor, self._table, self._dialect, self._style)
        cursor.execute(*statements.insert(jid, line.decode(), self._notify))
        return jid


def _dialect_of(connection: Any) -> Dialect:
    connection = getattr(connection, "driver_connection", connection)
    found, _ = sql.driver_of(connection)
    if found is None:
        raise sql.unknown("dialect", connection, Dialect)
    return found

"""A relay's connection to the database: claims jobs, and writes what became of them.

Rules: an error of the driver comes out as DatabaseAway, and the connection is not used after it.
On PostgreSQL and MySQL the claimed rows are locked until `write` or `release`, so that relays run
side by side. SQLite has no such locks, and one held while jobs are pushed would stop the program:
there a relay holds a lock of its own, in a file beside the database, as long as it is connected.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from threading import Event
from typing import Any, Final, Protocol

from .sql import Dialect, Paramstyle, Row, Statement, Statements, driver_of, unknown

INTERVAL: Final = 1.0
"""Seconds between two looks into a table where nothing waits."""

_STOP_INTERVAL: Final = 0.2
"""Seconds between two looks at `stop` while waiting for a notification."""

_CHUNK: Final = 400
"""Rows of a DELETE: older SQLites take 999 parameters."""


class Cursor(Protocol):
    """What an outbox uses of a cursor of DB-API 2."""

    def execute(self, operation: Any, parameters: Any = ..., /) -> Any:
        """Run a statement."""


class DatabaseConnection(Protocol):
    """What an outbox uses of a connection of DB-API 2."""

    def cursor(self) -> Any:
        """Make a cursor."""

    def commit(self) -> Any:
        """Commit the transaction."""

    def rollback(self) -> Any:
        """Roll the transaction back."""

    def close(self) -> Any:
        """Close the connection."""


class DatabaseAway(Exception):
    """The database cannot be used; the cause is the driver's error."""


class AnotherRelay(Exception):
    """Another relay works on this SQLite database."""


class Database:
    """A connection with its statements; this class is right for MySQL and MariaDB."""

    isolation = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
    """Under a stricter one claiming would block INSERTs of the program (MySQL, by default), or fail
    beside other relays (PostgreSQL)."""

    def __init__(self, connection: Any, statements: Statements) -> None:
        self._connection = connection
        self._sql = statements

    def prepare(self) -> None:
        """Do what is to be done once for a connection."""
        _leave_autocommit(self._connection)
        self._execute((self.isolation, ()))
        self._connection.commit()

    def claim(self, limit: int) -> list[Row]:
        """Return the first jobs that wait, at most `limit`; then `write` or `release`."""
        try:
            return [_row(each) for each in self._execute(self._sql.claim(limit)).fetchall()]
        except Exception as error:
            raise DatabaseAway(str(error)) from error

    def write(self, sent: Sequence[Row], refused: Sequence[tuple[Row, str]]) -> None:
        """Delete the jobs that were sent, keep those refused with the reason; commit."""
        try:
            self.begin()
            for start in range(0, len(sent), _CHUNK):
                self._execute(self._sql.delete(sent[start : start + _CHUNK]))
            for row, reason in refused:
                self._execute(self._sql.refuse(row, reason))
            self.commit()
        except Exception as error:
            raise DatabaseAway(str(error)) from error

    def begin(self) -> None:
        """Begin a transaction, where the driver does not do it."""

    def commit(self) -> None:
        """End a transaction."""
        self._connection.commit()

    def release(self) -> None:
        """Let others claim the jobs."""
        try:
            self._connection.rollback()
        except Exception as error:
            raise DatabaseAway(str(error)) from error

    def wait(self, stop: Event) -> None:
        """Wait until there may be jobs: for INTERVAL at most, or until `stop`."""
        stop.wait(INTERVAL)

    def close(self) -> None:
        """Close the connection, whatever its state is."""
        with suppress(Exception):
            self._connection.close()

    def _execute(self, statement: Statement) -> Any:
        cursor = self._connection.cursor()
        text, parameters = statement
        if parameters:
            cursor.execute(text, parameters)
        else:
            cursor.execute(text)
        return cursor


class Postgres(Database):
    """PostgreSQL, which notifies of new jobs; by psycopg and psycopg2 the relay notices at once."""

    isolation = "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED"

    def prepare(self) -> None:
        connection = self._connection
        if getattr(connection, "isolation_level", None) is not None:  # that of each BEGIN
            connection.isolation_level = None
        self._notified = False
        super().prepare()
        self._listens = hasattr(connection, "fileno")
        if self._listens:
            if hasattr(connection, "add_notify_handler"):  # psycopg, which collects them otherwise
                connection.add_notify_handler(self._note)
            self._execute((f'LISTEN "{self._sql.table}"', ()))
            connection.commit()

    def wait(self, stop: Event) -> None:
        if not self._listens:
            return super().wait(stop)
        end = time.monotonic() + INTERVAL
        try:
            while not self._was_notified() and not stop.is_set():
                left = end - time.monotonic()
                if left <= 0 or _readable(self._connection.fileno(), min(left, _STOP_INTERVAL)):
                    return None
        except Exception as error:
            raise DatabaseAway(str(error)) from error
        return None

    def _note(self, _notification: object) -> None:
        self._notified = True

    def _was_notified(self) -> bool:
        """Return whether a notification came with the answers that were read last."""
        if hasattr(self._connection, "pgconn"):  # psycopg
            if self._connection.pgconn.notifies() is not None:
                self._notified = True
        else:
            self._connection.poll()
            self._notified = bool(self._connection.notifies)
            del self._connection.notifies[:]
        found, self._notified = self._notified, False
        return found


class Sqlite(Database):
    """SQLite, for one relay."""

    _lock: Any = None  # a connection to the file

    def prepare(self) -> None:
        connection = self._connection
        if getattr(connection, "autocommit", -1) != -1:  # Python 3.12 and newer
            connection.autocommit = True
        connection.isolation_level = None  # `begin` and `commit` say it themselves
        for each in self._execute(("PRAGMA database_list", ())).fetchall():
            _, name, file = _values(each)
            schema = self._sql.table.rpartition(".")[0] or "main"
            if name.lower() == schema.lower() and file:
                self._lock_file(f"{file}-{self._sql.table}-relay")

    def _lock_file(self, path: str) -> None:
        """Take the lock, which the kernel releases when this process ends."""
        import sqlite3

        self._lock = sqlite3.connect(path, timeout=0, isolation_level=None)
        try:
            self._lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname.startswith("SQLITE_BUSY"):
                raise AnotherRelay(path) from None
            raise

    def begin(self) -> None:
        self._execute(("BEGIN IMMEDIATE", ()))

    def commit(self) -> None:
        self._execute(("COMMIT", ()))

    def release(self) -> None:
        pass

    def close(self) -> None:
        super().close()
        if self._lock is not None:
            self._lock.close()


_DATABASES: Final[dict[Dialect, type[Database]]] = {
    "postgresql": Postgres,
    "mysql": Database,
    "sqlite": Sqlite,
}


def open_database(
    connect: Callable[[], DatabaseConnection],
    table: str,
    dialect: Dialect | None,
    style: Paramstyle | None,
) -> Database:
    """Connect for a relay; DatabaseAway if that fails, ValueError for an unknown driver."""
    try:
        connection: Any = connect()
    except Exception as error:
        raise DatabaseAway(str(error)) from error
    if hasattr(connection, "driver_connection") and hasattr(connection, "detach"):
        pooled, connection = connection, connection.driver_connection
        pooled.detach()  # out of SQLAlchemy's pool, since its settings are changed
    try:
        statements = statements_for(connection, table, dialect, style)
        if statements.dialect is None:
            raise unknown("dialect", connection, Dialect)
        database = _DATABASES[statements.dialect](connection, statements)
    except BaseException:
        connection.close()
        raise
    try:
        database.prepare()
    except AnotherRelay:
        database.close()
        raise
    except Exception as error:
        database.close()
        raise DatabaseAway(str(error)) from error
    return database


def statements_for(
    thing: object, table: str, dialect: Dialect | None, style: Paramstyle | None
) -> Statements:
    """Return the statements for a connection or a cursor; ValueError for an unknown paramstyle."""
    found_dialect, found_style = driver_of(thing)
    style = style or found_style
    if style is None:
        raise unknown("paramstyle", thing, Paramstyle)
    return Statements(table, dialect or found_dialect, style)


def _leave_autocommit(connection: Any) -> None:
    """Let a connection keep its locks until `commit`."""
    autocommit = getattr(connection, "autocommit", None)
    if callable(autocommit):  # MySQLdb, PyMySQL
        autocommit(False)
    elif autocommit:
        connection.autocommit = False


def _readable(descriptor: int, seconds: float) -> bool:
    if not hasattr(select, "poll"):
        return bool(select.select([descriptor], [], [], seconds)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _values(row: Any) -> tuple[Any, ...]:
    """Return a row as a tuple, also from a cursor that makes dicts."""
    return tuple(row.values()) if isinstance(row, Mapping) else tuple(row)


def _row(row: Any) -> Row:
    return Row(*_values(row))

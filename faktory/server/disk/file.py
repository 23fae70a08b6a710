"""Opens the data file, an SQLite database, or says why not; a new one is made durable first.

`jobs` has a row for each job in each place; the order of `id` is that of the queues. `entries` has
everything else, by kind: queues, counters, days, and what Enterprise knows of jobs.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from typing import Final

from ..errors import DataFileError
from .lock import Lock, Locked

APPLICATION: Final = 0x46414B54
"""The `application_id` in the header of a data file: "FAKT"."""

VERSION: Final = 2
"""The `user_version` of the files that this version writes; older ones are brought up to date."""

SYNC: Final = ("full", "normal")
"""What a commit survives: a power cut, or only the end of the process."""

_SCHEMA = (
    # `at` has no type: an instant may be beyond 64 bits.
    "CREATE TABLE jobs (id INTEGER PRIMARY KEY, place TEXT NOT NULL, at, wid TEXT,"
    " reserved_at INTEGER, job BLOB NOT NULL, runs TEXT)",
    "CREATE TABLE entries (kind TEXT, key BLOB, at, value, PRIMARY KEY (kind, key)) WITHOUT ROWID",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {VERSION}",
)

_UPDATES = {1: ("ALTER TABLE jobs ADD COLUMN runs TEXT",)}
"""What makes of a file of a version one of the next."""

_BUSY: Final = 10.0
"""Seconds to wait for another program that writes into the file, such as a backup's restore."""

_WAL_PAGES: Final = 4000
"""New pages after which SQLite moves them into the data file, and writes over them: 16 MB, as that
costs two syncs of the disk, whatever their number."""

_PREPARED_PAGES: Final = 1000
"""New pages for which there is room from the beginning."""

_MAX_WAL: Final = 64 * 1024 * 1024
"""Bytes to which the file of new pages is cut when they have been moved into the data file."""


class DataFile:
    """An open data file, locked for this process."""

    def __init__(self, path: str, sync: str) -> None:
        """Open a file, or make it; DataFileError if that cannot be."""
        self.path = os.path.abspath(path)
        self._lock = _locked(self.path)
        self.last_row: int
        """The highest `id` of a job, 0 without one."""
        try:
            self.connection = _open(self.path)
            try:
                self.connection.execute(f"PRAGMA synchronous = {sync}")
                (last,) = self.connection.execute("SELECT max(id) FROM jobs").fetchone()
                if sync == "full":
                    _prepare_new_pages(self.connection, self.path)
            except BaseException:
                self.connection.close()
                raise
            self.last_row = last or 0
        except sqlite3.Error as error:
            self._lock.release()
            raise unusable(self.path, error) from error
        except BaseException:
            self._lock.release()
            raise

    def close(self) -> None:
        """Move all pages into the file, close it, and unlock it."""
        with suppress(sqlite3.Error):  # what was committed is in the file of new pages
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with suppress(sqlite3.Error):
            self.connection.close()
        self._lock.release()


def _locked(path: str) -> Lock:
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise DataFileError(f"the data file is {path!r}: there is no folder {folder!r}. Make it.")
    if os.path.exists(path) and not os.path.isfile(path):
        raise DataFileError(f"the data file is {path!r}, which is not a file. Name one.")
    try:
        return Lock(path)
    except Locked as error:
        pid = "unknown" if error.pid is None else error.pid
        raise DataFileError(
            f"the data file {path!r} is in use by another server, pid {pid}: a file has one server "
            "at a time. Stop that one, or name another file."
        ) from None
    except OSError as error:
        raise DataFileError(
            f"the data file {path!r} cannot be locked: {error}. The server must be able to write "
            "into its folder."
        ) from error


def _open(path: str) -> sqlite3.Connection:
    _set_blank_aside(path)
    existed = os.path.exists(path)
    if not existed:
        # Jobs may hold what is not for all users of the machine.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    connection = _connect(path, "rw")
    try:
        if not check_version(connection, path):
            _create(connection, path)
        _update(connection)
        # Some builds write zeros over whatever is deleted; here only where that costs no page more.
        connection.execute("PRAGMA secure_delete = FAST").fetchall()
        connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {_MAX_WAL}")
        return connection
    except BaseException:
        connection.close()
        raise


def _connect(path: str, mode: str) -> sqlite3.Connection:
    # Only the thread of the loop uses it, which is not the one that opens and closes it.
    address = f"file:{_escape(path)}?mode={mode}"
    return sqlite3.connect(
        address, timeout=_BUSY, isolation_level=None, check_same_thread=False, uri=True
    )


def _escape(path: str) -> str:
    path = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return path if os.sep == "/" else "/" + path.replace(os.sep, "/")


def open_to_read(path: str) -> sqlite3.Connection:
    """Open a data file that a server may have open, too; DataFileError if it is not one."""
    if not os.path.isfile(path):
        raise DataFileError(f"the data file is {path!r}: there is no such file.")
    connection = _connect(os.path.abspath(path), "ro")
    try:
        if not check_version(connection, path):
            raise DataFileError(f"the data file {path!r} is empty: no server has written into it.")
        return connection
    except sqlite3.Error as error:
        connection.close()
        raise unusable(path, error) from error
    except BaseException:
        connection.close()
        raise


def check_version(connection: sqlite3.Connection, path: str) -> bool:
    """Return False for a database with nothing in it; DataFileError if it is not ours to use."""
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_NOTADB:
            raise
        raise DataFileError(
            f"the data file {path!r} is not a database: it was not written by this server, and is "
            "left as it is. Name another file."
        ) from None
    if application == version == tables == 0:
        return False
    if application != APPLICATION:
        raise DataFileError(
            f"the data file {path!r} is the database of another program, and is left as it is. "
            "Name another file."
        )
    if version > VERSION:
        raise DataFileError(
            f"the data file {path!r} has version {version}, written by a newer faktory-worker; "
            f"this one knows versions up to {VERSION}, and leaves it as it is. Install the newer "
            "faktory-worker, or name another file."
        )
    return True


def _create(connection: sqlite3.Connection, path: str) -> None:
    """Make the tables, so that a power cut cannot take them back, whatever `sync` is."""
    connection.execute("PRAGMA synchronous = FULL")
    for name in ("fullfsync", "checkpoint_fullfsync"):  # what macOS needs for that
        connection.execute(f"PRAGMA {name} = ON")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise DataFileError(
            f"the data file {path!r} is on a file system without what SQLite needs (write-ahead "
            f"logging; it offers {mode!r}). Name a file on a local disk."
        )
    connection.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    with suppress(OSError):  # Windows syncs no folder
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _update(connection: sqlite3.Connection) -> None:
    """Bring a file of an older version up to date, at once or not at all."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    for number in range(version, VERSION):
        for statement in _UPDATES[number]:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def _prepare_new_pages(connection: sqlite3.Connection, path: str) -> None:
    """Give the file of new pages some length, in zeros, which SQLite takes for no pages.

    What a commit writes over is synced in half the time of what makes the file longer.
    """
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    with suppress(OSError), open(f"{path}-wal", "r+b") as file:
        if not file.seek(0, os.SEEK_END):  # else somebody reads the pages there
            file.write(bytes((size + 24) * _PREPARED_PAGES))
            file.flush()
            os.fsync(file.fileno())


def _set_blank_aside(path: str) -> None:
    """Rename a file whose first page was never written: a power cut leaves zeros there.

    SQLite would read the page from the file of new pages if that has it: then it stays.
    """
    try:
        with open(path, "rb") as file:
            if any(file.read(100)):
                return
    except FileNotFoundError:
        return
    if os.path.getsize(path) and os.path.exists(f"{path}-wal"):
        connection = _connect(path, "rw")
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            return
        except sqlite3.DatabaseError:
            pass
        finally:
            connection.close()
    aside = f"{path}.blank-{time.strftime('%Y%m%d-%H%M%S')}"
    for ending in ("", "-wal"):
        with suppress(FileNotFoundError):
            if os.path.getsize(path + ending):
                os.replace(path + ending, aside + ending)
            else:
                os.unlink(path + ending)
    with suppress(FileNotFoundError):
        os.unlink(f"{path}-shm")


def unusable(path: str, error: sqlite3.Error) -> DataFileError:
    """Return the error for a file that cannot be opened, read or written."""
    return DataFileError(
        f"the data file {path!r} cannot be used: {error}. Free the disk, repair the permissions, "
        "or put a backup in its place."
    )

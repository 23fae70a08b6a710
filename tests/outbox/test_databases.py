"""What differs between databases and drivers: locks, notifications, settings of a connection."""

from __future__ import annotations

import logging
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from faktory.outbox import database
from faktory.server import EmbeddedServer

from ..contrib.postgres import Postgres
from .support import AppDatabase, jids_of, relaying, welcome


@pytest.fixture
def postgres(running_postgres: Postgres) -> Iterator[AppDatabase]:
    with (
        running_postgres.database() as name,
        AppDatabase("postgresql", lambda: running_postgres.connect(name)) as app,
    ):
        app.settings = running_postgres.settings(name)
        yield app


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[AppDatabase]:
    path = tmp_path / "app.db"
    with AppDatabase("sqlite", lambda: sqlite3.connect(path, timeout=20)) as app:
        yield app


def held(server: EmbeddedServer) -> Callable[[], bool]:
    """Return a function that says whether a PUSHB has arrived."""
    return lambda: any(verb == "PUSHB" for verb, _ in server.commands)


# Several relays.


def test_relays_on_postgresql_run_side_by_side(postgres: AppDatabase, server, wait_until):
    first = postgres.add(*(welcome.message(number) for number in range(10)))
    server.hold("PUSHB")
    with relaying(postgres.outbox(server), batch=10):
        wait_until(held(server))
        second = postgres.add(*(welcome.message(number) for number in range(10)))
        with EmbeddedServer() as other:
            assert postgres.outbox(other).relay_once() == 10
            assert jids_of(other) == second
        server.release("PUSHB")
        wait_until(lambda: postgres.rows() == [])
    assert jids_of(server) == first


def test_writing_is_not_held_up_while_jobs_are_pushed(app: AppDatabase, server, wait_until):
    app.add(welcome.message(1))
    server.hold("PUSHB")
    with relaying(app.outbox(server)):
        wait_until(held(server))
        app.add(welcome.message(2))
        server.release("PUSHB")
        wait_until(lambda: app.rows() == [])


def test_on_sqlite_a_second_relay_waits_for_the_first(
    sqlite: AppDatabase, server, wait_until, caplog, monkeypatch
):
    monkeypatch.setattr("faktory.outbox.relay.INTERVAL", 0.05)
    caplog.set_level(logging.INFO, "faktory.outbox")
    with relaying(sqlite.outbox(server)) as first:
        (jid,) = sqlite.add(welcome.message(1))
        wait_until(lambda: sqlite.rows() == [])
        with pytest.raises(RuntimeError, match="another relay works on the outbox faktory_outbox"):
            sqlite.outbox(server).relay_once()
        with EmbeddedServer() as other:
            with relaying(sqlite.outbox(other)):
                wait_until(lambda: "has another relay" in caplog.text)
                assert first.is_alive()
            assert other.commands == [] or other.queues == {}
    assert caplog.text.count("has another relay, which holds ") == 1
    assert jids_of(server) == [jid]


def test_on_sqlite_a_second_relay_takes_over(
    sqlite: AppDatabase, server, wait_until, caplog, monkeypatch
):
    monkeypatch.setattr("faktory.outbox.relay.INTERVAL", 0.05)
    caplog.set_level(logging.INFO, "faktory.outbox")
    stop = threading.Event()
    first = threading.Thread(target=sqlite.outbox(server).relay, args=(stop,))
    first.start()
    (one,) = sqlite.add(welcome.message(1))
    wait_until(lambda: sqlite.rows() == [])
    with relaying(sqlite.outbox(server)):
        wait_until(lambda: "has another relay" in caplog.text)
        stop.set()
        first.join()
        (two,) = sqlite.add(welcome.message(2))
        wait_until(lambda: sqlite.rows() == [])
    assert "is relayed here now, after" in caplog.text
    assert jids_of(server) == [one, two]


def test_two_tables_of_one_sqlite_have_a_relay_each(sqlite: AppDatabase, server, wait_until):
    other = sqlite.outbox(server, table="other_outbox")
    other.create_table()
    (first,) = sqlite.add(welcome.message(1))
    with relaying(sqlite.outbox(server)):
        wait_until(lambda: sqlite.rows() == [])
        jid = other.add(sqlite.program.cursor(), welcome.message(2))
        sqlite.program.commit()
        assert other.relay_once() == 1
    assert jids_of(server) == [first, jid]


# Notifications.


def test_a_relay_on_postgresql_wakes_when_a_job_is_committed(
    postgres: AppDatabase, server, wait_until, monkeypatch
):
    monkeypatch.setattr(database, "INTERVAL", 3600.0)
    with relaying(postgres.outbox(server)):
        jids = []
        for number in range(20):  # some are committed while the relay looks
            jids += postgres.add(welcome.message(number))
            if number % 5 == 4:
                wait_until(lambda expected=jids: jids_of(server) == expected)


def test_a_relay_that_waits_for_a_notification_stops_soon(
    postgres: AppDatabase, server, monkeypatch
):
    monkeypatch.setattr(database, "INTERVAL", 3600.0)
    with relaying(postgres.outbox(server)) as thread:
        pass
    assert not thread.is_alive()


def test_without_notify_the_relay_looks_by_itself(
    postgres: AppDatabase, server, wait_until, monkeypatch
):
    monkeypatch.setattr(database, "INTERVAL", 0.05)
    outbox = postgres.outbox(server, notify=False)
    with relaying(outbox):
        jid = outbox.add(postgres.program.cursor(), welcome.message(1))
        postgres.program.commit()
        wait_until(lambda: jids_of(server) == [jid])


# Drivers, and connections with settings of the program's.


def test_psycopg2_is_notified_too(postgres: AppDatabase, server, wait_until, monkeypatch):
    psycopg2 = pytest.importorskip("psycopg2")
    monkeypatch.setattr(database, "INTERVAL", 3600.0)

    def connect() -> Any:
        return psycopg2.connect(**postgres.settings)

    with relaying(postgres.outbox(server, connect=connect)), closing(connect()) as program:
        jids = []
        for number in range(6):
            with program.cursor() as cursor:
                jids.append(postgres.outbox().add(cursor, welcome.message(number)))
            program.commit()
            if number % 2:
                wait_until(lambda: jids_of(server) == jids)
    assert postgres.rows() == []


def test_a_connection_with_other_settings_does_the_same(postgres: AppDatabase, server, wait_until):
    psycopg = pytest.importorskip("psycopg")
    from psycopg.rows import dict_row

    def connect() -> Any:
        connection = psycopg.connect(**postgres.settings, autocommit=True, row_factory=dict_row)
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        return connection

    first = postgres.add(*(welcome.message(number) for number in range(3)))
    server.hold("PUSHB")
    with relaying(postgres.outbox(server, connect=connect)):
        wait_until(held(server))
        assert postgres.outbox(server).relay_once() == 0  # its rows are locked
        server.release("PUSHB")
        wait_until(lambda: postgres.rows() == [])
    assert jids_of(server) == first


@pytest.mark.parametrize(
    "options",
    [
        {"isolation_level": None},
        {"isolation_level": "EXCLUSIVE"},
        *([{"autocommit": True}, {"autocommit": False}] if sys.version_info >= (3, 12) else []),
    ],
)
def test_sqlite_connections_of_each_kind_do_the_same(
    sqlite: AppDatabase, server, tmp_path, options
):
    def connect() -> Any:
        connection = sqlite3.connect(tmp_path / "app.db", **options)
        connection.row_factory = sqlite3.Row
        return connection

    (jid,) = sqlite.add(welcome.message(1))
    sqlite.add({"jobtype": "work", "args": []})
    sqlite.execute("UPDATE faktory_outbox SET payload = '[]' WHERE id = 2")
    assert sqlite.outbox(server, connect=connect).relay_once() == 1
    assert [refused is None for _, refused in sqlite.rows()] == [False]
    assert jids_of(server) == [jid]


def test_a_connection_that_the_database_ends_is_opened_again(
    postgres: AppDatabase, server, wait_until, caplog
):
    caplog.set_level(logging.INFO, "faktory.outbox")
    with relaying(postgres.outbox(server)):
        (one,) = postgres.add(welcome.message(1))
        wait_until(lambda: postgres.rows() == [])
        postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        (two,) = postgres.add(welcome.message(2))
        wait_until(lambda: postgres.rows() == [])
        wait_until(lambda: "has its database again after" in caplog.text)
    assert jids_of(server) == [one, two]
    assert caplog.text.count("cannot use its database now") == 1


def test_a_sqlite_that_is_busy_is_waited_for(
    sqlite: AppDatabase, server, wait_until, tmp_path, caplog
):
    def connect() -> Any:
        return sqlite3.connect(tmp_path / "app.db", timeout=0.05)

    (jid,) = sqlite.add(welcome.message(1))
    with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with relaying(sqlite.outbox(server, connect=connect)):
            wait_until(lambda: "cannot use its database now" in caplog.text)
            other.execute("COMMIT")
            wait_until(lambda: sqlite.rows() == [])
    assert jids_of(server) == [jid]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_job_of_a_session_of_sqlalchemy_is_in_its_transaction(
    kind, request, server, tmp_path, wait_until
):
    sqlalchemy = pytest.importorskip("sqlalchemy")
    orm = pytest.importorskip("sqlalchemy.orm")
    app: AppDatabase = request.getfixturevalue("sqlite" if kind == "sqlite" else "postgres")
    url = f"sqlite:///{tmp_path}/app.db" if kind == "sqlite" else "postgresql+psycopg://"
    engine = sqlalchemy.create_engine(url, connect_args=getattr(app, "settings", {}))
    outbox = app.outbox(server, connect=engine.raw_connection)
    jids = []
    for commit in (True, False):
        with orm.Session(engine) as session:
            session.execute(sqlalchemy.text("SELECT 1"))
            cursor = session.connection().connection.cursor()
            jids.append(outbox.add(cursor, welcome.message(1)))
            if commit:
                session.commit()
    assert app.rows() == [(jids[0], None)]
    for _ in range(3):
        app.add(welcome.message(2))
        assert outbox.relay_once() >= 1
    assert engine.pool.checkedout() == 0
    engine.dispose()
    assert jids_of(server)[0] == jids[0]
    assert jids[1] not in jids_of(server)


def test_an_idle_relay_does_not_keep_a_transaction_open(postgres: AppDatabase, server, wait_until):
    with relaying(postgres.outbox(server)), closing(postgres.connect()) as other:
        postgres.add(welcome.message(1))
        wait_until(lambda: postgres.rows() == [])

        def states() -> set[str]:
            found = other.execute(
                "SELECT state FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            ).fetchall()
            other.rollback()
            return {state for (state,) in found}

        wait_until(lambda: states() == {"idle"})

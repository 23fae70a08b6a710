"""The SQL: names, drivers, paramstyles and tables."""

from __future__ import annotations

import sqlite3
import sys
import types
from typing import Any

import pytest

from faktory.outbox import Outbox
from faktory.outbox.sql import MAX_REFUSED, Row, Statements, driver_of

ROWS = [Row(7, "jid-7", ""), Row(9, "jid-9", "")]


@pytest.mark.parametrize(
    ("style", "insert", "parameters"),
    [
        ("qmark", "VALUES (?, ?)", ("jid-7", "{}")),
        ("format", "VALUES (%s, %s)", ("jid-7", "{}")),
        ("pyformat", "VALUES (%(p1)s, %(p2)s)", {"p1": "jid-7", "p2": "{}"}),
        ("numeric", "VALUES (:1, :2)", ("jid-7", "{}")),
        ("named", "VALUES (:p1, :p2)", {"p1": "jid-7", "p2": "{}"}),
    ],
)
def test_each_paramstyle_has_its_marks_and_parameters(style, insert, parameters):
    statements = Statements("faktory_outbox", "sqlite", style)
    assert statements.insert("jid-7", "{}", True) == (
        f"INSERT INTO faktory_outbox (jid, payload) {insert}",
        parameters,
    )


def test_a_row_is_deleted_by_its_id_and_its_jid():
    assert Statements("app.out", "postgresql", "format").delete(ROWS) == (
        "DELETE FROM app.out WHERE id = ANY(%s) AND jid = ANY(%s)",
        ([7, 9], ["jid-7", "jid-9"]),
    )
    assert Statements("app.out", "sqlite", "format").delete(ROWS) == (
        "DELETE FROM app.out WHERE id IN (%s, %s) AND jid IN (%s, %s)",
        (7, 9, "jid-7", "jid-9"),
    )


def test_mysql_does_not_scan_the_table_where_it_would_wait_for_other_relays():
    text, _ = Statements("app.out", "mysql", "format").delete(ROWS)
    assert text.startswith("DELETE row_ FROM app.out AS row_ FORCE INDEX (PRIMARY) WHERE id IN (")


def test_only_postgresql_is_notified_and_only_sqlite_is_not_locked():
    texts = {
        dialect: [
            Statements("out", dialect, "qmark").insert("jid", "{}", True)[0],
            Statements("out", dialect, "qmark").claim(5)[0],
        ]
        for dialect in ("postgresql", "mysql", "sqlite")
    }
    assert {name: "pg_notify" in insert for name, (insert, _) in texts.items()} == {
        "postgresql": True,
        "mysql": False,
        "sqlite": False,
    }
    assert {name: claim.endswith("SKIP LOCKED") for name, (_, claim) in texts.items()} == {
        "postgresql": True,
        "mysql": True,
        "sqlite": False,
    }
    silent, _ = Statements("out", "postgresql", "qmark").insert("jid", "{}", False)
    assert "pg_notify" not in silent


def test_a_reason_is_cut_and_has_no_character_that_a_database_refuses():
    _, (reason, *_) = Statements("out", "postgresql", "format").refuse(ROWS[0], "a\0" * 5000)
    assert reason == "a" * MAX_REFUSED


@pytest.mark.parametrize(
    "table",
    ["", "a b", "a;drop", 'a"b', "1a", "a.b.c", ".a", "a.", "ä", "a\n", "a" * 64, None, 7],
)
def test_a_table_name_that_is_not_an_identifier_is_refused(table):
    with pytest.raises(ValueError, match=r"table is .* letters, digits and '_' only"):
        Outbox(sqlite3.connect, table)


@pytest.mark.parametrize("table", ["jobs", "app.faktory_outbox", "_x1", "a" * 63])
def test_a_table_name_that_is_an_identifier_is_taken(table):
    assert Outbox(sqlite3.connect, table).table == table


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"paramstyle": "dollar"}, "paramstyle is 'dollar': .* qmark, format"),
        ({"dialect": "oracle"}, "dialect is 'oracle': .* postgresql, mysql, sqlite"),
    ],
)
def test_other_options_are_checked_at_once(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        Outbox(sqlite3.connect, **options)
    with pytest.raises(TypeError, match=r"connect is 'app\.db': pass a function"):
        Outbox("app.db")


class Driver:
    """A driver's module with a connection, and that of a program that subclasses it."""

    def __init__(self, monkeypatch, name: str, paramstyle: str) -> None:
        root = types.ModuleType(name)
        root.paramstyle = paramstyle  # type: ignore[attr-defined]
        inner = types.ModuleType(f"{name}.connections")
        for module in (root, inner):
            monkeypatch.setitem(sys.modules, module.__name__, module)
        self.connection: Any = type("Connection", (), {"__module__": inner.__name__})
        self.subclass: Any = type("Mine", (self.connection,), {"__module__": "app.db"})


@pytest.mark.parametrize(
    ("name", "paramstyle", "dialect"),
    [
        ("psycopg", "pyformat", "postgresql"),
        ("pg8000", "format", "postgresql"),
        ("MySQLdb", "format", "mysql"),
        ("mariadb", "qmark", "mysql"),
        ("oracledb", "named", None),
    ],
)
def test_a_driver_is_known_by_its_module_also_through_a_subclass(
    monkeypatch, name, paramstyle, dialect
):
    driver = Driver(monkeypatch, name, paramstyle)
    assert driver_of(driver.connection()) == (dialect, paramstyle)
    assert driver_of(driver.subclass()) == (dialect, paramstyle)


def test_the_standard_library_is_known():
    connection = sqlite3.connect(":memory:")
    assert driver_of(connection) == driver_of(connection.cursor()) == ("sqlite", "qmark")
    connection.close()


class Proxy:
    """What a tracer wraps around a connection or a cursor: wrapt.ObjectProxy does the same."""

    def __init__(self, wrapped: object) -> None:
        self._wrapped = wrapped

    @property
    def __class__(self):
        return type(self._wrapped)

    def __getattr__(self, name: str) -> object:
        return getattr(self._wrapped, name)


def test_a_driver_is_known_through_a_proxy():
    connection = sqlite3.connect(":memory:")
    assert driver_of(Proxy(connection)) == ("sqlite", "qmark")
    connection.close()
    assert driver_of(Proxy(DjangoCursor("postgresql"))) == ("postgresql", "format")


class DjangoCursor:
    """The type of its cursors is the same for each database."""

    __module__ = "django.db.backends.utils"

    def __init__(self, vendor: str) -> None:
        self.db = types.SimpleNamespace(vendor=vendor)
        self.texts: list[str] = []

    def execute(self, text, parameters):
        self.texts.append(text)


def test_cursors_of_django_are_of_the_database_that_they_are_for():
    cursors = {vendor: DjangoCursor(vendor) for vendor in ("postgresql", "sqlite", "oracle")}
    outbox = Outbox(sqlite3.connect)
    for cursor in cursors.values():
        outbox.add(cursor, {"jobtype": "work", "args": []})
    notified = {vendor: "pg_notify(%s" in cursor.texts[0] for vendor, cursor in cursors.items()}
    assert notified == {"postgresql": True, "sqlite": False, "oracle": False}


class Unknown:
    def cursor(self) -> Unknown:
        return self

    def close(self) -> None:
        self.closed = True


def test_an_unknown_driver_has_to_be_named(server):
    made = Unknown()
    outbox = Outbox(lambda: made, faktory=server.url)
    with pytest.raises(ValueError, match=r"paramstyle of .*Unknown is not known: say it, Outbox"):
        outbox.add(made, {"jobtype": "work", "args": []})
    with pytest.raises(ValueError, match=r"dialect of .*Unknown is not known: say it, Outbox"):
        outbox.create_table()
    assert made.closed
    made.closed = False
    with pytest.raises(ValueError, match="paramstyle of"):
        outbox.relay_once()
    assert made.closed
    with pytest.raises(ValueError, match="dialect of"):
        Outbox(lambda: made, paramstyle="qmark", faktory=server.url).relay_once()


def test_the_ddl_is_that_of_the_named_dialect_or_of_the_connection():
    def unused():
        raise AssertionError

    assert "IDENTITY" in Outbox(unused, "app.jobs", dialect="postgresql").ddl
    assert "CREATE TABLE IF NOT EXISTS app.jobs" in Outbox(unused, "app.jobs", dialect="mysql").ddl
    assert "AUTOINCREMENT" in Outbox(lambda: sqlite3.connect(":memory:")).ddl

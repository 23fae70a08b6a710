"""Relaying: what is pushed, deleted and kept, whatever fails."""

from __future__ import annotations

import logging
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import faktory
from faktory import (
    FaktoryAuthenticationError,
    FaktoryConnectionError,
    FaktoryOutcomeUnknown,
    FaktoryServerError,
)
from faktory.outbox import database, relay
from faktory.server import EmbeddedServer

from ..support import AnsweringServer, bulk
from .support import AppDatabase, jids_of, relaying, welcome


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Let a relay try again soon."""
    monkeypatch.setattr(relay, "backoff", lambda attempt, random: 0.02)
    monkeypatch.setattr(database, "INTERVAL", 0.05)
    monkeypatch.setattr(relay, "INTERVAL", 0.05)


def messages(count: int) -> list[Any]:
    return [welcome.message(number) for number in range(count)]


def test_jobs_are_pushed_in_the_order_of_their_ids_and_deleted(app: AppDatabase, server):
    jids = app.add(*messages(25))
    assert app.outbox(server).relay_once(batch=10) == 25
    assert jids_of(server, "mail") == jids
    assert app.rows() == []
    pushes = [text.count('"jid"') for verb, text in server.commands if verb == "PUSHB"]
    assert pushes == [10, 10, 5]


def test_a_relay_goes_on_until_it_is_stopped(app: AppDatabase, server, wait_until):
    with relaying(app.outbox(server)):
        for _ in range(3):
            (jid,) = app.add(welcome.message(1))
            wait_until(lambda jid=jid: jid in jids_of(server))
            wait_until(lambda: app.rows() == [])


def test_a_transaction_that_commits_late_is_not_forgotten(app: AppDatabase, server, wait_until):
    if app.kind == "sqlite":
        pytest.skip("SQLite has one writer: its ids are in the order of the commits")
    late = app.connect()
    with closing(late), relaying(app.outbox(server)):
        with closing(late.cursor()) as cursor:
            low = app.outbox().add(cursor, welcome.message(1))
        (high,) = app.add(welcome.message(2))
        wait_until(lambda: jids_of(server) == [high])
        late.commit()
        wait_until(lambda: jids_of(server) == [high, low])
    assert app.rows() == []


def test_a_refused_job_is_kept_with_the_reason_until_that_is_cleared(app: AppDatabase, caplog):
    reasons = {"second-jid": "no such tenant"}

    def answer(line: str) -> bytes:
        if line.startswith("INFO"):
            return bulk({"server": {"description": "Faktory"}})
        return bulk({jid: reason for jid, reason in reasons.items() if jid in line})

    job = {"jobtype": "work", "args": []}
    with AnsweringServer(answer) as server:
        app.add(
            {**job, "jid": "first-jid"}, {**job, "jid": "second-jid"}, {**job, "jid": "third-jid"}
        )
        assert app.outbox(server).relay_once() == 2
        assert app.rows() == [("second-jid", "no such tenant")]
        assert "1 jobs were refused, and are kept with the reason" in caplog.text
        assert "second-jid: no such tenant" in caplog.text
        assert app.outbox(server).relay_once() == 0
        assert len(server.sent("PUSHB")) == 1
        reasons.clear()
        app.execute("UPDATE faktory_outbox SET refused = NULL WHERE jid = 'second-jid'")
        assert app.outbox(server).relay_once() == 1
        assert "second-jid" in server.sent("PUSHB")[1]
    assert app.rows() == []


@pytest.mark.parametrize(
    "reason",
    [
        "context deadline exceeded",
        'cannot get "mail" queue: dial unix /var/redis.sock: connect: connection refused',
        "EOF",
        "LOADING Redis is loading the dataset in memory",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "read unix @->/var/redis.sock: i/o timeout",
    ],
)
def test_a_refusal_that_is_not_about_the_job_is_tried_again(app: AppDatabase, reason, wait_until):
    left = [2]

    def answer(line: str) -> bytes:
        if line.startswith("INFO"):
            return bulk({"server": {"description": "Faktory"}})
        left[0] -= 1
        return bulk({"jid-number-2": reason} if left[0] > 0 else {})

    job = {"jobtype": "work", "args": []}
    with AnsweringServer(answer) as server:
        app.add({**job, "jid": "jid-number-1"}, {**job, "jid": "jid-number-2"})
        with pytest.raises(FaktoryServerError, match="^" + reason[:8]):
            app.outbox(server).relay_once()
        assert app.rows() == [("jid-number-2", None)]
        with relaying(app.outbox(server)):
            wait_until(lambda: app.rows() == [])
        first, second = server.sent("PUSHB")
    assert "jid-number-1" in first
    assert "jid-number-1" not in second


def test_a_batch_is_divided_until_the_job_that_spoils_it_is_found(app: AppDatabase):
    def answer(line: str) -> bytes:
        if line.startswith("INFO"):
            return bulk({})
        return b"-ERR invalid JSON: bad job\r\n" if '"args":[5]' in line else bulk({})

    with AnsweringServer(answer) as server:
        jids = app.add(*({"jobtype": "work", "args": [number]} for number in range(8)))
        assert app.outbox(server).relay_once() == 7
    assert app.rows() == [(jids[5], "ERR invalid JSON: bad job")]


@pytest.mark.parametrize("payload", ["", "[]", "{", '{"jobtype":"work"}', '{"args":[]}', "null"])
def test_a_row_that_is_not_a_job_is_refused_and_holds_nothing_up(app: AppDatabase, server, payload):
    app.execute(f"INSERT INTO faktory_outbox (jid, payload) VALUES ('jid-of-row', '{payload}')")
    (jid,) = app.add(welcome.message(1))
    assert app.outbox(server).relay_once() == 1
    ((row, reason),) = app.rows()
    assert row == "jid-of-row"
    assert reason
    assert jids_of(server) == [jid]


def test_a_row_that_was_written_by_sql_gets_its_jid_from_the_column(app: AppDatabase, server):
    app.execute(
        "INSERT INTO faktory_outbox (jid, payload) VALUES "
        """('jid-of-row', '{"jobtype": "work", "args": ["a\\nb"], "retry": 7}')"""
    )
    assert app.outbox(server).relay_once() == 1
    (job,) = server.queues["default"]
    assert (job["jid"], job["args"], job["retry"]) == ("jid-of-row", ["a\nb"], 7)


def test_large_jobs_go_out_in_several_pushes(app: AppDatabase, server, monkeypatch):
    monkeypatch.setattr(relay, "MAX_BYTES", 1000)
    sizes = (600, 300, 5000, 100, 100)
    jids = app.add(*(welcome.message(1, "x" * size) for size in sizes))
    assert app.outbox(server).relay_once() == 5
    assert jids_of(server) == jids
    pushes = [text.count('"jid"') for verb, text in server.commands if verb == "PUSHB"]
    assert pushes == [1, 1, 1, 2]


def test_rows_are_kept_while_the_outcome_is_unknown(app: AppDatabase, server, wait_until, caplog):
    jids = app.add(*messages(3))
    server.drop_after("PUSHB")
    with pytest.raises(FaktoryOutcomeUnknown):
        app.outbox(server).relay_once()
    assert app.rows() == [(jid, None) for jid in jids]
    with relaying(app.outbox(server)):
        wait_until(lambda: app.rows() == [])
    assert jids_of(server) == jids * 2  # at least once


def test_a_scheduled_job_whose_outcome_was_unknown_is_there_once(app: AppDatabase, server):
    at = datetime.now(UTC) + timedelta(hours=1)
    app.add({"jobtype": "work", "args": [], "at": at})
    server.drop_after("PUSHB")
    assert app.outbox(server).relay_once() == 1
    assert len(server.scheduled) == 1


def test_a_relay_waits_for_the_server_and_says_so_once(
    app: AppDatabase, server, wait_until, caplog
):
    caplog.set_level(logging.INFO, "faktory.outbox")
    server.stop()
    (jid,) = app.add(welcome.message(1))
    with relaying(app.outbox(server)):
        wait_until(lambda: "cannot push now, trying until it can" in caplog.text)
        server.start()
        wait_until(lambda: app.rows() == [])
        wait_until(lambda: "pushes again after" in caplog.text)
    assert jids_of(server) == [jid]
    assert caplog.text.count("cannot push now") == 1
    assert caplog.text.count("pushes again") == 1


def test_a_relay_waits_for_the_database_and_says_so_once(
    app: AppDatabase, server, wait_until, caplog
):
    caplog.set_level(logging.INFO, "faktory.outbox")
    away = threading.Event()
    away.set()
    calls = []

    def connect() -> Any:
        calls.append(1)
        if away.is_set():
            raise OSError("no database here")
        return app.connect()

    (jid,) = app.add(welcome.message(1))
    with relaying(app.outbox(server, connect=connect)):
        wait_until(lambda: len(calls) > 3)
        away.clear()
        wait_until(lambda: app.rows() == [])
    assert jids_of(server) == [jid]
    assert caplog.text.count("cannot use its database now, trying until it can: no data") == 1
    assert caplog.text.count("has its database again after") == 1


def test_once_raises_the_errors_of_the_database(app: AppDatabase, server):
    def connect() -> Any:
        raise OSError("no database here")

    with pytest.raises(OSError, match="no database here"):
        app.outbox(server, connect=connect).relay_once()
    app.execute("DROP TABLE faktory_outbox")
    with pytest.raises(Exception, match="faktory_outbox"):
        app.outbox(server).relay_once()


def test_once_raises_the_errors_of_the_server(app: AppDatabase, server):
    app.add(welcome.message(1))
    server.stop()
    with pytest.raises(FaktoryConnectionError):
        app.outbox(server).relay_once()
    assert len(app.rows()) == 1
    server.start()


class Breaking:
    """A connection whose next commits fail, after or before they are done."""

    def __init__(self, connection: Any, plan: list[str]) -> None:
        self._connection = connection
        self._plan = plan

    def cursor(self) -> Any:
        return BreakingCursor(self._connection.cursor(), self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            setattr(self._connection, name, value)

    def breaks(self, text: str) -> None:
        if self._plan and text.startswith(self._plan[0]):
            del self._plan[0]
            raise OSError("the database is away")


class BreakingCursor:
    def __init__(self, cursor: Any, connection: Breaking) -> None:
        self._cursor = cursor
        self._owner = connection

    def execute(self, text: str, *parameters: Any) -> Any:
        self._owner.breaks(text)
        return self._cursor.execute(text, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)


def options_of(app: AppDatabase) -> dict[str, Any]:
    style = "qmark" if app.kind == "sqlite" else "pyformat"
    return {"dialect": app.kind, "paramstyle": style}


def test_jobs_whose_rows_could_not_be_deleted_are_not_pushed_again(
    app: AppDatabase, server, wait_until
):
    plan = ["DELETE", "DELETE"]
    jids = app.add(*messages(3))
    outbox = app.outbox(server, connect=lambda: Breaking(app.connect(), plan), **options_of(app))
    with relaying(outbox):
        wait_until(lambda: app.rows() == [])
    assert jids_of(server) == jids
    assert plan == []


def test_a_relay_that_stops_before_it_could_delete_says_so(
    app: AppDatabase, server, wait_until, caplog
):
    plan = ["DELETE"] * 1000
    jids = app.add(*messages(3))
    outbox = app.outbox(server, connect=lambda: Breaking(app.connect(), plan), **options_of(app))
    with relaying(outbox):
        wait_until(lambda: len(plan) < 990)
    assert "3 jobs were pushed, and their rows could not be deleted" in caplog.text
    assert app.outbox(server).relay_once() == 3
    assert jids_of(server) == jids * 2


def test_another_row_with_the_same_id_is_neither_deleted_nor_refused(app: AppDatabase):
    """A database that was restored gives out the same ids again."""
    app.add(*messages(2))
    opened = database.open_database(app.connect, "faktory_outbox", None, None)
    first, second = opened.claim(10)
    opened.release()
    app.execute("UPDATE faktory_outbox SET jid = 'jid-again'")
    opened.write([first], [(second, "no such tenant")])
    opened.close()
    assert app.rows() == [("jid-again", None)] * 2


def test_a_wrong_password_ends_the_relay(app: AppDatabase):
    with EmbeddedServer(password="secret") as server:
        app.add(welcome.message(1))
        url = f"tcp://:wrong@127.0.0.1:{server.port}"
        with pytest.raises(FaktoryAuthenticationError):
            faktory.outbox.Outbox(app.connect, faktory=url).relay(threading.Event())
    assert len(app.rows()) == 1


@pytest.mark.parametrize("batch", [0, -1, 10_001, True, 1.5, "7"])
def test_a_batch_has_a_size_that_is_checked(app: AppDatabase, server, batch):
    with pytest.raises(ValueError, match=r"batch is .* 1 to 10000"):
        app.outbox(server).relay_once(batch)


def test_a_relay_that_is_stopped_already_pushes_nothing(app: AppDatabase, server):
    app.add(welcome.message(1))
    stop = threading.Event()
    stop.set()
    app.outbox(server).relay(stop)
    assert len(app.rows()) == 1


# Enterprise.


def test_a_job_that_is_not_unique_is_kept_with_the_reason(app: AppDatabase):
    with EmbeddedServer(enterprise=True) as server:
        unique = welcome.set(unique_for=60)
        first, second = app.add(unique.message(1), unique.message(1))
        assert app.outbox(server).relay_once() == 1
        assert jids_of(server) == [first]
    assert app.rows() == [(second, "NOTUNIQUE Job not unique")]


def test_a_unique_job_that_is_pushed_twice_by_one_relay_counts_as_pushed(
    app: AppDatabase, wait_until
):
    with EmbeddedServer(enterprise=True) as server:
        (jid,) = app.add(welcome.set(unique_for=60).message(1))
        server.drop_after("PUSHB")
        with relaying(app.outbox(server)):
            wait_until(lambda: app.rows() == [])
        assert jids_of(server) == [jid]


@pytest.mark.parametrize("in_chain", [False, True])
def test_an_option_that_the_server_would_ignore_is_a_refusal(app: AppDatabase, server, in_chain):
    message = welcome.set(track=True).message(1)
    (jid,) = app.add(faktory.chain(welcome.message(0), message) if in_chain else message)
    assert app.outbox(server).relay_once() == 0
    ((row, reason),) = app.rows()
    assert row == jid
    assert "this server is not a Faktory Enterprise and would ignore track" in reason
    assert server.queues == {}


def test_a_server_that_is_said_to_know_the_options_gets_them(app: AppDatabase, server, monkeypatch):
    monkeypatch.setenv("FAKTORY_ENTERPRISE", "1")
    (jid,) = app.add(welcome.set(track=True).message(1))
    assert app.outbox(server).relay_once() == 1
    assert jids_of(server) == [jid]


def test_a_real_server_gets_the_jobs_in_order(app: AppDatabase, real_server_url: str):
    queue = f"outbox-{app.kind}"
    at = datetime.now(UTC) + timedelta(hours=1)
    jids = app.add(
        *(welcome.set(queue=queue).message(number) for number in range(25)),
        {"jobtype": "work", "args": [], "queue": queue, "at": at, "jid": f"scheduled-{queue}"},
    )
    assert faktory.outbox.Outbox(app.connect, faktory=real_server_url).relay_once(10) == 26
    assert app.rows() == []
    with faktory.Client(real_server_url) as client:
        for jid in jids[:25]:
            job = client.fetch(queue)
            assert job is not None
            assert (job["jid"], job["retry"]) == (jid, 3)
            client.ack(jid)
        client.discard("scheduled", jids=[jids[25]])

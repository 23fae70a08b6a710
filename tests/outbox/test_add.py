"""Writing jobs: in the program's transaction, as they will be sent."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

import faktory
import faktory.testing
from faktory import FaktoryPayloadError, chain, client_middleware
from faktory.jobs.chains import KEY
from faktory.outbox import Outbox

from .support import AppDatabase, jids_of, welcome


@pytest.fixture
def payloads(app: AppDatabase):
    def read():
        with closing(app.program.cursor()) as cursor:
            cursor.execute("SELECT payload FROM faktory_outbox ORDER BY id")
            found = [json.loads(row[0]) for row in cursor.fetchall()]
        app.program.rollback()
        return found

    return read


def test_a_message_is_written_as_it_will_be_sent(app: AppDatabase, payloads):
    (jid,) = app.add(welcome.message(7, text="hé"))
    (job,) = payloads()
    assert datetime.fromisoformat(job.pop("created_at")) <= datetime.now(UTC)
    assert job == {
        "jid": jid,
        "jobtype": "welcome",
        "queue": "mail",
        "args": [7, "hé"],
        "retry": 3,
    }


def test_a_dict_is_completed_and_not_changed(app: AppDatabase, payloads):
    given = {"jobtype": "work", "args": (1,), "jid": "my-own-jid", "at": 4e9}
    before = dict(given)
    assert app.add(given) == ["my-own-jid"]
    assert given == before
    (job,) = payloads()
    assert (job["jid"], job["args"], job["at"]) == ("my-own-jid", [1], "2096-10-02T07:06:40Z")
    assert job["retry"] == 25


def test_a_row_comes_and_goes_with_its_transaction(app: AppDatabase):
    app.add(welcome.message(1), commit=False)
    assert app.rows() == []
    (jid,) = app.add(welcome.message(1))
    assert app.rows() == [(jid, None)]


def test_nothing_is_sent_or_committed(app: AppDatabase, server):
    outbox = app.outbox(server)
    with closing(app.program.cursor()) as cursor:
        outbox.add(cursor, welcome.message(1))
        assert outbox.relay_once() == 0
    assert server.queues == {}


@pytest.mark.parametrize(
    ("job", "complaint"),
    [
        ({"jobtype": "work"}, "the job has no 'args'"),
        ({"jobtype": "work", "args": [float("nan")]}, r"args\[0\]"),
        ({"jobtype": "work", "args": [], "queue": "a b"}, "queue is 'a b'"),
        ({"jobtype": "work", "args": [], "jid": "j" * 256}, "jid is .* 255 characters at most"),
    ],
)
def test_a_job_that_could_not_be_sent_is_an_error_where_it_is_written(
    app: AppDatabase, job, complaint
):
    with pytest.raises(FaktoryPayloadError, match=complaint):
        app.add(job)
    app.program.rollback()
    assert app.rows() == []


def test_middleware_runs_where_the_job_is_written(app: AppDatabase, payloads):
    def tenant(payload, call_next):
        payload["custom"] = {"tenant": 7}
        return call_next()

    client_middleware.add(tenant)
    try:
        app.add(welcome.message(1))
    finally:
        client_middleware.remove(tenant)
    assert payloads()[0]["custom"] == {"tenant": 7}


def test_a_middleware_that_stops_a_job_leaves_no_row(app: AppDatabase):
    def stop(payload, call_next):
        return "stopped"

    client_middleware.add(stop)
    try:
        assert app.add(welcome.message(1)) == ["stopped"]
        assert app.add(chain(welcome.message(1), welcome.message(2))) == ["stopped"]
    finally:
        client_middleware.remove(stop)
    assert app.rows() == []


def test_a_chain_is_one_row(app: AppDatabase, payloads):
    (jid,) = app.add(chain(welcome.message(1), welcome.message(2)))
    (job,) = payloads()
    assert (job["jid"], job["args"]) == (jid, [1])
    assert [each["args"] for each in job["custom"][KEY]] == [[2]]


def test_expiry_counts_from_the_transaction(app: AppDatabase, payloads):
    app.add(welcome.set(expires_in=60).message(1))
    (job,) = payloads()
    left = datetime.fromisoformat(job["custom"]["expires_at"]) - datetime.now(UTC)
    assert timedelta(0) < left <= timedelta(seconds=60)


def test_a_job_with_a_pool_of_its_own_is_refused(app: AppDatabase):
    message = welcome.set(pool=faktory.Pool("tcp://other:7419")).message(1)
    for each in (message, chain(message)):
        with pytest.raises(ValueError, match="welcome has a pool of its own"):
            app.add(each)


def test_the_table_can_have_another_name(server):
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("ATTACH ':memory:' AS app")
    outbox = Outbox(lambda: connection, "app.jobs", "named")
    connection.execute(outbox_ddl := Outbox(lambda: connection, "app.jobs", dialect="sqlite").ddl)
    assert "app.jobs" in outbox_ddl
    outbox.add(connection.cursor(), welcome.message(1))
    assert connection.execute("SELECT count(*) FROM app.jobs").fetchone() == (1,)
    connection.close()


def test_in_fake_mode_the_relay_pushes_to_the_fake(app: AppDatabase):
    with faktory.testing.fake():
        (jid,) = app.add(welcome.message(1))
        assert welcome.jobs == []
        assert app.outbox().relay_once() == 1
        assert [job["jid"] for job in welcome.jobs] == [jid]
    assert app.rows() == []


def test_inline_jobs_run_when_they_are_relayed(app: AppDatabase):
    ran = []

    @faktory.job(name="inline_in_outbox")
    def work(number: int) -> None:
        ran.append(number)

    with faktory.testing.inline():
        app.add(work.message(1))
        assert ran == []
        app.outbox().relay_once()
    assert ran == [1]
    assert app.rows() == []


def test_a_dict_that_is_written_twice_is_two_jobs(app: AppDatabase, server):
    job = {"jobtype": "work", "args": []}
    jids = app.add(job, job)
    assert app.outbox(server).relay_once() == 2
    assert jids_of(server) == jids

"""The history of a job's failed runs: it follows the job, and is kept in the file."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from faktory.server.disk import file as files
from faktory.server.disk.state import DurableState
from faktory.server.errors import DataFileError
from faktory.server.go import time as go_time
from faktory.server.go.time import SECOND
from faktory.server.job import Quota, StoredJob
from faktory.server.runs import MAX_RUNS, Run
from faktory.server.slices import finish
from faktory.server.state import ServerState
from faktory.server.store import Store

from .conftest import Clock
from .durable import contents, copy

NewJob = Callable[..., StoredJob]
Open = Callable[..., DurableState]


@pytest.fixture(params=[False, True], ids=["plain", "enterprise"])
def enterprise(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def opened(tmp_path: Path, clock: Clock, enterprise: bool) -> Iterator[Open]:
    states = []

    def opened(path: Path = tmp_path / "jobs.db") -> DurableState:
        state = DurableState(str(path), "normal", now=clock, enterprise=enterprise)
        state.open()
        states.append(state)
        return state

    yield opened
    for state in states:
        state.close()


@pytest.fixture(params=["memory", "file"])
def store(
    request: pytest.FixtureRequest, clock: Clock, enterprise: bool, opened: Open, tmp_path: Path
) -> Iterator[Store]:
    """A store; what its file has, if there is one, is compared with it at the end."""
    if request.param == "memory":
        yield ServerState(now=clock, enterprise=enterprise).store
        return
    state = opened()
    yield state.store
    state.store.sample()
    state.commit()
    other = opened(copy(Path(state.path), tmp_path / "copy.db"))
    assert contents(other.store) == contents(state.store)
    assert contents(state.store)["runs"]


def fail(store: Store, clock: Clock, number: int, wid: str = "w1") -> Run:
    """Fetch the job, and fail it two seconds later."""
    assert store.fetch(wid, ["default"])
    started_at = clock.now
    clock.forward(2)
    store.fail("job-0001", "E", f"boom {number}", ["line"])
    return Run(started_at, clock.now, wid, "E", f"boom {number}")


def until_due(store: Store, clock: Clock) -> None:
    clock.now = store.retries.first() or clock.now
    store.sweep()


def only(store: Store) -> StoredJob:
    (found,) = finish(store.find("job-0001"))
    return found.job


def test_the_history_follows_the_job(store: Store, clock: Clock, new_job: NewJob) -> None:
    store.push(new_job("job-0001", retry=3))
    assert only(store).runs is None
    expected = []
    for number in range(4):
        expected.append(fail(store, clock, number, f"w{number}"))
        runs = only(store).runs
        assert runs is not None
        assert (runs.kept, runs.dropped) == (expected, 0)
        if hasattr(store, "_journal"):
            store._journal.commit()
        until_due(store, clock)
    assert len(store.dead) == 1
    assert b"boom 0" not in only(store).payload
    finish(store.retry("dead", None))
    expected.append(fail(store, clock, 5))
    assert only(store).runs is not None
    assert only(store).runs.kept == expected


def test_an_expired_reservation_is_a_failed_run(
    store: Store, clock: Clock, new_job: NewJob
) -> None:
    store.push(new_job("job-0001"))
    store.fetch("w1", ["default"])
    started_at = clock.now
    clock.forward(1800)
    store.sweep()
    assert only(store).runs is not None
    assert only(store).runs.kept == [
        Run(started_at, clock.now, "w1", "ReservationExpired", "Faktory job reservation expired")
    ]


def test_of_many_runs_the_last_are_kept(store: Store, clock: Clock, new_job: NewJob) -> None:
    store.push(new_job("job-0001", retry=1000))
    expected = []
    for number in range(MAX_RUNS + 7):
        expected.append(fail(store, clock, number))
        until_due(store, clock)
    runs = only(store).runs
    assert runs is not None
    assert (runs.kept, runs.dropped) == (expected[7:], 7)


def test_what_workers_send_is_cut(store: Store, clock: Clock, new_job: NewJob) -> None:
    store.push(new_job("job-0001"))
    store.fetch("w" * 5000, ["default"])
    store.fail("job-0001", "E" * 5000, "\u00e9" * 5000, ["x"] * 5000)
    (run,) = only(store).runs.kept  # type: ignore[union-attr]
    assert (len(run.wid), len(run.errtype), len(run.message)) == (100, 100, 500)


def test_a_job_that_its_worker_pushes_again_keeps_its_history(
    store: Store, clock: Clock, new_job: NewJob
) -> None:
    store.push(new_job("job-0001", retry=5))
    expected = [fail(store, clock, 0)]
    until_due(store, clock)
    for number in (1, 2):
        store.fetch("w1", ["default"])
        started_at = clock.now
        clock.forward(1)
        failure = {"errtype": "E", "message": f"boom {number}", "retry_count": number}
        at = go_time.write(clock.now + 5 * SECOND)
        for _ in range(2):  # its PUSH may be sent again
            store.push(new_job("job-0001", retry=5, at=at, failure=failure))
        store.acknowledge("job-0001")
        expected.append(Run(started_at, clock.now, "w1", "E", f"boom {number}"))
        job = only(store)
        assert job.runs is not None
        assert job.runs.kept == expected
        clock.forward(5)
        store.sweep()
    expected.append(fail(store, clock, 3))
    assert only(store).runs.kept == expected  # type: ignore[union-attr]


def test_a_job_that_comes_with_a_failure_has_no_history(store: Store, clock: Clock) -> None:
    later = go_time.write(clock.now + SECOND)
    for fields in ({}, {"at": later}):
        job = {"jid": "job-0001", "jobtype": "T", "args": [], "failure": {"message": "m"}}
        store.push(StoredJob({**job, **fields}))
    assert [found.job.runs for found in finish(store.find("job-0001"))] == [None, None]
    fail(store, clock, 1)  # for the comparison of the file


def test_the_history_counts_for_the_limit_of_memory(clock: Clock, new_job: NewJob) -> None:
    store = Store(clock, random.Random(1))
    store.quota = Quota(1 << 20)
    job = new_job("job-0001", retry=1000)
    store.quota.charge(job)
    store.push(job)
    sizes = []
    for _ in range(60):
        sizes.append(store.quota.used)
        store.fetch("w1", ["default"])
        store.fail("job-0001", "E", "x" * 1000, [])
        until_due(store, clock)
    growth = [after - before for before, after in pairwise(sizes[1:])]
    assert min(growth[:40]) > 1000
    assert growth[-1] == 0
    store.quota.limit = store.quota.used
    store.fetch("w1", ["default"])
    store.fail("job-0001", "E", "x" * 500, ["y" * 5000])
    assert job.runs is not None
    assert (len(job.runs.kept), job.runs.dropped) == (MAX_RUNS - 1, 12)
    del job
    finish(store.flush())
    store.reservations.clear()
    assert store.quota.used == 0


# Files of version 1.

VERSION_1 = (
    "PRAGMA journal_mode = WAL",
    "CREATE TABLE jobs (id INTEGER PRIMARY KEY, place TEXT NOT NULL, at, wid TEXT,"
    " reserved_at INTEGER, job BLOB NOT NULL)",
    "CREATE TABLE entries (kind TEXT, key BLOB, at, value, PRIMARY KEY (kind, key)) WITHOUT ROWID",
    "PRAGMA application_id = 1178684244",
    "PRAGMA user_version = 1",
    "INSERT INTO entries VALUES ('queue', CAST('default' AS BLOB), 0, 1)",
    "INSERT INTO entries VALUES ('counter', CAST('processed' AS BLOB), 0, 41)",
    "INSERT INTO entries VALUES ('counter', CAST('failures' AS BLOB), 0, 7)",
)
"""What a server of the version before had made and written."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file of version 1 with jobs in several places."""
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in VERSION_1:
            connection.execute(statement)
        job = '{"retry":25,%s"jid":"job-%04d","queue":"default","jobtype":"T","args":[]}'
        failed = '"failure":{"failed_at":"2026-01-01T00:00:00Z","retry_count":0,"remaining":25},'
        for number, (place, failure, at, wid, since) in enumerate(
            [
                ("queue", "", None, None, None),
                ("queue", failed, None, None, None),
                ("retries", failed, 1 << 60, None, None),
                ("working", "", 1 << 60, "w1", 5),
                ("scheduled", "", str(1 << 70), None, None),
            ]
        ):
            row = (number + 1, place, at, wid, since, (job % (failure, number)).encode())
            connection.execute("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?)", row)
    return path


def test_a_file_of_the_version_before_is_brought_up_to_date(
    old: Path, opened: Open, clock: Clock, tmp_path: Path
) -> None:
    state = opened(old)
    store = state.store
    found = contents(store)
    assert [json.loads(job)["jid"] for job in found["queues"]["default"]] == (
        ["job-0000", "job-0001"]
    )
    assert (found["paused"], found["counts"][:2], found["runs"]) == (["default"], (41, 7), [])
    assert [len(each) for each in (store.retries, store.working, store.scheduled)] == [1, 1, 1]
    assert store.by_day(2)[-1][1:] == (0, 0)  # nobody knows when the 41 were
    store.fetch("w", ["default"])
    store.fail("job-0000", "E", "boom", [])
    store.sample()
    state.commit()
    other = opened(copy(old, tmp_path / "copy.db"))
    assert contents(other.store) == contents(store)
    assert len(contents(store)["runs"]) == 1
    assert other.store.by_day(1)[0][1:] == (1, 1)
    with closing(sqlite3.connect(old)) as reader:
        assert reader.execute("PRAGMA user_version").fetchone() == (files.VERSION,)


def test_an_update_that_fails_leaves_the_file_as_it_was(
    old: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(sqlite3.Connection):
        left = 0

        def execute(self, sql: str, *values: object) -> sqlite3.Cursor:  # type: ignore[override]
            if sql.startswith("BEGIN"):
                Broken.left = step
            Broken.left -= 1
            if Broken.left == -1:
                raise sqlite3.OperationalError("disk is full")
            return super().execute(sql, *values)

    real = sqlite3.connect

    def connect(*args: Any, **given: Any) -> sqlite3.Connection:
        return real(*args, factory=Broken, **given)

    before = old.read_bytes()
    for number in range(4):  # BEGIN, ALTER, PRAGMA, COMMIT
        step = number
        with monkeypatch.context() as patched:
            patched.setattr(files.sqlite3, "connect", connect)
            with pytest.raises(DataFileError, match="disk is full"):
                opened(old)
        assert old.read_bytes() == before
    assert len(opened(old).store.queues["default"]) == 2


@pytest.mark.parametrize("text", ["", "{}", "5", "[]", '[0,["x"]]', "[0,5]"])
def test_a_history_that_makes_no_sense_is_a_damaged_file(
    old: Path, opened: Open, text: str
) -> None:
    opened(old).close()
    with closing(sqlite3.connect(old)) as connection, connection:
        connection.execute("UPDATE jobs SET runs = ? WHERE id = 2", (text,))
    with pytest.raises(DataFileError, match="is damaged"):
        opened(old)

"""How many jobs were processed and failed, by day and by minute, and in the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from faktory.server import EmbeddedServer, state
from faktory.server.disk.state import DurableState
from faktory.server.go.time import SECOND, read
from faktory.server.job import StoredJob
from faktory.server.series import DAYS, Series
from faktory.server.slices import finish
from faktory.server.store import Store

from .conftest import Clock
from .durable import copy

DAY = 86400 * SECOND
NewJob = Callable[..., StoredJob]
Open = Callable[..., DurableState]


def run(store: Store, job: StoredJob, fails: bool = False) -> None:
    store.push(job)
    store.fetch("w", ["default"])
    if fails:
        store.fail(job.jid, "E", "m", [])
    else:
        store.acknowledge(job.jid)


def days(store: Store, count: int = 3) -> list[tuple[int, int]]:
    return [(each.processed, each.failures) for each in store.by_day(count)]


def test_jobs_are_counted_by_day_and_by_minute(store: Store, clock: Clock, new_job: NewJob) -> None:
    run(store, new_job("job-0001"))
    store.sample()
    clock.forward(86400 - 60)
    for number in range(2, 5):
        run(store, new_job(f"job-000{number}"), fails=number == 2)
    store.sample()
    clock.forward(60)
    run(store, new_job("job-0005"), fails=True)
    assert days(store) == [(0, 0), (4, 1), (1, 1)]
    assert [each.at for each in store.by_day(2)] == (
        [read("2026-01-01T00:00:00Z"), read("2026-01-02T00:00:00Z")]
    )
    minutes = store.by_minute()
    assert len(minutes) == 60
    assert [each[1:] for each in minutes[-3:]] == [(0, 0), (3, 1), (1, 1)]
    assert minutes[-1].at == clock.now
    assert minutes[0].at == clock.now - 59 * 60 * SECOND
    assert sum(each.processed for each in minutes[:-2]) == 0


def test_what_is_too_old_is_dropped(clock: Clock) -> None:
    series = Series()
    for number in range(400):
        series.sample(clock.now, (number, number // 2))
        clock.forward(86400)
    assert len(series.days) == DAYS
    assert len(series._minutes) == 1
    clock.forward(-86400)
    assert len(series.by_day(clock.now, 1000)) == DAYS
    assert [each.processed for each in series.by_day(clock.now, 2)] == [1, 1]


def test_a_clock_that_is_set_back_loses_nothing_of_now(clock: Clock) -> None:
    series = Series()
    series.sample(clock.now + 500 * DAY, (3, 0))
    series.sample(clock.now, (5, 1))
    series.sample(clock.now + DAY, (6, 1))
    series.sample(clock.now, (7, 1))
    assert [each[1:] for each in series.by_day(clock.now + DAY, 2)] == [(3, 1), (1, 0)]
    assert len(series.days) == 2


def test_flush_forgets_the_numbers(store: Store, new_job: NewJob) -> None:
    run(store, new_job("job-0001"), fails=True)
    assert days(store, 1) == [(1, 1)]
    finish(store.flush())
    assert days(store, 1) == [(0, 0)]
    run(store, new_job("job-0002"))
    assert days(store, 1) == [(1, 0)]


def test_time_that_travels_moves_on_the_series(server: EmbeddedServer, dial: Any) -> None:
    client = dial()
    for number in range(3):
        client.push(f"job-000{number}", retry=0)
        client.call("FETCH default")
    client.call('ACK {"jid":"job-0000"}')
    before = server._call(lambda state: state.clock()) // DAY
    server.travel(3 * 86400)  # the two others expire after half an hour
    client.push("job-0004")
    client.call("FETCH default")
    client.call('ACK {"jid":"job-0004"}')
    points = server._call(lambda state: state.store.by_day(5))
    counted = {each.at // DAY - before: each[1:] for each in points}
    half_an_hour_later = sum(counts[0] for day, counts in counted.items() if day in (0, 1))
    assert half_an_hour_later == 3
    assert counted[0][0] >= 1
    assert sum(counts[0] for day, counts in counted.items() if day >= 3) == 1


def test_the_loop_takes_samples(
    monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., object]
) -> None:
    monkeypatch.setattr(state, "SAMPLED", 0.01)
    with EmbeddedServer() as server:
        server._call(lambda state: setattr(state.store, "processed", 5))
        wait_until(lambda: server._call(lambda state: state.store.series.sampled == (5, 0)))


# In the file.


@pytest.fixture
def opened(tmp_path: Path, clock: Clock) -> Iterator[Open]:
    states = []

    def opened(path: Path = tmp_path / "jobs.db") -> DurableState:
        made = DurableState(str(path), "normal", now=clock)
        made.open()
        states.append(made)
        return made

    yield opened
    for each in states:
        each.close()


def test_the_days_are_in_the_file(
    opened: Open, clock: Clock, new_job: NewJob, tmp_path: Path
) -> None:
    first = opened()
    run(first.store, new_job("job-0001"), fails=True)
    first.store.sample()
    clock.forward(86400)
    run(first.store, new_job("job-0002"))
    first.store.sample()
    first.commit()
    other = opened(copy(Path(first.path), tmp_path / "copy.db"))
    assert days(other.store) == days(first.store) == [(0, 0), (1, 1), (1, 0)]
    assert all(each.processed == 0 for each in other.store.by_minute())


def test_what_a_killed_server_counted_after_its_last_sample_is_of_that_day(
    opened: Open, clock: Clock, new_job: NewJob, tmp_path: Path
) -> None:
    first = opened()
    run(first.store, new_job("job-0001"))
    first.store.sample()
    clock.forward(4)
    run(first.store, new_job("job-0002"), fails=True)
    first.commit()
    copied = copy(Path(first.path), tmp_path / "copy.db")
    clock.forward(2 * 86400)
    other = opened(copied)
    assert days(other.store) == [(2, 1), (0, 0), (0, 0)]
    other.commit()
    again = opened(copy(copied, tmp_path / "again.db"))
    assert days(again.store) == [(2, 1), (0, 0), (0, 0)]


def test_a_new_file_counts_from_the_first_moment(
    opened: Open, clock: Clock, new_job: NewJob, tmp_path: Path
) -> None:
    first = opened()
    run(first.store, new_job("job-0001"))
    first.commit()
    clock.forward(86400)
    other = opened(copy(Path(first.path), tmp_path / "copy.db"))
    assert days(other.store) == [(0, 0), (1, 0), (0, 0)]


def test_the_day_of_an_idle_server_is_noted(
    opened: Open, clock: Clock, new_job: NewJob, tmp_path: Path
) -> None:
    first = opened()
    run(first.store, new_job("job-0001"))
    first.store.sample()
    first.commit()
    first.store.sample()
    assert not first.must_commit
    clock.forward(2 * 86400)
    first.store.sample()
    run(first.store, new_job("job-0002"))
    first.commit()
    other = opened(copy(Path(first.path), tmp_path / "copy.db"))
    assert days(other.store) == [(1, 0), (0, 0), (1, 0)]


def test_flush_forgets_the_days_of_the_file(
    opened: Open, clock: Clock, new_job: NewJob, tmp_path: Path
) -> None:
    first = opened()
    run(first.store, new_job("job-0001"))
    first.store.sample()
    first.commit()
    finish(first.store.flush())
    run(first.store, new_job("job-0002"))
    first.commit()
    other = opened(copy(Path(first.path), tmp_path / "copy.db"))
    assert days(other.store, 1) == days(first.store, 1) == [(1, 0)]


def test_a_stopped_server_has_kept_its_last_sample(tmp_path: Path, dial: Any) -> None:
    server = EmbeddedServer(data=tmp_path / "jobs.db")
    with server:
        client = dial(to=server)
        client.push("job-0001")
        client.call("FETCH default")
        client.call('ACK {"jid":"job-0001"}')
    with server:
        assert server._call(lambda state: state.store.series.sampled) == (1, 0)
        assert sum(each.processed for each in server._call(lambda s: s.store.by_day(2))) == 1

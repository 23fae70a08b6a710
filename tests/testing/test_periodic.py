"""Periodic jobs in tests: time passes, and their ticks are pushed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

import faktory
from faktory import testing
from faktory.jobs import registry
from faktory.testing.embedded import served

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
ran: list[datetime | None] = []


@pytest.fixture(autouse=True)
def sweep() -> Iterator[Any]:
    ran.clear()
    with registry.isolated():

        @faktory.periodic(every=600)
        @faktory.job
        def sweep() -> None:
            ran.append(faktory.current_job().tick)

        yield sweep


def is_in_order() -> bool:
    ticks = [tick for tick in ran if tick is not None]
    return len(ticks) == len(ran) and all(
        later - earlier == timedelta(minutes=10) for earlier, later in pairwise(ticks)
    )


def test_ticks_are_listed_in_order(sweep: Any) -> None:
    sweep.every(1800, name="rare", tz="Europe/Berlin")
    found = testing.ticks(BEGIN, BEGIN + timedelta(hours=1))
    assert [(each.name, each.at.minute) for each in found] == [
        ("sweep", 10),
        ("sweep", 20),
        ("sweep", 30),
        ("rare", 30),
        ("sweep", 40),
        ("sweep", 50),
        ("sweep", 0),
        ("rare", 0),
    ]
    assert found[3].at.utcoffset() == timedelta(hours=1)
    assert found[0].job["jobtype"] == "sweep"
    with pytest.raises(ValueError, match="naive"):
        testing.ticks(BEGIN.replace(tzinfo=None), BEGIN)


def test_fake_mode_pushes_the_ticks_of_the_time_that_passes(sweep: Any) -> None:
    with testing.fake() as server:
        server.travel(3600)
        assert len(sweep.jobs) == 6
        assert testing.drain_all() == 6
        assert is_in_order()
        server.travel(3600, periodic=False)
        assert server.jobs == []


def test_inline_mode_runs_them(sweep: Any) -> None:
    with testing.inline() as server:
        server.travel(3600)
        assert len(ran) == 6
        assert is_in_order()


def test_inline_mode_runs_each_at_its_time(sweep: Any) -> None:
    sweep.set(expires_in=60).every(600, name="brief")
    with testing.inline() as server:
        server.travel(3600)
        assert len(ran) == 12
        server.travel(0)
        assert len(ran) == 12


def test_a_tick_that_raises_in_inline_mode_leaves_the_later_ones_for_the_next_travel() -> None:
    @faktory.job(retry=0)
    def fail() -> None:
        tick = faktory.current_job().tick
        failed.append(tick)
        if len(failed) == 2:
            raise ValueError(tick)

    failed: list[datetime | None] = []
    registry.schedules.clear()
    fail.every(600)
    with testing.inline() as server:
        with pytest.raises(ValueError, match=r"\+00:00"):
            server.travel(3600)
        assert len(failed) == 2
        server.travel(2400)
        assert len(failed) == len({*failed}) == 6


def test_a_tick_stays_the_same_when_its_job_is_tried_again() -> None:
    @faktory.job
    def flaky() -> None:
        ran.append(faktory.current_job().tick)
        if len(ran) == 1:
            raise faktory.Retry(after=5)

    registry.schedules.clear()
    flaky.every(600, tz="Asia/Kathmandu")
    with testing.fake() as server:
        server.travel(600)
        testing.drain_all()
        server.travel(10, periodic=False)
        testing.drain_all()
    assert len(ran) == 2
    assert ran[0] == ran[1]
    assert ran[0] is not None
    assert ran[0].utcoffset() == timedelta(hours=5, minutes=45)


def test_a_tick_stays_the_same_when_its_job_fails_and_the_server_tries_it_again() -> None:
    @faktory.job
    def broken() -> None:
        ran.append(faktory.current_job().tick)
        if len(ran) == 1:
            raise ValueError("broken")

    registry.schedules.clear()
    broken.every(600, tz="Asia/Kathmandu")
    with served() as server:
        server.travel(600)
        server.drain()
        server.travel(300, periodic=False)
        assert server.drain() == 1
    assert len(ran) == 2
    assert ran[0] == ran[1] is not None


def test_the_embedded_server_has_them_run_by_its_worker(sweep: Any) -> None:
    with served() as server:
        server.travel(3600)
        assert server.drain() == 6
        assert is_in_order()
        server.travel(3600, periodic=False)
        assert server.drain() == 0


def test_more_ticks_than_a_test_can_mean_are_an_error(sweep: Any) -> None:
    with testing.fake() as server, pytest.raises(ValueError, match=r"more than 10,000 ticks"):
        server.travel(100_000_000)


@pytest.mark.parametrize(
    ("seconds", "kind", "text"),
    [
        (1e12, ValueError, r"travel\(1000000000000.0 .*beyond the year 9000: pass seconds"),
        (float("inf"), ValueError, "beyond the year 9000"),
        (float("nan"), ValueError, "goes back, and time goes forward only"),
        (-1, ValueError, r"travel\(-1\) goes back"),
        ("5", TypeError, r"travel takes seconds, not '5'"),
        (timedelta(hours=1), TypeError, "pass a number"),
    ],
)
def test_a_time_that_no_clock_has_is_refused_with_the_remedy(
    sweep: Any, seconds: Any, kind: type[Exception], text: str
) -> None:
    with testing.fake() as server, pytest.raises(kind, match=text):
        server.travel(seconds)
    with served() as embedded:
        for travel in (embedded.travel, embedded.server.travel):
            with pytest.raises(kind, match=text):
                travel(seconds)

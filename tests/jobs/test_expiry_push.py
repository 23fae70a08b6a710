"""When a job expires: fixed when it is pushed, and seen alike by servers whose clock is moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import faktory
from faktory import testing
from faktory.client import defaults
from faktory.jobs import options, schedule
from faktory.jobs.push import BULK_CHUNK
from faktory.server import EmbeddedServer
from faktory.server.state import Timing

from .support import FakeServer

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Clock:
    """A clock in the place of `datetime`."""

    def __init__(self) -> None:
        self.time = NOW
        self.fromisoformat = datetime.fromisoformat

    def now(self, zone: object) -> datetime:
        assert zone is UTC
        return self.time

    def move(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(options, "datetime", clock)
    monkeypatch.setattr(schedule, "time", lambda: clock.time.timestamp())
    return clock


def rest(*args: object) -> None:
    """A job."""


def after(seconds: float) -> dict[str, Any]:
    end = NOW + timedelta(seconds=seconds)
    return {"expires_at": end.isoformat().replace("+00:00", "Z")}


@pytest.mark.parametrize("middleware", [False, True])
def test_the_time_is_fixed_with_each_push_and_counts_from_at(
    server: FakeServer, clock: Clock, middleware: bool
) -> None:
    if middleware:
        faktory.client_middleware.add(lambda payload, call_next: call_next())
    job = faktory.job(name="work", expires_in=60, custom={"a": 1})(rest)
    pushes: list[tuple[Callable[[], object], float]] = [
        (lambda: job.perform_async(1), 60),
        (lambda: job.perform_in(100, 1), 160),
        (lambda: job.perform_at(NOW + timedelta(seconds=500), 1), 560),
        (lambda: job.perform_bulk([(1,)]), 60),
        (lambda: job.set(expires_in=5.9).perform_async(1), 5),
        (lambda: job.set(expires_at=NOW + timedelta(seconds=7)).perform_async(1), 7),
        (lambda: job.set(expires_at=NOW + timedelta(seconds=7)).perform_bulk([(1,)]), 7),
    ]
    for act, seconds in pushes:
        act()
        assert server.jobs.pop()["custom"] == {"a": 1, **after(seconds)}
    clock.move(10)
    for act, seconds in (pushes[0], pushes[3]):  # nothing is kept from the push before
        act()
        assert server.jobs.pop()["custom"] == {"a": 1, **after(seconds + 10)}
    assert server.other_commands == []  # the edition of the server does not matter
    assert job.payload((1,))["custom"] == {"a": 1, "expires_in": 60}  # not pushed


def test_the_default_options_may_expire_jobs(server: FakeServer, clock: Clock) -> None:
    faktory.default_job_options["expires_in"] = timedelta(minutes=1)
    job = faktory.job(rest)
    job.perform_async()
    job.set(expires_in=None).perform_async()
    assert server.jobs[0]["custom"] == after(60)
    assert "custom" not in server.jobs[1]


def test_in_a_long_bulk_each_chunk_counts_from_its_own_push(
    server: FakeServer, clock: Clock
) -> None:
    def rows() -> Iterator[tuple[int]]:
        for number in range(2 * BULK_CHUNK):
            if number == BULK_CHUNK:
                clock.move(1000)
            yield (number,)

    faktory.job(expires_in=60)(rest).perform_bulk(rows())
    assert server.sizes == [BULK_CHUNK, BULK_CHUNK]
    assert {job["custom"]["expires_at"] for job in server.jobs[:BULK_CHUNK]} == {
        after(60)["expires_at"]
    }
    assert {job["custom"]["expires_at"] for job in server.jobs[BULK_CHUNK:]} == {
        after(1060)["expires_at"]
    }


def test_a_middleware_sees_the_seconds_and_may_change_them(
    server: FakeServer, clock: Clock
) -> None:
    @faktory.client_middleware.add
    def longer(payload: dict[str, Any], call_next: Callable[[], object]) -> object:
        payload["custom"]["expires_in"] += 1
        return call_next()

    faktory.job(expires_in=60)(rest).perform_async()
    assert server.jobs[0]["custom"] == after(61)


def test_a_message_counts_from_its_push_and_its_dict_from_when_it_is_made(
    server: FakeServer, clock: Clock
) -> None:
    message = faktory.job(name="work", expires_in=60, custom={"a": 1})(rest).message(1)
    clock.move(10)
    message.push()
    with faktory.Producer() as producer:
        producer.push(message).result(timeout=60)
    made = message.to_dict()
    clock.move(10)
    with faktory.Client() as client:
        client.push(made)
    assert [job["custom"] for job in server.jobs] == [{"a": 1, **after(70)}] * 3
    at = NOW + timedelta(seconds=500)
    later = faktory.external("work").set(at=at, expires_in=60).message()
    assert later.to_dict()["custom"] == after(560)
    assert message.options["expires_in"] == 60


def test_each_job_of_a_chain_expires_from_its_own_push_on(server: FakeServer, clock: Clock) -> None:
    work = faktory.external("work").set(expires_in=60)
    chain = faktory.chain(work.message(1), work.message(2), work.set(custom={"a": 1}).message(3))
    chain.push()
    with faktory.Producer() as producer:
        producer.push(chain).result(timeout=60)
    for job in [*server.jobs, chain.to_dict()]:
        second, third = job["custom"]["faktory_chain"]
        assert job["custom"]["expires_at"] == after(60)["expires_at"]
        assert "expires_in" not in job["custom"]
        assert second["custom"] == {"expires_in": 60}
        assert third["custom"] == {"a": 1, "expires_in": 60}


def test_a_time_that_is_past_when_the_job_is_pushed_does_not_count(clock: Clock) -> None:
    for at, seconds in ((NOW - timedelta(days=1), 60), (NOW + timedelta(seconds=7), 67)):
        job = {"at": at.isoformat(), "custom": {"expires_in": 60}}
        options.fix_expiry(job)
        assert job["custom"] == after(seconds)


def test_in_fake_mode_a_job_of_a_chain_expires_from_its_own_push_on() -> None:
    ran: list[int] = []

    @faktory.job
    def work(number: int) -> None:
        ran.append(number)

    with testing.fake() as memory:
        faktory.chain(work.message(1), work.set(expires_in=60).message(2)).push()
        memory.travel(1000)
        memory.perform_one()
        memory.travel(59)
        assert memory.drain() == 1
        assert ran == [1, 2]


@pytest.mark.parametrize(
    "custom", [{"expires_in": "1h"}, {"expires_in": True}, {"expires_in": 9e12}]
)
def test_what_is_not_a_duration_of_ours_goes_as_it_is(
    server: FakeServer, custom: dict[str, Any]
) -> None:
    faktory.job(custom=custom)(rest).perform_async()
    assert server.jobs[0]["custom"] == custom


# Servers whose clock a test moves


@pytest.fixture(params=[False, True], ids=["open-source", "enterprise"])
def embedded(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    timing = Timing(fetch_wait=0.1)
    with (
        EmbeddedServer(enterprise=request.param, timing=timing) as server,
        defaults.configured(url=server.url),
    ):
        yield server


def fetched() -> dict[str, Any] | None:
    with faktory.Client() as client:
        job: Any = client.fetch("default")
        if job is not None:
            client.ack(job["jid"])
        return job  # type: ignore[no-any-return]


def seconds_left(job: dict[str, Any] | None) -> float:
    assert job is not None
    end = datetime.fromisoformat(job["custom"]["expires_at"])
    return (end - datetime.now(UTC)).total_seconds()


def test_a_worker_sees_as_much_time_left_as_the_servers_clock_says(
    embedded: EmbeddedServer,
) -> None:
    job = faktory.external("work").set(expires_in=600)
    job.perform_async()
    embedded.travel(100)
    first = fetched()
    assert 490 < seconds_left(first) <= 500
    embedded.travel(10_000)
    job.perform_async()
    second = fetched()
    assert 590 < seconds_left(second) <= 600
    with faktory.Client() as client:  # a job that is pushed again keeps its time
        client.push({**(second or {}), "failure": {"retry_count": 0, "remaining": 1}})
    embedded.travel(100)
    third = fetched()
    assert 480 < seconds_left(third) <= 500


def test_a_job_that_expired_while_the_clock_was_moved_is_not_run(embedded: EmbeddedServer) -> None:
    faktory.external("work").set(expires_in=600).perform_async()
    embedded.travel(601)
    job = fetched()
    # With Enterprise the server drops it; without, it is the worker that does.
    assert job is None or seconds_left(job) < 0


@pytest.mark.parametrize("switch", [testing.fake, testing.inline])
def test_in_test_modes_a_job_expires_by_their_clock(switch: Callable[[], Any]) -> None:
    ran: list[int] = []

    @faktory.job(expires_in=60)
    def work(number: int) -> None:
        ran.append(number)

    with switch() as memory:
        memory.travel(1000)
        work.perform_async(1)
        memory.drain()
        assert ran == [1]
        if memory.inline:
            return
        work.perform_async(2)
        assert memory.jobs[0]["custom"].keys() == {"expires_in", "expires_at"}
        memory.travel(61)
        work.perform_async(3)
        assert memory.drain() == 1
        assert ran == [1, 3]


# What the server is said to know


@pytest.mark.parametrize("how", ["configure", "variable"])
def test_a_server_that_is_said_to_know_enterprise_options_gets_them(
    server: FakeServer, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.description = "Faktory"
    job = faktory.job(unique_for=60, track=True)(rest)
    with pytest.raises(faktory.FaktoryEnterpriseRequired, match=r"configure\(enterprise=True\)"):
        job.perform_async()
    if how == "configure":
        faktory.configure(enterprise=True)
    else:
        monkeypatch.setenv("FAKTORY_ENTERPRISE", "1")
    server.other_commands.clear()
    job.perform_async()
    job.perform_bulk([()])
    assert [job["custom"] for job in server.jobs] == [{"unique_for": 60, "track": 1}] * 2
    assert server.other_commands == []
    faktory.configure(enterprise=False)  # the server is asked again
    with pytest.raises(faktory.FaktoryEnterpriseRequired):
        job.perform_async()
    server.description = "Faktory Enterprise"
    job.perform_async()


def test_the_real_server_keeps_the_time_and_takes_what_a_plug_in_is_said_to_know(
    real_server_url: str,
) -> None:
    queue = f"expiry-{faktory.proto.new_jid()}"
    job = faktory.external("work", queue=queue)
    with defaults.configured(url=real_server_url, enterprise=True), faktory.Client() as client:
        try:
            jid = job.set(expires_in=60).perform_async()
            job.set(unique_for=60, track=True).perform_async()
            first, second = client.fetch(queue), client.fetch(queue)
            assert first is not None
            assert second is not None
            assert first["jid"] == jid
            assert 50 < seconds_left(first) <= 60
            assert second["custom"] == {"unique_for": 60, "track": 1}
            client.ack(first["jid"])
            client.ack(second["jid"])
        finally:
            client.remove_queues(queue)

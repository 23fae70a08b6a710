"""The scheduler: ticks are pushed ahead, once, by the server's clock, whatever breaks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import faktory
from faktory import Client, Worker
from faktory.jobs import registry
from faktory.jobs.ticks import schedules
from faktory.server import EmbeddedServer
from faktory.worker import scheduler as scheduling
from faktory.worker.scheduler import Scheduler

LOG = logging.getLogger("tests.scheduler")
WaitUntil = Callable[..., object]


@pytest.fixture(autouse=True)
def _isolated() -> Iterator[None]:
    with registry.isolated():
        yield


@pytest.fixture
def sweep() -> Any:
    @faktory.job
    def sweep(*args: object) -> None: ...

    return sweep


@pytest.fixture
def make(server: EmbeddedServer) -> Iterator[Callable[[], Scheduler]]:
    """Make a scheduler whose rounds the test runs, by `_round`."""
    clients: list[Client] = []

    def make() -> Scheduler:
        clients.append(Client(server.url))
        return Scheduler(clients[-1], schedules(), LOG)

    yield make
    for client in clients:
        client.close()


def pushed(server: EmbeddedServer) -> list[str]:
    """The ticks in the scheduled set, in order."""
    return sorted(job["custom"]["faktory_tick"] for job in server.scheduled)


def server_time(server: EmbeddedServer) -> datetime:
    with Client(server.url) as client:
        return datetime.fromisoformat(client.info()["now"])


def test_ticks_are_pushed_up_to_90_s_ahead_and_once_by_all(
    server: EmbeddedServer, sweep: Any, make: Callable[[], Scheduler]
) -> None:
    sweep.every(10)
    before = server_time(server)
    both = [make(), make()]
    for _ in range(2):
        for each in both:
            assert each._round()
    after = server_time(server)
    ticks = [datetime.fromisoformat(tick) for tick in pushed(server)]
    assert len(ticks) == len(set(ticks)) == len(server.scheduled)
    expected = schedules()[0].ticks(before + timedelta(seconds=6), after + timedelta(seconds=89))
    assert set(expected) <= set(ticks)
    assert min(ticks) > before + timedelta(seconds=5)
    assert max(ticks) <= after + timedelta(seconds=90)


def test_only_pushb_is_sent(
    server: EmbeddedServer, sweep: Any, make: Callable[[], Scheduler]
) -> None:
    faktory.periodic(every=10, job=sweep.set(retry=3))
    assert make()._round()
    assert "PUSHB" in {verb for verb, _ in server.commands}
    assert "PUSH" not in {verb for verb, _ in server.commands}


def test_a_jump_of_the_servers_clock_leaves_out_ticks_and_logs_them_once(
    server: EmbeddedServer,
    sweep: Any,
    make: Callable[[], Scheduler],
    caplog: pytest.LogCaptureFixture,
) -> None:
    sweep.every(60)
    scheduler = make()
    assert scheduler._round()
    known = len(server.scheduled)
    server.travel(3600)
    assert scheduler._round()
    (line,) = [text for text in caplog.messages if "are not made good" in text]
    assert line.startswith("the schedule sweep: ")
    missed = int(line.split()[3])
    assert 57 <= missed + known <= 61
    caplog.clear()
    assert scheduler._round()
    assert "made good" not in caplog.text
    assert server.scheduled


def test_a_servers_clock_that_goes_back_is_followed(
    server: EmbeddedServer,
    sweep: Any,
    make: Callable[[], Scheduler],
    caplog: pytest.LogCaptureFixture,
) -> None:
    sweep.every(60)
    server.travel(3600)
    scheduler = make()
    assert scheduler._round()
    server.reset()
    assert scheduler._round()
    assert "clock went back" in caplog.text
    now = server_time(server)
    ticks = [datetime.fromisoformat(tick) for tick in pushed(server)]
    assert all(now < tick < now + timedelta(seconds=91) for tick in ticks)
    assert server.scheduled


def test_a_push_of_unknown_outcome_is_repeated_without_a_second_job(
    server: EmbeddedServer,
    sweep: Any,
    make: Callable[[], Scheduler],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    sweep.every(30)
    scheduler = make()
    server.drop_after("PUSHB")
    assert not scheduler._round()
    assert "cannot be pushed now" in caplog.text
    before = pushed(server)
    assert before
    assert scheduler._round()
    assert "periodic jobs are pushed again" in caplog.text
    assert len(server.scheduled) == len(set(pushed(server)))
    assert set(before) <= set(pushed(server))
    assert "made good" not in caplog.text


def test_a_broken_connection_is_logged_once(
    server: EmbeddedServer,
    sweep: Any,
    make: Callable[[], Scheduler],
    caplog: pytest.LogCaptureFixture,
) -> None:
    sweep.every(30)
    scheduler = make()
    server.drop_before("PUSHB", times=2)
    assert not scheduler._round()
    assert not scheduler._round()
    assert caplog.text.count("cannot be pushed now") == 1
    assert scheduler._round()
    assert server.scheduled


def test_arguments_that_raise_cost_their_tick_only(
    server: EmbeddedServer,
    sweep: Any,
    make: Callable[[], Scheduler],
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[datetime] = []

    def odd(tick: datetime) -> Any:
        calls.append(tick)
        if len(calls) == 1:
            raise LookupError("no such day")
        return 7 if len(calls) == 2 else (object(),) if len(calls) == 3 else (1,)

    sweep.every(10, args=odd)
    assert make()._round()
    assert caplog.text.count("the schedule sweep leaves out its tick") == 3
    assert "LookupError: no such day" in caplog.text
    assert len(server.scheduled) == len(calls) - 3 > 0


def test_a_refused_job_is_logged_and_the_others_are_pushed(
    sweep: Any, caplog: pytest.LogCaptureFixture
) -> None:
    sweep.every(30)
    sweep.every(20, name="other")
    now = datetime.now(UTC)

    class Refusing:
        sent: list[Any] = []

        def info(self) -> dict[str, Any]:
            return {"now": now.isoformat()}

        def exchange(self, command: Any) -> Any:
            self.sent.append(command)
            from faktory.wire.session import Answer

            return [Answer(command, {command.jids[0]: "no memory"}, None)]

    scheduler = Scheduler(Refusing(), schedules(), LOG)  # type: ignore[arg-type]
    assert scheduler._round()
    assert scheduler._round()
    assert caplog.text.count("refused the tick") == 1
    assert len(Refusing.sent) == 1


@pytest.mark.parametrize("info", [{}, {"now": 7}, {"now": "soon"}])
def test_a_server_that_does_not_say_its_time_is_named(
    sweep: Any, info: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    sweep.every(30)

    class Old:
        def info(self) -> dict[str, Any]:
            return info

    assert not Scheduler(Old(), schedules(), LOG)._round()  # type: ignore[arg-type]
    assert "the server does not say its time" in caplog.text


def test_nothing_is_pushed_if_the_machine_stood_still_after_the_question(
    server: EmbeddedServer,
    sweep: Any,
    make: Callable[[], Scheduler],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sweep.every(10)
    scheduler = make()
    clock = iter([0.0, 0.0, 0.0, 95.0, 95.0, 95.0, 95.0])
    monkeypatch.setattr(scheduling, "reservation_clock", lambda: next(clock))
    assert scheduler._round()
    assert server.scheduled == []


def test_a_wrong_password_ends_it(sweep: Any, caplog: pytest.LogCaptureFixture) -> None:
    sweep.every(30)
    with EmbeddedServer(password="right") as server:
        url = server.url.replace("right", "wrong")
        scheduler = Scheduler(Client(url), schedules(), LOG)
        scheduler.run()
    assert isinstance(scheduler.error, faktory.FaktoryAuthenticationError)
    assert "periodic jobs are not pushed any more" in caplog.text


# In a worker


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_a_worker_pushes_where_a_schedule_is_declared_until_it_stops(
    server: EmbeddedServer, sweep: Any, wait_until: WaitUntil
) -> None:
    sweep.every(10)
    worker = Worker(server.url, periodic=True)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        wait_until(lambda: server.scheduled)
        assert "faktory-periodic" in threads()
        worker.quiet()
        wait_until(lambda: worker.is_quiet)
        assert "faktory-periodic" in threads()
    finally:
        worker.stop()
        thread.join()
    assert "faktory-periodic" not in threads()


@pytest.mark.parametrize(
    ("declared", "options"),
    [(False, {"periodic": True}), (True, {}), (True, {"periodic": True, "burst": True})],
)
def test_another_worker_starts_no_thread(
    server: EmbeddedServer, sweep: Any, wait_until: WaitUntil, declared: bool, options: Any
) -> None:
    if declared:
        sweep.every(10)
    worker = Worker(server.url, **options)
    seen: list[str] = []
    make = worker._make_client
    worker._make_client = lambda: (seen.append("client"), make())[1]  # type: ignore[method-assign]
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        wait_until(lambda: "FETCH" in dict(server.commands) or not thread.is_alive())
        assert "faktory-periodic" not in threads()
    finally:
        worker.stop()
        thread.join()
    assert len(seen) == 1  # the heartbeat's
    assert server.scheduled == []

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from threading import Event
from typing import Any

import pytest

from faktory.exceptions import (
    FaktoryAuthenticationError,
    FaktoryConnectionError,
    FaktoryError,
    FaktoryServerError,
)
from faktory.worker.heartbeat import Heartbeat, rss_kb
from faktory.worker.lifecycle import Lifecycle, State
from faktory.worker.timing import DEFAULT, Timing

from .conftest import WaitUntil

Beat = Callable[..., "Beating"]
LOG = logging.getLogger("test.heartbeat")
UNKNOWN = FaktoryServerError("ERR unknown worker 123")


class FakeClient:
    """A fake client that answers beats from a list, then always with OK."""

    is_connected = True

    def __init__(self, answers: list[Any]) -> None:
        self.answers = answers
        self.beats: list[tuple[str | None, int | None]] = []
        self.calls: list[str] = []
        self.infos: list[Any] = []

    def beat(self, current_state: str | None = None, rss_kb: int | None = None) -> Any:
        self.calls.append("beat")
        self.beats.append((current_state, rss_kb))
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def info(self) -> Any:
        self.calls.append("info")
        answer = self.infos.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def interrupt(self) -> None:
        self.interrupted = True

    def disconnect(self) -> None:
        self.calls.append("disconnect")

    def close(self) -> None:
        self.calls.append("close")


class Beating:
    """A heartbeat with a fake client, of a fake worker that keeps the arguments of its calls."""

    log = LOG

    def __init__(self, answers: list[Any], interval: float, timing: Timing) -> None:
        self.client = FakeClient(answers)
        self.lifecycle = Lifecycle()
        self.states: list[str] = []
        self.errors: list[FaktoryError] = []
        self.answered: list[float] = []
        self.thread = Heartbeat(self, self.client, interval, timing)  # type: ignore[arg-type]

    def on_beat(self, asked_at: float, state: str | None) -> None:
        self.answered.append(asked_at)
        if state is not None:
            self.states.append(state)

    def on_beat_error(self, _: float, error: FaktoryError) -> None:
        self.errors.append(error)

    def reconnect(self) -> None:
        self.client.calls.append("unknown")

    def running(self) -> list[str]:
        return ["Resize 12345678 (3 s)"]


@pytest.fixture
def beat() -> Iterator[Beat]:
    """`beat(*answers, interval=0.001)`: start a heartbeat; it is stopped after the test."""
    started: list[Beating] = []

    def beat(*answers: Any, interval: float = 0.001, timing: Timing = DEFAULT) -> Beating:
        beating = Beating(list(answers), interval, timing)
        started.append(beating)
        beating.thread.start()
        return beating

    yield beat
    for beating in started:
        beating.thread.stop()
        beating.thread.join(10)
        assert not beating.thread.is_alive()
        assert beating.client.calls[-1] == "close"


def test_the_first_beat_goes_out_at_once(beat: Beat, wait_until: WaitUntil) -> None:
    beating = beat(interval=1000)
    wait_until(lambda: beating.answered)
    assert len(beating.client.beats) == 1


def test_a_beat_reports_the_memory_of_the_process(beat: Beat, wait_until: WaitUntil) -> None:
    beating = beat(interval=1000)
    wait_until(lambda: beating.client.beats)
    (_, rss) = beating.client.beats[0]
    assert type(rss) is int
    assert 1_000 < rss < 10_000_000


def test_the_memory_is_known_without_proc_too(monkeypatch: pytest.MonkeyPatch) -> None:
    real = rss_kb()
    monkeypatch.setattr("os.sysconf", lambda name: (_ for _ in ()).throw(ValueError(name)))
    peak = rss_kb()
    assert real is not None
    assert peak is not None
    assert real / 2 < peak < real * 20


def test_each_beat_reports_the_state_of_the_worker(beat: Beat, wait_until: WaitUntil) -> None:
    beating = beat()
    wait_until(lambda: beating.client.beats)
    for state, reported in ((State.QUIET, "quiet"), (State.TERMINATE, "terminate")):
        beating.lifecycle.advance(state)
        wait_until(lambda reported=reported: beating.client.beats[-1][0] == reported)
    assert beating.client.beats[0][0] is None


def test_each_state_that_the_server_wants_is_passed_on(beat: Beat, wait_until: WaitUntil) -> None:
    beating = beat("quiet", "quiet", None, "terminate")
    wait_until(lambda: len(beating.client.beats) > 4)
    assert beating.states == ["quiet", "quiet", "terminate"]


@pytest.mark.parametrize("error", [FaktoryConnectionError("gone"), OSError("odd"), KeyError("odd")])
def test_an_error_does_not_stop_the_next_beat(
    beat: Beat, wait_until: WaitUntil, error: Exception
) -> None:
    beating = beat(error, error, interval=0.001)
    wait_until(lambda: beating.answered)
    assert len(beating.client.beats) >= 3
    assert beating.errors == ([error, error] if isinstance(error, FaktoryError) else [])


def test_a_server_that_does_not_know_the_worker_is_greeted_again_at_once(
    beat: Beat, wait_until: WaitUntil
) -> None:
    beating = beat(UNKNOWN, "quiet", interval=1000)
    wait_until(lambda: beating.states)
    assert beating.client.calls == ["beat", "unknown", "disconnect", "beat"]
    assert beating.states == ["quiet"]


def test_a_server_that_refuses_every_beat_gets_two_in_each_interval(
    beat: Beat, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    beating = beat(*[UNKNOWN] * 100, interval=1000)
    wait_until(lambda: len(caplog.messages) == 2)
    assert beating.client.calls == ["beat", "unknown", "disconnect", "beat"]
    assert beating.errors == []  # the server answers, so it is not lost


def test_a_wrong_password_is_passed_on_and_ends_the_heartbeat(beat: Beat) -> None:
    error = FaktoryAuthenticationError("wrong password")
    beating = beat(error)
    beating.thread.join(10)
    assert beating.errors == [error]
    assert beating.client.calls == ["beat", "close"]


def test_stop_does_not_wait_for_the_next_beat(beat: Beat, wait_until: WaitUntil) -> None:
    beating = beat(interval=1000)
    wait_until(lambda: beating.answered)
    beating.thread.stop()
    beating.thread.join(10)
    assert beating.client.calls == ["beat", "close"]


def test_a_late_beat_is_logged_with_the_running(
    beat: Beat, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    beating = beat(timing=Timing(late_beat=-1.0))  # every beat is late
    wait_until(lambda: len(beating.client.beats) > 1)
    assert "s late: does a job keep the interpreter to itself?" in caplog.messages[0]
    assert caplog.messages[0].endswith("Running: Resize 12345678 (3 s)")


def test_a_log_that_raises_does_not_stop_the_next_beat(
    beat: Beat, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(record: logging.LogRecord) -> bool:
        raise KeyError(record.name)

    monkeypatch.setattr(LOG, "filters", [broken])
    beating = beat(UNKNOWN, UNKNOWN, KeyError("odd"))
    wait_until(lambda: beating.answered)
    assert beating.client.calls.count("beat") > 2


def server_with(connections: object, edition: str = "Faktory") -> dict[str, Any]:
    return {"server": {"description": edition, "connections": connections}}


NEAR = (
    "the server has 1780 connections, and closes those beyond 2000 by default; this worker takes "
    "51. Fewer threads take fewer, and fewer, wider processes"
)


@pytest.mark.parametrize(
    ("info", "said"),
    [
        (server_with(1780), [NEAR]),
        (server_with(1749), []),
        (server_with(1990, "Faktory Enterprise"), []),
        (server_with("many"), []),
        ({}, []),
        (FaktoryConnectionError("gone"), []),
    ],
)
def test_a_worker_says_once_how_many_connections_it_takes_where_the_server_has_many(
    wait_until: WaitUntil, caplog: pytest.LogCaptureFixture, info: Any, said: list[str]
) -> None:
    beating = Beating([FaktoryConnectionError("not yet")], 0.001, DEFAULT)
    beating.thread = Heartbeat(beating, beating.client, 0.001, DEFAULT, connections=51)  # type: ignore[arg-type]
    beating.client.infos = [info]
    beating.thread.start()
    wait_until(lambda: len(beating.client.beats) > 3)
    beating.thread.stop()
    assert beating.client.calls[:4] == ["beat", "beat", "info", "beat"]
    assert beating.client.calls.count("info") == 1
    assert caplog.messages == said


def test_the_first_one_that_reaches_the_server_asks_for_its_info_and_hands_it_on(
    wait_until: WaitUntil,
) -> None:
    seen: list[object] = []
    tried: list[int] = []
    beating = Beating([FaktoryConnectionError("not yet")], 1000.0, DEFAULT)
    beating.client.infos = [server_with(1)]
    timing = Timing(first_beat_interval=0.01)
    beating.thread = Heartbeat(
        beating,  # type: ignore[arg-type]
        beating.client,  # type: ignore[arg-type]
        1000.0,
        timing,
        connections=1,
        on_connected=seen.append,
        on_tried=lambda: tried.append(len(seen)),
    )
    assert not beating.thread.has_tried
    beating.thread.start()
    wait_until(lambda: len(tried) == 2)
    assert beating.thread.has_tried
    beating.thread.stop()
    beating.thread.join(10)
    assert (seen, tried) == ([server_with(1)], [0, 1])
    assert beating.client.calls == ["beat", "beat", "info", "close"]


def test_a_beat_that_the_stop_has_ended_is_not_an_outage(wait_until: WaitUntil) -> None:
    """It is interrupted at once where there is no connection."""
    beating = Beating([], 1000.0, Timing(beat_grace=20.0))
    interrupted = Event()

    def beat(*_: object) -> None:
        beating.client.calls.append("beat")
        assert interrupted.wait(20)
        raise FaktoryConnectionError("was given up")

    beating.client.beat = beat  # type: ignore[method-assign]
    beating.client.interrupt = interrupted.set  # type: ignore[method-assign]
    beating.client.is_connected = False
    beating.thread.start()
    wait_until(lambda: beating.client.calls)
    beating.thread.stop()
    assert not beating.thread.is_alive()
    assert beating.errors == []

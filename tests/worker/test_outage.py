from __future__ import annotations

import logging
from threading import Barrier, Thread

import pytest

from faktory.client.sockets import closing
from faktory.exceptions import FaktoryServerError
from faktory.worker import outage
from faktory.worker.outage import Outage


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(outage, "monotonic", clock)
    return clock


@pytest.fixture
def log(clock: Clock, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


LOG = logging.getLogger("test.outage")


def test_an_outage_is_logged_once_when_it_begins_and_once_when_it_ends(
    clock: Clock, log: pytest.LogCaptureFixture
) -> None:
    trouble = Outage(LOG)
    trouble.ends(clock.now)
    clock.now += 1
    for _ in range(3):
        trouble.begins(OSError("refused"), clock.now)
    clock.now += 12.34
    for _ in range(3):
        trouble.ends(clock.now)
    assert log.messages == [
        "lost the connection to the server: refused; trying again",
        "the server is back after 12.3 s",
    ]
    assert [record.event for record in log.records] == ["outage", "back"]  # type: ignore[attr-defined]


def test_a_server_that_never_answered_was_not_lost(
    clock: Clock, log: pytest.LogCaptureFixture
) -> None:
    never = Outage(LOG, "host:7419")
    error = OSError("nothing listens on host:7419 (connection refused). Is it running?")
    never.begins(error, clock.now)
    clock.now += 5
    never.ends(clock.now)  # that it is connected is what the heartbeat logs
    reason = "nothing listens there (connection refused); trying again. Is it running?"
    assert log.messages == [f"cannot reach host:7419: {reason}"]


def test_without_an_outage_nothing_is_logged(clock: Clock, log: pytest.LogCaptureFixture) -> None:
    Outage(LOG).ends(clock.now)
    assert log.messages == []


def test_an_answer_from_before_the_outage_does_not_end_it(
    clock: Clock, log: pytest.LogCaptureFixture
) -> None:
    trouble = Outage(LOG)
    asked_at = clock.now
    clock.now += 1
    trouble.begins(OSError("refused"), clock.now)
    trouble.ends(asked_at)
    trouble.begins(OSError("refused"), clock.now)
    assert len(log.messages) == 1


def test_the_next_outage_is_logged_again(clock: Clock, log: pytest.LogCaptureFixture) -> None:
    trouble = Outage(LOG)
    for _ in range(2):
        trouble.begins(OSError("refused"), clock.now)
        clock.now += 1
        trouble.ends(clock.now)
    assert len(log.messages) == 3


def test_many_threads_log_one_outage(log: pytest.LogCaptureFixture, clock: Clock) -> None:
    trouble = Outage(LOG)
    together = Barrier(8)

    def lose() -> None:
        together.wait()
        trouble.begins(OSError("refused"), clock.now)

    threads = [Thread(target=lose) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(log.messages) == 1


def test_a_command_that_fails_after_the_server_has_answered_a_later_one_is_not_an_outage(
    clock: Clock, log: pytest.LogCaptureFixture
) -> None:
    trouble = Outage(LOG)
    asked_at = clock.now
    trouble.ends(clock.now + 5)
    clock.now += 10
    trouble.begins(OSError("timed out"), asked_at)
    assert log.messages == []
    trouble.begins(OSError("timed out"), clock.now)
    assert len(log.messages) == 1


def test_a_refusal_is_logged_once_a_minute(clock: Clock, log: pytest.LogCaptureFixture) -> None:
    trouble = Outage(LOG)
    for _ in range(61):
        trouble.refused(OSError("MISCONF"))
        trouble.refused(OSError("MISCONF"))
        clock.now += 1
    trouble.refused(OSError("OOM"))
    assert [each.rpartition(" ")[2] for each in log.messages] == ["MISCONF", "MISCONF", "OOM"]


def too_many(count: int) -> Exception:
    return closing("host:7419", FaktoryServerError(f"ERR too many connections: {count}"))


def test_it_is_not_an_outage_where_some_connections_are_closed_beyond_the_limit(
    clock: Clock, log: pytest.LogCaptureFixture
) -> None:
    trouble = Outage(LOG)
    trouble.ends(clock.now)
    for count in range(2001, 2010):
        clock.now += 1
        trouble.begins(too_many(count), clock.now)
    assert trouble.state(60.0) == ""
    clock.now += outage.REFUSAL_INTERVAL
    trouble.ends(clock.now)
    trouble.begins(too_many(2002), clock.now)
    text = (
        "host:7419 closes the connection: ERR too many connections: %d; the worker goes on with "
        "the connections that it has. Fewer threads take fewer, and fewer, wider processes"
    )
    assert log.messages == [text % 2001, text % 2002]


def test_where_no_connection_is_answered_any_more_it_is_an_outage(
    clock: Clock, log: pytest.LogCaptureFixture
) -> None:
    never, no_more = Outage(LOG), Outage(LOG)
    no_more.ends(clock.now)
    clock.now += outage.ANSWERED_WITHIN
    for trouble in (never, no_more):
        trouble.begins(too_many(2001), clock.now)
        assert trouble.state(60.0) == "outage"
    assert len(log.messages) == 2
    assert [each.partition(" the server: ")[0] for each in log.messages] == [
        "cannot reach",
        "lost the connection to",
    ]


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (
            "the handshake with host:7419 failed: no answer from host:7419, or no more of it, "
            "within 10 s; the connection is dropped. Does the server stand still? Does the server "
            "use TLS? Then use tcp+tls://.",
            "the handshake failed: no answer, or no more of it, within 10 s; the connection is "
            "dropped; trying again. Does the server stand still?",
        ),
        (
            "the handshake with host:7419 failed: the connection to host:7419 broke: reset. "
            "Does the server use TLS? Then use tcp+tls://.",
            "the handshake failed: the connection broke: reset; trying again",
        ),
        (
            "the host of host:7419 is not known (no such name). Is it spelt right?",
            "its host is not known (no such name); trying again. Is it spelt right?",
        ),
        ("host:7419 closed the connection", "it closed the connection; trying again"),
    ],
)
def test_the_line_names_the_server_once_and_no_tls_where_it_did_without(
    clock: Clock, log: pytest.LogCaptureFixture, reason: str, said: str
) -> None:
    reached = Outage(LOG, "host:7419")
    reached.ends(clock.now)
    clock.now += 1
    reached.begins(OSError(reason), clock.now)
    assert log.messages == [f"lost the connection to host:7419: {said}"]
    log.clear()
    Outage(LOG, "host:7419").begins(OSError(reason), clock.now)
    (never,) = log.messages
    assert never.startswith("cannot reach host:7419: ")
    assert ("tcp+tls://" in never) is ("tcp+tls://" in reason)

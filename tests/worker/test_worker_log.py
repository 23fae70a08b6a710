"""What a worker in a program logs, and what a program's own log may do to it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from faktory import Client, Producer, on
from faktory.exceptions import FaktoryError
from faktory.server import EmbeddedServer
from faktory.wire import commands
from faktory.worker import manager as module
from faktory.worker.logs import JobFilter

from .conftest import Held, Push, Reported, Start, WaitUntil, fail, make_manager, succeed

NASTY = "\n2026-01-02 03:04:05,678 INFO forged\x1b[2J\u2028\u202e"


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """A program's logger, which does not raise yet."""
    log = logging.getLogger("test.program")
    log.setLevel(logging.DEBUG)
    yield log
    log.filters.clear()
    log.handlers.clear()


def broken(*_: Any, **__: Any) -> Any:
    raise KeyError("broken")


def break_by_handler(log: logging.Logger, patch: pytest.MonkeyPatch) -> None:
    handler = logging.NullHandler()
    patch.setattr(handler, "handle", broken)
    log.addHandler(handler)
    patch.setattr(logging.getLogger("faktory"), "handlers", [handler])


def break_by_filter(log: logging.Logger, patch: pytest.MonkeyPatch) -> None:
    log.addFilter(broken)
    for name in ("worker", "worker.job", "connection", "producer", "server"):
        patch.setattr(logging.getLogger(f"faktory.{name}"), "filters", [broken])


def break_by_factory(_: logging.Logger, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(logging, "_logRecordFactory", broken)


BREAKS = pytest.mark.parametrize("break_log", [break_by_handler, break_by_filter, break_by_factory])
Break = Callable[[logging.Logger, pytest.MonkeyPatch], None]


@BREAKS
@pytest.mark.parametrize("use_threads", [True, False])
def test_a_log_that_raises_ends_no_thread_of_a_worker(
    start: Start,
    push: Push,
    reported: Reported,
    log: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
    break_log: Break,
    use_threads: bool,
) -> None:
    def raises() -> None:
        raise ValueError

    break_log(log, monkeypatch)
    logging.getLogger("faktory").setLevel(logging.DEBUG)
    jids = [push("work"), push("fail"), push("unknown"), push("work")]
    options = {} if use_threads else {"use_threads": False}
    running = start({"work": succeed, "fail": fail}, log=log, **options)
    for event in ("quiet", "shutdown"):
        running.worker.on(event, raises)
    reported(jids, "ACK", "FAIL", "FAIL", "ACK")
    running.worker._inbox.put(running.worker._manager.log_threads)
    running.worker.quiet()
    running.stop()
    assert running.worker.abandoned == []
    logging.getLogger("faktory").setLevel(logging.NOTSET)


@BREAKS
def test_a_log_that_raises_loses_no_job_that_is_abandoned(
    start: Start,
    push: Push,
    reported: Reported,
    held: Held,
    log: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
    break_log: Break,
) -> None:
    break_log(log, monkeypatch)
    jid = push("held")
    running = start({"held": held.hold}, log=log, disconnect_wait=0)
    assert held.began.wait(20)
    running.stop()
    reported(jid, "FAIL")
    assert running.worker.abandoned == ["faktory-1"]


@BREAKS
def test_a_log_that_raises_breaks_no_client_and_no_producer(
    server: EmbeddedServer,
    log: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
    break_log: Break,
    closed_port: int,
) -> None:
    break_log(log, monkeypatch)
    monkeypatch.setattr(logging.getLogger("faktory"), "level", logging.DEBUG)
    logging.root.manager._clear_cache()  # type: ignore[attr-defined]
    with Client(server.url, log=log) as client:
        client.push({"jobtype": "work", "args": []})
        assert client.queue("work") is True
    with Producer(server.url) as producer:
        assert producer.push({"jobtype": "work", "args": []}).result(20)
    assert len(server.queues["default"]) == 3
    with pytest.raises(FaktoryError):
        Client(f"tcp://127.0.0.1:{closed_port}", log=log).connect()
    logging.root.manager._clear_cache()  # type: ignore[attr-defined]


def test_the_log_of_a_worker_is_the_programs(log: logging.Logger, start: Start) -> None:
    running = start({}, log=log)
    assert running.worker.log is log
    before = logging.root.handlers.copy()
    running.stop()
    assert logging.root.handlers == before
    assert log.handlers == []


def test_what_a_peer_sends_cannot_forge_a_line_in_the_log_of_a_program(
    server: EmbeddedServer,
    start: Start,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    def raises() -> None:
        raise ValueError(NASTY)

    with Client(server.url) as client:
        for number, jobtype in enumerate(("raises", "unknown" + NASTY, "work")):
            job = {"jobtype": jobtype, "jid": f"1234567{number}{NASTY}", "args": []}
            client.exchange(commands.push(job))
        client.exchange(commands.push({"jobtype": "work", "jid": "x" * 1_000_000, "args": []}))
    start({"raises": raises, "work": succeed})
    wait_until(lambda: server.processed == 4)
    ours = [each.getMessage() for each in caplog.records if each.name.startswith("faktory.worker")]
    assert len(ours) > 8
    assert all(message.isprintable() and len(message) < 31_000 for message in ours)
    assert any("forged" in message for message in ours)


def test_the_job_in_a_record_is_escaped_for_formats_of_programs() -> None:
    class Odd:
        jid = f"12345678{NASTY}"
        jobtype = "work\x1b"

    record = logging.makeLogRecord({"name": "app"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("faktory.worker.logs.current_job", Odd)
        JobFilter().filter(record)
    assert record.jid.isprintable()  # type: ignore[attr-defined]
    assert record.job == f"work\\x1b {record.jid} "  # type: ignore[attr-defined]


def test_stacks_are_logged_once_a_second_at_most(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    manager = make_manager({}, logging.getLogger("test.manager"))

    def dumps() -> int:
        caplog.clear()
        manager.log_threads()
        return sum("thread MainThread:" in message for message in caplog.messages)

    assert [dumps(), dumps()] == [1, 0]
    now += 0.9
    assert dumps() == 0
    now += 0.2
    assert [dumps(), dumps()] == [1, 0]


def test_a_handler_that_has_text_of_several_lines_is_shown_in_one(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Handler:
        def __call__(self) -> None:
            raise ValueError

        def __repr__(self) -> str:
            return f"handler{NASTY}"

    monkeypatch.setattr("faktory.worker.events.of_process._handlers", [])
    on("startup", Handler())
    start({}).stop()
    (message,) = [each for each in caplog.messages if "a handler of 'startup' raised" in each]
    assert "handler\\n2026" in message

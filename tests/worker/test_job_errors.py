"""Error handlers, and jobs that raise odd errors."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

import faktory
from faktory.server import EmbeddedServer
from faktory.worker.timing import Timing

from .conftest import (
    Held,
    Push,
    Reported,
    Start,
    WaitUntil,
    fail,
    messages,
    reports,
    succeed,
    threads_left,
)


def test_error_handlers_are_called_before_the_report_and_one_that_raises_does_no_harm(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    reported: Reported,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[tuple[BaseException, dict[str, Any], list[str]]] = []

    def broken(error: BaseException, about: dict[str, Any]) -> None:
        raise SystemExit

    def handler(error: BaseException, about: dict[str, Any]) -> None:
        calls.append((error, about, reports(server, about["job"]["jid"])))

    faktory.error_handlers.append(broken)
    try:
        start({"fail": fail}).worker.error_handlers.append(handler)
        jid = push("fail")
        reported(jid, "FAIL")
    finally:
        faktory.error_handlers.remove(broken)
    ((error, about, reported_before),) = calls
    assert repr(error) == "KeyError('lost')"
    assert (about["context"], about["job"]["jid"]) == ("Job raised exception", jid)
    assert reported_before == []
    assert len(messages(caplog, "an error handler raised")) == 1


def test_a_handler_that_hangs_does_not_keep_the_worker(
    start: Start, push: Push, wait_until: WaitUntil, reported: Reported, held: Held
) -> None:
    timing = Timing(shutdown_grace=0.05, report_grace=0.05)
    running = start({"fail": fail}, disconnect_wait=0.05, timing=timing)
    running.worker.error_handlers.append(held.hold)
    jid = push("fail")
    assert held.began.wait(20)
    running.stop()
    assert running.worker.abandoned == ["faktory-1"]
    held.release()
    wait_until(lambda: threads_left() == [])
    reported(jid, "FAIL")


class Slow(Exception):
    """An error whose text is not there until the job is released."""

    held: Held

    def __str__(self) -> str:
        self.held.hold()
        return "at last"


def test_an_error_whose_text_takes_for_ever_is_reported_at_the_end(
    start: Start, push: Push, wait_until: WaitUntil, reported: Reported, held: Held
) -> None:
    Slow.held = held

    def slow() -> None:
        raise Slow

    jid = push("slow")
    running = start({"slow": slow}, disconnect_wait=0.05, timing=Timing(shutdown_grace=0.05))
    assert held.began.wait(20)
    running.stop()
    reported(jid, "FAIL")
    held.release()
    wait_until(lambda: threads_left() == [])
    reported(jid, "FAIL")


def leave() -> None:
    raise SystemExit(3)


def recurse() -> None:
    recurse()


of_no_module: dict[str, Any] = {"__name__": 5}
exec("def fail(): raise ValueError", of_no_module)


def huge() -> bytes:
    return bytes(50_000_000)


class Odd(BaseException):
    @property
    def __class__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("odd")

    @__class__.setter
    def __class__(self, value: Any) -> None: ...


def odd() -> None:
    raise Odd


def surrogates() -> None:
    raise ValueError("\ud800 and more")


@pytest.mark.parametrize(
    ("job", "verb"),
    [
        (leave, "FAIL"),
        (recurse, "FAIL"),
        (of_no_module["fail"], "FAIL"),
        (odd, "FAIL"),
        (surrogates, "FAIL"),
        (huge, "ACK"),
    ],
)
def test_a_thread_goes_on_after_any_job(
    start: Start, push: Push, reported: Reported, job: Callable[[], object], verb: str
) -> None:
    jids = [push("job"), push("work")]
    running = start({"job": job, "work": succeed})
    reported(jids, verb, "ACK")
    assert threads_left().count("faktory-1") == 1
    running.stop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_that_comes_back_out_of_a_job_ends_there(
    start: Start, push: Push, reported: Reported
) -> None:
    codes: list[int] = []

    def forks() -> None:
        child = os.fork()
        if not child:
            sys.exit(7)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    jid = push("forks")
    start({"forks": forks})
    reported(jid, "ACK")
    assert codes == [7]


def test_a_filter_of_the_log_that_raises_loses_no_job(
    start: Start, push: Push, reported: Reported
) -> None:
    def broken(record: logging.LogRecord) -> bool:
        if " start" in record.getMessage() or " in " in record.getMessage():
            raise KeyError(record.name)
        return True

    log = logging.getLogger("test.manager.broken_filter")
    log.setLevel(logging.INFO)
    log.addFilter(broken)
    jids = [push("work"), push("fail")]
    start({"work": succeed, "fail": fail}, log=log)
    reported(jids, "ACK", "FAIL")

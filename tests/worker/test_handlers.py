"""Handlers of events that block: the worker is managed meanwhile, and stops in its time."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

import pytest

from faktory import Worker
from faktory.server import EmbeddedServer
from faktory.worker.events import Event
from faktory.worker.timing import Timing

from ..support import half
from .conftest import (
    Held,
    Push,
    Reported,
    RunProgram,
    Start,
    WaitUntil,
    make_worker,
    messages,
    reports,
    spin,
    succeed,
)

QUICK = Timing(shutdown_grace=0.1, fetch_grace=0.1)
EVENTS: list[Event] = ["startup", "quiet", "shutdown"]


def block(began: threading.Event) -> Callable[[], None]:
    """Return a handler that goes on for 60 seconds, unless it is cut short."""

    def handler() -> None:
        began.set()
        until = time.monotonic() + 60
        while time.monotonic() < until:
            time.sleep(0.01)

    return handler


@pytest.mark.parametrize("event", EVENTS)
def test_a_handler_that_goes_on_is_cut_short_when_the_grace_period_is_over(
    server: EmbeddedServer, start: Start, event: Event, caplog: pytest.LogCaptureFixture
) -> None:
    began = threading.Event()
    worker = Worker(server.url, disconnect_wait=0.1, timing=QUICK)
    worker.on(event, block(began))
    running = start(worker)
    worker.stop()
    running.join()
    assert began.is_set()
    assert messages(caplog, f"a handler of {event!r} did not end within the grace period")


def test_run_returns_in_another_thread_although_a_handler_cannot_be_cut_short(
    server: EmbeddedServer, start: Start, held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(server.url, disconnect_wait=0.1, timing=QUICK)
    worker.on("startup", held.hold)
    running = start(worker)
    assert held.began.wait(10)
    worker.stop()
    running.join()
    (message,) = messages(caplog, "a handler of 'startup' does not end, and cannot be cut short")
    assert "in hold" in message
    held.release()


def test_jobs_go_on_are_interrupted_and_reported_while_a_handler_blocks(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    reported: Reported,
    held: Held,
) -> None:
    jobs = {"work": succeed, "spin": spin}
    worker = make_worker(server.url, jobs, concurrency=2, disconnect_wait=0.5, timing=QUICK)
    worker.on("quiet", held.hold)
    spinning = push("spin")
    running = start(worker)
    wait_until(lambda: server.working)
    worker.quiet()
    assert held.began.wait(10)
    worker.stop()
    running.join()
    assert reports(server, spinning) == ["FAIL"]
    held.release()


def test_a_handler_that_ends_in_time_is_not_disturbed_and_the_next_are_called(
    server: EmbeddedServer, start: Start, wait_until: WaitUntil
) -> None:
    calls: list[str] = []
    may_end = threading.Event()

    def slow() -> None:
        calls.append("begins")
        while not may_end.is_set():
            time.sleep(0.01)
        calls.append("ends")

    worker = Worker(server.url, disconnect_wait=60)
    worker.on("shutdown", lambda: calls.append("shutdown"))
    worker.on("quiet", slow)
    running = start(worker)
    worker.stop()
    wait_until(lambda: calls == ["begins"])
    may_end.set()
    running.join()
    assert calls == ["begins", "ends", "shutdown"]


def test_handlers_that_are_left_after_the_grace_period_still_have_a_moment(
    server: EmbeddedServer, start: Start
) -> None:
    calls: list[str] = []
    worker = Worker(server.url, disconnect_wait=0.1, timing=QUICK)
    worker.on("shutdown", lambda: calls.append("shutdown"))
    worker.on("quiet", block(threading.Event()))
    running = start(worker)
    running.stop()
    assert calls == ["shutdown"]


def test_an_error_handler_that_blocks_does_not_keep_the_report_of_an_abandoned_job(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil, held: Held
) -> None:
    may_end = threading.Event()
    worker = make_worker(server.url, {"stuck": held.hold}, disconnect_wait=0.1, timing=QUICK)
    worker.error_handlers.append(lambda *_: may_end.wait(30))
    jid = push("stuck")
    running = start(worker)
    assert held.began.wait(10)
    running.stop()
    assert reports(server, jid) == ["FAIL"]
    may_end.set()
    held.release()


MAIN = """
import time
worker = Worker(URL, disconnect_wait=1)

def handler():
    note("began", threading.current_thread() is threading.main_thread())
    {body}

worker.on("{event}", handler)
worker.on("startup", lambda: note("runs"))
begin = time.monotonic()
worker.run()
note("returned", signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
"""


@half(
    event=EVENTS,
    body=[
        "time.sleep(60)",
        "threading.Event().wait(60)",
        "subprocess.run(['sleep', '60'])",
        "while True: pass",
    ],
)
def test_in_the_main_thread_a_handler_stays_there_and_is_cut_short(
    run_program: RunProgram, wait_until: WaitUntil, body: str, event: str
) -> None:
    # Cut short between its start and its wait, subprocess.run leaves a Popen that warns of that.
    warnings = "ignore::ResourceWarning" if "subprocess" in body else "error"
    program = run_program(MAIN.format(event=event, body=body), warnings)
    wait_until(lambda: "runs" in program.notes or "began True" in program.notes)
    if event == "quiet":
        program.process.send_signal(signal.SIGTSTP)
        wait_until(lambda: "began True" in program.notes)
    assert program.stop() == 0
    assert "began True" in program.notes
    assert program.notes[-1] == "returned True"
    assert f"a handler of '{event}' did not end within the grace period" in program.log


def test_the_second_signal_cuts_a_handler_short_at_once(
    run_program: RunProgram, wait_until: WaitUntil
) -> None:
    code = MAIN.format(event="startup", body="time.sleep(60)").replace("wait=1", "wait=1000")
    program = run_program(code)
    wait_until(lambda: "began True" in program.notes)
    program.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "stopping" in program.log)
    assert program.stop(signal.SIGINT) == 0


def test_a_handler_that_catches_everything_is_cut_short_until_it_ends(
    run_program: RunProgram, wait_until: WaitUntil
) -> None:
    body = """
    for attempt in range(3):
        try:
            time.sleep(60)
        except BaseException:
            note("caught")
    """
    program = run_program(MAIN.format(event="startup", body=body))
    wait_until(lambda: "began True" in program.notes)
    assert program.stop() == 0
    assert program.notes.count("caught") == 3

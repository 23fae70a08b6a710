"""`current_job().stopping` and `on_stopping`: a job learns that its worker stops."""

from __future__ import annotations

import gc
import signal
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import faktory
from faktory import current_job, testing
from faktory.exceptions import Shutdown, TimeLimitExceeded
from faktory.jobs.context import JobContext
from faktory.server import EmbeddedServer
from faktory.worker.interrupts import RunningJob

from .conftest import (
    Held,
    Push,
    Reported,
    RunProgram,
    Start,
    WaitUntil,
    end_reservation,
    messages,
    reports,
)


def await_stop() -> None:
    """Wait in the job until its worker stops."""
    while not current_job().stopping:
        time.sleep(0.005)


@pytest.mark.parametrize("options", [{}, {"executor": ThreadPoolExecutor}], ids=["threads", "pool"])
def test_a_job_learns_that_its_worker_stops_and_ends_well(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil, options: Any
) -> None:
    called: list[tuple[str, bool, bool]] = []
    began, called_back = threading.Event(), threading.Event()

    def on_stopping() -> None:
        job = current_job()
        here = threading.current_thread() is threads[0]
        called.append((job.jid, job.stopping, here))
        called_back.set()

    threads: list[threading.Thread] = []

    @faktory.job(name="work")
    def work() -> None:
        threads.append(threading.current_thread())
        current_job().on_stopping(on_stopping)
        assert not current_job().stopping
        began.set()
        await_stop()
        assert called_back.wait(10)

    jid = push("work")
    running = start(disconnect_wait=20, **options)
    assert began.wait(10)
    running.worker.quiet()
    wait_until(lambda: running.worker.is_quiet)
    assert not called_back.is_set()
    running.stop()
    assert reports(server, jid) == ["ACK"]
    assert called == [(jid, True, False)]


def test_a_callback_that_is_registered_later_is_called_at_once(
    server: EmbeddedServer, start: Start, push: Push, held: Held
) -> None:
    threads: list[threading.Thread] = []

    def work() -> None:
        held.began.set()
        await_stop()
        current_job().on_stopping(lambda: threads.append(threading.current_thread()))
        assert threads == [threading.current_thread()]

    jid = push("work")
    running = start({"work": work}, disconnect_wait=20)
    assert held.began.wait(10)
    running.stop()
    assert reports(server, jid) == ["ACK"]


def test_errors_of_callbacks_are_logged_and_the_others_called(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    held: Held,
    caplog: pytest.LogCaptureFixture,
) -> None:
    called = threading.Event()

    def work() -> None:
        current_job().on_stopping(lambda: {}["lost"])
        current_job().on_stopping(lambda: exit("in vain"))
        current_job().on_stopping(called.set)
        held.began.set()
        assert called.wait(10)

    jid = push("work")
    running = start({"work": work}, disconnect_wait=20)
    assert held.began.wait(10)
    running.stop()
    assert reports(server, jid) == ["ACK"]
    assert len(messages(caplog, f"work {jid}: on_stopping raised: ")) == 2
    assert len([record for record in caplog.records if record.exc_info]) == 2


def test_a_callback_that_does_not_end_delays_nobody(
    server: EmbeddedServer, start: Start, push: Push, held: Held
) -> None:
    began = [threading.Event(), threading.Event()]
    called_back = threading.Event()

    def work(number: int) -> None:
        current_job().on_stopping([held.hold, called_back.set][number])
        began[number].set()
        assert called_back.wait(10)

    jids = [push("work", number) for number in range(2)]
    running = start({"work": work}, concurrency=2, disconnect_wait=20)
    assert all(each.wait(10) for each in began)
    running.stop()
    assert [reports(server, jid) for jid in jids] == [["ACK"], ["ACK"]]
    held.release()


def test_the_callbacks_of_a_job_that_has_ended_are_forgotten(
    start: Start, push: Push, reported: Reported
) -> None:
    class Called:
        def __call__(self) -> None:
            called.append(1)

    called: list[int] = []
    contexts: list[JobContext] = []
    callbacks: list[weakref.ref[Called]] = []

    def work(fails: bool) -> None:
        callbacks.append(weakref.ref(current_job().on_stopping(Called())))
        contexts.append(current_job())  # kept, and yet
        assert not fails

    jids = [push("work", False), push("work", True)]
    running = start({"work": work})
    reported(jids, "ACK", "FAIL")
    gc.collect()
    assert [each() for each in callbacks] == [None, None]
    running.stop()
    assert called == []


def test_an_overdue_job_learns_it_too(
    start: Start, push: Push, held: Held, wait_until: WaitUntil
) -> None:
    called_back = threading.Event()

    def work() -> None:
        current_job().on_stopping(called_back.set)
        end_reservation()
        held.hold()

    push("work")
    running = start({"work": work})
    wait_until(lambda: running.worker.replaced == 1)
    running.worker.stop()
    assert called_back.wait(10)
    held.release()
    running.join()


# One job alone


def job() -> JobContext:
    return JobContext({"jid": "12345678", "jobtype": "work", "args": []})


def test_a_job_that_begins_when_the_worker_stops_knows_it_from_its_first_moment() -> None:
    running, late = RunningJob(lambda: None), job()
    running.stop()
    running.begin(late)
    assert late.stopping
    running.end()


def test_each_callback_is_called_once(wait_until: WaitUntil) -> None:
    running, current, called = RunningJob(lambda: None), job(), list[int]()
    running.begin(current)
    for number in range(3):
        assert current.on_stopping(lambda number=number: called.append(number)) is not None
    running.stop()
    running.stop()
    wait_until(lambda: len(called) == 3)
    current.on_stopping(lambda: called.append(3))
    running.end()
    assert called == [0, 1, 2, 3]


@pytest.mark.parametrize("interrupt", [Shutdown, TimeLimitExceeded])
def test_an_interrupt_of_the_job_passes_a_callback_that_it_calls(
    interrupt: type[BaseException],
) -> None:
    def interrupted() -> None:
        raise interrupt

    current = job()
    current._on_stop()
    with pytest.raises(interrupt):
        current.on_stopping(interrupted)


async def later() -> None: ...


@pytest.mark.parametrize(
    ("wrong", "message"), [(5, "5 is not callable"), (later, "later .* is an async function")]
)
def test_what_cannot_be_called_is_refused(wrong: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        job().on_stopping(wrong)


@pytest.mark.parametrize("mode", [testing.fake, testing.inline])
def test_in_test_modes_no_worker_stops(mode: Any) -> None:
    seen: list[bool] = []

    @faktory.job(name="in_a_test_mode")
    def work() -> None:
        current_job().on_stopping(lambda: seen.append(True))
        seen.append(current_job().stopping)

    with mode():
        work.perform_async()
        testing.drain_all()
    assert seen == [False]


# In other processes


def test_a_job_in_a_process_learns_it(
    server: EmbeddedServer, run_children: RunProgram, push: Push, wait_until: WaitUntil
) -> None:
    jids = [push("polls"), push("listens"), push("listens_late")]
    program = run_children(
        """
def await_stop():
    note("began")
    while not current_job().stopping:
        time.sleep(0.01)

@faktory.job
def polls():
    called_back = threading.Event()
    current_job().on_stopping(lambda: [note("here", current_job().jid), called_back.set()])
    await_stop()
    assert called_back.wait(20)

@faktory.job
def listens():
    called_back = threading.Event()
    current_job().on_stopping(called_back.set)
    note("began")
    assert called_back.wait(20) and current_job().stopping

@faktory.job
def listens_late():
    await_stop()
    current_job().on_stopping(lambda: note("late"))

work(concurrency=3, disconnect_wait=20).run()
"""
    )
    wait_until(lambda: program.notes.count("began") == 3)
    assert program.stop() == 0
    assert [reports(server, jid) for jid in jids] == [["ACK"]] * 3
    assert sorted(program.notes)[3:] == [f"here {jids[0]}", "late"]


def test_a_job_in_a_process_that_has_ended_leaves_no_callback_and_no_thread(
    run_children: RunProgram, push: Push, reported: Reported
) -> None:
    jids = [push("listens"), push("counts")]
    program = run_children(
        """
@faktory.job
def listens():
    current_job().on_stopping(lambda: note("called"))

@faktory.job
def counts():
    while threading.active_count() > 1:
        time.sleep(0.01)

work().run()
"""
    )
    reported(jids, "ACK", "ACK")
    assert program.stop() == 0
    assert program.notes == []


def test_a_job_in_an_executor_of_processes_does_not_learn_it(
    server: EmbeddedServer, run_program: RunProgram, push: Push, wait_until: WaitUntil
) -> None:
    jid = push("work")
    program = run_program(
        """
from concurrent.futures import ProcessPoolExecutor

@faktory.job
def work():
    note("began")
    hold()
    note(current_job().stopping)

if __name__ == "__main__":  # since Python 3.14 a child imports this again
    Worker(URL, executor=ProcessPoolExecutor, disconnect_wait=20).run()
"""
    )
    wait_until(lambda: program.notes == ["began"])
    program.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "Shutdown: waiting" in program.log)
    program.release()
    assert program.process.wait(15) == 0
    assert program.notes == ["began", "False"]
    assert reports(server, jid) == ["ACK"]

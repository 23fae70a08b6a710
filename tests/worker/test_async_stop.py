"""How async jobs end when their worker stops, and how their loop does."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

import faktory
from faktory import aio, current_job
from faktory.exceptions import Shutdown
from faktory.server import EmbeddedServer
from faktory.worker.timing import Timing

from .conftest import (
    Held,
    Push,
    RunProgram,
    Start,
    WaitUntil,
    failure,
    messages,
    reports,
    threads_left,
)
from .test_async_jobs import Factory, factory, own_hooks

__all__ = ["factory", "own_hooks"]

QUICK = Timing(shutdown_grace=0.3, loop_grace=0.3, fetch_grace=0.3)


def test_a_job_may_end_within_the_grace_period(
    server: EmbeddedServer, start: Start, push: Push, factory: Factory
) -> None:
    began, go_on = threading.Event(), threading.Event()

    async def work() -> None:
        began.set()
        while not go_on.is_set():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)

    jid = push("work")
    running = start({"work": work}, loop_factory=factory, disconnect_wait=20)
    assert began.wait(10)
    running.worker.stop()
    go_on.set()
    running.join()
    assert reports(server, jid) == ["ACK"]
    assert running.worker.abandoned == []


def test_after_it_the_coroutine_is_cancelled_and_fails_by_shutdown(
    server: EmbeddedServer, start: Start, push: Push, factory: Factory
) -> None:
    began, cleaned = threading.Event(), threading.Event()

    async def work() -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            cleaned.set()

    jid = push("work")
    running = start({"work": work}, loop_factory=factory, disconnect_wait=0)
    assert began.wait(10)
    running.stop()
    assert cleaned.is_set()
    assert reports(server, jid) == ["FAIL"]
    assert failure(server, jid)["errtype"] == Shutdown.__name__
    assert running.worker.abandoned == []


def test_with_give_back_it_is_pushed_again_and_uses_up_no_attempt(
    server: EmbeddedServer, start: Start, push: Push
) -> None:
    began = threading.Event()

    async def work() -> None:
        began.set()
        await asyncio.sleep(60)

    jid = push("work")
    running = start({"work": work}, disconnect_wait=0, give_back=True)
    assert began.wait(10)
    running.stop()
    assert reports(server, jid) == ["ACK"]
    assert [(job["jid"], job.get("failure")) for job in server.scheduled] == [(jid, None)]


def test_one_that_swallows_its_cancellation_is_abandoned_named_and_failed(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    factory: Factory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    began = threading.Event()
    loops: list[Any] = []

    async def stubborn() -> None:
        loops.append(asyncio.get_running_loop())
        began.set()
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    async def work() -> None:
        await asyncio.sleep(60)

    jids = [push("stubborn"), push("work")]
    running = start(
        {"stubborn": stubborn, "work": work},
        loop_factory=factory,
        disconnect_wait=0,
        concurrency=2,
        timing=QUICK,
    )
    assert began.wait(10)
    wait_until(lambda: running.worker.busy == 2)
    running.stop()
    assert [reports(server, jid) for jid in jids] == [["FAIL"], ["FAIL"]]
    assert "did not end within 0 s" in failure(server, jids[0])["message"]
    assert len(running.worker.abandoned) == 1
    assert messages(caplog, f"stubborn {jids[0]} does not end: abandoned on thread faktory-")
    (message,) = messages(caplog, "does not end, and the event loop ends all the same")
    assert message.startswith(f"stubborn {jids[0]} ")
    assert "in stubborn" in message
    assert loops[0].is_closed()


def test_a_job_that_holds_the_loop_is_failed_too_and_run_returns(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    held: Held,
    wait_until: WaitUntil,
    factory: Factory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    async def holds() -> None:
        loops.append(asyncio.get_running_loop())
        held.hold()

    async def work() -> None:
        await asyncio.sleep(60)

    jids = [push("work"), push("holds")]
    running = start(
        {"holds": holds, "work": work},
        loop_factory=factory,
        disconnect_wait=0,
        concurrency=2,
        timing=QUICK,
    )
    assert held.began.wait(10)
    wait_until(lambda: running.worker.busy == 2)
    running.stop()
    assert [reports(server, jid) for jid in jids] == [["FAIL"], ["FAIL"]]
    assert len(running.worker.abandoned) == 2
    (message,) = messages(caplog, "the event loop of async jobs does not end")
    assert "in hold" in message
    held.release()
    wait_until(lambda: "faktory-loop" not in threads_left())
    assert loops[0].is_closed()
    assert asyncio.all_tasks(loops[0]) == set()


def test_what_jobs_have_left_is_cancelled_and_generators_are_closed(
    start: Start, push: Push, factory: Factory
) -> None:
    ended: list[str] = []
    began = threading.Event()
    kept: list[object] = []

    async def generator() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            ended.append("generator")

    async def background() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append("task")

    async def work() -> None:
        numbers = generator()
        await anext(numbers)
        kept.extend([numbers, asyncio.create_task(background())])
        await asyncio.sleep(0)
        began.set()

    @aio.on_shutdown
    async def down() -> None:
        ended.append("hook")

    push("work")
    running = start({"work": work}, loop_factory=factory)
    assert began.wait(10)
    running.stop()
    assert ended == ["task", "hook", "generator"]


def test_a_hook_of_the_end_that_does_not_end_is_cancelled_in_time(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    factory: Factory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cancelled = threading.Event()

    @aio.on_shutdown
    async def down() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    async def work() -> None: ...

    jid = push("work")
    running = start({"work": work}, loop_factory=factory, timing=QUICK, disconnect_wait=0)
    wait_until(lambda: reports(server, jid) == ["ACK"])
    running.stop()
    assert cancelled.is_set()
    assert messages(caplog, " did not end in time, and was cancelled")


def test_a_hook_of_the_end_may_await_a_task_that_was_cancelled(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    called: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    @aio.on_startup
    async def up() -> None:
        tasks.append(asyncio.create_task(asyncio.sleep(60)))

    @aio.on_shutdown
    async def last() -> None:
        called.append("last")

    @aio.on_shutdown
    async def first() -> None:
        called.append("first")
        await tasks[0]

    async def work() -> None: ...

    jid = push("work")
    running = start({"work": work})
    wait_until(lambda: reports(server, jid) == ["ACK"])
    running.stop()
    assert called == ["first", "last"]
    assert messages(caplog, " raised")


def test_a_hook_of_the_end_that_blocks_is_named_and_left(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    held: Held,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @aio.on_shutdown
    async def down() -> None:
        held.hold()

    async def work() -> None: ...

    jid = push("work")
    running = start({"work": work}, timing=QUICK, disconnect_wait=0)
    wait_until(lambda: reports(server, jid) == ["ACK"])
    running.stop()
    (message,) = messages(caplog, "does not end: the hook of on_shutdown <function ")
    assert "in hold" in message
    held.release()


def test_a_hook_of_the_beginning_that_does_not_end_holds_up_no_stop(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil, factory: Factory
) -> None:
    began, ended = threading.Event(), threading.Event()

    @aio.on_startup
    async def up() -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    ran: list[int] = []

    async def work() -> None:
        ran.append(1)

    @faktory.job(time_limit=0.1)
    async def limited() -> None:
        ran.append(1)

    jids = [push("work"), push("limited")]
    running = start({"work": work}, loop_factory=factory, disconnect_wait=0.5, concurrency=2)
    assert began.wait(10)
    wait_until(lambda: reports(server, jids[1]) == ["FAIL"])
    running.stop()
    assert ended.is_set()
    assert [reports(server, jid) for jid in jids] == [["FAIL"], ["FAIL"]]
    assert failure(server, jids[0])["errtype"] == Shutdown.__name__
    assert failure(server, jids[1])["errtype"] == "TimeLimitExceeded"
    assert ran == []


def test_a_job_learns_that_its_worker_stops(
    server: EmbeddedServer, start: Start, push: Push, factory: Factory
) -> None:
    began, called = threading.Event(), threading.Event()

    async def work() -> None:
        current_job().on_stopping(called.set)
        began.set()
        while not (current_job().stopping and called.is_set()):
            await asyncio.sleep(0.001)

    jid = push("work")
    running = start({"work": work}, loop_factory=factory, disconnect_wait=20)
    assert began.wait(10)
    running.stop()
    assert reports(server, jid) == ["ACK"]


@pytest.mark.parametrize("delay", [0, 0.001, 0.003, 0.01, 0.03, 0.1])
def test_a_stop_at_any_moment_loses_no_job(
    server: EmbeddedServer, start: Start, push: Push, factory: Factory, delay: float
) -> None:
    @faktory.job(time_limit=0.02)
    async def work(number: int) -> None:
        await asyncio.sleep(number % 7 / 200)
        if number % 5 == 0:
            raise ValueError

    jids = work_jids = [push("work", number) for number in range(60)]
    running = start(concurrency=5, loop_factory=factory, disconnect_wait=0)
    time.sleep(delay)
    running.stop()
    waiting = {job["jid"] for job in server.queues.get("default", [])}
    done = [reports(server, jid) for jid in jids if jid not in waiting]
    assert all(len(each) == 1 for each in done)
    assert len(done) + len(waiting) == len(work_jids)
    assert running.worker.abandoned == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_main_thread_stops_it_and_warns_of_nothing(
    server: EmbeddedServer,
    run_program: RunProgram,
    push: Push,
    wait_until: WaitUntil,
    number: signal.Signals,
) -> None:
    jids = [push("ends"), push("sleeps"), push("stubborn")]
    program = run_program(
        """
        import asyncio
        from faktory.worker.timing import Timing
        @faktory.job
        async def ends():
            note("began")
            while not current_job().stopping:
                await asyncio.sleep(0.01)
        @faktory.job
        async def sleeps():
            note("began")
            await asyncio.sleep(60)
        @faktory.job
        async def stubborn():
            note("began")
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    pass
        Worker(URL, concurrency=3, disconnect_wait=0.5, timing=Timing(shutdown_grace=0.3, loop_grace=0.3)).run()
        note("over")
        """  # noqa: E501
    )
    wait_until(lambda: program.notes.count("began") == 3)
    program.process.send_signal(number)
    assert program.process.wait(15) == 0, program.log
    assert program.notes[3:] == ["over"]
    assert [reports(server, jid) for jid in jids] == [["ACK"], ["FAIL"], ["FAIL"]]
    for text in ("was destroyed", "never awaited", "never retrieved", "Exception ignored"):
        assert text not in program.log

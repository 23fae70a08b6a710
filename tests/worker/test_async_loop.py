"""The event loop of async jobs: what makes it, breaks it, hurries it, and lives around it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import faktory
from faktory import Client, aio, current_job
from faktory.server import EmbeddedServer
from faktory.server.state import Timing as ServerTiming
from faktory.worker.backends.coroutine_run import CoroutineRun
from faktory.worker.timing import Timing

from ..jobs.support import new_process
from .conftest import (
    Held,
    Push,
    Reported,
    RunProgram,
    Start,
    WaitUntil,
    failure,
    make_worker,
    messages,
    reports,
    threads_left,
)
from .test_async_jobs import Factory, factory, middleware, own_hooks
from .test_async_stop import QUICK

__all__ = ["factory", "middleware", "own_hooks"]


def loops_of(*kinds: Callable[[], Any]) -> Callable[[], Any]:
    """Return a loop factory that makes one loop of each kind, in turn."""
    left = [*kinds]
    return lambda: left.pop(0)()


def closed_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.close()
    return loop


def loop_with(task_factory: Any) -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(task_factory)
    return loop


def runs_of(jids: list[str]) -> list[CoroutineRun]:
    """Return the runs of these jobs that are still in memory."""
    return [
        each
        for each in gc.get_objects()
        if type(each) is CoroutineRun and each.job.jid in jids  # others may be lazy objects
    ]


async def nothing() -> None: ...


# What makes it


def test_a_loop_that_cannot_be_used_is_refused_and_the_next_job_has_another(
    server: EmbeddedServer, start: Start, push: Push, reported: Reported
) -> None:
    running = asyncio.new_event_loop()
    thread = threading.Thread(target=running.run_forever)
    thread.start()
    try:
        jids = [push("work") for _ in range(3)]
        factory = loops_of(closed_loop, lambda: running, asyncio.new_event_loop)
        start({"work": nothing}, loop_factory=factory)
        reported(jids, "FAIL", "FAIL", "ACK")
    finally:
        running.call_soon_threadsafe(running.stop)
        thread.join()
        running.close()
    for jid, state in zip(jids, ("closed=True", "running=True"), strict=False):
        assert state in failure(server, jid)["message"]
        assert "it must return a new event loop" in failure(server, jid)["message"]


def test_a_task_factory_that_makes_no_task_fails_the_jobs_and_nothing_hangs(
    server: EmbeddedServer, start: Start, push: Push, reported: Reported
) -> None:
    def without_context(loop: Any, coroutine: Any) -> Any:
        return asyncio.Task(coroutine, loop=loop)

    def broken(loop: Any, coroutine: Any, **_: object) -> Any:
        raise KeyError("lost")

    jids = [push("work") for _ in range(2)]
    factory = loops_of(lambda: loop_with(broken), lambda: loop_with(without_context))
    start({"work": nothing}, loop_factory=factory)
    reported(jids, "FAIL", "FAIL")
    assert failure(server, jids[0])["errtype"] == "KeyError"
    assert "context" in failure(server, jids[1])["message"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python has eager tasks from 3.12 on")
def test_tasks_may_be_eager(
    server: EmbeddedServer, start: Start, push: Push, reported: Reported
) -> None:
    @aio.on_startup
    async def up() -> None:
        await asyncio.sleep(0)

    @faktory.job(time_limit=0.1)
    async def work(how: str) -> None:
        assert current_job().args == [how]
        if how == "fails":
            raise ValueError(how)
        if how == "waits":
            await asyncio.sleep(60)

    jids = [push("work", how) for how in ("ends", "fails", "waits")]
    factory = loops_of(lambda: loop_with(asyncio.eager_task_factory))  # type: ignore[attr-defined]
    start(loop_factory=factory, concurrency=3)
    reported(jids, "ACK", "FAIL", "FAIL")
    assert failure(server, jids[2])["errtype"] == "TimeLimitExceeded"


def test_a_loop_that_breaks_fails_its_jobs_and_the_next_job_has_another(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    reported: Reported,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work(breaks: bool) -> None:
        if breaks:
            loop: Any = asyncio.get_running_loop()
            os.close(loop._selector.fileno())
            await asyncio.sleep(60)

    jids = [push("work", True), push("work", False)]
    start({"work": work})
    reported(jids, "FAIL", "ACK")
    assert failure(server, jids[0])["errtype"] == "OSError"
    assert len(messages(caplog, "the event loop of async jobs is broken")) == 1


def test_a_loop_factory_that_fails_as_the_worker_stops_raises_nothing_in_run(
    start: Start, push: Push, held: Held, wait_until: WaitUntil
) -> None:
    def make() -> Any:
        held.hold()
        raise KeyError("lost")

    push("work")
    running = start({"work": nothing}, loop_factory=make, timing=QUICK, disconnect_wait=0)
    assert held.began.wait(10)
    running.worker.stop()
    wait_until(lambda: running.worker._manager.async_jobs._stopping)
    held.release()
    running.join()
    assert len(running.worker.abandoned) == 1
    wait_until(lambda: threads_left() == [])


# Before there is one


def test_a_time_limit_that_passes_before_there_is_a_loop_counts(
    server: EmbeddedServer, start: Start, push: Push, reported: Reported, held: Held
) -> None:
    def make() -> asyncio.AbstractEventLoop:
        held.hold()
        return asyncio.new_event_loop()

    @aio.on_startup
    async def never() -> None:
        await asyncio.sleep(60)

    @faktory.job(time_limit=0.05)
    async def work() -> None: ...

    jid = push("work")
    worker = start(loop_factory=make, timing=QUICK, disconnect_wait=0).worker
    assert held.began.wait(10)
    run = worker._manager.async_jobs._waiting[0]
    while run._asked is None:
        time.sleep(0.001)
    held.release()
    reported(jid, "FAIL")
    assert failure(server, jid)["errtype"] == "TimeLimitExceeded"


def test_a_hook_of_startup_that_does_not_end_is_named_since_all_jobs_wait_for_it(
    start: Start,
    push: Push,
    reported: Reported,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    go_on = threading.Event()

    @aio.on_startup
    async def connect() -> None:
        while not go_on.is_set():
            await asyncio.sleep(0.001)

    jid = push("work")
    start({"work": nothing}, timing=Timing(check_interval=0.01, loop_hold=0.05))
    (message,) = wait_until(lambda: messages(caplog, "all async jobs wait for it"))  # type: ignore[misc]
    assert message.startswith("the hook of on_startup <function ")
    assert "in connect" in message
    go_on.set()
    reported(jid, "ACK")
    assert len(messages(caplog, "all async jobs wait for it")) == 1


# In the middle


def test_a_middleware_may_run_the_job_a_second_time(
    start: Start, push: Push, reported: Reported, factory: Factory, middleware: Any
) -> None:
    ran: list[str] = []

    @middleware.add
    def again(job: Any, payload: dict[str, Any], call_next: Callable[[], object]) -> object:
        try:
            return call_next()
        except ValueError:
            return call_next()

    async def work() -> None:
        ran.append(current_job().jid)
        await asyncio.sleep(0)
        if len(ran) == 1:
            raise ValueError

    jid = push("work")
    start({"work": work}, loop_factory=factory)
    reported(jid, "ACK")
    assert ran == [jid, jid]


def test_chains_batches_expiry_and_progress_are_those_of_sync_jobs(
    start: Start, factory: Factory, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []

    timing = ServerTiming(fetch_wait=0.1)
    with new_process(), EmbeddedServer(timing=timing, enterprise=True) as server:

        @faktory.job
        async def step(number: int) -> None:
            await asyncio.sleep(0)
            seen.append(number)

        @faktory.job
        async def over(*_: object) -> None:
            seen.append("over")

        @faktory.job
        async def fills(bid: str) -> None:
            with faktory.Batch(bid).jobs():
                await step.aperform(10)
                await asyncio.create_task(step.aperform(11))

        @faktory.job
        async def tracked() -> None:
            current_job().track_progress(50, "half")

        monkeypatch.setenv("FAKTORY_URL", server.url)
        with Client(server.url) as client:
            faktory.chain(step.message(1), step.message(2)).push()
            batch = faktory.Batch(success=over.message())
            with batch.jobs():
                fills.perform_async(batch.bid)
            past = {"custom": {"expires_at": "2001-01-01T00:00:00Z"}}
            client.push({"jobtype": "step", "args": [99], **past})
            jid = client.push({"jobtype": "tracked", "args": [], "custom": {"track": 1}})
            start(make_worker(server.url, concurrency=3, loop_factory=factory))
            wait_until(lambda: "over" in seen and 2 in seen)
            wait_until(lambda: client.track_get(jid)["state"] == "success")
            assert client.track_get(jid)["percent"] == 50
        assert sorted(seen, key=str) == [1, 10, 11, 2, "over"]
        assert server.retries == []


def test_processes_may_be_started_in_jobs(
    start: Start, push: Push, reported: Reported, factory: Factory
) -> None:
    seen: list[object] = []

    async def work() -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "print('printed')", stdout=asyncio.subprocess.PIPE
        )
        seen.append((await process.communicate())[0].split())
        seen.append(process.returncode)

    jid = push("work")
    start({"work": work}, loop_factory=factory)
    reported(jid, "ACK")
    assert seen == [[b"printed"], 0]


def test_a_task_that_forks_and_returns_ends_the_copy(
    server: EmbeddedServer, run_program: RunProgram, push: Push, wait_until: WaitUntil
) -> None:
    jid = push("work")
    program = run_program(
        """
        import asyncio
        async def child():
            return os.fork()
        @faktory.job
        async def work():
            await asyncio.sleep(0)
            pid = await asyncio.create_task(child())
            _, status = await asyncio.to_thread(os.waitpid, pid, 0)
            note("child ends with", os.waitstatus_to_exitcode(status))
        Worker(URL).run()
        """,
        warnings="ignore",
    )
    wait_until(lambda: reports(server, jid) == ["ACK"])
    assert program.notes == ["child ends with 0"]


def test_jobs_leave_nothing_that_only_the_collector_finds(
    start: Start,
    push: Push,
    reported: Reported,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, "faktory")  # pytest keeps what was logged

    @faktory.job(time_limit=0.05)
    async def work(how: str) -> None:
        await asyncio.sleep(0)
        if how == "fails":
            raise ValueError
        if how == "waits":
            await asyncio.sleep(60)

    gc.disable()
    try:
        jids = [push("work", how) for how in ("ends", "fails", "waits") * 4]
        start(concurrency=2)
        reported(jids, *["ACK", "FAIL", "FAIL"] * 4)
        wait_until(lambda: runs_of(jids) == [])
    finally:
        gc.enable()


# Its end


def test_a_hook_that_does_not_end_costs_neither_the_others_nor_generators_their_turn(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    factory: Factory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    called: list[str] = []
    kept: list[object] = []

    async def generator() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            called.append("generator")

    @aio.on_shutdown
    async def other() -> None:
        called.append("other")

    @aio.on_shutdown
    async def never() -> None:
        await asyncio.sleep(60)

    async def work() -> None:
        kept.append(generator())
        await anext(kept[0])  # type: ignore[call-overload]

    jid = push("work")
    running = start({"work": work}, loop_factory=factory, timing=QUICK, disconnect_wait=0)
    wait_until(lambda: reports(server, jid) == ["ACK"])
    running.stop()
    assert called == ["other", "generator"]
    (message,) = messages(caplog, "did not end in time, and was cancelled")
    assert "never" in message


def test_a_second_signal_ends_the_time_of_the_hooks_too(
    server: EmbeddedServer, run_program: RunProgram, push: Push, wait_until: WaitUntil
) -> None:
    jid = push("work")
    program = run_program(
        """
        import asyncio
        from faktory.worker.timing import Timing
        @faktory.job
        async def work(): pass
        @faktory.aio.on_shutdown
        async def down():
            note("begun")
            try:
                await asyncio.sleep(600)
            finally:
                note("cancelled")
        Worker(URL, disconnect_wait=600, timing=Timing(loop_grace=0.1)).run()
        note("over")
        """
    )
    wait_until(lambda: reports(server, jid) == ["ACK"])
    program.process.terminate()
    wait_until(lambda: program.notes == ["begun"])
    assert program.stop() == 0
    assert program.notes == ["begun", "cancelled", "over"]


# Around it


def test_a_job_may_stop_its_worker(
    server: EmbeddedServer, start: Start, push: Push, factory: Factory
) -> None:
    workers: list[faktory.Worker] = []

    async def work() -> None:
        workers[0].stop()
        await asyncio.sleep(0.01)

    jid = push("work")
    workers.append(make_worker(server.url, {"work": work}, loop_factory=factory))
    start(workers[0]).join()
    assert reports(server, jid) == ["ACK"]


def test_workers_one_after_the_other_and_side_by_side_have_a_loop_each(
    start: Start, push: Push, reported: Reported, factory: Factory
) -> None:
    hooked: list[tuple[str, object]] = []

    @aio.on_startup
    async def up() -> None:
        hooked.append(("up", asyncio.get_running_loop()))

    @aio.on_shutdown
    async def down() -> None:
        hooked.append(("down", asyncio.get_running_loop()))

    for _ in range(2):
        jid = push("work")
        running = start({"work": nothing}, loop_factory=factory)
        reported(jid, "ACK")
        running.stop()
    assert [name for name, _ in hooked] == ["up", "down"] * 2
    assert len({loop for _, loop in hooked}) == 2

    together = threading.Barrier(2, timeout=20)

    async def waits() -> None:
        await asyncio.to_thread(together.wait)

    jids = [push("waits"), push("waits")]
    workers = [start({"waits": waits}, loop_factory=factory) for _ in range(2)]
    reported(jids, "ACK", "ACK")
    for each in workers:
        each.stop()
    assert len({loop for _, loop in hooked}) == 4
    assert all(loop.is_closed() for _, loop in hooked)  # type: ignore[attr-defined]


def test_a_program_with_a_loop_of_its_own_may_run_a_worker_in_a_thread(
    server: EmbeddedServer, push: Push, factory: Factory
) -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    async def work() -> None:
        loops.append(asyncio.get_running_loop())

    jid = push("work")
    worker = make_worker(server.url, {"work": work}, loop_factory=factory)

    async def main() -> asyncio.AbstractEventLoop:
        running = asyncio.create_task(asyncio.to_thread(worker.run))
        while not loops:
            await asyncio.sleep(0.001)
        worker.stop()
        await running
        return asyncio.get_running_loop()

    assert asyncio.run(main()) is not loops[0]
    assert reports(server, jid) == ["ACK"]

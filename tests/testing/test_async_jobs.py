"""Async jobs in test modes: without a loop they run on one that the mode makes."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from contextvars import ContextVar
from typing import Any

import pytest

import faktory
from faktory import aio, current_job, testing
from faktory.aio import hooks
from faktory.jobs import registry
from faktory.testing.embedded import served

VAR: ContextVar[str] = ContextVar("var", default="unset")


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test begin without declared jobs, and without hooks."""
    monkeypatch.setattr(registry, "_jobs", {})
    monkeypatch.setattr(hooks, "_startup", [])
    monkeypatch.setattr(hooks, "_shutdown", [])


class Work:
    """A declared async job, and what its runs have seen."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.loops: set[asyncio.AbstractEventLoop] = set()

        @faktory.job
        async def work(number: int) -> None:
            await asyncio.sleep(0)
            self.loops.add(asyncio.get_running_loop())
            self.seen.append((number, VAR.get(), threading.current_thread().name))
            assert current_job().jobtype == "work"
            if number < 0:
                raise ValueError(number)

        self.job = work


@pytest.fixture
def work() -> Work:
    return Work()


def test_drain_runs_them_to_their_end_on_one_loop_in_this_thread(work: Work) -> None:
    hooked: list[str] = []

    @aio.on_startup
    async def up() -> None:
        hooked.append("up")

    @aio.on_shutdown
    async def down() -> None:
        hooked.append("down")

    with testing.fake():
        work.job.perform_bulk([(1,), (2,), (3,)])
        assert work.seen == []
        VAR.set("set")
        assert work.job.drain() == 3
    here = threading.current_thread().name
    assert work.seen == [(1, "set", here), (2, "set", here), (3, "set", here)]
    assert [loop.is_closed() for loop in work.loops] == [True]
    assert hooked == ["up", "down"]


def test_inline_runs_them_where_they_are_pushed_and_errors_come_out(work: Work) -> None:
    with testing.inline():
        work.job.perform_async(1)
        assert len(work.seen) == 1
        with pytest.raises(ValueError, match="-1"):
            work.job.perform_async(-1)
        with pytest.raises(ValueError, match="-2"):
            work.job.perform_async(-2)


def test_classes_chains_and_discards_work_alike() -> None:
    ran: list[object] = []

    class Class(faktory.Job):
        async def perform(self, number: int) -> None:
            await asyncio.sleep(0)
            ran.append((self.jid, number))
            if number == 2:
                raise faktory.Discard("enough")

    with testing.inline():
        faktory.chain(Class.message(1), Class.message(2)).push()
    assert [number for _, number in ran] == [1, 2]  # type: ignore[misc]


def test_in_a_running_loop_inline_mode_says_what_to_use(work: Work) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"work is an async job.*await job\.aperform\("):
            work.job.perform_async(1)

    with testing.inline():
        asyncio.run(main())
    assert work.seen == []


def test_in_a_running_loop_a_drain_says_what_to_use(work: Work) -> None:
    async def main() -> None:
        work.job.perform_async(1)
        with pytest.raises(RuntimeError, match=r"await asyncio\.to_thread\(testing\.drain_all\)"):
            work.job.drain()
        assert await asyncio.to_thread(testing.drain_all) == 1

    with testing.fake():
        asyncio.run(main())
    assert len(work.seen) == 1


def test_a_push_that_is_awaited_runs_them_on_the_running_loop(work: Work) -> None:
    plain: list[int] = []

    @faktory.job
    def first(number: int) -> None:
        plain.append(number)
        work.job.perform_async(number)  # in a thread, which waits

    async def main() -> None:
        VAR.set("set")
        await work.job.aperform(1)
        await first.aperform(2)
        with pytest.raises(ValueError, match="-1"):
            await work.job.aperform(-1)
        assert work.loops == {asyncio.get_running_loop()}

    with testing.inline():
        asyncio.run(main())
    assert plain == [2]
    assert [seen[:2] for seen in work.seen] == [(1, "set"), (2, "set"), (-1, "set")]


def test_a_worker_that_drains_runs_them_and_leaves_no_thread(
    work: Work,
) -> None:
    with served() as server:
        for number in (1, 2, -1):
            work.job.perform_async(number)
        assert server.drain() == 3
        work.job.perform_async(4)
        assert server.drain() == 1
        assert [seen[0] for seen in work.seen] == [1, 2, -1, 4]
        assert [str(error) for error in server.worker.errors] == ["-1"]
        assert all(loop.is_closed() for loop in work.loops)
        assert "faktory-loop" not in [thread.name for thread in threading.enumerate()]


def test_jobs_that_push_jobs_on_a_loop_may_be_as_deep_and_as_many_as_they_like() -> None:
    ran: list[int] = []

    @faktory.job
    async def work(number: int) -> None:
        ran.append(number)
        if number:
            await work.aperform(number - 1)

    async def main() -> None:
        await work.aperform(40)
        await asyncio.gather(*[work.aperform(2) for _ in range(40)])

    with testing.inline():
        asyncio.run(asyncio.wait_for(main(), 20))
    assert len(ran) == 41 + 40 * 3


def test_a_job_on_the_loop_of_a_test_is_kept_alive_while_it_waits() -> None:
    waits: list[weakref.ref[asyncio.Future[int]]] = []
    ended: list[int] = []

    @faktory.job
    async def work() -> None:
        ended.append(await wait())

    def wait() -> asyncio.Future[int]:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        waits.append(weakref.ref(future))
        return future

    async def main() -> None:
        push = asyncio.create_task(work.aperform())
        while not waits:
            await asyncio.sleep(0.001)
        gc.collect()
        future = waits[0]()
        assert future is not None, "the job was collected"
        future.set_result(7)
        await push

    with testing.inline():
        asyncio.run(main())
    assert ended == [7]


def test_a_push_that_is_cancelled_as_the_loop_ends_leaves_no_thread() -> None:
    began: list[int] = []

    @faktory.job
    async def work() -> None:
        began.append(1)
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)

    async def main() -> None:
        pushes = [asyncio.create_task(work.aperform()) for _ in range(3)]
        while len(began) < 3:
            await asyncio.sleep(0.001)
        for push in pushes:
            push.cancel()

    before = {*threading.enumerate()}
    with testing.inline():
        asyncio.run(main())
    for thread in {*threading.enumerate()} - before:
        thread.join(10)
        assert not thread.is_alive()

"""Async jobs: on one event loop in a thread of its own, with what sync ones are promised."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest

import faktory
from faktory import Worker, aio, current_job
from faktory.aio import hooks
from faktory.exceptions import Discard, Retry, TimeLimitExceeded
from faktory.jobs.context import JobContext
from faktory.server import EmbeddedServer
from faktory.worker.timing import Timing

from ..support import counts_memory
from .conftest import (
    Held,
    Push,
    Reported,
    RunProgram,
    Start,
    WaitUntil,
    end_reservation,
    failure,
    messages,
    reports,
)

Factory = Callable[[], Any] | None


@pytest.fixture(params=["asyncio", "uvloop"])
def factory(request: pytest.FixtureRequest) -> Factory:
    """The loop factory of a worker, of either kind."""
    if request.param == "asyncio":
        return None
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed (extra test)")
    return uvloop.new_event_loop  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def own_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test begin without hooks."""
    monkeypatch.setattr(hooks, "_startup", [])
    monkeypatch.setattr(hooks, "_shutdown", [])


@pytest.fixture
def middleware() -> Iterator[Any]:
    """The chain of worker middleware, empty again after the test."""
    yield faktory.worker_middleware
    faktory.worker_middleware.clear()


# Where they run


def test_all_kinds_of_async_jobs_run_on_one_loop_beside_sync_ones(
    server: EmbeddedServer, start: Start, push: Push, reported: Reported, factory: Factory
) -> None:
    seen: list[tuple[str, object]] = []
    threads: set[str] = set()
    loops: set[object] = set()

    def note(name: str, argument: object) -> None:
        seen.append((name, argument))
        threads.add(threading.current_thread().name)
        loops.add(asyncio.get_running_loop())

    @faktory.job
    async def declared(number: int) -> None:
        await asyncio.sleep(0)
        note(current_job().jobtype, number)

    class Class(faktory.Job):
        async def perform(self, number: int) -> None:
            await asyncio.sleep(0)
            note(type(self).__name__, number)
            assert self.jid == current_job().jid

    async def bound(jid: str, number: int) -> None:
        note("bound", (jid, number))

    sync: list[str] = []
    jids = [push("declared", 1), push("Class", 2), push("bound", 3), push("plain")]
    worker = Worker(server.url, concurrency=2, loop_factory=factory)
    worker.register("bound", bound, bind=True)
    worker.register("plain", lambda: sync.append(threading.current_thread().name))
    worker.register("alias", declared)
    jids.append(push("alias", 4))
    start(worker)
    reported(jids, *["ACK"] * 5)
    assert sorted(seen, key=str) == [
        ("Class", 2),
        ("alias", 4),
        ("bound", (jids[2], 3)),
        ("declared", 1),
    ]
    assert threads == {"faktory-loop"}
    assert len(loops) == 1
    assert sync[0].startswith("faktory-")
    assert sync[0] != "faktory-loop"


def test_as_many_run_at_a_time_as_the_concurrency_says(
    start: Start, push: Push, reported: Reported, factory: Factory
) -> None:
    met: list[int] = []
    together = asyncio.Event()

    async def work() -> None:
        met.append(1)
        if len(met) == 3:
            together.set()
        await together.wait()

    jids = [push("work") for _ in range(3)]
    start({"work": work}, concurrency=3, loop_factory=factory)
    reported(jids, "ACK", "ACK", "ACK")


def test_a_worker_without_an_async_job_imports_no_asyncio_and_starts_no_loop(
    server: EmbeddedServer, run_program: RunProgram, push: Push, wait_until: WaitUntil
) -> None:
    push("plain")
    program = run_program(
        """
        import faktory.aio
        @faktory.job
        async def other(): pass
        @faktory.aio.on_startup
        async def connect(): pass
        @faktory.job
        def plain():
            names = [thread.name for thread in threading.enumerate()]
            note("asyncio" in sys.modules, "faktory-loop" in names)
        Worker(URL).run()
        """
    )
    wait_until(lambda: program.notes)
    assert program.notes == ["False False"]


def test_in_the_main_thread_with_warnings_as_errors_nothing_is_left(
    server: EmbeddedServer, run_program: RunProgram, push: Push, wait_until: WaitUntil
) -> None:
    jid = push("work")
    push("waits")
    program = run_program(
        """
        import asyncio
        @faktory.job
        async def work():
            asyncio.create_task(asyncio.sleep(60))
            await asyncio.to_thread(note, "worked")
        @faktory.job
        async def waits():
            try:
                await asyncio.sleep(60)
            finally:
                note("cancelled")
        Worker(URL, concurrency=2, disconnect_wait=0.1).run()
        note("over")
        """
    )
    wait_until(lambda: reports(server, jid) == ["ACK"])
    wait_until(lambda: "waits" in program.log)
    assert program.stop() == 0
    assert program.notes == ["worked", "cancelled", "over"]
    for text in ("was destroyed", "never awaited", "never retrieved", "Exception ignored"):
        assert text not in program.log


# How they end


@pytest.mark.parametrize(
    "error",
    [
        ValueError("wrong"),
        SystemExit("wrong"),
        KeyboardInterrupt("wrong"),
        GeneratorExit("wrong"),
        asyncio.CancelledError("wrong"),
        StopIteration("wrong"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_job_raises_is_its_failure_and_the_loop_goes_on(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    reported: Reported,
    factory: Factory,
    error: BaseException,
) -> None:
    loops: list[object] = []

    async def work(fails: bool) -> None:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        if fails:
            raise error

    jids = [push("work", True), push("work", False)]
    start({"work": work}, loop_factory=factory)
    reported(jids, "FAIL", "ACK")
    expected = type(error).__name__
    if isinstance(error, StopIteration):
        expected = "RuntimeError"  # as Python has it in a coroutine
    assert failure(server, jids[0])["errtype"] == expected
    assert loops[0] is loops[1]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_task_of_a_job_does_not_end_the_loop_either(
    start: Start,
    push: Push,
    reported: Reported,
    factory: Factory,
    error: type[BaseException],
    caplog: pytest.LogCaptureFixture,
) -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    async def child() -> None:
        raise error

    async def work(how: str) -> None:
        loops.append(asyncio.get_running_loop())
        if how == "child":
            task = asyncio.create_task(child())
            await asyncio.wait([task])
            assert type(task.exception()) is error
        elif how == "stop":
            loops[0].stop()
            await asyncio.sleep(0.01)

    jids = [push("work", how) for how in ("child", "stop", "")]
    start({"work": work}, loop_factory=factory)
    reported(jids, "ACK", "ACK", "ACK")
    assert len(set(loops)) == 1
    assert messages(caplog, f"a task of a job raised {error.__name__}")


def test_a_failure_has_the_frames_of_the_program_only(
    server: EmbeddedServer, start: Start, push: Push, reported: Reported, factory: Factory
) -> None:
    async def inner() -> None:
        await asyncio.sleep(0)
        raise ValueError("wrong")

    async def work() -> None:
        await inner()

    jid = push("work", backtrace=20)
    start({"work": work}, loop_factory=factory)
    reported(jid, "FAIL")
    lines = failure(server, jid)["backtrace"]
    files = [line for line in lines if line.startswith("  File ")]
    assert len(files) == 2
    assert all(__file__ in line for line in files)
    assert (lines[0], lines[-1]) == ("Traceback (most recent call last):", "ValueError: wrong")


def test_discard_retry_and_policies_count_as_for_sync_jobs(
    server: EmbeddedServer, start: Start, push: Push, reported: Reported
) -> None:
    @faktory.job(discard_on=KeyError, retry_on=OSError)
    async def work(error: str) -> None:
        await asyncio.sleep(0)
        raise {
            "discard": Discard("enough"),
            "declared": KeyError("gone"),
            "buried": ValueError("wrong"),
            "retry": Retry(after=60),
            "failed": OSError("away"),
        }[error]

    kinds = ("discard", "declared", "failed")
    jids = [push("work", kind) for kind in kinds]
    others = [push("work", "buried"), push("work", "retry")]
    start()
    reported(jids, "ACK", "ACK", "FAIL")
    reported(others[1], "ACK")
    assert [job["jid"] for job in server.scheduled] == [others[1]]
    reported(others[0], "FAIL")


def test_error_handlers_and_those_of_exhausted_are_called_in_the_jobs_thread(
    start: Start, push: Push, reported: Reported
) -> None:
    called: list[tuple[str, str]] = []

    @faktory.job
    async def work() -> None:
        raise ValueError("wrong")

    @work.on_exhausted
    def exhausted(job: JobContext, error: BaseException) -> None:
        called.append((str(error), threading.current_thread().name))

    jid = push("work", retry=0)
    worker = start().worker
    reported(jid, "FAIL")
    assert called[0][0] == "wrong"
    assert called[0][1] != "faktory-loop"
    assert not worker.is_quiet


def test_a_job_that_returns_an_awaitable_fails(
    server: EmbeddedServer, start: Start, push: Push, reported: Reported
) -> None:
    async def later() -> None: ...

    async def work() -> object:
        return later()

    jid = push("work")
    start({"work": work})
    reported(jid, "FAIL")
    assert "nothing awaits" in failure(server, jid)["message"]
    gc.collect()  # a coroutine that was not closed would cause a warning now


@counts_memory
def test_the_variables_of_a_failed_job_are_released_at_once(
    start: Start, push: Push, reported: Reported, caplog: pytest.LogCaptureFixture
) -> None:
    class Large:
        pass

    caplog.set_level(logging.CRITICAL, "faktory")  # pytest keeps what was logged
    alive: list[weakref.ref[Large]] = []

    async def work() -> None:
        large = Large()
        alive.append(weakref.ref(large))
        await asyncio.sleep(0)
        raise ValueError

    gc.disable()
    try:
        jid = push("work", backtrace=5)
        start({"work": work})
        reported(jid, "FAIL")
        assert alive[0]() is None
    finally:
        gc.enable()


def test_a_job_that_forks_ends_the_copy_and_is_reported_once(
    server: EmbeddedServer, run_program: RunProgram, push: Push, wait_until: WaitUntil
) -> None:
    jid = push("work")
    program = run_program(
        """
        import asyncio
        @faktory.job
        async def work():
            await asyncio.sleep(0)
            pid = os.fork()
            if pid == 0:
                return
            os.waitpid(pid, 0)
        Worker(URL).run()
        """,
        warnings="ignore",
    )
    wait_until(lambda: reports(server, jid) == ["ACK"])
    assert program.stop() == 0
    assert reports(server, jid) == ["ACK"]


# Context


VAR: ContextVar[str] = ContextVar("var", default="unset")


def test_middleware_is_around_the_run_and_its_context_reaches_the_coroutine(
    start: Start, push: Push, reported: Reported, factory: Factory, middleware: Any
) -> None:
    seen: list[object] = []

    @middleware.add
    def around(job: JobContext, payload: dict[str, Any], call_next: Callable[[], object]) -> object:
        seen.append(("before", VAR.get(), threading.current_thread().name != "faktory-loop"))
        token = VAR.set("set by the middleware")
        try:
            result = call_next()
            seen.append(("after", result))
            return result
        finally:
            VAR.reset(token)

    async def child() -> None:
        seen.append(("child", VAR.get(), current_job().jid))

    async def work() -> str:
        seen.append(("job", VAR.get()))
        await asyncio.create_task(child())
        VAR.set("set by the job")
        return "result"

    jids = [push("work"), push("work")]
    start({"work": work}, loop_factory=factory)
    reported(jids, "ACK", "ACK")
    expected = [
        [
            ("before", "unset", True),
            ("job", "set by the middleware"),
            ("child", "set by the middleware", jid),
            ("after", "result"),
        ]
        for jid in jids
    ]
    assert seen == expected[0] + expected[1]


def test_middleware_sees_what_the_coroutine_raises_and_may_skip_it(
    start: Start, push: Push, reported: Reported, middleware: Any
) -> None:
    ran: list[int] = []

    @middleware.add
    def around(job: JobContext, payload: dict[str, Any], call_next: Callable[[], object]) -> object:
        if job.args == [0]:
            return None
        try:
            return call_next()
        except ValueError:
            return None

    async def work(number: int) -> None:
        ran.append(number)
        raise ValueError

    jids = [push("work", 0), push("work", 1)]
    start({"work": work})
    reported(jids, "ACK", "ACK")
    assert ran == [1]


# Time limits


def test_a_time_limit_cancels_the_coroutine_and_waits_for_its_cleanup(
    server: EmbeddedServer, start: Start, push: Push, reported: Reported, factory: Factory
) -> None:
    cleaned: list[str] = []

    @faktory.job(time_limit=0.1)
    async def work(how: str) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            cleaned.append(how)
            if how == "returns":
                return
            if how == "another":
                raise ValueError("another") from None
            raise

    jids = [push("work", how, backtrace=9) for how in ("passes", "another", "returns")]
    start(concurrency=3, loop_factory=factory)
    reported(jids, "FAIL", "FAIL", "ACK")
    assert failure(server, jids[0])["errtype"] == TimeLimitExceeded.__name__
    assert "await asyncio.sleep(60)" in "".join(failure(server, jids[0])["backtrace"])
    assert failure(server, jids[1])["errtype"] == "ValueError"
    assert sorted(cleaned) == ["another", "passes", "returns"]


def test_timeouts_and_groups_of_asyncio_work_in_jobs(
    server: EmbeddedServer, start: Start, push: Push, reported: Reported, factory: Factory
) -> None:
    @faktory.job(time_limit=20)
    async def work(how: str) -> None:
        if how == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(60)
        elif how == "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0))
        else:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(60)

    jids = [push("work", how) for how in ("timeout", "group", "cancels itself")]
    start(concurrency=3, loop_factory=factory)
    reported(jids, "ACK", "ACK", "FAIL")
    assert failure(server, jids[2])["errtype"] == "CancelledError"


def test_a_limit_in_a_group_of_tasks_is_reported_as_such(
    server: EmbeddedServer, start: Start, push: Push, reported: Reported, factory: Factory
) -> None:
    @faktory.job(time_limit=0.1)
    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(60))

    jid = push("work")
    start(loop_factory=factory)
    reported(jid, "FAIL")
    assert failure(server, jid)["errtype"] == "TimeLimitExceeded"


def test_an_overdue_coroutine_is_shown_where_it_stands_and_replaced(
    start: Start, push: Push, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    async def innermost() -> None:
        await asyncio.sleep(60)

    async def work() -> None:
        end_reservation()
        await innermost()

    push("work")
    worker = start({"work": work}, timing=Timing(check_interval=0.01)).worker
    (message,) = wait_until(lambda: messages(caplog, "is overdue"))
    assert worker.replaced == 1
    assert "in innermost" in message
    assert "loop.py" not in message


def test_the_stacks_of_all_threads_have_that_of_the_coroutine(
    start: Start, push: Push, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    began = threading.Event()

    async def generator() -> AsyncIterator[int]:
        began.set()
        await asyncio.sleep(60)
        yield 1

    async def work() -> None:
        async for _ in generator():
            pass

    push("work")
    worker = start({"work": work}).worker
    assert began.wait(10)
    worker._inbox.put(worker._manager.log_threads)
    (message,) = wait_until(
        lambda: [text for text in caplog.messages if text.startswith("thread faktory-1, running")]
    )
    assert "in work" in message
    assert "in generator" in message


# Hooks


def test_hooks_run_on_the_loop_before_the_first_job_and_after_the_last(
    start: Start, push: Push, factory: Factory
) -> None:
    seen: list[str] = []
    loops: set[object] = set()

    def hook(name: str) -> Callable[[], Any]:
        async def run() -> None:
            await asyncio.sleep(0)
            seen.append(name)
            loops.add(asyncio.get_running_loop())

        return run

    done = threading.Event()
    aio.on_startup(hook("up 1"))
    aio.on_startup(hook("up 2"))
    aio.on_shutdown(hook("down 1"))
    last = hook("down 2")
    assert aio.on_shutdown(last) is last
    job = hook("job")

    async def work() -> None:
        await job()
        done.set()

    push("work")
    running = start({"work": work}, loop_factory=factory)
    assert done.wait(10)
    running.stop()
    assert seen == ["up 1", "up 2", "job", "down 2", "down 1"]
    (loop,) = loops
    assert loop.is_closed()  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", [ValueError("wrong"), SystemExit("wrong")])
def test_a_hook_that_raises_is_logged_and_the_jobs_run(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    wait_until: WaitUntil,
    error: BaseException,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None: ...

    @aio.on_startup
    @aio.on_shutdown
    async def hook() -> None:
        raise error

    jid = push("work")
    running = start({"work": work})
    wait_until(lambda: reports(server, jid) == ["ACK"])
    running.stop()
    assert len(messages(caplog, "the hook of on_startup <")) == 1
    assert len(messages(caplog, "the hook of on_shutdown <")) == 1


def test_without_an_async_job_no_hook_runs(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    called: list[int] = []

    @aio.on_startup
    @aio.on_shutdown
    async def hook() -> None:
        called.append(1)

    jid = push("work")
    running = start({"work": lambda: None})
    wait_until(lambda: reports(server, jid) == ["ACK"])
    running.stop()
    assert called == []


@pytest.mark.parametrize("register", [aio.on_startup, aio.on_shutdown])
def test_only_an_async_function_without_arguments_can_be_a_hook(register: Any) -> None:
    def plain() -> None: ...

    async def takes(number: int) -> None: ...

    with pytest.raises(TypeError, match=r"pass an async function.*faktory\.on\('s"):
        register(plain)
    with pytest.raises(TypeError, match=r"calls .*takes.* without arguments: missing"):
        register(takes)
    assert hooks.hooks_of_startup() == hooks.hooks_of_shutdown() == []


# The loop


def test_a_loop_factory_that_fails_is_the_failure_of_the_job_and_tried_again(
    server: EmbeddedServer, start: Start, push: Push, reported: Reported
) -> None:
    answers: list[Callable[[], Any]] = [lambda: {}["lost"], lambda: 5, asyncio.new_event_loop]

    async def work() -> None: ...

    jids = [push("work") for _ in range(3)]
    start({"work": work}, loop_factory=lambda: answers.pop(0)())
    reported(jids, "FAIL", "FAIL", "ACK")
    assert failure(server, jids[0])["errtype"] == "KeyError"
    assert "loop_factory returned 5: it must return" in failure(server, jids[1])["message"]


def test_a_loop_factory_must_be_callable() -> None:
    with pytest.raises(ValueError, match=r"loop_factory is 'uvloop': .* uvloop\.new_event_loop"):
        Worker(loop_factory="uvloop")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options", [{"executor": ThreadPoolExecutor}, {"use_threads": False}], ids=["executor", "fork"]
)
def test_where_jobs_run_on_no_threads_async_ones_are_refused_at_once(options: Any) -> None:
    async def work() -> None: ...

    with pytest.raises(ValueError, match=r"work: .*Leave out use_threads=False and executor="):
        Worker(**options).register("work", work)
    faktory.job(queue="async")(work)
    with pytest.raises(ValueError, match="work: async jobs run on the event loop of a worker with"):
        Worker(queues=["other", "async"], **options).run()


def test_one_that_comes_all_the_same_fails_with_the_remedy(
    server: EmbeddedServer, start: Start, push: Push, reported: Reported
) -> None:
    @faktory.job(queue="elsewhere", retry_on=OSError)
    async def work() -> None: ...

    jid = push("work")
    start(executor=ThreadPoolExecutor)
    reported(jid, "FAIL")
    assert failure(server, jid)["message"].startswith("work: async jobs run on the event loop of")
    assert [job["jid"] for job in server.retries] == [jid]


def test_a_job_that_holds_the_loop_is_named_once_and_again_when_it_is_over(
    start: Start,
    push: Push,
    held: Held,
    wait_until: WaitUntil,
    reported: Reported,
    factory: Factory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def blocks() -> None:
        held.hold()

    async def work() -> None: ...

    jids = [push("blocks"), push("work")]
    timing = Timing(check_interval=0.01, loop_hold=0.05)
    tasks = {"blocks": blocks, "work": work}
    worker = start(tasks, loop_factory=factory, timing=timing, concurrency=2).worker
    wait_until(lambda: messages(caplog, "holds the event loop"))
    checks: list[int] = []
    inner = worker._manager.async_jobs.check
    monkeypatch.setattr(
        worker._manager.async_jobs, "check", lambda now: (checks.append(1), inner(now))
    )
    wait_until(lambda: len(checks) > 10)
    held.release()
    reported(jids, "ACK", "ACK")
    wait_until(lambda: messages(caplog, "the event loop goes on"))
    (first,) = messages(caplog, "holds the event loop")
    assert first.startswith(f"blocks {jids[0]} holds the event loop, which has ")
    assert "in hold" in first
    assert "asyncio.to_thread" in first
    (second,) = messages(caplog, "the event loop goes on")
    assert second.endswith(f"s: blocks {jids[0]} held it")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a task shows its context from 3.12 on")
def test_a_task_of_a_job_that_holds_the_loop_is_named_by_the_job(
    start: Start,
    push: Push,
    held: Held,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def child() -> None:
        held.hold()

    async def work() -> None:
        await asyncio.create_task(child())

    jid = push("work")
    start({"work": work}, timing=Timing(check_interval=0.01, loop_hold=0.05))
    wait_until(lambda: messages(caplog, f"work {jid} holds the event loop"))
    held.release()


def test_a_loop_that_is_idle_or_busy_is_not_named(
    start: Start, push: Push, reported: Reported, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        for _ in range(30):
            await asyncio.sleep(0.01)

    jid = push("work")
    start({"work": work}, timing=Timing(check_interval=0.01))
    reported(jid, "ACK")
    assert not messages(caplog, "event loop")


def test_heartbeats_go_on_while_a_job_holds_the_loop(
    server: EmbeddedServer, start: Start, push: Push, held: Held, wait_until: WaitUntil
) -> None:
    class Often(Worker):
        send_heartbeat_every = 0.05

    async def work() -> None:
        held.hold()

    push("work")
    worker = Often(server.url)
    worker.register("work", work)
    start(worker)
    assert held.began.wait(10)
    before = len([1 for verb, _ in server.commands if verb == "BEAT"])
    wait_until(lambda: len([1 for verb, _ in server.commands if verb == "BEAT"]) > before + 2)
    held.release()


def test_a_job_pushes_by_aperform_on_the_same_loop(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    factory: Factory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKTORY_URL", server.url)
    ran: list[int] = []

    @faktory.job
    async def work(number: int) -> None:
        ran.append(number)
        if number:
            await work.aperform(number - 1)

    push("work", 9)
    start(burst=True, concurrency=2, loop_factory=factory).join()
    assert ran == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]


def test_a_burst_ends_after_its_async_jobs(
    server: EmbeddedServer, start: Start, push: Push, factory: Factory
) -> None:
    async def work() -> None:
        await asyncio.sleep(0.01)

    jids = [push("work") for _ in range(20)]
    start({"work": work}, burst=True, concurrency=3, loop_factory=factory).join()
    assert all(reports(server, jid) == ["ACK"] for jid in jids)
    assert json.dumps(server.retries) == "[]"

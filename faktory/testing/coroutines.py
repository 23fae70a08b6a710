"""Async jobs in test modes: on a loop in the thread that runs the jobs, or on that of the test.

Rules: the hooks of `faktory.aio` run on a loop that is made here, at its beginning and its end;
what they raise comes out. A test on a loop of its own awaits its pushes: their jobs run there.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ..aio.hooks import hooks_of_shutdown, hooks_of_startup
from ..jobs.context import JobContext
from ..jobs.registry import Runnable

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Runner, Task

T = TypeVar("T")

CHECK_INTERVAL: Final = 0.5
"""Seconds between two looks whether the loop that runs a job is still there."""

_loop: Final[ContextVar[AbstractEventLoop | JobLoop]] = ContextVar("faktory_test_loop")
"""Where async jobs run, if not on a loop for each."""


class AsyncCall:
    """Runs an async job to its end: what a `JobRunner` calls in place of the job."""

    def __init__(self, task: Runnable) -> None:
        self._task = task
        self.policy = task.policy

    def run(self, job: JobContext) -> object:
        """Run the job; return its result."""
        target = _loop.get(None)
        if target is None:
            with job_loop():
                return self.run(job)
        if isinstance(target, JobLoop):
            return target.run(lambda: self._await(job))
        return _run_on(target, lambda: self._await(job))

    async def _await(self, job: JobContext) -> object:
        return await self._task.run(job)  # type: ignore[misc]


class JobLoop:
    """A loop for async jobs, in the thread that runs them; made for the first one."""

    def __init__(self) -> None:
        self._runner: Runner | None = None

    def run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in a copy of this context, and return its result."""
        import asyncio

        if self._runner is None:
            self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
            for hook in hooks_of_startup():
                self._runner.run(hook())
        return self._runner.run(call(), context=copy_context())

    def close(self) -> None:
        """Run the hooks of the end, and close the loop."""
        if self._runner is not None:
            with self._runner as runner:
                for hook in hooks_of_shutdown():
                    runner.run(hook())


@contextmanager
def job_loop() -> Iterator[None]:
    """Run all async jobs of a block on one loop."""
    if _loop.get(None) is not None:
        yield
        return
    loop = JobLoop()
    token = _loop.set(loop)
    try:
        yield
    finally:
        _loop.reset(token)
        loop.close()


async def beside_loop(function: Callable[[], T]) -> T:
    """Call a function that runs jobs in a thread, the async ones on the running loop."""
    import asyncio

    loop = asyncio.get_running_loop()
    token = _loop.set(loop)
    context = copy_context()
    _loop.reset(token)
    # Not a thread of the loop's executor: all of those may wait for jobs that push jobs.
    thread = ThreadPoolExecutor(1)
    try:
        return await loop.run_in_executor(thread, context.run, function)
    finally:
        thread.shutdown(wait=False)


def in_running_loop() -> bool:
    """Return whether this thread runs an event loop, on which it cannot wait for an async job."""
    import asyncio

    return asyncio._get_running_loop() is not None


def _run_on(loop: AbstractEventLoop, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on another thread's loop, in a copy of this context."""
    end: Future[T] = Future()
    context = copy_context()
    tasks: list[Task[None]] = []  # a loop alone does not keep its tasks alive

    async def run() -> None:
        try:
            end.set_result(await call())
        except BaseException as error:
            end.set_exception(error)

    loop.call_soon_threadsafe(lambda: tasks.append(loop.create_task(run(), context=context)))
    while not wait([end], timeout=CHECK_INTERVAL).done:
        if loop.is_closed():  # the push was cancelled as its test ended
            raise RuntimeError("the event loop has ended before its job")
    return end.result()

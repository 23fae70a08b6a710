"""Async jobs: the coroutines of all processors on one event loop, in a thread of its own.

Rules: the thread starts with the first async job, and asyncio is imported there. A processor calls
the middleware and waits for its coroutine, which runs in a copy of the processor's context. An
interrupt cancels it; the job's outcome is what the coroutine makes of that. Nothing that a job
raises ends the loop. The loop ends when all processors have: no one waits for a loop that is not
there.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from threading import Event, Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from ...aio.hooks import Hook, hooks_of_shutdown, hooks_of_startup
from ...exceptions import Shutdown
from ...jobs.context import JobContext, job_of
from ...jobs.registry import Runnable
from ...jobs.runner import JobRunner, end_process
from ...wire.log import Lines, Log
from ..interrupts import RunningJob, absorb
from ..stacks import coroutine_stack, stack
from ..timing import Timing

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task

LoopFactory = Callable[[], "AbstractEventLoop"]

THREAD: Final = "faktory-loop"

_kept: Final[list[object]] = []
"""Tasks that did not end with their loop: Python would complain of each that it destroys."""


class CoroutineRun:
    """The run of one async job: its processor calls `run`, the loop's thread `begin` and `main`."""

    def __init__(self, jobs: AsyncJobs, task: Runnable, running: RunningJob) -> None:
        self._jobs = jobs
        self._runnable = task
        self.policy = task.policy
        self._running = running
        self._gate = Lock()
        self._gate.acquire()
        self._asked: type[BaseException] | None = None
        self._begun = False
        self._done = False
        self._result: object = None
        self._error: BaseException | None = None
        self._context: Context | None = None
        self.job: JobContext | None = None
        self.task: Task[None] | None = None
        """The task of the loop in which it runs."""

    # In the processor's thread

    def run(self, job: JobContext) -> object:
        """Run the job on the loop and wait for its end; return its result."""
        self.job = job
        self._context = copy_context()
        try:
            self._running.delegate(self)
            absorb()  # what was raised in this thread before that, so that it does not come later
            self._jobs.submit(self)
            self._wait()
        finally:
            self._running.delegate(None)
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback has this frame
        return self._result

    def _wait(self) -> None:
        try:
            self._gate.acquire()
        except BaseException as error:  # KeyboardInterrupt, in the thread of a test
            self.interrupt(type(error))
            if not self._done:
                self._gate.acquire()

    # From any thread

    def interrupt(self, exception: type[BaseException]) -> None:
        """Cancel the coroutine: the job ends with `exception` then, if it ends by that."""
        self._asked = exception
        self._jobs.call(self._cancel)

    def finish(self, error: BaseException | None, result: object = None) -> None:
        """Let the processor go on. What comes after the first call counts no more."""
        if not self._done:
            self._error, self._result = error, result
            self._done = True
            with suppress(RuntimeError):  # another thread did it at the same time
                self._gate.release()

    def stack(self) -> Lines | None:
        """Return where the coroutine stands; None before it begins, and after its end."""
        task = self.task
        return None if task is None or self._done else coroutine_stack(task.get_coro())

    # In the loop's thread

    def begin(self, loop: AbstractEventLoop) -> None:
        """Make the task that runs the job, unless it was interrupted before."""
        if self._done:
            return
        self._jobs.runs.add(self)
        try:
            self.task = loop.create_task(self.main(), context=self._context)
        except BaseException as error:  # of a task factory of the program's own
            self._jobs.runs.discard(self)
            self.finish(error)

    async def main(self) -> None:
        """Run the job; whatever it raises is its outcome."""
        self._begun = True
        error: BaseException | None = None
        result: object = None
        process = os.getpid()
        try:
            if self._asked is None:
                assert self.job is not None
                result = await self._runnable.run(self.job)  # type: ignore[misc]
            else:
                error = self._asked()
        except BaseException as caught:
            error = caught
            if self._asked is not None and self._jobs.is_cancelled(caught):
                error = self._asked().with_traceback(caught.__traceback__)
        if os.getpid() != process:
            end_process(error)
        self._jobs.runs.discard(self)
        self.finish(error, result)
        del error

    def _cancel(self) -> None:
        if self.task is None and self._asked is not None:  # it waits for the hooks of startup
            self.finish(self._asked())
        elif self._begun and not self._done and self.task is not None:
            self.task.cancel()


class AsyncJobs:
    """The event loop of a worker's async jobs; `factory` makes another one than asyncio's."""

    def __init__(self, factory: LoopFactory | None, log: logging.Logger, timing: Timing) -> None:
        self._factory = factory
        self._log = Log(log)
        self._timing = timing
        self._starting = Lock()
        self._thread: Thread | None = None
        self._loop: AbstractEventLoop | None = None
        self._ready = False
        self._closed = False
        self._stopping = Event()
        self._ends_at = 0.0
        self._ending = ""
        self._cut = False
        """Whether hooks are cancelled, since there is no more time for them."""
        self._waiting: deque[CoroutineRun] = deque()
        self._asked_at: float | None = None
        self._late_at = 0.0
        self._holder: str | None = None
        self.runs: set[CoroutineRun] = set()
        """Those that have begun and not ended."""

    # From any thread

    def run(self, task: Runnable, job: JobContext, running: RunningJob, runner: JobRunner) -> None:
        """Run an async job, the middleware around it, and wait for its end."""
        runner.call(CoroutineRun(self, task, running), job)

    def stack_of(self, job: JobContext | None) -> Lines | None:
        """Return where the coroutine of a job stands, None if it has none."""
        runs = () if job is None else self.runs.copy()
        return next((run.stack() for run in runs if run.job is job), None)

    def submit(self, run: CoroutineRun) -> None:
        """Have a run begin on the loop, which starts if it is the first."""
        self._waiting.append(run)
        if self._ready:
            self.call(self._begin)
        elif self._starting.acquire(blocking=False):
            self._thread = Thread(target=self._serve, name=THREAD, daemon=True)
            try:
                self._thread.start()
            except RuntimeError as error:  # the system has no more threads
                self._thread = None
                self._starting.release()
                self._fail_all(error)
        if self._closed:
            self._fail_all(Shutdown("the event loop of async jobs has ended"))

    def call(self, function: Callable[[], object]) -> None:
        """Have a function called in the loop's thread, if there is a loop."""
        if (loop := self._loop) is not None:
            with suppress(RuntimeError):  # it is closed
                loop.call_soon_threadsafe(function)

    def is_cancelled(self, error: BaseException) -> bool:
        """Return whether an error says that a task was cancelled."""
        from asyncio import CancelledError

        return issubclass(type(error), CancelledError)

    # From the thread that runs the worker

    def check(self, now: float) -> None:
        """Log a job that holds the loop, with its stack: no other one goes on meanwhile."""
        if self._loop is None or self._closed:
            return
        asked_at = self._asked_at
        hold = self._timing.loop_hold
        if asked_at is None:
            self._late_at = 0.0
            self._asked_at = now
            self.call(self._answer)
        elif self._holder is not None or now - asked_at < hold:
            return
        elif not self._late_at:  # this process may have been paused, and the loop answers at once
            self._late_at = now
        elif now - self._late_at >= hold / 10:
            assert self._thread is not None
            self._holder = self._current()
            self._log.error(
                "%s has held the event loop for %.0f s: until it awaits something, no other async "
                "job goes on, and none can be cancelled. Blocking calls belong into "
                "asyncio.to_thread, or the job into a plain def. It stands at:\n%s",
                self._holder,
                now - asked_at,
                stack(self._thread),
            )

    def stop(self, seconds: float) -> None:
        """End the loop, which may take so many seconds, after all jobs have ended."""
        if self._thread is None:
            return
        self._ends_at = monotonic() + seconds
        self._stopping.set()
        if (loop := self._loop) is not None:
            self.call(loop.stop)
        self._thread.join(seconds + self._timing.shutdown_grace)
        if self._thread.is_alive():
            self._log.error(
                "the event loop of async jobs does not end%s; its thread stands at:\n%s",
                self._ending,
                stack(self._thread),
            )
            self._end_waits()

    def _end_waits(self) -> None:
        self._closed = True
        self._fail_all(Shutdown("the event loop of async jobs has ended"))

    def _fail_all(self, error: BaseException) -> None:
        for run in self.runs.copy():
            run.finish(error)
        while self._waiting:
            with suppress(IndexError):  # another thread has it
                self._waiting.popleft().finish(error)

    def _current(self) -> str:
        """Return the job whose task runs now, as text."""
        from asyncio import current_task

        task = current_task(self._loop)
        return "something other than a task" if task is None else self._owner(task)

    def _owner(self, task: Task[Any]) -> str:
        """Return the job of a task, as text."""
        job = next((run.job for run in self.runs.copy() if run.task is task), None)
        if job is None and hasattr(task, "get_context"):  # Python 3.12
            job = job_of(task.get_context())  # of a task that the job made
        return f"the task {task.get_name()}" if job is None else str(job)

    # In the loop's thread

    def _serve(self) -> None:
        import asyncio  # takes long, and most workers have no async job

        try:
            loop = (self._factory or asyncio.new_event_loop)()
            if not isinstance(loop, asyncio.AbstractEventLoop):
                raise TypeError(
                    f"loop_factory returned {loop!r}: it must return a new event loop, as "
                    "asyncio.new_event_loop does."
                )
        except BaseException as error:
            self._thread = None
            self._starting.release()
            self._fail_all(error)
            return
        startup = loop.create_task(self._start())
        self._loop = loop
        while not (self._stopping.is_set() or loop.is_closed()):
            self._run(loop)
        self._ready = False
        self._cut = True
        startup.cancel()
        if not loop.is_closed():
            self._end(loop)
        self._loop = None
        self._end_waits()

    def _run(self, loop: AbstractEventLoop) -> None:
        try:
            loop.run_forever()
        except BaseException as error:  # SystemExit and KeyboardInterrupt of a task that a job made
            text = "a task of a job raised %s, which does not end the worker"
            self._log.exception(text, type(error).__name__)

    async def _start(self) -> None:
        for hook in hooks_of_startup():
            await self._call(hook, "on_startup")
        self._ready = True
        self._begin()

    async def _call(self, hook: Hook, name: str) -> None:
        self._ending = f": a hook of {name} goes on, {hook!r}"
        try:
            await hook()
        except BaseException as error:  # sys.exit() too
            if self.is_cancelled(error) and self._cut:
                self._log.error(
                    "a hook of %s did not end in time, and was cancelled: %r", name, hook
                )
                raise
            self._log.exception("a hook of %s raised: %r", name, hook)
        finally:
            self._ending = ""

    def _begin(self) -> None:
        assert self._loop is not None
        while self._waiting:
            self._waiting.popleft().begin(self._loop)

    def _answer(self) -> None:
        """Note that the loop runs."""
        holder, asked_at = self._holder, self._asked_at
        self._holder = self._asked_at = None
        if holder is not None and asked_at is not None:
            text = "the event loop goes on: %s has held it for %.1f s"
            self._log.warning(text, holder, monotonic() - asked_at)

    def _end(self, loop: AbstractEventLoop) -> None:
        """Cancel what is left, run the hooks, and close the loop."""
        from asyncio import all_tasks

        end = loop.create_task(self._wind_up(all_tasks(loop)))
        end.add_done_callback(lambda _: loop.stop())

        def cut() -> None:
            self._cut = True
            end.cancel()

        now, grace = monotonic(), self._timing.shutdown_grace / 2
        ends_at = max(self._ends_at, now + grace)  # a job has held the loop beyond its end
        until = ends_at + grace
        loop.call_later(ends_at - now, cut)
        loop.call_later(until - now, loop.stop)
        while not end.done() and monotonic() < until:
            self._run(loop)
        for task in all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            _kept.append(task)
            text = (
                "%s was cancelled, and goes on; the event loop ends all the same. It stands at:\n%s"
            )
            self._log.error(text, self._owner(task), coroutine_stack(task.get_coro()))
        loop.close()

    async def _wind_up(self, left: set[Task[Any]]) -> None:
        from asyncio import wait

        for task in left:
            task.cancel()
        if left:
            await wait(left, timeout=self._timing.shutdown_grace)
        self._cut = False
        for hook in hooks_of_shutdown():
            await self._call(hook, "on_shutdown")
        assert self._loop is not None
        await self._loop.shutdown_asyncgens()

"""Async jobs: the coroutines of all processors on one event loop, in a thread of its own.

Rules: the thread starts with the first async job, and asyncio is imported there. A processor calls
the middleware and waits for its coroutine, which runs in a copy of the processor's context. An
interrupt cancels it; the job's outcome is what the coroutine makes of that. Nothing that a job
raises ends the loop. The loop ends when all processors have: no one waits for a loop that is not
there. One that cannot be made, or breaks, fails the jobs that need it; the next job has another.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from math import inf
from threading import Lock, Thread, get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from ...aio.hooks import Hook, hooks_of_shutdown, hooks_of_startup
from ...client import fork
from ...exceptions import Shutdown
from ...jobs.context import JobContext
from ...jobs.registry import Runnable
from ...jobs.runner import JobRunner, end_process
from ...wire.log import Lines, Log
from ..interrupts import RunningJob
from ..stacks import coroutine_stack, stack
from ..timing import Timing
from .coroutine_run import AsyncCall, CoroutineRun, create_task
from .loop_watch import LoopWatch, name_of, running_on

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task, Timeout

LoopFactory = Callable[[], "AbstractEventLoop"]

THREAD: Final = "faktory-loop"

_ENDED: Final = "the event loop of async jobs has ended"

_kept: Final[list[object]] = []
"""Tasks that did not end with their loop: Python would complain of each that it destroys."""


class AsyncJobs:
    """The event loop of a worker's async jobs; `factory` makes another one than asyncio's.

    `on_end` is called, in the loop's thread, when that ends.
    """

    def __init__(
        self,
        factory: LoopFactory | None,
        log: logging.Logger,
        timing: Timing,
        on_end: Callable[[], object],
    ) -> None:
        self._factory = factory
        self._log = Log(log)
        self._timing = timing
        self._on_end = on_end
        self._watch = LoopWatch(self._log, timing.loop_hold)
        self._starting = Lock()
        self._thread: Thread | None = None
        self._loop: AbstractEventLoop | None = None
        self._startup: Task[None] | None = None
        self._hook_since: float | None = None
        """Since when a hook of startup runs (`time.monotonic`), if that was not logged."""
        self._ready = False
        self._stopping = False
        self._ends_at = inf
        """When the hooks of shutdown are cancelled (`time.monotonic`)."""
        self._limit: Timeout | None = None
        """What cancels the one that runs."""
        self._waiting: deque[CoroutineRun] = deque()
        self.runs: set[CoroutineRun] = set()
        """Those that have begun and not ended."""
        self._forked = False
        fork.register(self)

    def reset_after_fork(self) -> None:
        """Have a child that was forked on the loop end: its wake-ups are the parent's."""
        loop, thread = self._loop, self._thread
        if loop is not None and thread is not None and thread.ident == get_ident():
            self._forked = True
            loop.stop()

    # From any thread

    def run(self, task: Runnable, job: JobContext, running: RunningJob, runner: JobRunner) -> None:
        """Run an async job, the middleware around it, and wait for its end."""
        runner.call(AsyncCall(self, task, running), job)

    def stack_of(self, job: JobContext | None) -> Lines | None:
        """Return where the coroutine of a job stands, None if it has none."""
        runs = () if job is None else self.runs.copy()
        return next((run.stack() for run in runs if run.job is job), None)

    def submit(self, run: CoroutineRun) -> None:
        """Have a run begin on the loop, which starts if it is the first."""
        self._waiting.append(run)
        if self._stopping:  # the run's processor was abandoned before it got here
            run.finish(Shutdown(_ENDED))
        elif self._ready:
            self.call(self._begin)
        elif self._starting.acquire(blocking=False):
            self._thread = Thread(target=self._serve, name=THREAD, daemon=True)
            try:
                self._thread.start()
            except RuntimeError as error:  # the system has no more threads
                self._give_up(error)

    def call(self, function: Callable[[], object]) -> None:
        """Have a function called in the loop's thread, if there is a loop."""
        if (loop := self._loop) is not None:
            with suppress(RuntimeError):  # it is closed
                loop.call_soon_threadsafe(function)

    # From the thread that runs the worker

    def check(self, now: float) -> None:
        """Log what holds the loop, and a hook of startup that does not end."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None or self._stopping:
            return
        self._watch.check(now, loop, thread)
        since, startup, hold = self._hook_since, self._startup, self._timing.loop_hold
        if since is not None and startup is not None and now - since >= hold:
            self._hook_since = None
            self._log.error(
                "%s has not ended after %.0f s, and all async jobs wait for it. It stands at:\n%s",
                startup.get_name(),
                now - since,
                coroutine_stack(startup.get_coro()),
            )

    def stop(self, seconds: float) -> float | None:
        """End the loop after all jobs have ended, which may take so many seconds; again: fewer.

        Returns until when to wait for `on_end` (`time.monotonic`), and then to call this again;
        None when the loop has ended, or does not.
        """
        self._stopping = True
        if (thread := self._thread) is None:
            return None
        now = monotonic()
        if now + seconds < self._ends_at:
            self._ends_at = now + seconds
            self.call(self._hurry)
        until = self._ends_at + self._timing.shutdown_grace
        if now < until:
            return until
        loop = self._loop
        self._log.error(
            "the event loop of async jobs does not end: %s holds it. Its thread stands at:\n%s",
            "its loop_factory" if loop is None else running_on(loop),
            stack(thread),
        )
        self._fail_all(Shutdown(_ENDED))
        return None

    def _fail_all(self, error: BaseException) -> None:
        for run in self.runs.copy():
            run.finish(error)
        self._fail_waiting(error)

    def _fail_waiting(self, error: BaseException) -> None:
        while self._waiting:
            with suppress(IndexError):  # another thread has it
                self._waiting.popleft().finish(error)

    # In the loop's thread

    def _serve(self) -> None:
        try:
            self._loop = loop = self._make_loop()
            self._startup = create_task(loop, self._start())
            while not self._stopping:
                self._run(loop)
            self._ready = False
            self._startup.cancel()
            self._end(loop)
        except BaseException as error:
            self._give_up(error)
        else:
            self._thread = self._loop = None
            self._fail_all(Shutdown(_ENDED))
        self._on_end()

    def _give_up(self, error: BaseException) -> None:
        """Fail the jobs that need a loop, which could not be made, or is broken."""
        loop, self._loop, self._thread = self._loop, None, None
        self._ready = False
        if loop is not None:
            self._log.exception("the event loop of async jobs is broken: its jobs fail")
            with suppress(Exception):
                self._close(loop)
        runs, self.runs = self.runs, set()
        self._starting.release()  # from here on another thread may start
        for run in runs:
            run.finish(error)
        self._fail_waiting(error)

    def _make_loop(self) -> AbstractEventLoop:
        import asyncio  # takes long, and most workers have no async job

        loop = (self._factory or asyncio.new_event_loop)()
        is_loop = isinstance(loop, asyncio.AbstractEventLoop)
        if not is_loop or loop.is_running() or loop.is_closed():
            raise TypeError(
                f"loop_factory returned {loop!r}: it must return a new event loop, as "
                "asyncio.new_event_loop does."
            )
        return loop

    def _run(self, loop: AbstractEventLoop) -> None:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as error:  # the only ones that asyncio lets out
            text = "a task of a job raised %s, which does not end the worker"
            self._log.exception(text, type(error).__name__)
        if self._forked:
            end_process(None)

    async def _start(self) -> None:
        for run in self._waiting.copy():
            run.cancel()  # its interrupt may have come before there was a loop
        for hook in hooks_of_startup():
            self._hook_since = monotonic()
            await self._call(f"the hook of on_startup {hook!r}", hook)
            self._hook_since = None
            if self._stopping:
                return
        self._ready = True
        self._begin()

    def _begin(self) -> None:
        assert self._loop is not None
        while self._waiting:
            self._waiting.popleft().begin(self._loop)

    async def _call(self, what: str, function: Hook, until: float | None = None) -> None:
        from asyncio import current_task, timeout

        task = current_task()
        assert task is not None
        task.set_name(what)
        limit = timeout(None if until is None else max(0.0, until - monotonic()))
        try:
            async with limit as self._limit:
                await function()
        except BaseException:  # sys.exit() too
            if limit.expired() or task.cancelling():
                self._log.error("%s did not end in time, and was cancelled", what)
            else:
                self._log.exception("%s raised", what)
        finally:
            self._limit = None

    def _hurry(self) -> None:
        """Leave `run_forever`, and cancel the hook that runs when its time is over."""
        assert self._loop is not None
        self._loop.stop()
        limit = self._limit
        if limit is not None and limit.when() is not None and not limit.expired():
            limit.reschedule(self._loop.time() + max(0.0, self._ends_at - monotonic()))

    def _end(self, loop: AbstractEventLoop) -> None:
        """Cancel what is left, run the hooks, and close the loop."""
        from asyncio import all_tasks

        grace = self._timing.shutdown_grace / 2
        # A job may have held the loop beyond its end.
        self._ends_at = max(self._ends_at, monotonic() + grace)
        end = create_task(loop, self._wind_up(all_tasks(loop)))
        end.add_done_callback(lambda _: loop.stop())
        while not end.done() and (seconds := self._ends_at + grace - monotonic()) > 0:
            alarm = loop.call_later(seconds, loop.stop)
            self._run(loop)
            alarm.cancel()
        self._close(loop)

    async def _wind_up(self, left: set[Task[Any]]) -> None:
        from asyncio import wait

        for task in left:
            task.cancel()
        if left:
            seconds = (self._ends_at - monotonic()) / 2
            await wait(left, timeout=min(seconds, self._timing.shutdown_grace))
        for hook in hooks_of_shutdown():
            await self._call(f"the hook of on_shutdown {hook!r}", hook, self._ends_at)
        assert self._loop is not None
        until = self._ends_at + self._timing.shutdown_grace / 4
        await self._call("the end of asynchronous generators", self._loop.shutdown_asyncgens, until)

    def _close(self, loop: AbstractEventLoop) -> None:
        from asyncio import all_tasks

        for task in all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            _kept.append(task)
            self._log.error(
                "%s does not end, and the event loop ends all the same. It stands at:\n%s",
                name_of(task),
                coroutine_stack(task.get_coro()),
            )
        loop.close()

"""The run of an async job: its processor waits while a task of the loop runs the coroutine.

Rules: the coroutine runs in a copy of the processor's context. An interrupt cancels it, and the
job's outcome is what the coroutine makes of that. Whatever it raises is the job's outcome, and
nothing else's: the task itself never fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context, copy_context
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ...jobs.context import JobContext
from ...jobs.registry import Runnable
from ...jobs.retries import Policy
from ...jobs.runner import end_process
from ...wire.log import Lines
from ..interrupts import RunningJob, absorb
from ..stacks import coroutine_stack

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task


class Runs(Protocol):
    """Where coroutines run: see `loop.AsyncJobs`."""

    runs: set[CoroutineRun]

    def submit(self, run: CoroutineRun, /) -> None:
        """Have a run begin on the loop."""

    def call(self, function: Callable[[], object], /) -> None:
        """Have a function called in the loop's thread, if there is a loop."""


class AsyncCall(NamedTuple):
    """What `JobRunner` calls in place of an async job, in the job's processor."""

    jobs: Runs
    task: Runnable
    running: RunningJob

    @property
    def policy(self) -> Policy | None:
        """What follows from the job's failures."""
        return self.task.policy

    def run(self, job: JobContext) -> object:
        """Run the job on the loop and wait for its end; return its result."""
        return CoroutineRun(self, job).wait()


class CoroutineRun:
    """A run of an async job: its processor calls `wait`, the loop's thread `begin` and `main`."""

    def __init__(self, call: AsyncCall, job: JobContext) -> None:
        self.job = job
        self.task: Task[None] | None = None
        """The task of the loop in which it runs."""
        self._jobs, self._runnable, self._running = call
        self._context = copy_context()
        self._gate = Lock()
        self._gate.acquire()
        self._asked: type[BaseException] | None = None
        self._begun = False
        self._done = False
        self._result: object = None
        self._error: BaseException | None = None

    # In the processor's thread

    def wait(self) -> object:
        """Have the loop run the job and wait for its end; return its result."""
        try:
            self._running.delegate(self)
            absorb()  # what was raised in this thread before that, so that it does not come later
            self._jobs.submit(self)
            try:
                self._gate.acquire()
            except BaseException as raised:  # KeyboardInterrupt, in the thread of a test
                self.interrupt(type(raised))
                if not self._done:
                    self._gate.acquire()
        finally:
            self._running.delegate(None)
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback has this frame
        return self._result

    # From any thread

    def interrupt(self, exception: type[BaseException]) -> None:
        """Cancel the coroutine: the job ends with `exception` then, if it ends by that."""
        self._asked = exception
        self._jobs.call(self.cancel)

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
            self.task = create_task(loop, self.main(), self._context)
            with suppress(AttributeError):  # a future of that factory's own
                self.task.set_name(str(self.job))
        except BaseException as error:
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
                result = await self._runnable.run(self.job)  # type: ignore[misc]
            else:
                error = self._asked()
        except BaseException as caught:
            error = caught
            if self._asked is not None and _is_cancelled(caught):
                error = self._asked().with_traceback(caught.__traceback__)
        if os.getpid() != process:
            end_process(error)
        self._jobs.runs.discard(self)
        self.finish(error, result)
        del error

    def cancel(self) -> None:
        """End the job as it was asked to, if it was: before it begins, or by CancelledError."""
        if self._asked is None or self._done:
            return
        if self.task is None:  # it waits for the hooks of startup
            self.finish(self._asked())
        elif self._begun:  # else `main` looks
            self.task.cancel()


def create_task(
    loop: AbstractEventLoop, coroutine: Coroutine[Any, Any, None], context: Context | None = None
) -> Task[None]:
    """Make a task of a loop, whose task factory may be the program's own, and may raise."""
    try:
        return loop.create_task(coroutine, context=context)
    except BaseException:
        coroutine.close()  # or Python would warn that it was never awaited
        raise


def _is_cancelled(error: BaseException) -> bool:
    """Return whether an error says that a task was cancelled."""
    from asyncio import CancelledError

    return issubclass(type(error), CancelledError)

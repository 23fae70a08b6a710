"""Find what runs a job, and run it: the one place where a payload becomes a call.

Processors, the processes of `use_threads=False`, executors and the testing kit all run jobs here.

Rules: a function registered on the worker wins over one that `faktory.job` declared. The worker's
middleware runs around the job. What a job raises comes out as it is. A process that a job forks,
and that comes back out of the job, ends there: the job is its parent's to report.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Mapping
from contextvars import copy_context
from typing import Final, NoReturn, Protocol, TypeVar

from ..client import fork
from ..wire.log import Log
from ..wire.validate import show
from . import options, registry
from .context import JobContext, run_in
from .middleware import worker_middleware
from .registry import Runnable

T = TypeVar("T")

END_TIMEOUT: Final = 5.0
"""Seconds in which a process that a job has forked pushes what its Producers hold."""


class Callee(Protocol):
    """What `JobRunner.call` calls: a job, or something that waits for it and has its `policy`."""

    def run(self, context: JobContext, /) -> object:
        """Run the job."""


class JobRunner:
    """Runs jobs by their type; `tasks` holds what is registered on one worker.

    Without `middleware` nothing runs around a job. `time_limit` is that of jobs without one.
    """

    def __init__(
        self,
        tasks: Mapping[str, Runnable] | None = None,
        *,
        middleware: bool = True,
        time_limit: float | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        self._tasks: Mapping[str, Runnable] = {} if tasks is None else tasks
        self._middleware = middleware
        self._time_limit = time_limit
        self._log = Log(log or logging.getLogger("faktory.worker"))

    @property
    def jobtypes(self) -> list[str]:
        """The job types that can be run here, sorted."""
        return sorted({*self._tasks, *registry.names()})

    def find(self, jobtype: str) -> Runnable:
        """Return what runs this type; UnknownJob if nothing does."""
        task = self._tasks.get(jobtype) or registry.find(jobtype)
        if task is None:
            raise registry.unknown(jobtype, self.jobtypes)
        return task

    def time_limit(self, task: Runnable, job: JobContext) -> float | None:
        """Return after how many seconds to interrupt a job; None for never.

        That is what it was pushed with, else what it declares, else what the default options of
        this process say, else this runner's.
        """
        custom = job.payload.get("custom")
        if custom and (limit := custom.get("time_limit")) is not None:
            try:
                return options.check_time_limit(limit)
            except ValueError:
                text = "%s: custom.time_limit is %s, which is not a time limit: ignored"
                self._log.warning(text, job, show(limit))
        if task.time_limit is not None:
            return task.time_limit
        return options.default_job_options.time_limit or self._time_limit

    def run(self, job: JobContext) -> None:
        """Run a job, as the current job of a context of its own."""
        in_context(job, lambda: self.call(self.find(job.jobtype), job))

    def call(self, task: Callee, job: JobContext) -> None:
        """Run a job by `task`, in the context that is there."""
        process = os.getpid()
        try:
            if self._middleware and worker_middleware:
                job._policy = getattr(task, "policy", None)
                result = worker_middleware.run(lambda *_: task.run(job), job, job.payload)
                job.logged_as = None  # they may have changed it
            else:
                result = task.run(job)
            if result is not None:
                refuse_awaitable(result)
        except BaseException as error:
            if os.getpid() != process:
                end_process(error)
            raise
        if os.getpid() != process:
            end_process(None)


def in_context(job: JobContext, function: Callable[[], T]) -> T:
    """Call a function where `job` is the current job.

    It gets a copy of the thread's context, so that what a job sets there does not reach the next.
    """
    return copy_context().run(run_in, job, function)


def refuse_awaitable(result: object) -> None:
    """Raise TypeError for the result of an async function: nothing would run it."""
    if not inspect.isawaitable(result):
        return
    if inspect.iscoroutine(result):
        result.close()  # or Python would warn that it was never awaited
    raise TypeError(
        f"the job returned {type(result).__name__}, which nothing awaits here. "
        "Run it inside the job: asyncio.run(...), or declare the job by async def and await it."
    )


def end_process(error: BaseException | None) -> NoReturn:
    """End this process, which a job has forked, as `sys.exit` would in its main thread."""
    # Not by isinstance, which asks the error for its __class__: this must not raise.
    is_exit = issubclass(type(error), SystemExit)
    code = getattr(error, "code", 1) if is_exit else int(error is not None)
    fork.end_process(code if isinstance(code, int) else int(code is not None), END_TIMEOUT)

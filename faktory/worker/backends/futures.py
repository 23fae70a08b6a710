"""Jobs in an `Executor` of the program's choice, as faktory 1.0.0 ran them.

Rules: a function that is registered on the worker is submitted as it is, with its arguments. The
processor waits for the future, or until the job is interrupted: then the job fails, though the
function may run on, since nothing can end it. An executor that breaks is replaced.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from threading import Lock
from typing import Any

from ...jobs.context import JobContext
from ...jobs.middleware import worker_middleware
from ...jobs.registry import Runnable
from ...jobs.runner import JobRunner, in_context, refuse_awaitable
from ...wire.log import Log
from ..task import Task
from .base import Backend


class FutureBackends:
    """An executor, and the next one when that is broken."""

    def __init__(self, make: Callable[[], Executor], log: logging.Logger) -> None:
        self._make = make
        self._lock = Lock()
        self._log = Log(log)
        self.executor = make()
        if isinstance(self.executor, ProcessPoolExecutor):
            # It forks its processes with the first call: now, before the worker has threads.
            self.executor.submit(int).result()

    def make(self) -> Backend:
        """Make the backend of one processor."""
        return FutureBackend(self)

    def replace(self, broken: Executor, error: BrokenExecutor) -> None:
        """Replace an executor; each thread whose job broke with it calls this."""
        with self._lock:
            if self.executor is not broken:
                return
            self._log.error(
                "the executor is broken, the jobs that ran in it fail, and a new one takes its "
                "place: %s",
                error,
            )
            self.executor = self._make()
        broken.shutdown(wait=False)

    def close(self) -> None:
        """Let the executor end after its running functions, without waiting for them."""
        self.executor.shutdown(wait=False, cancel_futures=True)


def backends(
    executor: Callable[..., Executor], concurrency: int, log: logging.Logger
) -> Callable[[], FutureBackends]:
    """Return what makes the backends of a class of executors."""
    if not callable(executor):
        raise ValueError(
            f"executor is {executor!r}: pass the class, such as "
            "concurrent.futures.ThreadPoolExecutor; the worker calls it with max_workers."
        )
    return lambda: FutureBackends(partial(executor, max_workers=concurrency), log)


class FutureBackend:
    """Runs the jobs of one processor in the executor."""

    def __init__(self, shared: FutureBackends) -> None:
        self._shared = shared
        self._ends: SimpleQueue[Future[object] | type[BaseException]] = SimpleQueue()

    def run(self, task: Runnable, job: JobContext) -> None:
        """Submit a job and wait for it, the middleware around that; see `Backend`."""
        try:
            refuse_awaitable(
                worker_middleware.run(lambda *_: self._wait(task, job), job, job.payload)
            )
        finally:
            self._ends = SimpleQueue()  # the future of a job that was interrupted may come later

    def pause(self) -> float:
        """Return 0."""
        return 0.0

    def interrupt(self, exception: type[BaseException]) -> None:
        """End the wait."""
        self._ends.put(exception)

    def kill(self) -> bool:
        """Do nothing: an executor cannot end its functions."""
        return False

    def close(self) -> None:
        """Do nothing: other processors use the executor."""

    def _wait(self, task: Runnable, job: JobContext) -> object:
        executor = self._shared.executor
        try:
            future = _submit(executor, task, job)
        except BrokenExecutor as error:  # it broke before, so the job is not to blame
            self._shared.replace(executor, error)
            executor = self._shared.executor
            future = _submit(executor, task, job)
        future.add_done_callback(self._ends.put)
        end = self._ends.get()
        if not isinstance(end, Future):
            future.cancel()
            raise end
        try:
            return end.result()
        except BrokenExecutor as error:
            self._shared.replace(executor, error)
            raise


def _submit(executor: Executor, task: Runnable, job: JobContext) -> Future[object]:
    submit: Callable[..., Future[object]] = executor.submit
    if not isinstance(task, Task):
        return submit(_run_declared, task, job.payload)
    if isinstance(executor, ThreadPoolExecutor):  # its threads can share the job's context
        submit = partial(submit, copy_context().run)
    return submit(task.func, *task.arguments(job))


def _run_declared(task: Runnable, payload: dict[str, Any]) -> None:
    """Run a declared job in the executor; the middleware is around the wait for it."""
    job = JobContext(payload)
    in_context(job, lambda: JobRunner(middleware=False).call(task, job))

"""Jobs in an `Executor` of the program's choice, as faktory 1.0.0 ran them.

Rules: what was registered on the worker is submitted as it is, with its arguments. The job's
thread waits for its future, or until the job is interrupted: then it fails, though what was
submitted may go on, since nothing can end it. An executor that breaks is replaced.
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

from ..jobs.context import JobContext, run_in
from ..jobs.middleware import worker_middleware
from ..jobs.registry import Runnable
from .executor import call
from .outside import Outside
from .task import Task


class Foreign:
    """An executor, and the next one when that is broken."""

    def __init__(self, make: Callable[[], Executor], log: logging.Logger) -> None:
        self._make = make
        self._lock = Lock()
        self._log = log
        self.executor = make()
        if isinstance(self.executor, ProcessPoolExecutor):
            # It forks its processes with the first call: now, before the worker has threads.
            self.executor.submit(int).result()

    def make(self) -> Outside:
        """Make the place where one thread's jobs run."""
        return Submitter(self)

    def replace(self, broken: Executor, error: BrokenExecutor) -> None:
        """Have a new executor; each thread whose job broke with the old one calls this."""
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
        """Let the executor end when what runs in it has; nobody waits for that here."""
        self.executor.shutdown(wait=False, cancel_futures=True)


def begin(
    executor: Callable[..., Executor], concurrency: int, log: logging.Logger
) -> Callable[[], Foreign]:
    """Return what makes `Foreign` of a class of executors."""
    if not callable(executor):
        raise ValueError(
            f"executor is {executor!r}: pass the class, such as "
            "concurrent.futures.ThreadPoolExecutor; the worker calls it with max_workers."
        )
    return lambda: Foreign(partial(executor, max_workers=concurrency), log)


class Submitter:
    """Where one thread's jobs run: wherever the executor has them run."""

    def __init__(self, foreign: Foreign) -> None:
        self._foreign = foreign
        self._ends: SimpleQueue[Future[object] | type[BaseException]] = SimpleQueue()

    def run(self, context: JobContext, job: Runnable) -> object:
        """Submit a job and wait for it, the middleware around that; see `Outside`."""
        try:
            return worker_middleware.run(
                lambda *_: self._outcome(context, job), context, context.payload
            )
        finally:
            self._ends = SimpleQueue()  # nobody listens to what comes later

    def interrupt(self, exception: type[BaseException]) -> None:
        """Wait no longer."""
        self._ends.put(exception)

    def kill(self) -> bool:
        """Do nothing: an executor cannot end what runs in it."""
        return False

    def close(self) -> None:
        """Do nothing: others use the executor."""

    def _outcome(self, context: JobContext, job: Runnable) -> object:
        executor = self._foreign.executor
        try:
            future = _submit(executor, context, job)
        except BrokenExecutor as error:  # it broke before, so the job is not to blame
            self._foreign.replace(executor, error)
            executor = self._foreign.executor
            future = _submit(executor, context, job)
        future.add_done_callback(self._ends.put)
        end = self._ends.get()
        if not isinstance(end, Future):
            future.cancel()
            raise end
        try:
            return end.result()
        except BrokenExecutor as error:
            self._foreign.replace(executor, error)
            raise


def _submit(executor: Executor, context: JobContext, job: Runnable) -> Future[object]:
    submit: Callable[..., Future[object]] = executor.submit
    if not isinstance(job, Task):
        return submit(run_there, job, context.payload)
    if isinstance(executor, ThreadPoolExecutor):  # its threads can know of the job
        submit = partial(submit, copy_context().run)
    return submit(job.func, *job.takes(context))


def run_there(job: Runnable, payload: dict[str, Any]) -> None:
    """Run a declared job where an executor has it, in a context of its own."""
    context = JobContext(payload)
    copy_context().run(run_in, context, lambda: call(context, job.run))

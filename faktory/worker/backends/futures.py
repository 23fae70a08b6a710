"""Jobs in an `Executor` of the program's choice, as faktory 1.0.0 ran them.

Rules: a function that is registered on the worker is submitted as it is, with its arguments. The
processor waits for the future, or until the job is interrupted: then the job fails, though the
function may run on, since nothing can end it. An executor that breaks is replaced. A job waits
while the executor takes none: the system gives it no process, or no thread.
"""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Callable
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from queue import Empty, SimpleQueue
from random import random
from threading import Lock
from typing import Any, TypeGuard, cast

from ...jobs.context import JobContext
from ...jobs.middleware import worker_middleware
from ...jobs.registry import Runnable
from ...jobs.retries import judge
from ...jobs.runner import JobRunner, in_context, refuse_awaitable
from ...wire.log import Log
from ..task import Task
from ..timing import DEFAULT, Timing
from .base import Backend, Shortage, describe_remote, make_remote_error


class FutureBackends:
    """An executor, and the next one when that is broken."""

    def __init__(
        self, make: Callable[[], Executor], log: logging.Logger, timing: Timing = DEFAULT
    ) -> None:
        self._make = make
        self._lock = Lock()
        self._log = Log(log)
        self.timing = timing
        self.shortage = Shortage(log, "the executor takes no job")
        self._executor: Executor | None = self._start()
        if isinstance(self._executor, ProcessPoolExecutor):
            self._executor.submit(int).result()  # an error comes now, and not with each job

    def make(self) -> Backend:
        """Make the backend of one processor."""
        return FutureBackend(self)

    def submit(self, task: Runnable, job: JobContext) -> tuple[Future[object], Executor]:
        """Submit a job; return its future, and the executor that has it.

        BrokenExecutor, OSError or RuntimeError where it was not taken: try again.
        """
        with self._lock:
            executor = self._executor = self._executor or self._start()
        try:
            return _submit(executor, task, job), executor
        except BrokenExecutor as error:  # it broke before, so the job is not to blame
            self.replace(executor, error)
            raise
        except (OSError, RuntimeError):
            if isinstance(executor, ProcessPoolExecutor):
                self._drop(executor)  # it has kept the job, and would run it later
            raise

    def replace(self, broken: Executor, error: BrokenExecutor) -> None:
        """Replace an executor; each thread whose job broke with it calls this."""
        if self._drop(broken):
            self._log.error(
                "the executor is broken, the jobs that ran in it fail, and a new one takes its "
                "place: %s",
                error,
            )

    def stop(self) -> None:
        """Do nothing: its threads have the processors' jobs, its processes cannot be reached."""

    def close(self) -> None:
        """Let the executor end after its running functions, without waiting for them."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> Executor:
        executor = self._make()
        if isinstance(executor, ProcessPoolExecutor):
            # It forks its processes with the first call: at first before the worker has threads.
            try:
                executor.submit(int)
            except BaseException:
                started = list((getattr(executor, "_processes", None) or {}).values())
                executor.shutdown(wait=False, cancel_futures=True)
                for process in started:  # which nobody else ends
                    process.kill()
                raise
        return executor

    def _drop(self, executor: Executor) -> bool:
        """Have the next job make an executor; return False if another thread did that."""
        with self._lock:
            if self._executor is not executor:
                return False
            self._executor = None
        executor.shutdown(wait=False, cancel_futures=True)
        return True


def backends(
    executor: Callable[..., Executor], concurrency: int, log: logging.Logger, timing: Timing
) -> Callable[[], FutureBackends]:
    """Return what makes the backends of a class of executors."""
    if not callable(executor):
        raise ValueError(
            f"executor is {executor!r}: pass the class, such as "
            "concurrent.futures.ThreadPoolExecutor; the worker calls it with max_workers."
        )
    return lambda: FutureBackends(partial(executor, max_workers=concurrency), log, timing)


class FutureBackend:
    """Runs the jobs of one processor in the executor."""

    own_errors: tuple[type[BaseException], ...] = ()
    """The job can raise the same ones, so they are the executor's where that has failed only."""

    def __init__(self, shared: FutureBackends) -> None:
        self._shared = shared
        self._ends: SimpleQueue[Future[object] | type[BaseException]] = SimpleQueue()

    def run(self, task: Runnable, job: JobContext) -> None:
        """Submit a job and wait for it, the middleware around that; see `Backend`."""
        self.own_errors = ()
        job._policy = task.policy
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
        future, executor = self._submit(task, job)
        future.add_done_callback(self._ends.put)
        end = self._ends.get()
        if not isinstance(end, Future):
            future.cancel()
            raise end
        self._check(end, executor)
        return end.result()

    def _check(self, end: Future[object], executor: Executor) -> None:
        """Note whether the executor has failed, and not the job."""
        if end.cancelled():
            self.own_errors = (CancelledError,)
            return
        error = end.exception()
        # What a job raises has a traceback, or comes from another process as a RemoteError.
        if _is_broken_executor(error) and error.__traceback__ is None:
            self.own_errors = (BrokenExecutor,)
            self._shared.replace(executor, error)

    def _submit(self, task: Runnable, job: JobContext) -> tuple[Future[object], Executor]:
        """Wait until the executor takes the job; raise what it is interrupted by meanwhile."""
        attempts = 0
        while True:
            try:
                taken = self._shared.submit(task, job)
            except (OSError, RuntimeError) as error:
                attempts += 1
                if attempts > 1 or not isinstance(error, BrokenExecutor):
                    self._shared.shortage.begins(error)
                    pause = self._shared.timing.backoff(attempts, random())
                    with suppress(Empty):
                        end = self._ends.get(timeout=pause)
                        assert not isinstance(end, Future)
                        self._shared.shortage.ends()
                        raise end from None
            else:
                self._shared.shortage.ends()
                return taken


def _submit(executor: Executor, task: Runnable, job: JobContext) -> Future[object]:
    submit: Callable[..., Future[object]] = executor.submit
    function: Callable[..., object] = JobRunner(middleware=False).call
    args: tuple[object, ...] = (task, job)
    if isinstance(task, Task):
        function, args = task.func, tuple(task.arguments(job))
    if isinstance(executor, ThreadPoolExecutor):  # its threads can share the job's context
        context = copy_context()
        return _submit_to_threads(submit, lambda: context.run(function, *args))
    if isinstance(executor, ProcessPoolExecutor):
        backtrace = job.payload.get("backtrace") or 0
        if isinstance(task, Task):
            return submit(_run_remotely, backtrace, function, *args)
        return submit(_run_remotely, backtrace, _run_declared, task, job.payload)
    if isinstance(task, Task):
        return submit(function, *args)
    return submit(_run_declared, task, job.payload)


def _submit_to_threads(
    submit: Callable[..., Future[object]], call: Callable[[], object]
) -> Future[object]:
    """Submit a call that is made once, though it is submitted again where that failed.

    Where there is no thread for a call, it stays in the queue of those that there are.
    """
    future: Future[object] = Future()
    try:
        submitted = submit(_fulfil, future, call)
    except Exception:
        if future.cancel():
            raise
    else:
        submitted.add_done_callback(partial(_pass_on, future))
    return future


def _fulfil(future: Future[object], call: Callable[[], object]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


def _pass_on(future: Future[object], submitted: Future[object]) -> None:
    """End a future whose call is never made: the executor was closed, or broke."""
    if submitted.cancelled():
        future.cancel()
    elif (error := submitted.exception()) is not None:
        future.set_exception(error)


def _run_declared(task: Runnable, payload: dict[str, Any]) -> None:
    """Run a declared job in another process; the middleware is around the wait for it."""
    job = JobContext(payload)
    in_context(job, lambda: JobRunner(middleware=False).call(task, job))


def _is_broken_executor(error: BaseException | None) -> TypeGuard[BrokenExecutor]:
    return issubclass(type(error), BrokenExecutor)  # isinstance asks the error for its __class__


def _run_remotely(backtrace: int, function: Callable[..., object], *args: object) -> None:
    """Call a function in a process of a pool, which breaks by an error that pickle cannot copy."""
    try:
        refuse_awaitable(function(*args))
    except BaseException as error:
        try:
            copied = type(pickle.loads(pickle.dumps(error))) is type(error)
            copied = copied and not _is_broken_executor(
                error
            )  # which would be taken for the pool's
            traceback.format_exception(error)
        except BaseException:
            copied = False
        if copied:
            raise
        verdict = None
        if function is _run_declared:
            task, payload = cast("tuple[Runnable, dict[str, Any]]", args)
            verdict = judge(task, JobContext(payload), error)
        raise make_remote_error(*describe_remote(error, backtrace), verdict) from None

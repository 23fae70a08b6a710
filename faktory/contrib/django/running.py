"""How a worker finds and runs Django's tasks.

Rules: the type of a job comes from the network, so it never decides what is called, and hardly what
is imported. It is looked up among the tasks of modules that are imported already; one is imported
for it only below the package `tasks` of an installed app, which was imported when Django started.
What is not a Task is refused: its job fails with SuspiciousOperation and is not tried again. To
find that out nothing is called: neither an attribute nor a module's `__getattr__`.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib import import_module
from inspect import getsourcefile, iscoroutinefunction
from traceback import format_exception
from types import ModuleType
from typing import Any, Final

from asgiref.sync import async_to_sync
from django.apps import apps
from django.core.exceptions import SuspiciousOperation
from django.utils import timezone

from ...client import network
from ...jobs import JobContext, registry
from ...jobs.retries import Policy
from ...wire.validate import brief
from .backend import FaktoryBackend
from .framework import (
    Task,
    TaskContext,
    TaskError,
    TaskResult,
    TaskResultStatus,
    asend,
    send,
    signals,
    task_backends,
)

PACKAGE: Final = "tasks"
"""The package of an app whose modules are imported when a job names one of their tasks."""

MOST_ATTEMPTS: Final = 1000
"""Attempts that are counted for a task: the job says how many there were, and may say anything."""

NEVER_AGAIN: Final = Policy(retry_on=(), discard_on=(), backoff=None)
"""A failure buries the job: it goes to the dead ones, and no attempt follows."""


class TaskJob:
    """Runs the jobs of one task; registered under its module path."""

    time_limit: float | None = None
    policy: Policy | None = None
    exhausted_handlers: Sequence[registry.ExhaustedHandler] = ()

    def __init__(self, task: Any) -> None:
        self.task = task
        self._is_async = iscoroutinefunction(task.func)

    def __repr__(self) -> str:
        return f"<Django task {self.task.module_path}>"

    @property
    def is_async(self) -> bool:
        """Whether `run` returns a coroutine: not in a test mode.

        There an async task runs as Django's own backends run it, so that its queries are made in
        the thread, and in the transaction, of the test.
        """
        return self._is_async and not network.current.in_process

    @property
    def origin(self) -> str:
        """File and qualified name of the function."""
        function = self.task.func
        return f"{getsourcefile(function) or function.__module__}:{function.__qualname__}"

    @property
    def queue(self) -> str | None:
        """The queue of its jobs, None if its backend is another one."""
        backend = self.task.get_backend()
        return backend.queue_of(self.task) if isinstance(backend, FaktoryBackend) else None

    def run(self, context: JobContext) -> object:
        """Run the task with the arguments of a job; see `is_async`."""
        if not self._is_async:
            return self._run(context)
        return self._arun(context) if self.is_async else async_to_sync(self._arun)(context)

    def __reduce__(self) -> tuple[Any, ...]:
        return resolve, (self.task.module_path,)  # for processes of use_threads=False

    def _run(self, context: JobContext) -> object:
        result, args, kwargs = self._begin(context)
        sender = type(self.task.get_backend())
        send(signals.task_started, sender, result)
        try:
            with _outcome(result):
                value = self.task.func(*args, **kwargs)
                _set(result, _return_value=value)
        except BaseException:
            send(signals.task_finished, sender, result)  # with the exception at hand, for the log
            raise
        send(signals.task_finished, sender, result)
        return value

    async def _arun(self, context: JobContext) -> None:
        result, args, kwargs = self._begin(context)
        sender = type(self.task.get_backend())
        await asend(signals.task_started, sender, result)
        try:
            with _outcome(result):
                _set(result, _return_value=await self.task.func(*args, **kwargs))
        except BaseException:
            await asend(signals.task_finished, sender, result)
            raise
        await asend(signals.task_finished, sender, result)

    def _begin(self, context: JobContext) -> tuple[Any, list[Any], dict[str, Any]]:
        """Return the result of a task that runs now, and the arguments of its function."""
        task, payload, now = self.task, context.payload, timezone.now()
        before = min(context.attempt, MOST_ATTEMPTS) - 1
        args, kwargs = context.args, dict(context.custom.get("kwargs") or {})
        result = TaskResult(
            task=task,
            id=context.jid,
            status=TaskResultStatus.RUNNING,
            enqueued_at=_time_of(payload.get("created_at")),
            started_at=now,
            last_attempted_at=now,
            finished_at=None,
            args=args,
            kwargs=kwargs,
            backend=task.backend,
            errors=[],
            # One for each attempt, which is how Django counts them; Faktory keeps no others.
            worker_ids=["unknown"] * before + [_worker()],
        )
        if task.takes_context:
            args = [TaskContext(task_result=result), *args]
        return result, args, kwargs


@contextmanager
def _outcome(result: Any) -> Iterator[None]:
    """Note in the result how the block ended."""
    try:
        yield
    except BaseException as error:
        kind = type(error)
        path = f"{kind.__module__}.{kind.__qualname__}"
        trace = "".join(format_exception(error))
        result.errors.append(TaskError(exception_class_path=path, traceback=trace))
        _set(result, status=TaskResultStatus.FAILED, finished_at=timezone.now())
        raise
    _set(result, status=TaskResultStatus.SUCCESSFUL, finished_at=timezone.now())


def _set(result: Any, **values: object) -> None:
    """Set attributes of a result, which is frozen for everyone else, as Django does."""
    for name, value in values.items():
        object.__setattr__(result, name, value)


def _time_of(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _worker() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


class FailingJob:
    """Runs, in the place of a job that is not run, by raising why."""

    is_async = False
    time_limit: float | None = None
    queue: str | None = None
    origin = __name__
    exhausted_handlers: Sequence[registry.ExhaustedHandler] = ()

    def __init__(self, error: BaseException, policy: Policy | None) -> None:
        self._error = error
        self.policy = policy

    def run(self, context: JobContext) -> object:  # noqa: ARG002
        """Raise the error."""
        raise self._error


def resolve(jobtype: str) -> registry.Runnable | None:
    """Return what runs a job type that nobody registered: for `registry.resolver`.

    None for one that is not a path, and for a name that is missing where tasks are declared: the
    program that pushed it may be newer than this worker, so the job is tried again.
    """
    path, dot, name = jobtype.rpartition(".")
    if not dot:
        return None
    module = sys.modules.get(path)
    here = _declares_tasks(path)
    if module is None and here and all(map(str.isidentifier, path.split("."))):
        try:
            module = import_module(path)
        except ModuleNotFoundError as error:
            if not f"{path}.".startswith(f"{error.name}."):
                return FailingJob(error, None)
            here = _is_package(path.rpartition(".")[0])
        except Exception as error:
            return FailingJob(error, None)
    if module is not None:
        for task in _tasks_in(module):
            if task.module_path == jobtype:
                return TaskJob(task)
    if here and (module is None or name not in _names_in(module)):
        return None
    text = (
        f"{brief(jobtype)} is not a task that this worker knows, so nothing was imported or called "
        "for it, and the job is not tried again. Tasks are found in tasks.py and jobs.py of the "
        "installed apps, below an app's package tasks, and in what those import."
    )
    return FailingJob(SuspiciousOperation(text), NEVER_AGAIN)


def register(modules: Sequence[ModuleType]) -> None:
    """Register the tasks of modules as jobs, under their module paths.

    Of several with one path, which `using` makes, the first is the job; the queues of all count.
    """
    found: dict[str, TaskJob] = {}
    for module in modules:
        for task in _tasks_in(module):
            found.setdefault(task.module_path, TaskJob(task))
            if isinstance(task.get_backend(), FaktoryBackend):
                registry.other_queues.add(task.queue_name)  # that of a priority is in `queues`
    for path, job in found.items():
        registry.register(path, job)


def queues() -> set[str]:
    """Return the queues that tasks may go to, of all backends of this package."""
    return {name for each in backends() for name in each.all_queues if isinstance(name, str)}


def backends() -> list[FaktoryBackend]:
    """Return the backends in TASKS that are of this package."""
    return [each for each in task_backends.all() if isinstance(each, FaktoryBackend)]


def _tasks_in(module: ModuleType) -> Iterator[Any]:
    for value in list(_names_in(module).values()):
        if issubclass(type(value), Task):  # its __class__ is not asked, which may be code
            yield value


def _names_in(module: object) -> dict[str, Any]:
    """Return the names of a module, without asking it: a lazy one would load what it stands for."""
    if not issubclass(type(module), ModuleType):  # anything can be in sys.modules
        return {}
    names: dict[str, Any] = vars(ModuleType)["__dict__"].__get__(module)
    return names


def _declares_tasks(path: str) -> bool:
    """Return whether tasks are declared in a module: it is an app's, or below its package."""
    if path.endswith(".__main__"):  # a program
        return False
    for config in apps.get_app_configs():
        tasks = f"{config.name}.{PACKAGE}"
        if path in (tasks, f"{config.name}.jobs"):
            return True
        if path.startswith(f"{tasks}.") and _is_package(tasks):
            return True
    return False


def _is_package(name: str) -> bool:
    """Return whether a module is imported, and has others below it."""
    module = sys.modules.get(name)
    return "__path__" in _names_in(module)

"""The backend of Django's tasks: a task becomes a job, whose type is the task's module path.

Rules: Django has an instance for each thread, so what holds connections is the process's. A job is
checked where it is enqueued, and passes `client_middleware` there, also when it is pushed later: by
the commit, or by the relay of the outbox. `result.id` is the jid.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib import import_module
from inspect import Signature
from typing import TYPE_CHECKING, Any, Self

from asgiref.sync import sync_to_async
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.utils import timezone

from ...client import Pool
from ...client.defaults import default_pool
from ...jobs import client_middleware
from ...proto import encode_push, new_jid
from ...wire.payload import prepare
from ...wire.validate import signature_of
from . import options
from .framework import (
    DEFAULT_TASK_PRIORITY,
    DEFAULT_TASK_QUEUE_NAME,
    BaseTaskBackend,
    InvalidTask,
    Task,
    TaskResult,
    TaskResultStatus,
    asend,
    send,
    signals,
)

if TYPE_CHECKING:
    from ...aio import AsyncClient
    from ...aio.defaults import LoopClients


@dataclass(frozen=True, slots=True, kw_only=True)
class FaktoryTask(Task):
    """A task with options of its own: `@task(queue_name="mail", retry=3)`, since Django 6.1.

    None is what the backend's OPTIONS say. `using` takes them, too, in every version.
    """

    retry: int | None = None
    reserve_for: float | None = None
    backtrace: int | None = None

    def using(self, **changes: Any) -> Self:
        """Return the task with other options: Django's own, retry, reserve_for, backtrace."""
        own = {name: changes.pop(name) for name in options.OF_TASKS if name in changes}
        task: Self = Task.using(self, **changes)
        return replace(task, **own)


class FaktoryBackend(BaseTaskBackend):
    """`TASKS = {"default": {"BACKEND": "faktory.contrib.django.FaktoryBackend"}}`.

    For its OPTIONS see docs/django.md. Faktory keeps no results: `get_result` raises
    NotImplementedError.
    """

    task_class = FaktoryTask
    supports_defer = True
    supports_async_task = True
    supports_get_result = False
    supports_priority = False

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)
        chosen = {**options.DEFAULTS, **self.options}
        self.url: str | None = chosen["url"]
        self.enqueue_on_commit: str | None = chosen["enqueue_on_commit"]
        self.priority_queues: Mapping[int, str] | None = chosen["priority_queues"]
        self.supports_priority = bool(self.priority_queues)
        self._of_jobs = {name: chosen[name] for name in options.OF_TASKS}

    def check(self, **_: Any) -> list[Any]:
        """Return what is wrong with the settings; no server is asked."""
        return list(options.problems(self.alias, sorted(self.queues, key=str), self.options))

    def validate_task(self, task: Any) -> None:
        """Raise InvalidTask for a task that this backend cannot enqueue."""
        super().validate_task(task)
        for name in options.OF_TASKS:
            value = getattr(task, name, None)
            if value is not None and (fault := options.fault_of_option(name, value)):
                raise InvalidTask(fault)
        if task.priority != DEFAULT_TASK_PRIORITY and task.queue_name != DEFAULT_TASK_QUEUE_NAME:
            raise InvalidTask(
                f"priority {task.priority} and queue {task.queue_name!r} both say where the task "
                "waits, as priorities are queues here (priority_queues): leave one of them out."
            )

    def queue_of(self, task: Any) -> str:
        """Return the queue of a task: its own, or that of its priority.

        That is the queue of the highest priority in `priority_queues` that is not above the task's.
        Below all of them it is that of the lowest; but where all are above 0, it is the default.
        """
        levels = self.priority_queues
        if not levels or task.queue_name != DEFAULT_TASK_QUEUE_NAME:
            return str(task.queue_name)
        reached = [level for level in levels if level <= task.priority]
        if not reached and min(levels) > DEFAULT_TASK_PRIORITY:
            return str(DEFAULT_TASK_QUEUE_NAME)
        return levels[max(reached) if reached else min(levels)]

    @property
    def all_queues(self) -> set[str]:
        """The queues that tasks of this backend may go to."""
        return {*self.queues, *(self.priority_queues or {}).values()} or {DEFAULT_TASK_QUEUE_NAME}

    def enqueue(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Push a task, now or by the commit, as `enqueue_on_commit` says; return its result."""
        result, payload = self._prepare(task, args, kwargs)
        push = partial(self._push, result)
        client_middleware.run(self._keeping(result) or self._at_commit(push) or push, payload)
        return result

    async def aenqueue(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Push a task on the event loop, by an AsyncClient; see `enqueue`.

        With `enqueue_on_commit` the thread is asked in which Django's transactions are.
        """
        result, payload = self._prepare(task, args, kwargs)
        push: Callable[..., Any] = partial(self._apush, result)
        if self.enqueue_on_commit is not None:
            push = partial(self._apush_at_commit, result)
        await client_middleware.arun(push, payload)
        return result

    # How a job is made

    def _prepare(
        self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Return the result of a task that is about to be enqueued, and its job."""
        self.validate_task(task)
        result = TaskResult(
            task=task,
            id=new_jid(),
            status=TaskResultStatus.READY,
            enqueued_at=None,
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            args=args,
            kwargs=kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        positions, named = _bind(task, result.args, result.kwargs)
        payload = {
            "jid": result.id,
            "jobtype": task.module_path,
            "queue": self.queue_of(task),
            "args": positions,
            **self._of_jobs,
        }
        for name in options.OF_TASKS:
            if (own := getattr(task, name, None)) is not None:
                payload[name] = own
        if task.run_after is not None:
            aware = timezone.is_aware(task.run_after)
            payload["at"] = task.run_after if aware else timezone.make_aware(task.run_after)
        if named:
            payload["custom"] = {"kwargs": named}
        return result, payload

    # Where it goes

    def _push(self, result: Any, payload: dict[str, Any]) -> str:
        with pool_of(self.url).client() as client:
            jid = client.push(payload)
        self._note_enqueued(result)
        send(signals.task_enqueued, type(self), result)
        return jid

    async def _apush(self, result: Any, payload: dict[str, Any]) -> str:
        jid = await (await loop_client(self.url)).push(payload)
        self._note_enqueued(result)
        await asend(signals.task_enqueued, type(self), result)
        return jid

    def _keeping(self, result: Any) -> Callable[[dict[str, Any]], str] | None:
        """Return what writes a job into the outbox, None where there is none."""
        if self.enqueue_on_commit != "outbox":
            return None
        if not apps.is_installed(options.OUTBOX):
            raise ImproperlyConfigured(
                f'TASKS[{self.alias!r}] has enqueue_on_commit="outbox", and its app is not there: '
                f'INSTALLED_APPS += ["{options.OUTBOX}"], then manage.py migrate.'
            )
        outbox = import_module(options.OUTBOX)

        def keep(payload: dict[str, Any]) -> str:
            outbox.add(prepare(payload), None)
            self._note_enqueued(result)
            send(signals.task_enqueued, type(self), result)
            return str(payload["jid"])

        return keep

    def _at_commit(
        self, push: Callable[[dict[str, Any]], object]
    ) -> Callable[[dict[str, Any]], str] | None:
        """Return what has a job pushed by the commit; None where no transaction is open."""
        alias = self.enqueue_on_commit
        if alias is None:
            return None
        database = transaction.get_connection(alias)
        # Without autocommit the transaction is the program's: on_commit refuses, as it has no hook.
        manual = database.connection is not None and not database.autocommit
        if not database.in_atomic_block and not manual:
            return None

        def at_commit(payload: dict[str, Any]) -> str:
            checked = prepare(payload)
            encode_push(checked)  # what no job can hold is an error here, not after the commit
            transaction.on_commit(lambda: push(checked), using=alias)
            return str(payload["jid"])

        return at_commit

    async def _apush_at_commit(self, result: Any, payload: dict[str, Any]) -> str:
        def in_thread() -> str | None:
            keep = self._keeping(result) or self._at_commit(partial(self._push, result))
            return None if keep is None else keep(payload)

        return await sync_to_async(in_thread)() or await self._apush(result, payload)

    def _note_enqueued(self, result: Any) -> None:
        object.__setattr__(result, "enqueued_at", timezone.now())


def _bind(
    task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of a task as positions, and by name those that have none.

    TypeError for arguments that the task does not take.
    """
    parameters = _parameters(task.func, task.takes_context)
    try:
        bound = parameters.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{task.module_path}: {error}") from None
    return list(bound.args), bound.kwargs


@lru_cache(1000)
def _parameters(function: Callable[..., Any], takes_context: bool) -> Signature:
    """Return the parameters of a task that are arguments: without its context."""
    found = signature_of(function)
    parameters = list(found.parameters.values())
    return found.replace(parameters=parameters[1:] if takes_context else parameters)


_pools: dict[str, Pool] = {}
_loop_clients: dict[str, LoopClients] = {}


def pool_of(url: str | None) -> Pool:
    """Return the pool of this process for a server; None is that of `faktory.configure`."""
    if url is None:
        return default_pool()
    pool = _pools.get(url)
    if pool is None:
        made = Pool(url)  # has no connection yet
        pool = _pools.setdefault(url, made)
        if pool is made:
            atexit.register(pool.close)
    return pool


async def loop_client(url: str | None) -> AsyncClient:
    """Return the client of the running loop for a server; None is that of `faktory.configure`."""
    from ...aio import AsyncClient
    from ...aio.defaults import LoopClients, default_client

    if url is None:
        return await default_client()
    clients = _loop_clients.setdefault(url, LoopClients(partial(AsyncClient, url)))
    return await clients.client()

"""Django's tasks: its own since 6.0, before that those of the package django-tasks.

What is called differently there has Django's name here.

Rules: what a receiver of a signal raises is logged by Django, and changes nothing for the task: its
job is pushed or has run when the signal is sent.
"""

from __future__ import annotations

from typing import Any

import django
from django.core.exceptions import ImproperlyConfigured

if django.VERSION >= (6, 0):
    from django.tasks import signals, task_backends
    from django.tasks.backends.base import BaseTaskBackend
    from django.tasks.base import (
        DEFAULT_TASK_PRIORITY,
        DEFAULT_TASK_QUEUE_NAME,
        Task,
        TaskContext,
        TaskError,
        TaskResult,
        TaskResultStatus,
    )
    from django.tasks.exceptions import InvalidTask
else:
    try:
        from django_tasks import checks, signals, task_backends  # noqa: F401  # registers the checks
        from django_tasks.backends.base import BaseTaskBackend
        from django_tasks.base import (
            DEFAULT_TASK_PRIORITY,
            DEFAULT_TASK_QUEUE_NAME,
            Task,
            TaskContext,
            TaskError,
            TaskResult,
            TaskResultStatus,
        )
        from django_tasks.exceptions import InvalidTaskError as InvalidTask
    except ImportError as error:
        raise ImproperlyConfigured(
            f"Django {django.get_version()} has no tasks of its own, and the package django-tasks "
            f"cannot be imported ({error}): pip install django-tasks, or use Django 6.0."
        ) from error

__all__ = [
    "DEFAULT_TASK_PRIORITY",
    "DEFAULT_TASK_QUEUE_NAME",
    "BaseTaskBackend",
    "InvalidTask",
    "Task",
    "TaskContext",
    "TaskError",
    "TaskResult",
    "TaskResultStatus",
    "asend",
    "send",
    "signals",
    "task_backends",
]


def send(signal: Any, sender: type, result: Any) -> None:
    """Call the receivers of one of Django's signals of tasks."""
    signal.send_robust(sender, task_result=result)


async def asend(signal: Any, sender: type, result: Any) -> None:
    """Do so on an event loop, where Django calls plain functions in its thread for those.

    Its own receiver, the first of each signal, only logs: without another no thread is needed.
    """
    if len(signal.receivers) > 1:
        await signal.asend_robust(sender, task_result=result)
    else:
        signal.send_robust(sender, task_result=result)

"""Django's tasks, wherever they are."""

try:
    from django.tasks import task, task_backends
    from django.tasks.base import Task
    from django.tasks.exceptions import InvalidTask
    from django.tasks.signals import task_enqueued, task_finished, task_started
except ImportError:
    from django_tasks import task, task_backends
    from django_tasks.base import Task
    from django_tasks.exceptions import InvalidTaskError as InvalidTask
    from django_tasks.signals import task_enqueued, task_finished, task_started

__all__ = [
    "InvalidTask",
    "Task",
    "task",
    "task_backends",
    "task_enqueued",
    "task_finished",
    "task_started",
]

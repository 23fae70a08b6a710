"""The worker: threads that fetch, run and report jobs, and one that sends heartbeats."""

from .events import error_handlers, on
from .queues import Queue
from .task import Task
from .worker import Worker

__all__ = ["Queue", "Task", "Worker", "error_handlers", "on"]

"""Who runs jobs: threads that fetch, run and answer, and one that beats."""

from .events import error_handlers, on
from .task import Task
from .worker import Worker

__all__ = ["Task", "Worker", "error_handlers", "on"]

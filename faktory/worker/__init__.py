"""Who runs jobs: threads that fetch, run and answer, and one that beats."""

from .worker import Task, Worker

__all__ = ["Task", "Worker"]

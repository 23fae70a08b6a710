"""A function registered on one worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..jobs.context import JobContext
from ..jobs.retries import Policy
from ..jobs.signature import check_call
from ..wire.validate import is_async


class Task(NamedTuple):
    """A function registered on one worker; with `bind` it gets the jid as first argument."""

    name: str
    func: Callable[..., object]
    bind: bool

    @property
    def is_async(self) -> bool:
        """False: a call of the function runs it."""
        return False

    @property
    def origin(self) -> str:
        """Its name in a message."""
        return f"{self.name} of a worker"

    @property
    def time_limit(self) -> float | None:
        """None: it has no limit."""
        return None

    @property
    def policy(self) -> Policy | None:
        """None: its failures are the server's matter."""
        return None

    @property
    def exhausted_handlers(self) -> tuple[()]:
        """None: only those of `on("exhausted")` are called."""
        return ()

    @property
    def queue(self) -> str | None:
        """None: it is not declared."""
        return None

    def arguments(self, job: JobContext) -> list[object]:
        """Return the arguments of the function for a job."""
        return [job.jid, *job.args] if self.bind else job.args

    def run(self, job: JobContext) -> object:
        """Call the function with a job's arguments."""
        args = self.arguments(job)
        try:
            return self.func(*args)
        except TypeError as error:
            check_call(error, self.func, args, self.name)
            raise


class AsyncTask(Task):
    """A task whose function is async: a call of it gives a coroutine."""

    __slots__ = ()

    @property
    def is_async(self) -> bool:
        """True."""
        return True


def make_task(name: str, func: Callable[..., object], bind: bool) -> Task:
    """Return the task of a function, or of a declared job, either of which may be async."""
    gives_coroutine = is_async(func) or getattr(func, "is_async", False) is True
    return (AsyncTask if gives_coroutine else Task)(name, func, bind)

"""What runs around each push, and around each run, of this process's jobs.

A middleware is a plain callable that goes on by `call_next()` and returns what that returned,
without looking at it. On the client's side it is called with the payload, on the worker's with
the job and its payload. It may change the payload in place; one that does not call `call_next`
stops what it is around.

Rules: a chain is composed when it changes, not when it runs. Chains belong to the process; one
that runs is not disturbed by changes to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from .refusals import deferred

if TYPE_CHECKING:
    from .context import JobContext

M = TypeVar("M", bound=Callable[..., Any])
Next = Callable[[], Any]
ClientMiddleware = Callable[[dict[str, Any], Next], Any]
WorkerMiddleware = Callable[["JobContext", dict[str, Any], Next], Any]


class Chain(Generic[M]):
    """Middleware in the order in which it is called: the first one is the outermost.

    Each stands in a chain once: adding it again moves it.
    """

    def __init__(self, built_in: Iterable[M] = ()) -> None:
        self._built_in = tuple(built_in)
        self._lock = Lock()
        self._set(list(self._built_in))

    def __iter__(self) -> Iterator[M]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, middleware: object) -> bool:
        return middleware in self._entries

    def __repr__(self) -> str:
        return f"<middleware: {', '.join(_named(entry) for entry in self._entries) or 'none'}>"

    def add(self, middleware: M) -> M:
        """Put a middleware at the end: next to the push, or to the job. Works as a decorator."""
        return self._place(middleware, len)

    def prepend(self, middleware: M) -> M:
        """Put a middleware at the beginning: around all others."""
        return self._place(middleware, lambda _: 0)

    def insert_before(self, other: M, middleware: M) -> M:
        """Put a middleware before another, at the beginning where that one is not there."""
        return self._place(
            middleware, lambda entries: entries.index(other) if other in entries else 0
        )

    def insert_after(self, other: M, middleware: M) -> M:
        """Put a middleware behind another, at the end where that one is not there."""
        return self._place(
            middleware,
            lambda entries: entries.index(other) + 1 if other in entries else len(entries),
        )

    def remove(self, middleware: M) -> None:
        """Take a middleware out, if it is there."""
        with self._lock:
            self._set([entry for entry in self._entries if entry != middleware])

    def clear(self) -> None:
        """Take all out but what is built in."""
        with self._lock:
            self._set(list(self._built_in))

    @property
    def is_plain(self) -> bool:
        """Whether nothing but what is built in stands here."""
        return self._plain

    def run(self, innermost: Callable[..., Any], *args: Any) -> Any:
        """Call the middleware with these arguments, and `innermost` in the middle of them."""
        return self._composed(innermost, *args)

    def _place(self, middleware: M, index: Callable[[list[M]], int]) -> M:
        if not callable(middleware):
            raise TypeError(
                f"{middleware!r} is no middleware: that is a callable that goes on by call_next()."
            )
        what = deferred(middleware)
        if what is not None:
            raise TypeError(
                f"{_named(middleware)} is {what}, and nothing would go on: "
                "a middleware is a plain function that returns call_next()."
            )
        with self._lock:
            entries = [entry for entry in self._entries if entry != middleware]
            entries.insert(index(entries), middleware)
            self._set(entries)
        return middleware

    def _set(self, entries: list[M]) -> None:
        composed = _innermost
        for entry in reversed(entries):
            composed = _around(entry, composed)
        self._entries = tuple(entries)
        self._plain = all(entry in self._built_in for entry in entries)
        self._composed = composed


def _innermost(innermost: Callable[..., Any], *args: Any) -> Any:
    return innermost(*args)


def _around(middleware: Callable[..., Any], inner: Callable[..., Any]) -> Callable[..., Any]:
    def layer(innermost: Callable[..., Any], *args: Any) -> Any:
        return middleware(*args, lambda: inner(innermost, *args))

    return layer


def _named(middleware: Callable[..., Any]) -> str:
    return getattr(middleware, "__qualname__", None) or repr(middleware)


open_batch: Final[ContextVar[str | None]] = ContextVar("faktory_open_batch", default=None)
"""The bid of the batch that jobs pushed here join."""


def join_batch(payload: dict[str, Any], call_next: Next) -> Any:
    """Make a job a member of the batch that is open where it is pushed."""
    bid = open_batch.get()
    if bid is not None:
        payload["custom"] = {**(payload.get("custom") or {}), "bid": bid}
    return call_next()


client_middleware: Final[Chain[ClientMiddleware]] = Chain([join_batch])
"""Around each push by `perform_async` and its like: `middleware(payload, call_next)`."""

worker_middleware: Final[Chain[WorkerMiddleware]] = Chain()
"""Around each run of a job on a worker of this process: `middleware(job, payload, call_next)`."""

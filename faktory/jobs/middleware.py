"""Middleware: plain callables around a push, or around the run of a job; the two chains of them.

A middleware continues with `call_next()` and returns its result without looking at it. A client
middleware is called with the payload, a worker middleware with the job and its payload. It may
change the payload in place. If it does not call `call_next`, nothing is pushed or run.

Rules: a chain is composed when it changes, not when it runs. A run under way does not see changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from threading import Lock
from typing import Any, Final, Generic, TypeVar

from .batch import open_batch
from .context import JobContext
from .validation import deferred

M = TypeVar("M", bound=Callable[..., object])

Next = Callable[[], object]
"""Continues with the rest of the chain, and returns what that returned."""


class Chain(Generic[M]):
    """Middleware in the order of the calls: the first one is the outermost.

    Each is in a chain once: adding it again moves it.
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
        return f"<middleware: {', '.join(_name_of(entry) for entry in self._entries) or 'none'}>"

    def add(self, middleware: M) -> M:
        """Add a middleware at the end: next to the push, or to the job. Works as a decorator."""
        return self._place(middleware, len)

    def prepend(self, middleware: M) -> M:
        """Add a middleware at the beginning: around all others."""
        return self._place(middleware, lambda _: 0)

    def insert_before(self, other: M, middleware: M) -> M:
        """Add a middleware before another one, or at the beginning if that is not in the chain."""
        return self._place(
            middleware, lambda entries: entries.index(other) if other in entries else 0
        )

    def insert_after(self, other: M, middleware: M) -> M:
        """Add a middleware after another one, or at the end if that is not in the chain."""
        return self._place(
            middleware,
            lambda entries: entries.index(other) + 1 if other in entries else len(entries),
        )

    def remove(self, middleware: M) -> None:
        """Remove a middleware if it is in the chain."""
        with self._lock:
            self._set([entry for entry in self._entries if entry != middleware])

    def clear(self) -> None:
        """Remove all but the built-in middleware."""
        with self._lock:
            self._set(list(self._built_in))

    @property
    def is_plain(self) -> bool:
        """Whether the chain has nothing but built-in middleware."""
        return self._plain

    def run(self, innermost: Callable[..., Any], *args: Any) -> Any:
        """Call the middleware with these arguments, `innermost` in the middle of them."""
        return self._composed(innermost, *args)

    def _place(self, middleware: M, index: Callable[[list[M]], int]) -> M:
        if not callable(middleware):
            raise TypeError(
                f"{middleware!r} is not a middleware: "
                "a middleware is a callable that continues with call_next()."
            )
        kind = deferred(middleware)
        if kind is not None:
            raise TypeError(
                f"{_name_of(middleware)} is {kind}, and its call would not continue: "
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


def _name_of(middleware: Callable[..., object]) -> str:
    return getattr(middleware, "__qualname__", None) or repr(middleware)


ClientMiddleware = Callable[[dict[str, Any], Next], object]
"""Called with the payload and `call_next`."""

WorkerMiddleware = Callable[[JobContext, dict[str, Any], Next], object]
"""Called with the job, its payload and `call_next`."""


def join_batch(payload: dict[str, Any], call_next: Next) -> object:
    """Add a job to the open batch, if there is one: the built-in client middleware."""
    bid = open_batch.get()
    if bid is not None:
        payload["custom"] = {**(payload.get("custom") or {}), "bid": bid}
    return call_next()


client_middleware: Final[Chain[ClientMiddleware]] = Chain([join_batch])
"""Around each push by `perform_async` and its like: `middleware(payload, call_next)`."""

worker_middleware: Final[Chain[WorkerMiddleware]] = Chain()
"""Around each run of a job on a worker of this process: `middleware(job, payload, call_next)`."""

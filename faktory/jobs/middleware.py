"""Middleware: plain callables around a push, or around the run of a job; the two chains of them.

A middleware continues with `call_next()` and returns its result without looking at it. A client
middleware is called with the payload, a worker middleware with the job and its payload. It may
change the payload in place. If it does not call `call_next`, nothing is pushed or run. A client
middleware may have a second form for many jobs at once, which is called with their shared fields.

Rules: a chain is composed when it changes, not when it runs. A run under way does not see changes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator, Mapping
from threading import Lock
from typing import Any, Final, Generic, NamedTuple, TypeVar

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

AsyncMiddleware = Callable[[dict[str, Any], Callable[[], Awaitable[Any]]], Awaitable[object]]
"""The twin of a client middleware, on an event loop: it awaits what `call_next()` gives."""

WorkerMiddleware = Callable[[JobContext, dict[str, Any], Next], object]
"""Called with the job, its payload and `call_next`."""


BulkMiddleware = Callable[[dict[str, Any], int, Callable[[], Any]], object]
"""Called with the fields that the jobs of a PUSHB share, their number, and `call_next`."""


class _Forms(NamedTuple):
    """What runs in a client middleware's place."""

    aio: AsyncMiddleware | None = None
    bulk: BulkMiddleware | None = None


class ClientChain(Chain[ClientMiddleware]):
    """Middleware around pushes, of which some have other forms.

    On an event loop `call_next()` gives an awaitable. A middleware that only looks at the payload
    returns it untouched, so it runs as it is. One that has to see the end of the push needs a twin,
    an async function that awaits it: `client_middleware.add(timed, aio=timed_async)`.

    A bulk push calls the middleware for each job, unless each one in the chain has a form for many
    jobs at once: `client_middleware.add(tag, bulk=tag_many)`. `tag_many(fields, count, call_next)`
    is called once for each PUSHB, see `add`.
    """

    def __init__(self, built_in: Mapping[ClientMiddleware, BulkMiddleware] | None = None) -> None:
        self._bulk_of_built_in = dict(built_in or {})
        self._forms = {entry: _Forms(bulk=bulk) for entry, bulk in self._bulk_of_built_in.items()}
        super().__init__(self._forms)

    def add(
        self,
        middleware: ClientMiddleware,
        *,
        aio: AsyncMiddleware | None = None,
        bulk: BulkMiddleware | None = None,
    ) -> ClientMiddleware:
        """Add a middleware at the end, and what runs in its place.

        `aio` runs on an event loop. `bulk(fields, count, call_next)` runs around each PUSHB of
        `perform_bulk` and `aperform_bulk`. `fields` has what its `count` jobs share, `jobtype`,
        `queue`, `retry`, `custom` and the like, and may be changed in place; a jid and arguments,
        which each job has of its own, are not in there. `call_next()` pushes the jobs and returns
        the jids of those queued. On an event loop it gives an awaitable, to be returned untouched,
        or awaited by a coroutine that `bulk` returns. The return value is not used otherwise.
        """
        if aio is not None and not callable(aio):
            raise TypeError(f"aio is {aio!r}: pass an async function that awaits call_next().")
        if bulk is not None:
            _check_bulk(bulk)
        forms = self._forms
        before = forms.pop(middleware, None) if callable(middleware) else None
        if bulk is None and callable(middleware):
            bulk = self._bulk_of_built_in.get(middleware)
        if aio is not None or bulk is not None:
            forms[middleware] = _Forms(aio, bulk)
        try:
            return super().add(middleware)
        except BaseException:
            forms.pop(middleware, None)
            if before is not None:
                forms[middleware] = before
            raise

    def remove(self, middleware: ClientMiddleware) -> None:
        """Remove a middleware if it is in the chain, with what runs in its place."""
        before = self._entries
        super().remove(middleware)
        self._forget(entry for entry in before if entry == middleware)

    def clear(self) -> None:
        """Remove all but the built-in middleware."""
        before = self._entries
        super().clear()
        self._forget(before)

    def _forget(self, removed: Iterable[ClientMiddleware]) -> None:
        for entry in removed:
            if entry not in self._bulk_of_built_in:
                self._forms.pop(entry, None)

    async def arun(self, innermost: Callable[..., Awaitable[Any]], payload: dict[str, Any]) -> Any:
        """Call the middleware on an event loop, `innermost` in the middle of it."""
        return await self._acomposed(innermost, payload)

    @property
    def bulk(self) -> Callable[..., object] | None:
        """The forms for many jobs, to be called with `innermost`, the fields and the number.

        `innermost` gets the last two. None if a middleware in the chain has no such form.
        """
        return self._bulk

    @property
    def abulk(self) -> Callable[..., Awaitable[object]] | None:
        """The same on an event loop; `innermost` is an async function."""
        return self._abulk

    def _set(self, entries: list[ClientMiddleware]) -> None:
        composed = abulk = _ainnermost
        bulk: Callable[..., object] = _innermost
        has_bulk = True
        for entry in reversed(entries):
            forms = self._forms.get(entry, _NO_FORMS)
            composed = _aaround(forms.aio or entry, composed, _AIO)
            if forms.bulk is None:
                has_bulk = False
            else:
                bulk = _around(forms.bulk, bulk)
                abulk = _aaround(forms.bulk, abulk, _AIO_BULK)
        self._acomposed = composed
        self._bulk = bulk if has_bulk else None
        self._abulk = abulk if has_bulk else None
        super()._set(entries)


_NO_FORMS: Final = _Forms()

_AIO: Final = "register a twin that awaits it: client_middleware.add({name}, aio=...)"

_AIO_BULK: Final = "return a coroutine that awaits it"


def _check_bulk(bulk: object) -> None:
    if not callable(bulk):
        raise TypeError(
            f"bulk is {bulk!r}: pass a function of (fields, count, call_next) that continues with "
            "call_next()."
        )
    if kind := deferred(bulk):
        raise TypeError(
            f"bulk is {kind}, and its call would not continue: pass a plain function. On an event "
            "loop it may return a coroutine that awaits what call_next() gives."
        )


class _Rest:
    """What `call_next` gives on an event loop: an awaitable that runs the rest of the chain."""

    __slots__ = ("_run", "awaited")

    def __init__(self, run: Callable[[], Awaitable[Any]]) -> None:
        self._run = run
        self.awaited = False

    def __await__(self) -> Generator[Any, Any, Any]:
        self.awaited = True
        return self._run().__await__()


async def _ainnermost(innermost: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    return await innermost(*args)


def _aaround(
    middleware: Callable[..., object], inner: Callable[..., Awaitable[Any]], remedy: str
) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Compose as `_around`; `remedy` is for a middleware that drops what `call_next()` gives."""

    async def layer(innermost: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        given: list[_Rest] = []

        def call_next() -> _Rest:
            given.append(_Rest(lambda: inner(innermost, *args)))
            return given[-1]

        result: Any = middleware(*args, call_next)
        if hasattr(type(result), "__await__"):
            result = await result
        if not all(rest.awaited for rest in given):
            raise RuntimeError(
                f"the middleware {_name_of(middleware)} has called call_next() and does not return "
                "what that gives, which is an awaitable on an event loop: nothing is pushed. "
                f"Return it untouched, or {remedy.format(name=_name_of(middleware))}."
            )
        return result

    return layer


def join_batch(payload: dict[str, Any], call_next: Next) -> object:
    """Add a job to the open batch, if there is one: the built-in client middleware."""
    bid = open_batch.get()
    if bid is not None:
        payload["custom"] = {**(payload.get("custom") or {}), "bid": bid}
    return call_next()


def _join_batch_with_many(fields: dict[str, Any], count: int, call_next: Next) -> object:  # noqa: ARG001
    return join_batch(fields, call_next)


client_middleware: Final = ClientChain({join_batch: _join_batch_with_many})
"""Around each push by `perform_async`, `aperform` and their like: `middleware(payload, call_next)`.
"""

worker_middleware: Final[Chain[WorkerMiddleware]] = Chain()
"""Around each run of a job on a worker of this process: `middleware(job, payload, call_next)`."""

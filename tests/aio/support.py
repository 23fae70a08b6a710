"""Loops of both kinds, and a client that tests of the blocking one can use."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from importlib.util import find_spec
from typing import Any, TypeVar

import pytest

from faktory import AsyncClient

T = TypeVar("T")

_no_uvloop = pytest.mark.skipif(
    find_spec("uvloop") is None, reason="needs uvloop, a wheel of the extra `test`"
)

KINDS = ["asyncio", pytest.param("uvloop", marks=_no_uvloop)]


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    """Make a loop in debug mode; skip the test where there is no uvloop."""
    if kind == "uvloop":
        uvloop = pytest.importorskip("uvloop", reason="needs uvloop, a wheel of the extra `test`")
        loop = uvloop.new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 60  # no lines of the log on a busy machine
    return loop


def run_in(kind: str, main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine as `asyncio.run` does, on a loop of one kind."""
    with asyncio.Runner(debug=True, loop_factory=lambda: new_loop(kind)) as runner:
        return runner.run(main)


class Adapter:
    """An AsyncClient with the methods of Client: its loop runs while one of them does."""

    loop: asyncio.AbstractEventLoop
    """Set by the fixture `adapter`."""
    made: list[Adapter]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._client = AsyncClient(*args, **kwargs)
        self.made.append(self)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)
        if not inspect.iscoroutinefunction(value):
            return value
        return lambda *args, **kwargs: self._run(value(*args, **kwargs))

    def __repr__(self) -> str:
        return repr(self._client)

    def __enter__(self) -> Adapter:
        self._run(self._client.connect())
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._run(self._client.aclose())

    def exchange(self, *sent: Any) -> list[Any]:
        return self._run(self._client.exchange(*sent))

    def call(self, command: Any) -> Any:
        return self._run(self._client.call(command))

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)


def use_adapters(kind: str) -> Callable[[], None]:
    """Give adapters a loop of one kind; return what closes them all, and the loop."""
    loop = new_loop(kind)
    made: list[Adapter] = []
    Adapter.loop, Adapter.made = loop, made

    def end() -> None:
        for each in made:
            each.close()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    return end

"""Async jobs as type checkers see them; for mypy and pyright only, never run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import assert_type

import faktory
from faktory import Worker, aio


@faktory.job
async def double(number: int) -> int:
    return 2 * number


@faktory.job(queue="pages", time_limit=30)
async def fetch(url: str, *, again: bool = False) -> None: ...


class Resize(faktory.Job):
    async def perform(self, image: int) -> None: ...


async def jobs() -> None:
    assert_type(await double(1), int)
    assert_type(double.perform_async(1), str)
    assert_type(fetch.perform_in(60, "/home", again=True), str)
    assert_type(Resize.perform_async(1), str)
    double.perform_async("1")  # type: ignore[arg-type]
    await fetch(5)  # type: ignore[arg-type]


@aio.on_startup
async def connect() -> None: ...


@faktory.aio.on_shutdown
async def disconnect() -> int:
    return 1


def plain() -> None: ...


async def takes(number: int) -> None: ...


async def hooks() -> None:
    await connect()
    assert_type(await disconnect(), int)
    aio.on_startup(plain)  # type: ignore[type-var]
    aio.on_shutdown(takes)  # type: ignore[type-var]


def worker(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    Worker(loop_factory=factory)
    Worker(loop_factory=asyncio.new_event_loop)
    Worker(loop_factory=plain)  # type: ignore[arg-type]
    Worker().register("takes", takes)

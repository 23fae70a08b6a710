"""Measure the async client beside the blocking one, and async jobs beside jobs that block threads.

Ways and turns are those of `test_client.py` and `test_worker.py`, all with one core: the compiled
one where it was built. The rows of uvloop are left out where it is not installed. Threads of our
worker do not end while it runs, so that their CPU time is read exactly, by the nanosecond.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from time import sleep

import pytest

from faktory import Client

from .conftest import IMPLEMENTATIONS
from .test_client import ROUNDS as PUSH_ROUNDS
from .test_client import queue, turns  # noqa: F401
from .test_worker import ROUNDS, WARM_UP, Load, Way, pytestmark, started, thread_time  # noqa: F401

CORE = {"FAKTORY_IMPL": IMPLEMENTATIONS[0]}

PUSHES = 2000

WAIT = 0.05
"""Seconds that a job waits which is not empty."""

PROGRAM = """
import asyncio
import logging
import time

import faktory

logging.getLogger("faktory").setLevel("WARNING")

@faktory.job(name="Empty")
{kind} empty() -> None:
    pass

@faktory.job(name="Waiting")
{kind} waiting() -> None:
    {wait}({seconds})
"""

WORKERS = {
    "def": ("def", "time.sleep", ""),
    "async def": ("async def", "await asyncio.sleep", ""),
    "async def, uvloop": (
        "async def",
        "await asyncio.sleep",
        " --loop-factory uvloop:new_event_loop",
    ),
}


@pytest.fixture
def kinds() -> tuple[str, ...]:
    """Return the event loops that can be measured."""
    if find_spec("uvloop"):
        return "asyncio", "uvloop"
    print("\n\nuvloop is not installed (extra bench): its rows are left out.")
    return ("asyncio",)


def test_push(contest, server, turns, child, queue, kinds):  # noqa: F811
    environ = {"FAKTORY_URL": server[1].url, **CORE}
    sync = child("push_ours.py", queue, **environ)
    loops = {kind: child("push_async.py", queue, kind, **environ) for kind in kinds}
    ways = turns({"Client": sync}, "push", PUSHES)
    for work, name in (("push", "AsyncClient"), ("together", "AsyncClient, 20 tasks")):
        for kind, program in loops.items():
            about = "" if kind == "asyncio" else f", {kind}"
            ways |= turns({f"{name}{about}": program}, work, PUSHES)
    ways |= turns({"to_thread": loops["asyncio"]}, "to_thread", PUSHES)
    ways |= turns({"to_thread, 20 tasks, Pool": loops["asyncio"]}, "pool_together", PUSHES)
    contest(f"Pushing on an event loop, {server[0]}", ways, PUSH_ROUNDS)


@pytest.mark.parametrize("concurrency", [10, 100])
@pytest.mark.parametrize("work", ["empty", "waiting"])
def test_async_jobs(contest, server, tmp_path: Path, kinds, work, concurrency):
    load = Load("Empty", 6000) if work == "empty" else Load("Waiting", 30 * concurrency)
    about = "empty jobs" if work == "empty" else f"jobs that wait for {WAIT * 1000:.0f} ms"
    with Client(server[1].url) as client, ExitStack() as stack:
        ways = {}
        for name, (kind, wait, flags) in WORKERS.items():
            if "uvloop" in name and "uvloop" not in kinds:
                continue
            program = tmp_path / f"{work}_{len(ways)}.py"
            program.write_text(PROGRAM.format(kind=kind, wait=wait, seconds=WAIT))
            command = f"{sys.executable} -m faktory.cli.worker -r {program}{flags}"
            way = Way(f"{command} -q {{queue}} -c {{concurrency}}", CORE)
            ways[name] = stack.enter_context(
                started(way, client, server[1], concurrency, load, thread_time)
            ).work
        sleep(WARM_UP)
        contest(f"Async jobs: {about}, {concurrency} at a time, {server[0]}", ways, ROUNDS)

"""Measure what threads gain without a GIL: jobs that compute, and empty ones.

FAKTORY_BENCH_FREE_THREADED is a free-threaded interpreter that has this package, best of the same
version as the one that runs this. Each worker is a command with eight threads in all, see
`test_worker.py`. A job computes until its thread has used a millisecond of CPU time, so that how
fast an interpreter is by itself does not count; `Python` is a fixed loop in Python, where it does.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from time import sleep

import pytest

from faktory import Client

from .test_worker import WARM_UP, Load, Way, pytestmark, started

__all__ = ["pytestmark"]

ROUNDS = 9

PROGRAM = """
import logging
from time import thread_time

import faktory

@faktory.job(name="Millisecond")
def millisecond() -> None:
    end = thread_time() + 0.001
    while thread_time() < end:
        pass

@faktory.job(name="Python")
def python() -> None:
    total = 0
    for number in range(20_000):
        total += number & 7

@faktory.job(name="Empty")
def empty() -> None:
    pass

logging.getLogger("faktory").setLevel("WARNING")
"""

LOADS = [Load("Millisecond", 2000), Load("Python", 2000), Load("Empty", 16_000)]


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.jobtype)
def test_eight_threads(contest, servers, tmp_path, load):
    free = os.environ.get("FAKTORY_BENCH_FREE_THREADED")
    if not free:
        pytest.skip("FAKTORY_BENCH_FREE_THREADED does not name a free-threaded interpreter")
    program = tmp_path / "threads.py"
    program.write_text(PROGRAM)
    work = f"-m faktory.cli.worker -r {program} -q {{queue}}"
    ways = {
        "GIL": Way(f"{sys.executable} {work} -c 8", {}),
        "GIL, --processes 2": Way(f"{sys.executable} {work} -c 4 --processes 2", {}),
        "no GIL": Way(f"{free} {work} -c 8", {}),
        "no GIL, pure core": Way(f"{free} {work} -c 8", {"FAKTORY_IMPL": "python"}),
    }
    address = servers.get("real") or next(iter(servers.values()))
    with Client(address.url) as client, ExitStack() as stack:
        turns = {
            name: stack.enter_context(started(way, client, address, 8, load)).work
            for name, way in ways.items()
        }
        sleep(WARM_UP)
        contest(f"{load.jobtype} jobs, 8 threads, {os.cpu_count()} cores", turns, ROUNDS)

"""Measure what `--health` costs an empty job: the same worker with and without it, in turn."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from time import sleep

import pytest

from faktory import Client

from .conftest import IMPLEMENTATIONS
from .test_worker import PROGRAM, WARM_UP, Way, pytestmark, started

__all__ = ["pytestmark"]

ROUNDS = 10


@pytest.mark.parametrize("server", ["embedded", "real"])
def test_empty_jobs_with_health(contest, servers, tmp_path, server):
    if server == "real" and server not in servers:
        pytest.skip("no real server: FAKTORY_URL is not set")
    address = servers.get(server) or next(iter(servers.values()))
    program = tmp_path / "empty.py"
    program.write_text(PROGRAM.format(level="WARNING"))
    command = f"{sys.executable} -m faktory.cli.worker -r {program} -q {{queue}} -c {{concurrency}}"
    ways = {}
    for name in IMPLEMENTATIONS:
        ways[name] = Way(command, {"FAKTORY_IMPL": name})
        ways[f"{name}, --health"] = Way(f"{command} --health 0", {"FAKTORY_IMPL": name})
    with Client(address.url) as client, ExitStack() as stack:
        workers = {
            name: stack.enter_context(started(way, client, address, 10))
            for name, way in ways.items()
        }
        sleep(WARM_UP)
        turns = {name: worker.work for name, worker in workers.items()}
        contest(f"Empty jobs with --health, 10 at a time, {server} server", turns, ROUNDS)

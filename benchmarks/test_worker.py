"""What an empty job costs a worker, beside the workers of other packages.

Each worker is a process of its own, with a queue of its own, and stays for all rounds; they get
their jobs in turn. Counted is the time, and the CPU in user and system of the worker and its
children, between the moments when a tenth and nine tenths of its jobs are gone from the queue, so
that neither start nor end counts. The processor is shared with the server: jobs per second say
what both make of it together, CPU per job what the worker costs.

Ours is the command, with its log as it comes (INFO: two lines a job) and from WARNING on; the
others log nothing. Beside the older Python packages (`peers/work_*.py`), FAKTORY_BENCH_WORKERS
names more, one `name=command` a line, or between semicolons. A command gets FAKTORY_URL, and
`{queue}` and `{concurrency}` filled in; it works jobs of type Empty.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, NamedTuple

import pytest

from faktory import Client
from faktory.proto import new_jid
from faktory.wire.address import Address

from .conftest import IMPLEMENTATIONS, PEERS, Peer

pytestmark = pytest.mark.skipif(
    not Path(f"/proc/self/task/{os.getpid()}/children").exists(),
    reason="the CPU of another process and its children is read in Linux's /proc",
)

ROUNDS = 5
JOBS = 16_000

WARM_UP = 3.0
"""Seconds from a worker's start to its first job: in Go's each thread sleeps up to 2.2 first."""

PATIENCE = 4.0
"""Seconds after which a slow worker's round ends, with less than nine tenths of the jobs gone."""

PROGRAM = """
import logging
import faktory

@faktory.job(name="Empty")
def empty() -> None:
    pass

logging.getLogger("faktory").setLevel("{level}")
"""

TICK = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.0


class Way(NamedTuple):
    """A command that works the jobs, and what it needs in its environment."""

    command: str
    environment: dict[str, str]


def ours(directory: Path) -> dict[str, Way]:
    ways = {}
    for level, about in (("WARNING", ""), ("INFO", ", INFO")):
        program = directory / f"empty_at_{level.lower()}.py"
        program.write_text(PROGRAM.format(level=level))
        command = f"{sys.executable} -m faktory.cli.worker -r {program}"
        for name in IMPLEMENTATIONS:
            way = Way(f"{command} -q {{queue}} -c {{concurrency}}", {"FAKTORY_IMPL": name})
            ways[f"{name}{about}"] = way
    return ways


def others(peers: dict[str, Peer]) -> dict[str, Way]:
    ways = {}
    for name, peer in peers.items():
        program = PEERS / f"work_{peer.name}.py"
        ways[name] = Way(f"{peer.python} {program} {{queue}} {{concurrency}}", {})
    lines = re.split("[;\n]", os.environ.get("FAKTORY_BENCH_WORKERS", ""))
    for name, _, command in (line.partition("=") for line in lines if line.strip()):
        ways[name.strip()] = Way(command, {})
    return ways


def cpu(pid: int) -> float:
    """Return the seconds of CPU that a process and its children have had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    taken = sum(map(int, fields[11:15])) * TICK  # utime, stime, and those of ended children
    for task in Path(f"/proc/{pid}/task").iterdir():
        taken += sum(map(cpu, map(int, (task / "children").read_text().split())))
    return taken


class Worker:
    """A worker at work on a queue of its own."""

    def __init__(self, client: Client, queue: str, process: subprocess.Popen[bytes]) -> None:
        self._client = client
        self._queue = queue
        self._process = process

    def work(self) -> dict[str, float]:
        """Give it jobs; return how many it does in a second, and the CPU of one."""
        job = {"jobtype": "Empty", "args": [], "queue": self._queue}
        failures = self._server_says("total_failures")
        self._process.send_signal(signal.SIGSTOP)  # it might do the jobs as fast as they come
        try:
            assert not self._client.push_bulk(job for _ in range(JOBS))
            whole = self._waiting()
        finally:
            self._process.send_signal(signal.SIGCONT)
        began, cpu_before, first = self._when(whole * 9 // 10, perf_counter() + 30)
        ended, cpu_after, last = self._when(whole // 10, began + PATIENCE)
        assert last < first < whole, f"does no jobs, try it by hand: {self._process.args}"
        assert self._server_says("total_failures") == failures, "jobs failed meanwhile"
        self._client.remove_queues(self._queue)
        done = first - last
        cost = (cpu_after - cpu_before) / done * 1e6
        return {"jobs/s": done / (ended - began), "us CPU/job": cost}

    def _when(self, left: int, deadline: float) -> tuple[float, float, int]:
        """Wait until so many jobs are left; return time, CPU and how many they are."""
        while (waiting := self._waiting()) > left and perf_counter() < deadline:
            sleep(0.02)
        return perf_counter(), cpu(self._process.pid), waiting

    def _waiting(self) -> int:
        return self._server_says("queues").get(self._queue, 0)

    def _server_says(self, name: str) -> Any:
        return self._client.info()["faktory"][name]


@contextmanager
def started(way: Way, client: Client, address: Address, concurrency: int) -> Iterator[Worker]:
    queue = f"bench-{new_jid()}"
    command = way.command.replace("{queue}", queue).replace("{concurrency}", str(concurrency))
    process = subprocess.Popen(
        shlex.split(command),
        env={**os.environ, **way.environment, "FAKTORY_URL": address.url},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield Worker(client, queue, process)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:  # faktory 1.0.0 does not always hear its TERM
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        client.remove_queues(queue)


@pytest.mark.parametrize("concurrency", [1, 10, 50])
@pytest.mark.parametrize("server", ["embedded", "real"])
def test_empty_jobs(contest, servers, peers, tmp_path, server, concurrency):
    if server == "real" and server not in servers:
        pytest.skip("no real server: FAKTORY_URL is not set")
    address = servers.get(server) or next(iter(servers.values()))
    ways = {**ours(tmp_path), **(others(peers) if concurrency == 10 else {})}
    with Client(address.url) as client, ExitStack() as stack:
        workers = {
            name: stack.enter_context(started(way, client, address, concurrency))
            for name, way in ways.items()
        }
        sleep(WARM_UP)
        turns = {name: worker.work for name, worker in workers.items()}
        contest(f"Empty jobs, {concurrency} at a time, {server} server", turns, ROUNDS)

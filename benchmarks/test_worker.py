"""Measure the cost of an empty job in a worker, beside the workers of other packages.

Each worker is a separate process with its own queue, and runs through all rounds; the workers get
their jobs in turn. The measured interval begins when a tenth of the jobs have left the queue and
ends when nine tenths have, so that start and end do not count. It yields the time, and the user and
system CPU time of the worker and its children. The processor is shared with the server: jobs per
second measure worker and server together, CPU per job measures the worker alone.

Our worker is the command, with its default log (INFO: two lines per job) and from WARNING on; the
others do not log. Beside the older Python packages (`peers/work_*.py`), FAKTORY_BENCH_WORKERS can
name more, as `name=command`, one per line or separated by semicolons. A command runs jobs of type
Empty; it gets FAKTORY_URL, and `{queue}` and `{concurrency}` filled in.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
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
    reason="the CPU time of a process and its children is read from Linux's /proc",
)

ROUNDS = 5
JOBS = 16_000

WARM_UP = 3.0
"""Seconds from a worker's start to its first job; each thread of the Go worker sleeps up to 2.2."""

ROUND_TIMEOUT = 4.0
"""Seconds after which a slow worker's round ends before nine tenths of its jobs are done."""

PROGRAM = """
import logging
import faktory

@faktory.job(name="Empty")
def empty() -> None:
    pass

logging.getLogger("faktory").setLevel("{level}")
"""

SCHEDULES = """
import faktory

@faktory.job
def empty() -> None:
    pass

for number in range(200):
    faktory.periodic("* * * * *", empty, tz="Europe/Berlin", name=f"schedule-{number}")
"""

MINUTE = 60.0
"""Seconds for which a scheduler is measured: two of its rounds, and a tick of each schedule."""

TICK = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.0


class Load(NamedTuple):
    """The jobs of a round: their type and their number."""

    jobtype: str = "Empty"
    jobs: int = JOBS


class Way(NamedTuple):
    """A command that runs the jobs, and the variables it needs."""

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
    """Return the CPU time of a process and its children in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    total = sum(map(int, fields[11:15])) * TICK  # utime, stime, and those of ended children
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += sum(map(cpu, map(int, (task / "children").read_text().split())))
    return total


def thread_time(pid: int) -> float:
    """Return the CPU time of the threads that a process has now, in seconds, by the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


class Worker:
    """A running worker with its own queue."""

    def __init__(
        self,
        client: Client,
        queue: str,
        process: subprocess.Popen[bytes],
        load: Load,
        cpu: Callable[[int], float],
    ) -> None:
        self._client = client
        self._queue = queue
        self._process = process
        self._load = load
        self._cpu = cpu

    def work(self) -> dict[str, float]:
        """Push jobs; return the rate of running them, and the CPU time of a job."""
        job = {"jobtype": self._load.jobtype, "args": [], "queue": self._queue}
        failures = self._server_info("total_failures")
        # Else it, or the processes that it supervises, could run jobs as fast as they arrive.
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            assert not self._client.push_bulk(job for _ in range(self._load.jobs))
            whole = self._waiting()
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)
        began, cpu_before, first = self._when(whole * 9 // 10, perf_counter() + 30)
        ended, cpu_after, last = self._when(whole // 10, began + ROUND_TIMEOUT)
        assert last < first < whole, f"it runs no jobs, try it manually: {self._process.args}"
        assert self._server_info("total_failures") == failures, "jobs failed meanwhile"
        self._client.remove_queues(self._queue)
        done = first - last
        cost = (cpu_after - cpu_before) / done * 1e6
        return {"jobs/s": done / (ended - began), "us CPU/job": cost}

    def _when(self, left: int, deadline: float) -> tuple[float, float, int]:
        """Wait until at most `left` jobs are waiting; return time, CPU time and their number."""
        while (waiting := self._waiting()) > left and perf_counter() < deadline:
            sleep(0.02)
        return perf_counter(), self._cpu(self._process.pid), waiting

    def _waiting(self) -> int:
        return self._server_info("queues").get(self._queue, 0)

    def _server_info(self, name: str) -> Any:
        return self._client.info()["faktory"][name]


@contextmanager
def started(
    way: Way,
    client: Client,
    address: Address,
    concurrency: int,
    load: Load = Load(),  # noqa: B008
    cpu: Callable[[int], float] = cpu,
) -> Iterator[Worker]:
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
        yield Worker(client, queue, process, load, cpu)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:  # faktory 1.0.0 sometimes ignores TERM
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


def scheduling(pid: int) -> float:
    """Return the share of a core that a process takes for a minute, in percent."""
    before = thread_time(pid)
    sleep(MINUTE)
    return (thread_time(pid) - before) / MINUTE * 100


@pytest.mark.timeout(600)
def test_200_schedules(contest, servers, tmp_path):
    program = tmp_path / "schedules.py"
    program.write_text(SCHEDULES)
    address = servers.get("real") or next(iter(servers.values()))
    command = [sys.executable, "-m", "faktory", "periodic", "-r", str(program), "--run"]
    with ExitStack() as stack:
        turns = {}
        for name in IMPLEMENTATIONS:
            process = subprocess.Popen(
                command,
                env={**os.environ, "FAKTORY_URL": address.url, "FAKTORY_IMPL": name},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            turns[name] = lambda pid=process.pid: {"% of a core": scheduling(pid)}
        sleep(WARM_UP)
        contest("A scheduler with 200 schedules, one tick a minute each", turns, 2)
    with Client(address.url) as client:
        client.clear("scheduled")
        client.remove_queues("default")

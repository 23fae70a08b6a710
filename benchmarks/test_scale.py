"""Measure how the cost of a job grows: with threads, processes, queues, the size of its argument.

All ways are our worker, on the compiled core where there is one. In each turn a worker starts, all
its threads connect, and it is stopped (SIGSTOP) while the jobs are pushed; the measured interval
begins when it goes on and ends when all of them are acknowledged. The server answers the FETCHes
that wait meanwhile, one for each thread, so that a rate is a little too high where threads are many
or jobs few. It yields the rate, and the CPU time and the memory of the worker's processes: their
proportional share (PSS) after the last job.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter, process_time, sleep
from typing import Any, NamedTuple

import pytest

from faktory import Client
from faktory.proto import new_jid

from .conftest import IMPLEMENTATIONS
from .test_worker import PROGRAM, pytestmark, thread_time  # noqa: F401

ROUNDS = 3
TIMEOUT = 60.0
"""Seconds until a worker must be there, and until its jobs must be done."""

SIZES = {"0.1 kB": 4000, "1 kB": 4000, "10 kB": 2000, "100 kB": 400, "1 MB": 40, "10 MB": 8}
"""Jobs of a round by the size of their argument."""

BYTES = {"kB": 1000, "MB": 1_000_000}


class Shape(NamedTuple):
    """A worker, and its jobs."""

    threads: int = 10
    processes: int = 0
    queues: int = 1
    size: int = 0
    jobs: int = 4000

    def flags(self, name: str) -> list[str]:
        """Return what the command is given."""
        names = [word for each in self.names(name) for word in ("-q", each)]
        processes = ["--processes", str(self.processes)] if self.processes else []
        return [*names, "-c", str(self.threads), *processes]

    def names(self, name: str) -> list[str]:
        """Return the queues, in the order of a FETCH."""
        return [f"{name}-{number}" for number in range(self.queues)]

    @property
    def connections(self) -> int:
        """How many the worker has."""
        return (self.threads + 1) * max(self.processes, 1)


def tree(pid: int) -> list[int]:
    """Return a process and its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            for child in (task / "children").read_text().split():
                found += tree(int(child))
    return found


def memory(pid: int) -> float:
    """Return the proportional share of memory of a process and its descendants, in MB."""
    total = 0
    for each in tree(pid):
        text = Path(f"/proc/{each}/smaps_rollup").read_text()
        total += int(text.partition("\nPss:")[2].split()[0])
    return total / 1000


def cpu(pid: int) -> float:
    """Return the CPU time of their threads, in seconds."""
    return sum(map(thread_time, tree(pid)))


@contextmanager
def working(shape: Shape, name: str, program: Path, client: Client) -> Iterator[int]:
    """Run a worker whose threads are all connected; return its process."""
    before = connections(client)
    command = [sys.executable, *shlex.split("-m faktory.cli.worker -r"), str(program)]
    process = subprocess.Popen(
        [*command, *shape.flags(name)],
        env={
            **os.environ,
            "FAKTORY_URL": client.faktory.url,
            "FAKTORY_IMPL": IMPLEMENTATIONS[0],
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait(lambda: connections(client) >= before + shape.connections)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        client.remove_queues(*shape.names(name))


def connections(client: Client) -> int:
    return int(client.info()["server"]["connections"])


def processed(client: Client) -> int:
    return int(client.info()["faktory"]["total_processed"])


def wait(until: Any) -> None:
    deadline = perf_counter() + TIMEOUT
    while not until():
        assert perf_counter() < deadline, "a worker is not there, or runs no jobs: try it manually"
        sleep(0.02)


def turn(shape: Shape, program: Path, client: Client) -> dict[str, float]:
    """Run the jobs of a shape once; return the figures."""
    name = f"bench-{new_jid()}"
    args = ["x" * shape.size] if shape.size else []
    job = {"jobtype": "Empty", "args": args, "queue": shape.names(name)[-1]}
    figures = {"us CPU/push": pushing(job, shape.jobs // 4, client)} if shape.size else {}
    with working(shape, name, program, client) as pid:
        done = processed(client) + shape.jobs
        os.killpg(pid, signal.SIGSTOP)  # which a busy machine does a little later
        try:
            assert not client.push_bulk(job for _ in range(shape.jobs))
            before = cpu(pid)
        finally:
            os.killpg(pid, signal.SIGCONT)
        started = perf_counter()
        wait(lambda: processed(client) >= done)
        seconds, used = perf_counter() - started, cpu(pid) - before
        rate = {"jobs/s": shape.jobs / seconds, "us CPU/job": used / shape.jobs * 1e6}
        return {**rate, **figures, "MB": memory(pid)}


def pushing(job: dict[str, Any], count: int, client: Client) -> float:
    """Push jobs one by one to a queue that nobody fetches; return the CPU time of one, in us."""
    queue = f"{job['queue']}-pushed"
    began = process_time()
    for _ in range(count):
        client.push({**job, "queue": queue})
    took = process_time() - began
    client.remove_queues(queue)
    return took / count * 1e6


CONTESTS = {
    "threads of one worker": {
        f"{count:,} thread{'s' * (count > 1)}": Shape(threads=count) for count in (1, 10, 100, 1000)
    },
    "size of the argument, 10 threads": {
        about: Shape(size=int(float(about.split()[0]) * BYTES[about.split()[1]]), jobs=jobs)
        for about, jobs in SIZES.items()
    },
    "queues of a FETCH, jobs in the last, 10 threads": {
        f"{count:,} queue{'s' * (count > 1)}": Shape(queues=count) for count in (1, 10, 100, 1000)
    },
    "processes of 10 threads": {
        f"--processes {count}": Shape(processes=count) for count in (1, 4, 16)
    },
}


@pytest.mark.parametrize("about", CONTESTS)
def test_scale(contest, server, tmp_path, about):
    title, address = server
    program = tmp_path / "empty.py"
    # A job's argument is not its business here.
    program.write_text(PROGRAM.format(level="WARNING").replace("empty()", "empty(*_: object)"))
    with Client(address.url, timeout=TIMEOUT) as client:
        ways = {
            way: lambda shape=shape: turn(shape, program, client)
            for way, shape in CONTESTS[about].items()
        }
        contest(f"Scale: {about}, {title}", ways, ROUNDS)

"""Fixtures of the benchmarks: servers, other packages' programs, and the results file."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import faktory
from faktory.wire.address import Address, parse

from . import contest as contests

# Another variable may name a production server.
os.environ["FAKTORY_PROVIDER"] = "FAKTORY_URL"

RESULTS = Path(__file__).parents[1] / "build" / "bench" / "results.json"
PEERS = Path(__file__).with_name("peers")

IMPLEMENTATIONS = (*(("cython",) if find_spec("faktory._proto") else ()), "python")
LIBRARIES = ("orjson", "msgspec", "ujson", "hiredis")


class Peer(NamedTuple):
    """Another package for Faktory, in its own environment."""

    name: str
    version: str
    python: Path


@pytest.fixture(scope="session")
def peers() -> dict[str, Peer]:
    """Return the other clients that `make bench` has installed, by name and version."""
    found = {}
    for name in ("faktory", "pyfaktory"):
        python = Path(sys.prefix, "peers", name, "bin", "python")
        if python.exists():
            ask = f"from importlib.metadata import version; print(version({name!r}))"
            said = subprocess.run(
                [python, "-c", ask], stdout=subprocess.PIPE, text=True, check=True
            )
            peer = Peer(name, said.stdout.strip(), python)
            found[f"{name} {peer.version}"] = peer
    return found


class Child:
    """A program of `peers/` that works on request and reports the time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def turn(self, work: str, count: int) -> dict[str, float]:
        """Run the work for `count` jobs; return the rate and the CPU time of a job."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # reported below: there is no output
            print(work, count, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, f"{self._process.args} ended; see its error output above"
        took = json.loads(line)
        return {"jobs/s": count / took["seconds"], "us CPU/job": took["cpu"] / count * 1e6}


def end(process: subprocess.Popen[str]) -> None:
    """Wait for a process to end, or kill it. Closing its input ends a program that pushes."""
    try:
        process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


StartChild = Callable[..., Child]


@pytest.fixture
def child() -> Iterator[StartChild]:
    """Return a function that starts a program of `peers/`; all programs end with the test."""
    with ExitStack() as stack:

        def start(program: str, *words: str, python: Path | None = None, **environ: str) -> Child:
            process = subprocess.Popen(
                [python or sys.executable, PEERS / program, *words],
                env={**os.environ, **environ},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(end, process)
            return Child(process)

        yield start


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[str, Address]]:
    """Start the embedded server with each core; add the real server in FAKTORY_URL."""
    command = [sys.executable, "-m", "faktory", "server", "--bind", "127.0.0.1:0"]
    found = {}
    with ExitStack() as stack:
        for name in IMPLEMENTATIONS:
            environ = {**os.environ, "FAKTORY_IMPL": name, "FAKTORY_PASSWORD": ""}
            process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
            stack.callback(end, process)
            stack.callback(process.terminate)
            assert process.stdout is not None
            found[f"embedded, {name}"] = parse(process.stdout.readline().rpartition("=")[2].strip())
        if os.environ.get("FAKTORY_URL"):
            found["real"] = parse(os.environ["FAKTORY_URL"])
        yield found


@pytest.fixture(scope="session")
def server(servers: dict[str, Address]) -> tuple[str, Address]:
    """Return the title and address of the server for clients: the real one if there is one."""
    if "real" in servers:
        return "real server", servers["real"]
    return "embedded server", next(iter(servers.values()))


@pytest.fixture(scope="session")
def results(servers: dict[str, Address], peers: dict[str, Peer]) -> Iterator[list[contests.Record]]:
    """Collect the records of this run; write build/bench/results.json and .txt at the end."""
    records: list[contests.Record] = []
    about = {"when": datetime.now(UTC).isoformat(timespec="seconds"), **_about(servers, peers)}
    yield records
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({**about, "contests": records}, indent=1) + "\n", "utf-8")
    tables = [heading(about), *map(contests.table, records)]
    RESULTS.with_suffix(".txt").write_text("\n\n".join(tables) + "\n", "utf-8")


def _about(servers: dict[str, Address], peers: dict[str, Peer]) -> dict[str, Any]:
    """Return the machine and the versions, without which figures mean nothing."""
    versions = {
        "faktory-worker": faktory.__version__,
        **{name: version(name) for name in LIBRARIES},
    }
    if find_spec("uvloop"):
        versions["uvloop"] = version("uvloop")
    versions.update({peer.name: peer.version for peer in peers.values()})
    if "real" in servers:
        with faktory.Client(servers["real"].url) as client:
            versions["Faktory"] = client.info()["server"]["faktory_version"]
    return {"machine": _machine(), "versions": versions}


def _machine() -> str:
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (found := re.search(r"model name\s*: (.*)", cpuinfo.read_text())):
        processor = found[1]
    system = f"{platform.system()} {platform.release().split('-')[0]}"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{processor}, {os.cpu_count()} cores, {system}, {python}"


def heading(about: Mapping[str, Any]) -> str:
    """Return date, machine and versions of a run as text."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    return f"{about['when']}, {about['machine']}\n{versions}"


Contest = Callable[[str, Mapping[str, contests.Turn], int], None]


@pytest.fixture
def contest(
    request: pytest.FixtureRequest, benchmark: Any, results: list[contests.Record]
) -> Contest:
    """Return a function that runs a contest, prints its table and stores its record."""
    room = request.module.__name__.rpartition("test_")[2]

    def hold(title: str, ways: Mapping[str, contests.Turn], rounds: int) -> None:
        record = contests.hold(benchmark, room, title, ways, rounds)
        results.append(record)
        print(f"\n\n{contests.table(record)}", flush=True)

    return hold

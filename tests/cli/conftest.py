from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faktory import Client
from faktory.cli.worker.main import main
from faktory.cli.worker.writer import Writer
from faktory.jobs import registry
from faktory.server import EmbeddedServer
from faktory.server.state import Timing

from .support import Done, Load, Process, call

JOBS = """
import time

import faktory

@faktory.job
def touch(path):
    open(path, "w").close()

@faktory.job
def spin(began=None):
    if began is not None:
        open(began, "w").close()
    while True:
        time.sleep(0.001)

@faktory.job
def stuck(began=None):
    if began is not None:
        open(began, "w").close()
    time.sleep(60)
"""


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    """A server for commands to use; its FETCH waits 0.1 s for a job, not 2."""
    with EmbeddedServer(timing=Timing(fetch_wait=0.1)) as server:
        yield server


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[Client]:
    """A client of that server."""
    with Client(server.url) as client:
        yield client


@pytest.fixture
def dead_url(closed_port: int) -> str:
    """An address where nothing listens."""
    return f"tcp://127.0.0.1:{closed_port}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where commands run: a folder with jobs.py in it."""
    (tmp_path / "jobs.py").write_text(JOBS)
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Iterator[Callable[..., Process]]:
    """`run("faktory.cli.worker", "-c", "1", url=...)`: start a module as a command."""
    started: list[Process] = []

    def run(*command: str, url: str | None = None) -> Process:
        process = Process(list(command), folder, url)
        started.append(process)
        return process

    yield run
    ended = [process.end() for process in started]  # each one, even if another would not end
    assert all(ended)


@pytest.fixture
def load(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """`load("jobs", ...)`: call `faktory-worker -r jobs` in this process, for imports that fail."""
    monkeypatch.setattr(registry, "_jobs", {})
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = {*sys.modules}

    def load(*names: str) -> Done:
        flags = [word for name in names for word in ("-r", name)]
        return call(*flags, main=main, cwd=folder)

    yield load
    made = {name: sys.modules[name] for name in {*sys.modules} - before}
    places = {
        name: getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "/")
        for name, module in made.items()
    }
    for name, place in places.items():
        if Path(place).is_relative_to(folder):
            del sys.modules[name]


@pytest.fixture
def pair() -> Iterator[tuple[Writer, int]]:
    """A writer to a pipe, and the pipe's other end."""
    reader, descriptor = os.pipe()
    writer = Writer(descriptor, lambda count, why: f"{count} dropped: {why}")
    writer.run_in_background()
    yield writer, reader
    writer.close()
    writer.flush(10)
    writer._descriptor = os.open(os.devnull, os.O_WRONLY)
    os.close(reader)
    os.close(descriptor)

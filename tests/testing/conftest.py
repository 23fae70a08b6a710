"""A process as new for each test of the kit, and pytest in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import faktory
from faktory.client import defaults, network
from faktory.jobs import registry
from faktory.jobs.middleware import client_middleware, worker_middleware


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test declares, switches or says of all jobs is unknown to the next one."""
    monkeypatch.setattr(registry, "_jobs", {})
    monkeypatch.setattr(registry, "external", set())
    monkeypatch.setattr(faktory, "default_job_options", {})
    monkeypatch.setattr(defaults, "_settings", {})
    for name in ("FAKTORY_URL", "FAKTORY_PROVIDER"):
        monkeypatch.delenv(name, raising=False)
    defaults.configure()
    assert network.current is network.SOCKETS
    chains = (client_middleware, worker_middleware)
    before = [list(chain) for chain in chains]
    yield
    for chain, entries in zip(chains, before, strict=True):
        chain.clear()
        for middleware in entries:
            chain.add(middleware)  # type: ignore[arg-type]
    network.use(network.SOCKETS)
    defaults.configure()


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may connect."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("somebody opens a socket")

    monkeypatch.setattr(socket, "create_connection", refuse)


RunPytest = Callable[..., str]


@pytest.fixture(scope="session")
def run_pytest() -> RunPytest:
    """`run_pytest(folder, *options)` runs the tests in a folder, apart from ours; it returns what
    pytest said, and fails where they do."""
    return _run_pytest


def _run_pytest(folder: Path, *options: str) -> str:
    # Importing hypothesis, which none of them uses, takes longer than all the rest.
    where = ["-p", "no:hypothesispytest", "-c", os.devnull, "--rootdir", str(folder), str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *where, *options],
        cwd=folder,
        env={name: text for name, text in os.environ.items() if name != "FAKTORY_URL"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

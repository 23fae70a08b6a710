"""A new process for each test of the kit, and pytest in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faktory import testing
from faktory.client import network
from faktory.testing import MemoryServer

from ..jobs.support import new_process


@pytest.fixture(autouse=True)
def own_process() -> Iterator[None]:
    """What a test declares, configures or switches to is unknown to the next one."""
    assert network.current is network.SOCKETS
    with new_process():
        yield
    network.use(network.SOCKETS)


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting is an error."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket is opened")

    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture
def fake(no_sockets: None) -> Iterator[MemoryServer]:
    """Fake mode."""
    with testing.fake() as memory:
        yield memory


@pytest.fixture
def inline(no_sockets: None) -> Iterator[MemoryServer]:
    """Inline mode."""
    with testing.inline() as memory:
        yield memory


RunPytest = Callable[..., str]


@pytest.fixture(scope="session")
def run_pytest() -> RunPytest:
    """`run_pytest(folder, *options)` runs the tests of a folder in a process without our plugins;
    it returns pytest's output, and fails if a test does."""
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

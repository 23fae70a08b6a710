"""Commands as processes: what they print, and what their exit code says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

from faktory.server import EmbeddedServer
from faktory.server import connection as server_connection

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
def stuck():
    time.sleep(60)
"""


class Process:
    """A command that runs, and what it has said so far."""

    def __init__(self, command: list[str], cwd: Path, url: str | None) -> None:
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        env.pop("FAKTORY_URL", None)
        if url is not None:
            env["FAKTORY_URL"] = url
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=cwd,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._readers = [
            Thread(target=lines.extend, args=(stream,), daemon=True)
            for stream, lines in (
                (self.process.stdout, self.stdout),
                (self.process.stderr, self.stderr),
            )
        ]
        for reader in self._readers:
            reader.start()

    @property
    def said(self) -> str:
        """What came on standard error up to now."""
        return "".join(self.stderr)

    @property
    def printed(self) -> str:
        """What came on standard output up to now."""
        return "".join(self.stdout)

    @property
    def silent(self) -> bool:
        """Whether it has ended, and everything that it started and shared its output with."""
        return not any(reader.is_alive() for reader in self._readers)

    def send(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self, timeout: float = 30) -> int:
        """Return its exit code once it has ended."""
        code = self.process.wait(timeout)
        for reader in self._readers:
            reader.join(5)
        return code

    def end(self) -> bool:
        """End it and what it started; tell whether nothing is left."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.wait()
        for reader, stream in zip(
            self._readers, (self.process.stdout, self.process.stderr), strict=True
        ):
            assert stream is not None
            if not reader.is_alive():  # else it would be waited for
                stream.close()
        return self.silent


@pytest.fixture(autouse=True)
def quick_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let FETCH of this process's servers wait 0.1 s for a job, not 2."""
    monkeypatch.setattr(server_connection, "FETCH_WAIT", 0.1)


@pytest.fixture
def server(quick_fetch: None) -> Iterator[EmbeddedServer]:
    """A server for commands to use."""
    with EmbeddedServer() as server:
        yield server


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

"""A real Faktory server that a test starts for itself, and may kill."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from faktory import Client
from faktory.exceptions import FaktoryError
from faktory.server import EmbeddedServer
from faktory.server.state import Timing

VARIABLE = "FAKTORY_SERVER_COMMAND"


class RealFaktory:
    """A server that the command in FAKTORY_SERVER_COMMAND starts.

    {port}, {web} and {folder} in it are replaced by the port to listen on, the port of its pages,
    and a folder for its data: "faktory -b 127.0.0.1:{port} -w 127.0.0.1:{web} -d {folder}". {host}
    may replace 127.0.0.1. The folder `first_in_path` may hold another redis-server.
    """

    first_in_path: Path | None = None

    def __init__(self, folder: Path, wait_until: Callable[..., object]) -> None:
        command = os.environ.get(VARIABLE)
        if not command:
            pytest.skip(f"needs a real server to start and kill: set {VARIABLE}")
        self.port = _free_port()
        words = {"host": "127.0.0.1", "port": self.port, "web": _free_port(), "folder": folder}
        self._command = [word.format(**words) for word in shlex.split(command)]
        self.folder = folder
        self._log = folder.parent / f"{folder.name}.log"
        self._wait_until = wait_until
        self._processes: list[subprocess.Popen[bytes]] = []
        self.url = f"tcp://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.start_only()
        self._wait_until(self._answers)

    def start_only(self) -> None:
        path = os.environ["PATH"]
        if self.first_in_path is not None:
            path = f"{self.first_in_path}{os.pathsep}{path}"
        with self._log.open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    self._command,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, "PATH": path},
                    start_new_session=True,
                )
            )

    def _answers(self) -> bool:
        # The Redis of a killed server ends a little later; until then a new server cannot start.
        if self.has_ended():
            self.start_only()
        with suppress(FaktoryError), Client(self.url) as client:
            return bool(client.info())
        return False

    def has_ended(self) -> bool:
        return self._processes[-1].poll() is not None

    def log(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        """Kill the server, but not its Redis, which is a process of its own."""
        self._processes[-1].kill()
        self._processes[-1].wait()

    def kill_all(self) -> None:
        """Kill the server and its Redis at the same time, as a container that is killed."""
        os.killpg(self._processes[-1].pid, signal.SIGKILL)
        self._processes[-1].wait()

    def stop(self) -> None:
        """Let the server stop, and its Redis write a snapshot."""
        self._processes[-1].terminate()
        self._processes[-1].wait(30)

    def end(self) -> None:
        """End the server and all processes that it started."""
        if self._processes and self._processes[-1].poll() is None:
            self._processes[-1].terminate()
            with suppress(subprocess.TimeoutExpired):
                self._processes[-1].wait(10)
        for process in self._processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


Server = EmbeddedServer | RealFaktory


@contextmanager
def serving(kind: str, folder: Path, wait_until: Callable[..., object]) -> Iterator[Server]:
    """Run an "embedded" server whose FETCHes are short, or a "real" one, for a `with` block."""
    if kind == "embedded":
        with EmbeddedServer(timing=Timing(fetch_wait=0.1)) as embedded:
            yield embedded
        return
    real = RealFaktory(folder, wait_until)
    try:
        real.start()
        yield real
    finally:
        real.end()

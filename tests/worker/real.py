"""A real Faktory server of a test's own, which may be killed."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from faktory import Client
from faktory.exceptions import FaktoryError

VARIABLE = "FAKTORY_SERVER_COMMAND"


class RealServer:
    """Started by the command in FAKTORY_SERVER_COMMAND.

    {port}, {web} and {folder} in it stand for the port to listen on, one for its pages, and a
    folder for what it keeps: "faktory -b 127.0.0.1:{port} -w 127.0.0.1:{web} -d {folder}".
    """

    def __init__(self, folder: Path, wait_until: Callable[..., object]) -> None:
        command = os.environ.get(VARIABLE)
        if not command:
            pytest.skip(f"needs a real server to start and kill: set {VARIABLE}")
        self.port = _free_port()
        words = {"port": self.port, "web": _free_port(), "folder": folder}
        self._command = [word.format(**words) for word in shlex.split(command)]
        self._said = folder.parent / f"{folder.name}.log"
        self._wait_until = wait_until
        self._processes: list[subprocess.Popen[bytes]] = []
        self.url = f"tcp://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._boot()
        self._wait_until(self._answers)

    def _boot(self) -> None:
        with self._said.open("ab") as said:
            self._processes.append(
                subprocess.Popen(self._command, stdout=said, stderr=said, start_new_session=True)
            )

    def _answers(self) -> bool:
        # One that was killed has its Redis end a little later; until then no other can begin.
        if self._processes[-1].poll() is not None:
            self._boot()
        with suppress(FaktoryError), Client(self.url) as client:
            return bool(client.info())
        return False

    def kill(self) -> None:
        """End the server itself at once; what keeps its data is a process of its own."""
        self._processes[-1].kill()
        self._processes[-1].wait()

    def end(self) -> None:
        """End it and all that it started."""
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

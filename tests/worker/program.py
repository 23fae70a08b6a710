"""A worker in a process of its own: a test's process has threads, so it must not be forked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

HEAD = """
import ctypes, functools, logging, os, signal, subprocess, sys, threading, time
import faktory
from faktory import Worker, current_job
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
URL, OUT = sys.argv[1:]
def note(*words):
    with open(OUT, "a") as out:
        out.write(" ".join(map(str, words)) + "\\n")
def hold():
    while not os.path.exists(OUT + ".released"):
        time.sleep(0.01)
"""


class Program:
    """Python code, after `HEAD`, that runs a worker. `note` in it writes a line of `notes`.

    Its `release` ends the jobs that wait in `hold`.
    """

    def __init__(self, folder: Path, url: str, code: str, warnings: str) -> None:
        self._out, self._log = folder / "out.txt", folder / "log.txt"
        self.release = (folder / "out.txt.released").touch
        self._out.touch()
        script = folder / "program.py"
        script.write_text(HEAD + textwrap.dedent(code))
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", warnings, str(script), url, str(self._out)],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def notes(self) -> list[str]:
        return self._out.read_text().splitlines()

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def processes(self) -> list[int]:
        """The other processes of its session that have not ended."""
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError):
                state, _, _, session = stat(int(name))[:4]
                if int(session) == self.process.pid != int(name) and state != "Z":
                    found.append(int(name))
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the worker; return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(15)

    def end(self) -> None:
        """Kill it and the other processes of its session."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pid in self.processes:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def stat(pid: int) -> list[str]:
    """Return state, parent, group, session and so on of a process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()

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

CHILDREN = """
from faktory.worker.timing import Timing

def traced(function):
    @functools.wraps(function)
    def around(*args):
        note("around")
        return function(*args)
    return around

@faktory.job
@traced
def decorated(number):
    note("decorated", number, current_job().jid, os.getpid())

@faktory.job(time_limit=1)
def limited(how):
    try:
        time.sleep(30)
    except faktory.TimeLimitExceeded:
        note("interrupted")
        while how == "stubborn":
            time.sleep(30)
        raise

class OwnError(Exception):
    def __init__(self, one, two):  # cannot be pickled
        super().__init__(f"{one} and {two}")

@faktory.job
def fails(how):
    if how == "mine": raise OwnError("this", "that")
    if how == "discard": raise faktory.Discard("not needed")
    if how == "exit": sys.exit(3)
    if how == "os._exit": os._exit(3)
    if how == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if how == "segfault": ctypes.string_at(0)
    if how == "term": os.kill(os.getpid(), signal.SIGTERM)
    if how == "fork":
        if os.fork() == 0:
            return "out of the job"
        os.wait()

@faktory.job
def held():
    note("held", os.getpid())
    hold()
    note("ended")

def closure():
    seen = []
    return lambda jid, *args: (seen.append(args), note("bound", jid, *args, len(seen)))

def work(**options):
    worker = Worker(URL, use_threads=False, **options)
    worker.register("bound", closure(), bind=True)
    @worker.error_handlers.append
    def handler(error, context):
        kind = type(error)
        note("error", kind.__name__, error, isinstance(error, Exception), os.getpid() == MAIN)
    worker.on("exhausted", lambda job, error: note("exhausted", job.jobtype, type(error).__name__))
    return worker
MAIN = os.getpid()
"""
"""Jobs, and `work`, which makes a worker with `use_threads=False`."""


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

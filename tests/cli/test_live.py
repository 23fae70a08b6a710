"""A worker in a terminal: what a person sees of it, read from the terminal's other end."""

from __future__ import annotations

import os
import pty
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest

from faktory.cli.exits import Exit
from faktory.server import EmbeddedServer

from .emulator import Emulator
from .support import WORKER, WaitUntil, push

pytest.importorskip("rich")
fcntl = pytest.importorskip("fcntl")
termios = pytest.importorskip("termios")

PROGRAM = """
import logging
import subprocess
import sys
import threading
import time

import faktory

log = logging.getLogger("app")

@faktory.job
def ok():
    pass

@faktory.job
def fails():
    raise ValueError("no such thing")

@faktory.job
def says(text):
    print(text)
    print(text, file=sys.stderr)
    print("begun", end="", flush=True)
    log.warning("careful")
    print("ended")

@faktory.job
def dies():
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()

@faktory.job
def calls():
    subprocess.run([sys.executable, "-c", "print('of a subprocess')"], check=True)

@faktory.job
def sleeps(seconds):
    time.sleep(seconds)
"""


class Terminal:
    """A worker that has a terminal for its three streams."""

    def __init__(self, folder: Path, url: str, env: dict[str, str], columns: int, *flags: str):
        self._ours, theirs = pty.openpty()
        self.resize(columns)
        names = ("NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS")
        kept = {name: value for name, value in os.environ.items() if name not in names}
        self.process = subprocess.Popen(
            [sys.executable, "-m", WORKER, "-r", "program", "-c", "2", "-t", "5", *flags],
            cwd=folder,
            env={**kept, "FAKTORY_URL": url, "TERM": "xterm", **env},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.columns = columns
        self.written = ""
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # nobody has the other end any more
            while piece := os.read(self._ours, 65536):
                self.written += piece.decode("utf-8", "replace")

    @property
    def lines(self) -> list[str]:
        """What it shows, and has shown, without empty lines."""
        emulator = Emulator(self.columns)
        emulator.feed(self.written)
        return [line for line in emulator.lines if line]

    def has(self, text: str) -> bool:
        """Return whether a line has a text."""
        return any(text in line for line in self.lines)

    def resize(self, columns: int) -> None:
        """Give the terminal another width."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop the worker; return its exit code when all that it wrote has come."""
        self.process.send_signal(number)
        code = self.process.wait(20)
        self._reader.join(10)
        return code

    def end(self) -> None:
        """End what is left."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        self._reader.join(10)
        os.close(self._ours)


Start = Callable[..., Terminal]


@pytest.fixture
def start(folder: Path, server: EmbeddedServer) -> Iterator[Start]:
    """`start("-v", columns=120, NO_COLOR="1")`: a worker in a terminal."""
    (folder / "program.py").write_text(PROGRAM)
    started: list[Terminal] = []

    def start(*flags: str, columns: int = 80, **env: str) -> Terminal:
        started.append(Terminal(folder, server.url, env, columns, *flags))
        return started[-1]

    yield start
    for terminal in started:
        terminal.end()


def without_colour(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("columns", [80, 120])
def test_the_status_counts_jobs_and_is_gone_at_the_end(
    server: EmbeddedServer, start: Start, wait_until: WaitUntil, columns: int
) -> None:
    worker = start(columns=columns)
    for _ in range(3):
        push(server, "ok")
    jid = push(server, "fails")
    wait_until(lambda: worker.has("0 running   3 done   1 failed"), 20)
    assert worker.lines[-1] == "0 running   3 done   1 failed"
    assert worker.stop() == Exit.STOPPED
    lines = worker.lines
    assert not any("running   " in line for line in lines)
    assert lines[-1].endswith("stopped, every job answered")
    assert sum("ok   " in line for line in lines) == 6
    assert any(
        re.fullmatch(rf"\d\d:\d\d:\d\d fails +{jid} fail.* in [\d.]+ ms.*", x) for x in lines
    )
    assert "ValueError: no such thing" in lines
    assert "\x1b[32mdone\x1b[0m" in worker.written
    assert re.search("\x1b\\[1;31mfail", worker.written)


def test_a_running_job_is_counted(
    server: EmbeddedServer, start: Start, wait_until: WaitUntil
) -> None:
    worker = start()
    push(server, "sleeps", 60)
    wait_until(lambda: worker.has("1 running   0 done   0 failed"), 20)
    worker.process.send_signal(signal.SIGTSTP)
    wait_until(lambda: worker.lines[-1] == "1 running   0 done   0 failed   quiet")
    worker.process.send_signal(signal.SIGINT)
    wait_until(lambda: worker.lines[-1] == "1 running   0 done   0 failed   stopping")
    assert worker.stop(signal.SIGINT) in (Exit.STOPPED, Exit.ABANDONED)
    assert "running   " not in worker.lines[-1]


def test_what_jobs_print_is_in_lines_of_its_own(
    server: EmbeddedServer, start: Start, wait_until: WaitUntil
) -> None:
    worker = start()
    push(server, "says", "Привет 日本")
    wait_until(lambda: worker.has("0 running   1 done"), 20)
    push(server, "dies")
    push(server, "calls")
    wait_until(lambda: worker.has("0 running   3 done"), 20)
    assert worker.stop() == Exit.STOPPED
    lines = worker.lines
    assert lines.count("Привет 日本") == 2
    at = lines.index("begun")
    assert re.fullmatch(r"\d\d:\d\d:\d\d says +\w+ WARNING careful", lines[at + 1])
    assert lines[at + 2] == "ended"
    assert "ZeroDivisionError: division by zero" in lines
    assert "of a subprocess" in lines
    assert not any("running   " in line for line in lines)


def test_the_status_follows_the_width(
    server: EmbeddedServer, start: Start, wait_until: WaitUntil
) -> None:
    worker = start()
    wait_until(lambda: worker.has("0 running   0 done   0 failed"), 20)
    worker.columns = 20
    worker.resize(20)
    push(server, "ok")
    wait_until(lambda: worker.lines[-1] == "0 running   1 done", 20)
    assert worker.stop() == Exit.STOPPED


PLAIN = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO \S+ ok \w+ done in \d\.\d{3} s")


@pytest.mark.parametrize(
    "env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"CLICOLOR": "0"}], ids=lambda env: next(iter(env))
)
def test_a_dumb_terminal_and_who_wants_none_get_plain_lines(
    server: EmbeddedServer, start: Start, wait_until: WaitUntil, env: dict[str, str]
) -> None:
    worker = start(columns=200, **env)
    push(server, "ok")
    wait_until(lambda: any(map(PLAIN.fullmatch, worker.lines)), 20)
    assert worker.stop() == Exit.STOPPED
    assert "\x1b" not in worker.written


def test_json_on_a_terminal_is_json(
    server: EmbeddedServer, start: Start, wait_until: WaitUntil
) -> None:
    worker = start("--log-format", "json", columns=10_000)
    push(server, "ok")
    wait_until(lambda: server.processed == 1)
    assert worker.stop() == Exit.STOPPED
    assert all(line.startswith("{") for line in worker.lines)
    assert "\x1b" not in worker.written


def test_several_workers_have_colour_and_no_status(
    server: EmbeddedServer, start: Start, wait_until: WaitUntil
) -> None:
    worker = start("--processes", "2", columns=200)
    push(server, "ok")
    wait_until(lambda: "\x1b[32mdone\x1b[0m" in worker.written, 20)
    assert worker.stop() == Exit.STOPPED
    assert "running   " not in without_colour(worker.written)


def test_a_terminal_that_is_not_read_stops_no_worker(
    server: EmbeddedServer, start: Start, wait_until: WaitUntil
) -> None:
    worker = start()
    wait_until(lambda: worker.has("0 running"), 20)
    attributes = termios.tcgetattr(worker._ours)
    termios.tcflow(worker._ours, termios.TCOOFF)
    try:
        jids = [push(server, "ok") for _ in range(20)]
        wait_until(lambda: server.processed == len(jids), 20)
    finally:
        termios.tcflow(worker._ours, termios.TCOON)
        termios.tcsetattr(worker._ours, termios.TCSANOW, attributes)
    wait_until(lambda: worker.has("0 running   20 done"), 20)
    assert worker.stop() == Exit.STOPPED

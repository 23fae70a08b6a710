"""A worker whose log cannot be written, or whose program does odd things to it: it works on, and
ends with its true exit code.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from faktory import Client
from faktory.cli.exits import Exit
from faktory.server import EmbeddedServer
from faktory.wire import commands

from ..support import half
from .support import WORKER, Run, WaitUntil, push, reports, run_shell

PROGRAM = """
import logging
import multiprocessing
import os
import sys
import time

import faktory

log = logging.getLogger("app")

@faktory.job
def work():
    pass

@faktory.job
def long(seconds):
    time.sleep(seconds)

@faktory.job
def says(text, times=1):
    for _ in range(times):
        print(text)

@faktory.job
def logs(text, times):
    for number in range(times):
        log.info("%s %d", text, number)

@faktory.job
def fails(text):
    raise ValueError(text)

@faktory.job
def forks():
    log.info("before the fork")
    pid = os.fork()
    if not pid:
        log.info("in the child")
        os._exit(0)
    os.waitpid(pid, 0)
    child = multiprocessing.get_context("fork").Process(target=log.info, args=("in another",))
    child.start()
    child.join()
    log.info("after the fork")

@faktory.job
def dies(how):
    if how == "error":
        log.error("its last line")
    elif how == "stdout":
        print("its last line", flush=True)
    else:
        print("its last line", file=sys.stderr)
    os._exit(3)
"""

START = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ ")

TEXT_AND_JSON = ["text", "json"]
FORMATS = pytest.mark.parametrize("log_format", TEXT_AND_JSON)
ONE_AND_TWO: list[tuple[str, ...]] = [(), ("--processes", "2")]
TEXT_OF_ONE_AND_JSON_OF_TWO = [
    ("--log-format", log_format, *processes)
    for log_format, processes in zip(TEXT_AND_JSON, ONE_AND_TWO, strict=True)
]


@pytest.fixture(autouse=True)
def program(folder: Path) -> None:
    (folder / "program.py").write_text(PROGRAM)


class Worker:
    """A worker with a pipe for both its outputs, which is read only when a test does so."""

    def __init__(self, process: subprocess.Popen[bytes], reader: int) -> None:
        self.process = process
        self._reader = reader
        self._got = b""

    def stop(self) -> int:
        """Send TERM; return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)

    def read(self) -> list[str]:
        """Return what it has written up to now, by line."""
        with suppress(BlockingIOError):
            while piece := os.read(self._reader, 1 << 20):
                self._got += piece
        return self._got.decode().split("\n")[:-1]

    def leave(self) -> None:
        """Be a reader that is gone."""
        os.close(self._reader)
        self._reader = -1

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(15)
        if self._reader >= 0:
            os.close(self._reader)


Start = Callable[..., Worker]


@pytest.fixture
def start(folder: Path, server: EmbeddedServer) -> Iterator[Start]:
    """`start("2>/dev/full", "-c", "1", full=True)`: a worker, its output as a shell would have it;
    `full`: its pipe is full; `blocking`: as pipes are.
    """
    started: list[Worker] = []

    def start(redirect: str = "", *flags: str, full: bool = False, blocking: bool = True) -> Worker:
        reader, descriptor = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(descriptor, False)
        with suppress(BlockingIOError):
            while full:
                os.write(descriptor, b"." * 4095 + b"\n")
        os.set_blocking(descriptor, blocking)
        process = run_shell(
            f'exec "$@" {redirect}',
            [sys.executable, "-m", WORKER, "-r", "program", "-c", "2", "-t", "5", *flags],
            folder,
            server.url,
            descriptor,
        )
        os.close(descriptor)
        worker = Worker(process, reader)
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.end()


def records(lines: list[str]) -> list[str]:
    """Return the messages of lines in either format, but for those that filled the pipe."""
    lines = [line for line in lines if not line.startswith("....")]
    return [json.loads(line)["message"] if line.startswith("{") else line for line in lines]


@half(log_format=TEXT_AND_JSON, processes=ONE_AND_TWO)
def test_a_reader_that_is_gone_ends_no_worker(
    server: EmbeddedServer,
    start: Start,
    wait_until: WaitUntil,
    log_format: str,
    processes: tuple[str, ...],
) -> None:
    worker = start("", "--log-format", log_format, *processes)
    wait_until(worker.read)
    worker.leave()
    jids = [push(server, "says", "hello") for _ in range(3)] if log_format == "json" else []
    jids += [push(server, "work"), push(server, "logs", "text", 1000), push(server, "long", 1)]
    wait_until(lambda: server.processed == len(jids) - 1)
    assert worker.stop() == Exit.STOPPED
    assert [reports(server, jid) for jid in jids] == [["ACK"]] * len(jids)


@half(
    redirect=["2>/dev/full", ">/dev/full 2>&1", "2>&-", ">&- <&-", ">&- 2>&- <&-"],
    flags=TEXT_OF_ONE_AND_JSON_OF_TWO,
)
def test_a_log_that_cannot_be_written_ends_no_worker(
    server: EmbeddedServer,
    start: Start,
    wait_until: WaitUntil,
    redirect: str,
    flags: tuple[str, ...],
) -> None:
    worker = start(redirect, *flags)
    jids = [push(server, "says", "FLUSH"), push(server, "work"), push(server, "logs", "x", 100)]
    wait_until(lambda: server.processed == 3)
    assert worker.stop() == Exit.STOPPED
    assert [reports(server, jid) for jid in jids] == [["ACK"]] * 3
    assert {verb for verb, _ in server.commands} <= {
        "PUSH",
        "FETCH",
        "ACK",
        "BEAT",
        "END",
        "HELLO",
        "INFO",
    }


@half(blocking=[True, False], flags=TEXT_OF_ONE_AND_JSON_OF_TWO)
def test_a_pipe_that_nobody_reads_stops_no_worker(
    server: EmbeddedServer,
    start: Start,
    wait_until: WaitUntil,
    flags: tuple[str, ...],
    blocking: bool,
) -> None:
    worker = start("", *flags, full=True, blocking=blocking)
    jids = [push(server, "logs", "x", 9000)] + [push(server, "work") for _ in range(20)]
    wait_until(lambda: server.processed == 21)
    assert worker.stop() == Exit.STOPPED
    assert [reports(server, jid) for jid in jids] == [["ACK"]] * 21


@FORMATS
def test_dropped_lines_are_counted_and_the_count_is_logged_when_it_flows_again(
    server: EmbeddedServer, start: Start, wait_until: WaitUntil, log_format: str
) -> None:
    worker = start("", "--log-format", log_format, full=True)
    push(server, "logs", "text", 10_000)
    wait_until(lambda: server.processed == 1)

    def read() -> list[str]:
        return [line for line in worker.read() if "lines of the log were dropped" in line]

    wait_until(read)
    push(server, "says", "") if log_format == "json" else push(server, "work")
    wait_until(lambda: server.processed == 2)
    assert worker.stop() == Exit.STOPPED
    lines = records(worker.read())
    counts = [re.search(r"(\d+) lines of the log were dropped: they were not", x) for x in lines]
    dropped = sum(int(found[1]) for found in counts if found)
    written = [line for line in lines if re.search(r"text \d+$", line)]
    assert dropped > 1000
    # Of those 10,000, and of the worker's own "done".
    assert 10_000 <= dropped + len(written) <= 10_001
    numbers = [int(line.split()[-1]) for line in written]
    assert numbers == sorted(numbers)
    assert "stopped, every job answered" in lines[-1]


def test_printed_text_that_nobody_reads_keeps_no_worker_at_the_end(
    server: EmbeddedServer, start: Start, wait_until: WaitUntil, folder: Path
) -> None:
    worker = start("2>log", full=True)
    jid = push(server, "says", "hello")  # it stays in Python's buffer
    wait_until(lambda: server.processed == 1)
    assert worker.stop() == Exit.STOPPED
    assert reports(server, jid) == ["ACK"]
    assert (folder / "log").read_text().endswith("stopped, every job answered\n")


@pytest.mark.parametrize("flags", TEXT_OF_ONE_AND_JSON_OF_TWO)
def test_what_a_job_forks_logs_once_and_nothing_twice(
    server: EmbeddedServer,
    start: Start,
    wait_until: WaitUntil,
    flags: tuple[str, ...],
) -> None:
    worker = start("", *flags)
    push(server, "forks")
    wait_until(lambda: server.processed == 1)
    assert worker.stop() == Exit.STOPPED
    lines = records(worker.read())
    for text in ("before the fork", "in the child", "in another", "after the fork", "every job"):
        count = 1 if "fork" in text or "in " in text else 1 + 2 * ("--processes" in flags)
        assert sum(text in line for line in lines) == count, text
    assert not any("Error" in line for line in lines)


@FORMATS
@pytest.mark.parametrize("how", ["error", "stdout", "stderr"])
def test_the_last_line_of_a_process_that_dies_is_there(
    server: EmbeddedServer, start: Start, log_format: str, how: str
) -> None:
    worker = start("", "-c", "1", "--log-format", log_format)
    push(server, "dies", how)
    assert worker.process.wait(15) == 3
    assert "its last line" in records(worker.read())[-1]


# What a log quotes


def test_no_line_can_be_forged(server: EmbeddedServer, start: Start, wait_until: WaitUntil) -> None:
    fake = "2026-01-02 03:04:05,678 CRITICAL MainThread forged"
    nasty = f"\n{fake}\r\x1b[2J\x9b\u2028\u202e{fake}\x85"
    worker = start("", "-c", "1")
    with Client(server.url) as client:
        for jobtype, jid, args in (
            (f"unknown{nasty}", f"12345678{nasty}", []),
            ("fails", "x" * 100_000, [nasty]),
            ("logs", f"23456789{nasty}", [nasty, 1]),
            ("work", f"34567890{nasty}", []),
        ):
            # By no client of ours: that refuses such a jid.
            job = {"jobtype": jobtype, "jid": jid, "args": args, "queue": "default"}
            client.exchange(commands.push(job))
    wait_until(lambda: server.processed == 4)
    assert worker.stop() == Exit.STOPPED
    text = "\n".join(worker.read())
    assert "forged" in text
    assert "12345678\\n2026" in text
    assert not re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]", text)
    lines = text.split("\n")
    logged = [line for line in lines if line[:1].isdigit()]
    assert all(START.match(line) for line in logged)
    assert not any(line.startswith(fake[:30]) for line in lines)
    assert max(map(len, lines)) < 40_000


@FORMATS
def test_a_line_of_five_megabytes_is_cut(
    server: EmbeddedServer, start: Start, wait_until: WaitUntil, log_format: str
) -> None:
    worker = start("", "-c", "1", "--log-format", log_format)
    jids = [push(server, "logs", "x" * 5_000_000, 1), push(server, "fails", "y" * 5_000_000)]
    if log_format == "json":
        jids.append(push(server, "says", "z" * 5_000_000))

    def processed() -> bool:
        worker.read()
        return server.processed == len(jids)

    wait_until(processed)
    assert worker.stop() == Exit.STOPPED
    lines = worker.read()
    assert max(map(len, lines)) < 140_000
    assert "characters ..." in "".join(lines)
    assert records(lines)


# What a program does to it

SILENCING = """
import logging.config

from program import *

def configure():
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": True})

@faktory.job
def configures():
    configure()
    faktory.current_job().logger.info("of a job")
"""


@half(log_format=TEXT_AND_JSON, where=["module", "startup", "job"])
def test_a_configuration_of_the_program_does_not_silence_the_worker(
    server: EmbeddedServer,
    run: Run,
    folder: Path,
    wait_until: WaitUntil,
    log_format: str,
    where: str,
) -> None:
    call = {"module": "configure()", "startup": 'faktory.on("startup", configure)', "job": ""}
    (folder / "silencing.py").write_text(f"{SILENCING}\n{call[where]}\n")
    worker = run(WORKER, "-r", "silencing", "--log-format", log_format, url=server.url)
    wait_until(lambda: server.workers)
    jids = [push(server, name) for name in ("work", "configures", "work")]
    wait_until(lambda: server.processed == 3)
    worker.send(signal.SIGTERM)
    assert worker.wait() == Exit.STOPPED
    assert all(f"{jid} done in" in worker.said for jid in jids[1:])
    assert "of a job" in worker.said
    assert "stopped, every job answered" in worker.said


BROKEN = """
import logging

from program import *

class Broken(logging.Handler):
    def handle(self, record):
        raise KeyError("broken")

def broken(*args, **kwargs):
    raise KeyError("broken")

@lambda function: faktory.on("startup", function)
def breaks():
    if {what!r} == "factory":
        logging.setLogRecordFactory(broken)
    elif {what!r} == "filter":
        logging.getLogger("faktory.worker").addFilter(broken)
        logging.getLogger("faktory.worker.job").addFilter(broken)
        logging.getLogger("faktory.connection").addFilter(broken)
    else:
        logging.getLogger().handlers.insert(0, Broken())
"""


@half(processes=ONE_AND_TWO, what=["handler", "filter", "factory"])
def test_a_log_of_the_program_that_raises_ends_no_worker(
    server: EmbeddedServer,
    run: Run,
    folder: Path,
    wait_until: WaitUntil,
    processes: tuple[str, ...],
    what: str,
) -> None:
    source = BROKEN.replace("{what!r}", repr(what))
    (folder / "broken.py").write_text(source)
    flags = ["-r", "broken", "-c", "2", "-v", "--log-format", "json", *processes]
    worker = run(WORKER, *flags, url=server.url)
    jids = [push(server, "work"), push(server, "fails", "text"), push(server, "says", "text")]
    wait_until(lambda: server.processed + server.failures >= 4)
    worker.send(signal.SIGTTIN)
    worker.send(signal.SIGTERM)
    assert worker.wait() == Exit.STOPPED
    assert [reports(server, jid) for jid in jids] == [["ACK"], ["FAIL"], ["ACK"]]


def test_stacks_are_logged_once_a_second_at_most(
    server: EmbeddedServer, run: Run, wait_until: WaitUntil
) -> None:
    worker = run(WORKER, "-r", "program", "-c", "1", url=server.url)
    wait_until(lambda: server.workers)
    for _ in range(50):
        worker.send(signal.SIGTTIN)
    wait_until(lambda: "thread MainThread" in worker.said)
    worker.send(signal.SIGTERM)
    assert worker.wait() == Exit.STOPPED
    assert 1 <= worker.said.count("WARNING MainThread thread MainThread") <= 3


RECONFIGURES = """
import io
import sys

from program import *

for stream in (sys.stdout, sys.stderr):
    stream.reconfigure(line_buffering=True, encoding="utf-8", errors="replace", newline=None)
    for name in dir(io.TextIOWrapper):
        if not name.startswith("_"):
            try:
                getattr(stream, name)
            except io.UnsupportedOperation:
                pass
    assert (stream.line_buffering, stream.write_through, stream.mode) == (True, False, "w")
    assert stream.name in ("<stdout>", "<stderr>")
    assert not stream.isatty() and not stream.closed and stream.newlines is None
    assert stream.encoding == "utf-8" and stream.errors == "replace"
    stream.writelines(["one\\n", "two\\n"])
"""


def test_standard_streams_in_json_have_what_programs_use(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    (folder / "reconfigures.py").write_text(RECONFIGURES)
    worker = run(WORKER, "-r", "reconfigures", "--log-format", "json", url=server.url)
    wait_until(lambda: server.workers)
    worker.send(signal.SIGTERM)
    assert worker.wait() == Exit.STOPPED
    printed: list[dict[str, Any]] = [json.loads(line) for line in worker.printed.splitlines()]
    assert [each["message"] for each in printed] == ["one", "two"]

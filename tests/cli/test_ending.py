"""How the process of `faktory-worker` ends: with what its jobs have started."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from faktory.cli.exits import Exit
from faktory.server import EmbeddedServer

from .support import WORKER, Process, Run, WaitUntil, alive, push, reports

LEAVES = """
import atexit
import multiprocessing
import os
import subprocess
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import faktory
from faktory import Producer

@faktory.job
def executor():
    ThreadPoolExecutor(1).submit(time.sleep, 60)

@faktory.job
def idle_executor():
    ThreadPoolExecutor(1).submit(print, "done").result()

@faktory.job
def thread():
    threading.Thread(target=time.sleep, args=(60,), name="left", daemon=False).start()

@faktory.job
def short_thread():
    def work():
        time.sleep(1)
        print("the thread has ended", flush=True)
    threading.Thread(target=work, daemon=False).start()

@faktory.job
def process():
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,)).start()

@faktory.job
def pool():
    ProcessPoolExecutor(1, multiprocessing.get_context("fork")).submit(time.sleep, 60)

@faktory.job
def subprocesses():
    subprocess.Popen(["sleep", "60"], stdin=-1, stdout=-1, stderr=-1)

@faktory.job
def at_exit():
    atexit.register(print, "called last", flush=True)
    atexit.register(time.sleep, 60)
    atexit.register(print, "called first", flush=True)

@faktory.job
def stubborn():
    def sleep():
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
    atexit.register(sleep)

@faktory.job
def unsent(url, stuck):
    producer = Producer(url)
    for _ in range(10):
        producer.push({"jobtype": "other", "args": []})
    if stuck:
        time.sleep(60)
"""

Leave = Callable[..., Process]


@pytest.fixture
def leave(run: Run, server: EmbeddedServer, folder: Path, wait_until: WaitUntil) -> Leave:
    """`leave("thread", *args)`: run a job, then send TERM."""
    (folder / "leaves.py").write_text(LEAVES)

    def leave(
        jobtype: str, *args: object, grace: float = 0.5, flags: tuple[str, ...] = ()
    ) -> Process:
        worker = run(WORKER, "-r", "leaves", "-t", str(grace), "-c", "1", *flags, url=server.url)
        jid = push(server, jobtype, *args)
        wait_until(lambda: f"{jobtype} {jid} start" in worker.said)
        if not (args and args[-1]):
            wait_until(lambda: reports(server, jid) == ["ACK"])
        worker.send(signal.SIGTERM)
        return worker

    return leave


@pytest.mark.parametrize("flags", [(), ("--processes", "1")])
@pytest.mark.parametrize(
    ("jobtype", "line"),
    [
        ("executor", "cuts what jobs have started: thread ThreadPoolExecutor-0_0"),
        ("thread", "cuts what jobs have started: thread left"),
        ("process", "terminates what jobs have started: process "),
        ("pool", "cuts what"),
        ("at_exit", "a function of the program at exit"),
        ("stubborn", "a function of the program at exit"),
    ],
)
def test_what_a_job_has_started_is_cut_with_a_line_and_the_true_exit_code(
    leave: Leave, jobtype: str, line: str, flags: tuple[str, ...]
) -> None:
    worker = leave(jobtype, flags=flags)
    assert worker.wait() == Exit.STOPPED
    assert "stopped, every job answered" in worker.said
    assert line in worker.said
    if jobtype == "at_exit":
        assert worker.printed == "called first\ncalled last\n"


@pytest.mark.parametrize("jobtype", ["idle_executor", "subprocesses"])
def test_what_python_does_not_wait_for_is_not_mentioned(leave: Leave, jobtype: str) -> None:
    worker = leave(jobtype)
    assert worker.process.wait(10) == Exit.STOPPED
    assert worker.said.splitlines()[-1].endswith("stopped, every job answered")


def test_a_thread_that_ends_within_the_grace_period_is_waited_for(leave: Leave) -> None:
    worker = leave("short_thread", grace=20)
    assert worker.wait() == Exit.STOPPED
    assert worker.printed == "the thread has ended\n"
    assert "cuts" not in worker.said


def test_the_second_signal_does_not_wait_for_what_is_left(
    leave: Leave, wait_until: WaitUntil
) -> None:
    worker = leave("thread", grace=1000)
    wait_until(lambda: "seconds for what jobs have started: thread left" in worker.said)
    worker.send(signal.SIGTERM)
    assert worker.wait() == Exit.STOPPED


def test_jobs_of_a_producer_are_sent_although_a_job_was_abandoned(
    server: EmbeddedServer, leave: Leave
) -> None:
    worker = leave("unsent", server.url, 1)
    assert worker.wait() == Exit.ABANDONED
    assert len(server.queues["default"]) == 10
    assert "are pushed" not in worker.said


@pytest.mark.parametrize("stuck", [0, 1])
def test_jobs_of_a_producer_that_cannot_be_sent_are_counted(
    leave: Leave, dead_url: str, stuck: int
) -> None:
    worker = leave("unsent", dead_url, stuck)
    began = time.monotonic()
    assert worker.wait() == (Exit.ABANDONED if stuck else Exit.STOPPED)
    assert time.monotonic() - began < 12
    assert worker.said.count("10 jobs") == 1


def test_a_handler_that_cannot_be_cut_short_does_not_keep_the_process(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    (folder / "stuck.py").write_text(
        "from jobs import *\nimport hashlib, faktory\n"
        "def hang():\n"
        "    print('hangs', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha512', b'x', b'y', 2**31 - 1)\n"  # many minutes in C
        "faktory.on('quiet', hang)\n"
    )
    worker = run(WORKER, "-r", "stuck", "-t", "0.5", url=server.url)
    jid = push(server, "spin", str(folder / "began"))
    wait_until((folder / "began").exists)
    worker.send(signal.SIGTERM)
    assert worker.wait() == Exit.STOPPED
    assert reports(server, jid) == ["FAIL"]
    assert "a handler of 'quiet' does not end, and cannot be cut short" in worker.said


@pytest.mark.parametrize("flags", [(), ("--processes", "1")])
def test_a_startup_handler_that_blocks_does_not_keep_the_command(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil, flags: tuple[str, ...]
) -> None:
    (folder / "stuck.py").write_text(
        "from jobs import *\nimport time, faktory\n"
        "def hang():\n    print('hangs', flush=True)\n    time.sleep(60)\n"
        "faktory.on('startup', hang)\n"
    )
    worker = run(WORKER, "-r", "stuck", "-t", "1", *flags, url=server.url)
    wait_until(lambda: worker.printed)
    worker.send(signal.SIGTERM)
    assert worker.wait() == Exit.STOPPED


@pytest.mark.parametrize(
    ("flags", "limit"), [(("-c", "10"), 12), (("-c", "2", "--processes", "20"), 16)]
)
def test_too_few_open_files_are_an_error_in_one_line(
    server: EmbeddedServer, run: Run, folder: Path, flags: tuple[str, ...], limit: int
) -> None:
    (folder / "limited.py").write_text(
        "import resource, sys\n"
        "from faktory.cli.worker.main import main\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))\nsys.exit(main())\n"
    )
    worker = run("limited", "-r", "jobs", *flags, url=server.url)
    assert worker.wait() == Exit.CANNOT_START
    assert "open files, and the system gives" in worker.said
    assert "raise the limit (ulimit -n" in worker.said
    assert worker.said.count("\n") == 1
    assert server.commands == []


def test_a_supervisor_without_open_files_tries_again(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    (folder / "limited.py").write_text(
        "import os, resource, signal, sys\n"
        "from faktory.cli.worker import processes\n"
        "from faktory.cli.worker.main import main\n"
        "on_signal = processes.WorkerSupervisor.on_signal\n"
        "def limit(self, number):\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (256 if soft() < 256 else free(), 256))\n"
        "def free():\n"
        "    number = os.dup(0)\n"
        "    os.close(number)\n"
        "    return number\n"
        "def soft():\n"
        "    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]\n"
        "processes.WorkerSupervisor.on_signal = lambda self, number: (\n"
        "    limit(self, number) if number == signal.SIGUSR1 else on_signal(self, number))\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
        "sys.exit(main())\n"
    )
    supervisor = run("limited", "-r", "jobs", "--processes", "2", "-c", "1", url=server.url)
    wait_until(lambda: len(server.workers) == 2)
    supervisor.send(signal.SIGUSR1)
    pid = int(supervisor.said.partition("(process ")[2].partition(")")[0])
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: "cannot be started: [Errno 24] Too many open files" in supervisor.said)
    supervisor.send(signal.SIGUSR1)
    wait_until(lambda: supervisor.said.count(" started") == 3)
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait() == Exit.STOPPED
    assert not alive(pid)

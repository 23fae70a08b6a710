from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from faktory import Client
from faktory.cli.exits import Exit
from faktory.server import EmbeddedServer

from .conftest import Process

Run = Callable[..., Process]
WaitUntil = Callable[..., object]

WORKER = "faktory.cli.worker"

QUICK = """
import sys
from faktory.cli import parent
from faktory.cli.worker import main

parent.backoff = lambda attempt, random: 0.01
parent.PATIENCE = 0.5
sys.exit(main())
"""
"""The command with less patience; the parent has this alone of what the folder holds."""

SLOW = """
import os
import time

import faktory

@faktory.job
def slow(path):
    open(path, "w").close()
    while not os.path.exists(path + ".go"):
        time.sleep(0.01)

@faktory.job
def dies():
    os._exit(42)

@faktory.job
def tells(path):
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\\n")
"""


@pytest.fixture(autouse=True)
def programs(folder: Path) -> None:
    (folder / "quick.py").write_text(QUICK)
    (folder / "slow.py").write_text(SLOW)


def push(server: EmbeddedServer, jobtype: str, *args: object) -> str:
    with Client(server.url) as client:
        return client.push({"jobtype": jobtype, "args": list(args), "retry": 0})


def reports(server: EmbeddedServer, jid: str) -> list[str]:
    return [verb for verb, text in server.commands if verb in ("ACK", "FAIL") and jid in text]


def pids(parent: Process) -> list[int]:
    """The workers that it has started up to now."""
    return [int(pid) for pid in re.findall(r"worker \d+ \(process (\d+)\) started", parent.said)]


def ready(parent: Process) -> int:
    """How many of them were ready, with -v."""
    return len(re.findall(r"worker \d+ \(process \d+\) is ready", parent.said))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# Running and stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_as_many_workers_as_asked_for_run_jobs_until_the_parent_is_told_to_stop(
    server: EmbeddedServer,
    run: Run,
    folder: Path,
    wait_until: WaitUntil,
    number: signal.Signals,
) -> None:
    parent = run(WORKER, "-r", "jobs", "--processes", "3", "-c", "2", "-v", url=server.url)
    wait_until(lambda: ready(parent) == 3)
    jid = push(server, "touch", str(folder / "done"))
    wait_until((folder / "done").exists)
    wait_until(lambda: len(server.workers) == 3)
    parent.send(number)
    assert parent.wait() == Exit.STOPPED
    assert reports(server, jid) == ["ACK"]
    assert "concurrency: 2, 3 workers" in parent.said
    assert parent.said.splitlines()[-1].endswith("stopped, every job answered")
    assert not any(map(alive, pids(parent)))
    assert "Traceback" not in parent.said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_stops_it_as_one_to_the_parent_does(
    server: EmbeddedServer,
    run: Run,
    folder: Path,
    wait_until: WaitUntil,
    number: signal.Signals,
) -> None:
    parent = run(WORKER, "-r", "slow", "--processes", "2", url=server.url)
    jid = push(server, "slow", str(folder / "began"))
    wait_until((folder / "began").exists)
    os.killpg(parent.process.pid, number)
    wait_until(lambda: "Shutdown: waiting up to 25 seconds for 1 jobs" in parent.said)
    (folder / "began.go").touch()
    assert parent.wait() == Exit.STOPPED
    assert reports(server, jid) == ["ACK"]


def test_the_second_signal_does_not_wait(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    flags = ["-r", "slow", "--processes", "2", "-t", "1e12"]
    parent = run(WORKER, *flags, url=server.url)
    jid = push(server, "slow", str(folder / "began"))
    wait_until((folder / "began").exists)
    parent.send(signal.SIGTERM)
    wait_until(lambda: "Shutdown: waiting up to 1e+12 seconds for 1 jobs" in parent.said)
    parent.send(signal.SIGTERM)
    assert parent.wait() == Exit.STOPPED
    assert reports(server, jid) == ["FAIL"]


def test_jobs_left_behind_by_one_worker_show_in_the_exit_code(
    server: EmbeddedServer, run: Run, wait_until: WaitUntil
) -> None:
    parent = run(WORKER, "-r", "jobs", "--processes", "2", "-t", "0.1", url=server.url)
    jid = push(server, "stuck")
    wait_until(lambda: f"stuck {jid} start" in parent.said)
    parent.send(signal.SIGTERM)
    assert parent.wait() == Exit.LEFT_BEHIND
    assert reports(server, jid) == ["FAIL"]
    assert "ended with exit code 5 (LEFT_BEHIND)" in parent.said


def test_a_worker_that_does_not_answer_is_killed_after_the_grace_period(
    server: EmbeddedServer, run: Run, wait_until: WaitUntil
) -> None:
    flags = ["-r", "jobs", "--processes", "2", "-t", "0.1", "-v"]
    parent = run("quick", *flags, url=server.url)
    wait_until(lambda: ready(parent) == 2)
    os.kill(pids(parent)[0], signal.SIGSTOP)
    parent.send(signal.SIGTERM)
    assert parent.wait() == Exit.LEFT_BEHIND
    assert f"worker 1 (process {pids(parent)[0]}) does not end, and is killed" in parent.said
    assert "was killed by SIGKILL" in parent.said


def test_all_get_quiet_and_show_their_threads_when_asked_to(
    server: EmbeddedServer, run: Run, wait_until: WaitUntil
) -> None:
    parent = run(WORKER, "-r", "jobs", "--processes", "2", "-c", "1", "-v", url=server.url)
    wait_until(lambda: ready(parent) == 2)
    parent.send(signal.SIGTTIN)
    wait_until(lambda: parent.said.count("thread MainThread:") == 2)
    parent.send(signal.SIGTSTP)
    wait_until(lambda: parent.said.count("quiet: no more jobs are fetched\n") == 2)
    os.kill(pids(parent)[0], signal.SIGKILL)
    wait_until(lambda: "was killed by SIGKILL; quiet, so it is not replaced" in parent.said)
    assert len(pids(parent)) == 2
    parent.send(signal.SIGTERM)
    assert parent.wait() == Exit.STOPPED


def test_workers_stop_when_their_parent_is_gone(
    server: EmbeddedServer, run: Run, wait_until: WaitUntil
) -> None:
    parent = run(WORKER, "-r", "jobs", "--processes", "2", "-v", url=server.url)
    wait_until(lambda: ready(parent) == 2)
    parent.send(signal.SIGKILL)
    parent.process.wait()
    wait_until(lambda: not any(map(alive, pids(parent))))
    wait_until(lambda: parent.silent)
    assert parent.said.count("the parent of this worker is gone, so it stops") == 2
    assert parent.said.count("stopped, every job answered") == 2


def test_it_can_be_stopped_while_modules_are_imported(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    (folder / "long.py").write_text("import time\nprint('begins')\ntime.sleep(60)\n")
    parent = run(WORKER, "-r", "long", "--processes", "2", url=server.url)
    wait_until(lambda: parent.printed.count("begins") == 2)
    parent.send(signal.SIGTERM)
    assert parent.wait() == Exit.STOPPED


# One that ends


def test_a_worker_that_is_killed_or_ends_is_replaced_and_its_sibling_left_alone(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    flags = ["-r", "slow", "--processes", "2", "-c", "1", "-v"]
    parent = run("quick", *flags, url=server.url)
    wait_until(lambda: ready(parent) == 2)
    jid = push(server, "slow", str(folder / "began"))
    wait_until(lambda: (folder / "began").exists() and f"slow {jid} start" in parent.said)
    (busy,) = [pid for pid in pids(parent) if f"{pid} faktory-1 slow {jid} start" in parent.said]
    (idle,) = [pid for pid in pids(parent) if pid != busy]
    os.kill(idle, signal.SIGKILL)
    wait_until(lambda: ready(parent) == 3)
    assert re.search(r"was killed by SIGKILL; another takes its place in 0\.0 s", parent.said)
    push(server, "dies")
    wait_until(lambda: ready(parent) == 4)
    assert "ended with exit code 42; another takes its place" in parent.said
    assert alive(busy)
    (folder / "began.go").touch()
    wait_until(lambda: reports(server, jid) == ["ACK"])
    parent.send(signal.SIGTERM)
    assert parent.wait() == Exit.STOPPED


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("1 / 0", "ended with exit code 3 (IMPORT), the 5th worker running"),
        ("import os; os._exit(0)", "ended with exit code 0 (STOPPED), the 5th worker running"),
    ],
)
def test_five_workers_running_that_end_before_they_are_ready_end_the_parent(
    server: EmbeddedServer, run: Run, folder: Path, source: str, told: str
) -> None:
    (folder / "broken.py").write_text(source)
    parent = run("quick", "-r", "broken", "--processes", "1", url=server.url)
    assert parent.wait() == Exit.GAVE_UP == 8
    assert len(pids(parent)) == 5
    assert told in parent.said
    assert parent.said.splitlines()[-1].startswith("faktory-worker: gave up: workers could not")
    assert parent.said.count("ZeroDivisionError: division by zero\n") in (0, 5)


def test_a_wrong_password_ends_the_parent_too(run: Run) -> None:
    with EmbeddedServer(password="right") as server:
        parent = run(
            "quick", "-r", "jobs", "--processes", "1", url=f"tcp://:wrong@{server.address.place}"
        )
        assert parent.wait() == Exit.GAVE_UP
    assert "ended with exit code 4 (REFUSED), the 5th worker running" in parent.said


def test_workers_that_are_killed_before_they_are_ready_never_end_the_parent(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    (folder / "unlucky.py").write_text(
        "from jobs import *\n"
        "import os, signal\n"
        "from pathlib import Path\n"
        "tries = Path('tries')\n"
        "tries.write_text((tries.read_text() if tries.exists() else '') + 'x')\n"
        "if len(tries.read_text()) <= 7: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    parent = run("quick", "-r", "unlucky", "--processes", "1", "-v", url=server.url)
    wait_until(lambda: ready(parent) == 1)
    assert len(pids(parent)) == 8
    parent.send(signal.SIGTERM)
    assert parent.wait() == Exit.STOPPED


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["-q", "a,2", "-q", "b", "-r", "jobs"], "-q b has no weight and others have one"),
        ([], "no job type is registered"),
    ],
)
def test_what_would_be_wrong_in_each_worker_is_told_once(
    run: Run, flags: list[str], told: str
) -> None:
    parent = run(WORKER, "--processes", "3", *flags)
    assert parent.wait() == Exit.USAGE
    assert parent.said.startswith(f"faktory-worker: {told}")
    assert parent.said.count("\n") == 1


# A real server


def test_workers_run_the_jobs_of_a_real_server(
    real_server_url: str, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    queue = f"processes-{os.getpid()}-{os.urandom(4).hex()}"
    told = folder / "told"
    told.touch()
    jobs = [{"jobtype": "tells", "args": [str(told)], "queue": queue} for _ in range(200)]
    with Client(real_server_url) as client:
        client.push_bulk(jobs)
        flags = ["-r", "slow", "--processes", "3", "-q", queue, "-c", "2", "-v"]
        parent = run("quick", *flags, url=real_server_url)
        wait_until(lambda: told.read_text().count("\n") == 200)
        wait_until(lambda: ready(parent) == 3)
        client.push_bulk(jobs)
        wait_until(lambda: told.read_text().count("\n") == 400)
        os.kill(pids(parent)[0], signal.SIGKILL)
        wait_until(lambda: ready(parent) == 4)
        parent.send(signal.SIGTERM)
        assert parent.wait() == Exit.STOPPED
        client.remove_queues(queue)
    assert parent.said.count("stopped, every job answered") == 4

"""`--burst`: the command ends when the queues are empty and no job runs."""

from __future__ import annotations

import os
import signal
import uuid
from pathlib import Path

import pytest

from faktory import Client
from faktory.cli.exits import Exit
from faktory.cli.worker.main import main
from faktory.cli.worker.processes import WorkerChild, WorkerSupervisor
from faktory.cli.worker.supervised import Ready
from faktory.jobs.context import reservation_clock
from faktory.server import EmbeddedServer

from .support import WORKER, Run, WaitUntil, call, pids, push, reports

JOBS = """
import os
import signal
import time

import faktory

@faktory.job
def grow(depth):
    for _ in range(2 if depth else 0):
        grow.set(queue=faktory.current_job().queue).perform_async(depth - 1)

@faktory.job(retry=1)
def fails():
    raise ValueError("wrong")

@faktory.job
def slow(path):
    open(path, "w").close()
    while not os.path.exists(path + ".go"):
        time.sleep(0.01)

@faktory.job
def dies():
    os.kill(os.getpid(), signal.SIGKILL)

if os.environ.get("DIES_AT_ITS_END"):
    faktory.on("shutdown", lambda: os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.fixture(autouse=True)
def program(folder: Path) -> None:
    (folder / "bursts.py").write_text(JOBS)


def waiting(server: EmbeddedServer) -> int:
    """Return how many jobs are queued or reserved."""
    return sum(len(jobs) for jobs in server.queues.values()) + len(server.working)


def test_the_command_runs_what_waits_and_what_that_pushes_and_ends_with_0(
    server: EmbeddedServer, run: Run
) -> None:
    push(server, "grow", 5)
    push(server, "fails")
    push(server, "grow", 0, at="2100-01-01T00:00:00Z")
    worker = run(WORKER, "-r", "bursts", "--burst", url=server.url)
    assert worker.wait() == Exit.STOPPED
    assert (server.processed, server.failures, waiting(server)) == (64, 1, 0)
    assert (len(server.retries), len(server.scheduled)) == (1, 1)
    assert worker.said.splitlines()[-1].endswith(
        "stopped with no job left (--burst), every job answered"
    )


def test_each_of_several_workers_ends_and_is_not_replaced(server: EmbeddedServer, run: Run) -> None:
    push(server, "grow", 7)
    flags = ["-r", "bursts", "--burst", "--processes", "2", "-c", "3"]
    supervisor = run(WORKER, *flags, url=server.url)
    assert supervisor.wait() == Exit.STOPPED
    assert (server.processed, server.failures, waiting(server)) == (255, 0, 0)
    assert len(pids(supervisor)) == 2
    assert (
        supervisor.said.count("ended with exit code 0 (STOPPED); it is not replaced (--burst)") == 2
    )


def test_a_worker_that_ends_by_max_jobs_is_replaced_until_no_job_is_left(
    server: EmbeddedServer, run: Run
) -> None:
    push(server, "grow", 4)
    flags = ["-r", "bursts", "--burst", "--processes", "1", "-c", "2", "--max-jobs", "10"]
    supervisor = run(WORKER, *flags, url=server.url)
    assert supervisor.wait() == Exit.STOPPED
    assert (server.processed, waiting(server)) == (31, 0)
    assert len(pids(supervisor)) in (3, 4)


def test_without_processes_max_jobs_ends_it_earlier(server: EmbeddedServer, run: Run) -> None:
    for _ in range(5):
        push(server, "grow", 0)
    flags = ["-r", "bursts", "--burst", "--max-jobs", "3", "-c", "1"]
    worker = run(WORKER, *flags, url=server.url)
    assert worker.wait() == Exit.STOPPED
    assert (server.processed, waiting(server)) == (3, 2)
    assert "stopped after 3 jobs (--max-jobs), every job answered" in worker.said


def test_a_worker_that_is_killed_is_replaced(server: EmbeddedServer, run: Run) -> None:
    push(server, "dies", retry=0)
    push(server, "grow", 3)
    supervisor = run(
        WORKER, "-r", "bursts", "--burst", "--processes", "1", "-c", "1", url=server.url
    )
    assert supervisor.wait() == Exit.STOPPED
    assert (server.processed, server.failures, waiting(server)) == (16, 1, 0)
    assert len(pids(supervisor)) == 2


def test_a_worker_that_is_killed_at_its_end_is_an_error(
    server: EmbeddedServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIES_AT_ITS_END", "1")
    push(server, "grow", 3)
    flags = ["-r", "bursts", "--burst", "--processes", "1", "-c", "1"]
    supervisor = run(WORKER, *flags, url=server.url)
    assert supervisor.wait() == Exit.ABANDONED
    assert (server.processed, waiting(server)) == (15, 0)
    (line,) = [line for line in supervisor.said.splitlines() if "it is not replaced" in line]
    assert "was killed by SIGKILL; it is not replaced (--burst)" in line
    assert "ERROR" in line


def test_a_worker_that_ends_with_a_job_is_an_error() -> None:
    supervisor = WorkerSupervisor(1, 1, 25, "tcp://127.0.0.1:1", burst=True)
    (worker,) = supervisor.children
    assert isinstance(worker, WorkerChild)
    worker.known, worker.drained = Ready("w1"), True
    supervisor.on_exit(worker, Exit.STOPPED)
    assert supervisor.code == Exit.STOPPED
    worker.jobs.write("thread", "held-12345678", reservation_clock() + 60)
    supervisor.on_exit(worker, Exit.STOPPED)
    assert supervisor.code == Exit.ABANDONED


@pytest.mark.parametrize("flags", [[], ["--processes", "1"]], ids=["alone", "supervised"])
def test_term_ends_it_as_any_worker(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil, flags: list[str]
) -> None:
    jid = push(server, "slow", str(folder / "began"))
    push(server, "grow", 3)
    worker = run(WORKER, "-r", "bursts", "--burst", "-c", "1", *flags, url=server.url)
    wait_until((folder / "began").exists)
    worker.send(signal.SIGTERM)
    wait_until(lambda: "Shutdown: waiting" in worker.said)
    (folder / "began.go").touch()
    assert worker.wait() == Exit.STOPPED
    assert reports(server, jid) == ["ACK"]
    assert waiting(server) == 1


@pytest.mark.parametrize("flags", [[], ["--processes", "2"]], ids=["alone", "supervised"])
def test_one_that_is_made_quiet_ends_with_its_last_job(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil, flags: list[str]
) -> None:
    jid = push(server, "slow", str(folder / "began"))
    worker = run(WORKER, "-r", "bursts", "--burst", "-c", "1", *flags, url=server.url)
    wait_until((folder / "began").exists)
    worker.send(signal.SIGTSTP)
    wait_until(lambda: "quiet: fetches no more jobs" in worker.said)
    (folder / "began.go").touch()
    assert worker.wait() == Exit.STOPPED
    assert reports(server, jid) == ["ACK"]


def test_it_cannot_reload(folder: Path) -> None:
    done = call("-r", "jobs.py", "--burst", "--reload", main=main, cwd=folder)
    assert done.code == Exit.USAGE
    assert "--burst ends when the queues are empty, and --reload goes on" in done.stderr


@pytest.mark.skipif("FAKTORY_URL" not in os.environ, reason="needs a real server: set FAKTORY_URL")
def test_several_workers_leave_nothing_on_a_real_server(run: Run) -> None:
    url, queue = os.environ["FAKTORY_URL"], f"burst-{uuid.uuid4().hex}"
    with Client(url) as client:
        before = client.info()["faktory"]["total_processed"]
        jobs = ({"jobtype": "grow", "args": [5], "queue": queue} for _ in range(30))
        assert client.push_bulk(jobs) == {}
        flags = ["-r", "bursts", "-q", queue, "--burst", "--processes", "2"]
        assert run(WORKER, *flags, url=url).wait(60) == Exit.STOPPED
        after = client.info()["faktory"]
        assert after["total_processed"] - before == 30 * 63
        assert after["queues"].get(queue, 0) == 0

"""`--max-jobs` and `--max-memory`: a worker ends after so many jobs, or when it is so large."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from faktory.cli.exits import Exit
from faktory.cli.worker import supervised
from faktory.cli.worker.main import main
from faktory.server import EmbeddedServer

from .support import WORKER, Process, Run, WaitUntil, call, pids, push, reports
from .test_processes import SLOW, stop

Reach = Callable[[str], tuple[Process, str]]


@pytest.fixture(autouse=True)
def program(folder: Path) -> None:
    (folder / "slow.py").write_text(SLOW)


@pytest.fixture
def reach_limit(server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil) -> Reach:
    """`reach_limit(grace)`: run a worker to its one job while another job, with this jid, runs."""

    def reach_limit(grace: str) -> tuple[Process, str]:
        flags = ["-r", "slow", "-c", "2", "--max-jobs", "1", "-t", grace]
        worker = run(WORKER, *flags, url=server.url)
        jid = push(server, "slow", str(folder / "began"))
        wait_until((folder / "began").exists)
        push(server, "note_pid", str(folder / "notes"))
        wait_until(lambda: "quiet: fetches no more jobs" in worker.said)
        return worker, jid

    return reach_limit


def test_a_worker_ends_after_so_many_jobs_and_logs_it(
    server: EmbeddedServer, run: Run, folder: Path
) -> None:
    jids = [push(server, "note_pid", str(folder / "notes")) for _ in range(5)]
    worker = run(WORKER, "-r", "slow", "-c", "1", "--max-jobs", "3", url=server.url)
    assert worker.wait() == Exit.STOPPED
    assert [reports(server, jid) for jid in jids] == [["ACK"]] * 3 + [[]] * 2
    assert worker.said.splitlines()[-1].endswith(
        "stopped after 3 jobs (--max-jobs), every job answered"
    )


def test_running_jobs_finish_first_whatever_the_grace_period(
    server: EmbeddedServer, folder: Path, reach_limit: Reach
) -> None:
    worker, jid = reach_limit("0")
    (folder / "began.go").touch()
    assert worker.wait() == Exit.STOPPED
    assert reports(server, jid) == ["ACK"]


def test_a_signal_ends_the_wait_for_running_jobs(
    server: EmbeddedServer, reach_limit: Reach
) -> None:
    worker, jid = reach_limit("0.1")
    assert stop(worker) == Exit.STOPPED
    assert reports(server, jid) == ["FAIL"]


def test_each_worker_that_ends_is_replaced_at_once(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    notes = folder / "notes"
    notes.touch()
    for _ in range(14):
        push(server, "note_pid", str(notes))
    flags = ["-r", "slow", "-c", "1", "--processes", "2", "--max-jobs", "2"]
    supervisor = run(WORKER, *flags, url=server.url)
    wait_until(lambda: notes.read_text().count("\n") == 14)
    assert stop(supervisor) == Exit.STOPPED
    ran = [int(line) for line in notes.read_text().split()]
    assert len(set(ran)) >= 7
    assert set(ran) <= set(pids(supervisor))
    assert all(ran.count(pid) <= 2 for pid in ran)
    assert "ended with exit code 0 (STOPPED); another takes its place\n" in supervisor.said


# --max-memory

GROWS = """
import faktory

kept = []

@faktory.job
def grow(mib):
    kept.append(b"x" * (mib << 20))
"""


@pytest.fixture
def grows(folder: Path) -> None:
    (folder / "grows.py").write_text(GROWS)


@pytest.mark.usefixtures("grows")
def test_a_worker_ends_after_the_job_with_which_it_exceeds_its_memory(
    server: EmbeddedServer, run: Run
) -> None:
    jids = [push(server, "grow", mib) for mib in (1, 150, 1)]
    worker = run(WORKER, "-r", "grows", "-c", "1", "--max-memory", "120", url=server.url)
    assert worker.wait() == Exit.STOPPED
    assert [reports(server, jid) for jid in jids] == [["ACK"], ["ACK"], []]
    last = worker.said.splitlines()[-1]
    assert re.search(r"stopped after 2 jobs with 1\d\d MiB \(--max-memory 120\), every job", last)
    assert "before its first job" not in worker.said


@pytest.mark.usefixtures("grows")
def test_a_worker_that_exceeds_its_memory_is_replaced(
    server: EmbeddedServer, run: Run, wait_until: WaitUntil
) -> None:
    jids = [push(server, "grow", mib) for mib in (150, 1, 150, 1)]
    flags = ["-r", "grows", "-c", "1", "--processes", "1", "--max-memory", "120"]
    supervisor = run(WORKER, *flags, url=server.url)
    wait_until(lambda: [reports(server, jid) for jid in jids] == [["ACK"]] * 4)
    assert stop(supervisor) == Exit.STOPPED
    assert len(pids(supervisor)) == 3


@pytest.mark.usefixtures("grows")
def test_a_limit_below_the_programs_own_size_is_a_warning(server: EmbeddedServer, run: Run) -> None:
    push(server, "grow", 1)
    worker = run(WORKER, "-r", "grows", "--max-memory", "1", url=server.url)
    assert worker.wait() == Exit.STOPPED
    assert worker.said.count("MiB before its first job, so a worker ends after each one") == 1


def test_a_system_that_does_not_show_its_memory_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised, "rss_kb", lambda: None)
    done = call("-r", "jobs.py", "--max-memory", "100", main=main, cwd=folder)
    assert done.code == Exit.USAGE
    assert "--max-memory: this system does not show how much memory is used" in done.stderr

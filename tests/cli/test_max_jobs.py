from __future__ import annotations

import signal
from pathlib import Path

import pytest

from faktory.cli.exits import Exit
from faktory.server import EmbeddedServer

from .support import WORKER, Run, WaitUntil, pids, push, reports
from .test_processes import SLOW


@pytest.fixture(autouse=True)
def program(folder: Path) -> None:
    (folder / "slow.py").write_text(SLOW)


def test_a_worker_ends_after_so_many_jobs_and_says_so(
    server: EmbeddedServer, run: Run, folder: Path
) -> None:
    jids = [push(server, "tells", str(folder / "told")) for _ in range(5)]
    worker = run(WORKER, "-r", "slow", "-c", "1", "--max-jobs", "3", url=server.url)
    assert worker.wait() == Exit.STOPPED
    assert [reports(server, jid) for jid in jids] == [["ACK"]] * 3 + [[]] * 2
    assert worker.said.splitlines()[-1].endswith(
        "stopped after 3 jobs (--max-jobs), every job answered"
    )


def test_what_runs_finishes_first_whatever_the_grace_period(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    flags = ["-r", "slow", "-c", "2", "--max-jobs", "1", "-t", "0"]
    worker = run(WORKER, *flags, url=server.url)
    jid = push(server, "slow", str(folder / "began"))
    wait_until((folder / "began").exists)
    push(server, "tells", str(folder / "told"))
    wait_until(lambda: "quiet: no more jobs are fetched" in worker.said)
    (folder / "began.go").touch()
    assert worker.wait() == Exit.STOPPED
    assert reports(server, jid) == ["ACK"]


def test_a_signal_cuts_the_waiting_short(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    flags = ["-r", "slow", "-c", "2", "--max-jobs", "1", "-t", "0.1"]
    worker = run(WORKER, *flags, url=server.url)
    jid = push(server, "slow", str(folder / "began"))
    wait_until((folder / "began").exists)
    push(server, "tells", str(folder / "told"))
    wait_until(lambda: "quiet: no more jobs are fetched" in worker.said)
    worker.send(signal.SIGTERM)
    assert worker.wait() == Exit.STOPPED
    assert reports(server, jid) == ["FAIL"]


def test_another_worker_takes_its_place_at_once_for_ever(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    told = folder / "told"
    told.touch()
    for _ in range(14):
        push(server, "tells", str(told))
    flags = ["-r", "slow", "-c", "1", "--processes", "2", "--max-jobs", "2"]
    parent = run(WORKER, *flags, url=server.url)
    wait_until(lambda: told.read_text().count("\n") == 14)
    parent.send(signal.SIGTERM)
    assert parent.wait() == Exit.STOPPED
    ran = [int(line) for line in told.read_text().split()]
    assert len(set(ran)) >= 7
    assert set(ran) <= set(pids(parent))
    assert all(ran.count(pid) <= 2 for pid in ran)
    assert "ended with exit code 0 (STOPPED); another takes its place\n" in parent.said

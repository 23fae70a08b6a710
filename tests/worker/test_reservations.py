"""A worker that slept past the reservations of its jobs: a paused machine, a stopped process."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from faktory.server import EmbeddedServer

from .conftest import Push, Reported, RunProgram, WaitUntil, reports

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="stops processes")

PROGRAM = """
from concurrent.futures import ThreadPoolExecutor
from faktory.jobs import context
context.LEAST_RESERVE = 1

@faktory.job
def slept(how):
    note("began")
    hold()
    if how == "raises": raise ValueError("wrong")

@faktory.job
def after(): pass

worker = Worker(URL, concurrency=5, **OPTIONS)
worker.error_handlers.append(lambda *_: note("handled"))
worker.run()
"""


@pytest.mark.parametrize("options", ["", "use_threads=False", "executor=ThreadPoolExecutor"])
def test_a_worker_that_slept_past_reservations_reports_none_of_those_jobs(
    server: EmbeddedServer,
    run_program: RunProgram,
    push: Push,
    wait_until: WaitUntil,
    reported: Reported,
    options: str,
) -> None:
    jids = [push("slept", how, reserve_for=1) for how in ("ends", "raises") * 2 + ("ends",)]
    program = run_program(PROGRAM.replace("**OPTIONS", options))
    wait_until(lambda: program.notes.count("began") == 5)
    os.killpg(program.process.pid, signal.SIGSTOP)
    pids = [program.process.pid, *program.processes]
    wait_until(lambda: {state for pid in pids for state in states(pid)} == {"T"})
    program.release()
    time.sleep(1.1)  # nothing but time ends a reservation
    os.killpg(program.process.pid, signal.SIGCONT)
    reported(push("after"), "ACK")
    assert program.stop() in (0, 5)
    assert [reports(server, jid) for jid in jids] == [[]] * 5, program.log
    assert "handled" not in program.notes
    for jid in jids:
        said = [line for line in program.log.splitlines() if jid in line and "start" not in line]
        assert any("may give it out again" in line for line in said), said
        assert not any("done in" in line and "too late" not in line for line in said)


def states(pid: int) -> list[str]:
    """Return the states of a process's threads: "T" is stopped."""
    return [
        path.read_text().rpartition(")")[2].split()[0]
        for path in Path(f"/proc/{pid}/task").glob("*/stat")
    ]

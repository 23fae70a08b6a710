"""Workers are killed at random for a minute, and every job runs."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from faktory import Client
from faktory.cli.exits import Exit
from faktory.server import EmbeddedServer

from .support import Process, Run, WaitUntil, pids

JOBS = 20_000
MINUTE = 60.0
PACE = JOBS / MINUTE
"""Jobs a second: there are some for as long as workers are killed."""

PROGRAM = f"""
import os
import time

import faktory

ran = os.open("ran", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@faktory.job
def count(number):
    time.sleep({4 * 5 / PACE / 2})
    os.write(ran, f"{{number}}\\n".encode())
"""


@pytest.mark.soak
@pytest.mark.timeout(240)
def test_every_job_runs_while_workers_are_killed_at_random(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    (folder / "program.py").write_text(PROGRAM)
    flags = ["-r", "program", "--processes", "4", "-c", "5", "-t", "5"]
    supervisor = run("faktory.cli.worker", *flags, url=server.url)
    chance = random.Random(1)
    began = kill_at = time.monotonic()
    pushed = killed = 0

    def done() -> bool:
        nonlocal pushed, killed, kill_at
        now = time.monotonic()
        due = min(JOBS, int((now - began) * PACE))
        if due - pushed >= 200 or due == JOBS > pushed:
            jobs = [
                {"jobtype": "count", "args": [n], "reserve_for": 600} for n in range(pushed, due)
            ]
            client.push_bulk(jobs)
            pushed = due
        if now >= kill_at:
            kill_at = now + chance.uniform(0.2, 1.5)
            with suppress(ProcessLookupError):
                if living := sorted(set(pids(supervisor)) - ended(supervisor)):
                    os.kill(chance.choice(living), signal.SIGKILL)
                    killed += 1
        return pushed == JOBS and now - began >= MINUTE

    def ran() -> set[int]:
        return {int(line) for line in (folder / "ran").read_text().split()}

    with Client(server.url) as client:
        wait_until(done, timeout=MINUTE + 30)
        wait_until(lambda: not any(server.queues.values()) and not at_work(server), timeout=90)
        lost = JOBS - len(ran())
        server.travel(601)  # the reservations of dead workers end
        server.travel(3600)  # and their jobs are retried
        wait_until(lambda: ran() == set(range(JOBS)), timeout=60)
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait() == Exit.STOPPED
    assert killed > 30
    assert lost > 0
    print(f"killed {killed}, started {len(pids(supervisor))}, lost {lost}")


def ended(supervisor: Process) -> set[int]:
    """Return the workers whose end the supervisor has logged."""
    found = re.findall(r"worker \d+ \(process (\d+)\) (?:was|ended)", supervisor.said)
    return {int(pid) for pid in found}


def at_work(server: EmbeddedServer) -> bool:
    """Return whether a connected worker has jobs."""
    connected = {worker["wid"] for worker in server.workers if worker["connections"]}
    return any(entry["wid"] in connected for entry in server.working)

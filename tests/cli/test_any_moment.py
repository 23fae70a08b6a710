"""Signals at random moments of a worker's life: the exit code is right, and no job is lost."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from faktory import Client
from faktory.cli.exits import Exit
from faktory.server import EmbeddedServer

from .support import WORKER, Process, Run, WaitUntil

PROGRAM = """
import atexit
import time

import faktory

@faktory.job
def work(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.001)

faktory.on("startup", lambda: time.sleep(0.05))
faktory.on("shutdown", lambda: time.sleep(0.05))
atexit.register(time.sleep, 0.05)
print("imported", flush=True)
time.sleep(0.05)
"""

STOPS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
OTHERS = ("SIGTSTP", "SIGTTIN", "SIGUSR1", "SIGUSR2")

WORKERS = 4
"""How many are started at a time."""


def is_right(code: int, worker: Process, sent: list[str]) -> bool:
    """Return whether an exit code is that of the first signal to stop."""
    if code == Exit.STOPPED:
        return True
    if code == Exit.INTERRUPTED:
        return "SIGINT" in sent and "interrupted" in worker.said
    # Python had not come to the first line of `main`, so nothing was fetched.
    before_main = "imported" not in worker.printed and " INFO " not in worker.said
    return before_main and -code in {getattr(signal, name) for name in sent}


def live(server: EmbeddedServer, run: Run, flags: tuple[str, ...], chance: random.Random) -> str:
    """Start workers, send each signals at random moments; describe those that ended wrongly."""
    names = [*OTHERS, *STOPS] if not flags else [*OTHERS, *set(STOPS) - {"SIGHUP"}]
    flags = ("-r", "program", "-c", "2", "-t", "0.5", *flags)
    workers = [run(WORKER, *flags, url=server.url) for _ in range(WORKERS)]
    begun = time.monotonic()
    plans = []
    for worker in workers:
        # Most of them when Python itself has begun: a signal before that has its usual effect.
        moments = sorted(chance.uniform(0.2, 1.5) for _ in range(chance.randint(1, 4)))
        plans += [(moment, worker, chance.choice(names)) for moment in moments]
        plans.append((1.6, worker, chance.choice(names[len(OTHERS) :])))
    sent: dict[Process, list[str]] = {worker: [] for worker in workers}
    for moment, worker, name in sorted(plans, key=lambda plan: plan[0]):
        time.sleep(max(0.0, begun + moment - time.monotonic()))
        if worker.process.poll() is None:
            sent[worker].append(name)
            worker.send(getattr(signal, name))
    ends = [(worker, worker.wait(30)) for worker in workers]
    return "\n\n".join(
        f"exit code {code} after {sent[worker]}:\n{worker.said}"
        for worker, code in ends
        if not is_right(code, worker, sent[worker])
    )


def check(
    server: EmbeddedServer, run: Run, folder: Path, rounds: int, flags: tuple[str, ...], seed: int
) -> None:
    (folder / "program.py").write_text(PROGRAM)
    chance = random.Random(seed)
    with Client(server.url) as client:
        for _ in range(rounds):
            jobs = [{"jobtype": "work", "args": [chance.uniform(0, 1)]} for _ in range(10)]
            assert client.push_bulk(jobs) == {}
            if wrong := live(server, run, flags, chance):
                pytest.fail(wrong)
            assert server.working == []  # each job is reported, or was not given out
    queued = len(server.queues.get("default", ()))
    reported = {text for verb, text in server.commands if verb == "ACK"}
    assert len(reported) + len(server.retries) + queued == 10 * rounds


@pytest.mark.parametrize("flags", [(), ("--processes", "2")])
def test_signals_at_random_moments_lose_no_job_and_leave_the_right_exit_code(
    server: EmbeddedServer, run: Run, folder: Path, flags: tuple[str, ...]
) -> None:
    check(server, run, folder, 1, flags, seed=random.randrange(2**32))


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("flags", [(), ("--processes", "2")])
def test_signals_at_many_random_moments_lose_no_job_and_leave_the_right_exit_code(
    server: EmbeddedServer, run: Run, folder: Path, flags: tuple[str, ...], wait_until: WaitUntil
) -> None:
    check(server, run, folder, 60, flags, seed=random.randrange(2**32))

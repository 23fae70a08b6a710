"""Networks and machines as they are: holes, frozen processes, slow lines, forgetful NATs, moves.

The run ends with a table of what became of the jobs. A job may be stranded only if the worker's
log says so at WARNING, it may run twice only if the log or an error said so, and it is never lost.
SOAK_SEEDS=1,2,3 runs each test with each of them.
FAKTORY_SERVER_COMMAND starts the real server: see `real.RealFaktory`.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faktory.proto import implementation_info

from .lab import PROGRAMS, Counts, Lab, why_not

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

SEEDS = [int(text) for text in os.environ.get("SOAK_SEEDS", "1").split(",")]


@pytest.fixture(scope="module", autouse=True)
def _possible() -> None:
    if reason := why_not():
        pytest.skip(reason)


@pytest.fixture(params=SEEDS, ids=lambda seed: f"seed{seed}")
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=["embedded", "real"])
def lab(request: pytest.FixtureRequest, tmp_path: Path, seed: int) -> Iterator[Lab]:
    names = request.function is test_the_address_that_changes
    with Lab(request.param, tmp_path, seed, names=names) as made:
        yield made


def show(counts: Counts, request: pytest.FixtureRequest) -> None:
    """Put the counts into the table at the end."""
    core = implementation_info()["implementation"]
    fault = request.node.originalname.removeprefix("test_")
    line = f"{fault} {request.node.callspec.id} {core}: {counts}"
    request.node.user_properties.append(("measured", line))


def check(counts: Counts, request: pytest.FixtureRequest) -> None:
    """Fail if something was lost, stranded or run twice in silence."""
    show(counts, request)
    assert counts.lost == 0
    assert counts.stranded <= counts.warned
    assert counts.unreported <= counts.warned
    assert counts.doubled <= counts.unknown + counts.warned
    assert counts.run + counts.stranded >= counts.pushed
    assert counts.exit_code == 0


def warm_up(lab: Lab, *, threads: bool = True) -> None:
    """Start the worker and two pushers; wait until jobs run.

    The one beside the server fills the queue while the worker is away.
    """
    lab.start_worker(threads=threads)
    lab.start_pusher(rate=6)
    lab.start_pusher(rate=6, far=True)
    deadline = time.monotonic() + 30
    while lab.runs.stat().st_size < 2000 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert lab.runs.stat().st_size >= 2000


@pytest.mark.parametrize("seconds", [20, 30, 60])
def test_a_black_hole(lab: Lab, seconds: int, request: pytest.FixtureRequest) -> None:
    warm_up(lab)
    lab.network.hole = True
    time.sleep(seconds)
    lab.network.hole = False
    # What is still to be sent is sent again at most as late as the hole was long.
    time.sleep(seconds)
    counts = lab.finish()
    check(counts, request)
    if seconds <= 30:
        assert counts.stranded == 0


def test_a_black_hole_for_a_worker_of_processes(lab: Lab, request: pytest.FixtureRequest) -> None:
    warm_up(lab, threads=False)
    lab.network.hole = True
    time.sleep(30)
    lab.network.hole = False
    time.sleep(30)
    check(lab.finish(), request)


@pytest.mark.parametrize(("seconds", "redis"), [(15, False), (60, False), (30, True)])
def test_a_frozen_server(
    lab: Lab, seconds: int, redis: bool, request: pytest.FixtureRequest
) -> None:
    if redis and lab.kind == "embedded":
        pytest.skip("the embedded server has no Redis")
    warm_up(lab)
    server = lab.processes["server"]
    server.signal(signal.SIGSTOP, group=redis)
    time.sleep(seconds)
    server.signal(signal.SIGCONT, group=redis)
    time.sleep(10)
    check(lab.finish(), request)


@pytest.mark.parametrize("threads", [True, False], ids=["threads", "processes"])
@pytest.mark.parametrize("seconds", [15, 30])
def test_a_frozen_worker(
    lab: Lab, seconds: int, threads: bool, request: pytest.FixtureRequest
) -> None:
    """The program that pushes is frozen, too: what has arrived meanwhile counts."""
    warm_up(lab, threads=threads)
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for name in ("worker", "pusher"):
            lab.processes[name].signal(number, group=True)
        if number == signal.SIGSTOP:
            time.sleep(seconds)
    time.sleep(10)
    counts = lab.finish()
    check(counts, request)
    assert counts.unknown == 0


def test_a_slow_network(lab: Lab, request: pytest.FixtureRequest) -> None:
    """A PUSHB of a megabyte needs 33 seconds at 256 kbit/s."""
    lab.network.rate = 256_000
    lab.start_worker()
    pusher = lab.start("pusher", [sys.executable, PROGRAMS, "burst", str(lab.seed), "1100"])
    assert pusher.wait(400) == 0
    counts = lab.finish(timeout=200)
    check(counts, request)
    assert counts.unknown == 0
    assert counts.pushed == 1120


def test_every_fifth_packet_is_lost(lab: Lab, request: pytest.FixtureRequest) -> None:
    warm_up(lab)
    lab.network.loss = 0.2
    time.sleep(40)
    lab.network.loss = 0.0
    check(lab.finish(timeout=120), request)


@pytest.mark.parametrize(("forgets", "pause"), [(16, 20), (14, 40)])
def test_a_nat_that_forgets_idle_connections(
    lab: Lab, forgets: float, pause: float, request: pytest.FixtureRequest
) -> None:
    """Pushes have pauses between them, jobs take as long. The system's first question, after 15
    seconds, comes in time; or the third one, after 30, shows that the connection is dead.
    """
    lab.network.forgets = forgets
    lab.start_worker()
    lab.start_pusher(2 / pause, pause)
    time.sleep(4.5 * pause)
    counts = lab.finish(timeout=pause + 60)
    check(counts, request)
    assert counts.unknown == 0


@pytest.mark.parametrize("old", ["silent", "resets"])
def test_the_address_that_changes(lab: Lab, old: str, request: pytest.FixtureRequest) -> None:
    warm_up(lab)
    lab.move_server(old=lab.old if old == "resets" else None)
    time.sleep(60)
    check(lab.finish(), request)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_worker_stops_inside_a_hole(lab: Lab, busy: bool, request: pytest.FixtureRequest) -> None:
    """Then the network is back, and another worker runs what is pushed."""
    if busy:
        warm_up(lab)
        lab.network.hole = True
    else:
        lab.start_worker()
        time.sleep(4)
        lab.network.hole = True
        time.sleep(3)
    stopping, code = lab.stop_worker()
    lab.network.hole = False
    if not busy:
        lab.start_pusher(rate=6, far=True)
    time.sleep(5)
    lab.start_worker(name="worker2")
    counts = lab.finish()._replace(stopping=stopping, exit_code=code)
    show(counts, request)
    assert counts.lost == 0
    assert counts.stranded + counts.unreported <= counts.warned
    assert stopping < (20 if busy else 9.3)
    assert code == 0 or busy


def trouble(lab: Lab, rng: random.Random) -> Callable[[], None]:
    """Begin a fault; return what ends it."""
    kind = rng.choice(["hole", "loss", "delay", "rate", "server", "worker"])
    if kind in ("server", "worker"):
        process = lab.processes[kind]
        process.signal(signal.SIGSTOP)
        return lambda: process.signal(signal.SIGCONT)
    before = getattr(lab.network, kind)
    faults = {"hole": True, "loss": rng.uniform(0.05, 0.4), "delay": 0.2, "rate": 128_000}
    setattr(lab.network, kind, faults[kind])
    return lambda: setattr(lab.network, kind, before)


def test_random_faults(lab: Lab, request: pytest.FixtureRequest) -> None:
    rng = random.Random(lab.seed)
    warm_up(lab)
    ends = time.monotonic() + 150
    while time.monotonic() < ends:
        end = trouble(lab, rng)
        time.sleep(rng.uniform(2, 35))
        end()
        time.sleep(rng.uniform(1, 6))
    check(lab.finish(timeout=120), request)

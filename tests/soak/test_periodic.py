"""Periodic jobs run once: eight workers are killed and started at random, the server stops.

FAKTORY_SERVER_COMMAND starts the real server: see `real.RealFaktory`. SOAK_SECONDS is how long
workers are killed for: ten minutes, or one with the embedded server. Where there is a C compiler,
the clock of each worker is up to three seconds wrong.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from faktory import Client

from ..cli.support import WORKER, Process
from ..support import wait_until
from ..worker.real import RealFaktory, Server, serving

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

WORKERS = 8
THREADS = 2
"""Of each worker."""

AHEAD = 90
"""Seconds that a tick is pushed ahead at most; a scheduler pushes every 30 s."""
SURE = AHEAD - 30 - 10
"""Seconds for which the ticks are there already when schedulers end or lose the server."""
LATE = 15
"""Seconds from a tick until the server queues its job: it looks every 5 s."""
STARTS = 20
"""Seconds until a worker's scheduler runs and has pushed what is 5 s ahead."""

EVERY = (10, 11, 12, 13, 15, 17, 20, 25, 30, 45, 60, 90)
CRON = {
    "minutely": ("* * * * *", "UTC", 60, 0),
    "minutely-nepal": ("*/1 * * * *", "Asia/Kathmandu", 60, 0),
    "even": ("*/2 * * * *", "Europe/Berlin", 120, 0),
    "odd": ("1-59/2 * * * *", "Australia/Lord_Howe", 120, 60),
    "thirds": ("*/3 * * * *", "America/Sao_Paulo", 180, 0),
    "fourths": ("2-58/4 * * * *", "Africa/Casablanca", 240, 120),
    "fifths": ("*/5 * * * *", "America/St_Johns", 300, 0),
    "sixths": ("3-57/6 * * * *", "UTC", 360, 180),
}
"""Expressions that have a tick each so many seconds of the epoch, from a first one on."""
PERIODS = {f"every-{seconds}": (seconds, 0) for seconds in EVERY} | {
    name: (period, first) for name, (_, _, period, first) in CRON.items()
}

PROGRAM = f"""
import os
import time

import faktory

ran = os.open("ran", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@faktory.job(reserve_for=60)
def beat(name, tick):
    job = faktory.current_job()
    assert job.tick.isoformat() == tick
    words = name, int(job.tick.timestamp()), job.jid, job.attempt, job.as_fetched()["enqueued_at"]
    os.write(ran, (" ".join(map(str, words)) + "\\n").encode())

@faktory.job(reserve_for=300)
def sleep(seconds):
    time.sleep(seconds)

@faktory.job(reserve_for=300)
def compute(seconds):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        sum(range(1000))

def args_of(name):
    return lambda tick: (name, tick.isoformat())

for seconds in {EVERY}:
    name = f"every-{{seconds}}"
    faktory.periodic(every=seconds, job=beat, name=name, args=args_of(name))
for name, (expression, tz, *_) in {CRON}.items():
    faktory.periodic(expression, beat, tz=tz, name=name, args=args_of(name))
"""


class Tick(NamedTuple):
    """A tick of a schedule, in seconds of the epoch."""

    name: str
    at: int


class Run(NamedTuple):
    """A job that ran."""

    jid: str
    attempt: int
    late: float


def ticks(begin: float, end: float) -> set[Tick]:
    """Return the ticks of all schedules from one moment to another."""
    return {
        Tick(name, at)
        for name, (period, first) in PERIODS.items()
        for at in range(int(begin) // period * period + first - period, int(end) + 1, period)
        if begin <= at <= end
    }


WRONG_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long shift(void) {
    const char *text = getenv("CLOCK_SHIFT_MS");
    return text ? atol(text) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *found) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, found);
    if (!failed && clock == CLOCK_REALTIME) {
        long long ns = found->tv_sec * 1000000000LL + found->tv_nsec + shift() * 1000000LL;
        found->tv_sec = ns / 1000000000;
        found->tv_nsec = ns % 1000000000;
    }
    return failed;
}

int gettimeofday(struct timeval *found, void *zone) {
    struct timespec now;
    int failed = clock_gettime(CLOCK_REALTIME, &now);
    *found = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    return failed;
}

time_t time(time_t *found) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (found) *found = now.tv_sec;
    return now.tv_sec;
}
"""
"""A library that shifts a process's time, and not its monotonic clock.

With libfaketime 0.9.10, `time.sleep` fails."""


def build_clock(folder: Path) -> str | None:
    """Compile the library above, if there is a compiler and the system has LD_PRELOAD."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(WRONG_CLOCK)
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return str(library)


class Fleet:
    """Workers of one program, each with a clock of its own."""

    def __init__(self, folder: Path, url: str, chance: random.Random) -> None:
        self._folder, self._url, self._chance = folder, url, chance
        self.clock = build_clock(folder)
        self._workers: list[Process | None] = [None] * WORKERS
        self._paused: set[int] = set()
        self._moments = [0.0] * WORKERS
        self._ended: list[Process] = []
        self.done: Counter[str] = Counter()

    def start(self, index: int, *flags: str) -> None:
        shift = self._chance.uniform(-3, 3)
        command = [WORKER, "-r", "app.py", "-c", str(THREADS), "-t", "5", *flags]
        shifted = {"CLOCK_SHIFT_MS": str(round(shift * 1000)), "LD_PRELOAD": self.clock or ""}
        with changed(shifted if self.clock else {}):
            self._workers[index] = Process(command, self._folder, self._url)
        self.done["started"] += 1

    def start_all(self) -> None:
        for index, worker in enumerate(self._workers):
            if worker is None:
                self.start(index)

    def kill(self, index: int) -> None:
        worker = self._workers[index]
        assert worker is not None
        worker.send(signal.SIGKILL)
        self._ended.append(worker)
        self._workers[index] = None
        self._paused.discard(index)
        self.done["killed"] += 1

    def kill_all(self) -> None:
        for index, worker in enumerate(self._workers):
            if worker is not None:
                self.kill(index)

    def disturb(self, ends: float) -> None:
        """Kill, stop, continue and start workers at random until a time of the epoch."""
        while (now := time.time()) < ends:
            for index, worker in enumerate(self._workers):
                if now < self._moments[index]:
                    continue
                if worker is None:
                    self.start(index)
                    lasting = self._chance.choice((3, 40))
                elif index in self._paused:
                    worker.send(signal.SIGCONT)
                    self._paused.discard(index)
                    lasting = 10
                elif self._chance.random() < 0.2:
                    worker.send(signal.SIGSTOP)
                    self._paused.add(index)
                    self.done["paused"] += 1
                    lasting = self._chance.choice((10, 100))
                else:
                    self.kill(index)
                    lasting = self._chance.choice((1, 15))
                self._moments[index] = now + self._chance.uniform(0, lasting)
            time.sleep(0.05)

    def settle(self) -> None:
        """Let all workers run, and be ready."""
        for index in self._paused:
            worker = self._workers[index]
            assert worker is not None
            worker.send(signal.SIGCONT)
        self._paused.clear()
        self.start_all()
        time.sleep(STARTS)

    def logs(self) -> list[str]:
        return [worker.said for worker in (*self._workers, *self._ended) if worker is not None]

    def stop(self) -> None:
        """Stop those that run."""
        living = [worker for worker in self._workers if worker is not None]
        for worker in living:
            worker.send(signal.SIGTERM)
        for worker in living:
            assert worker.wait(30) == 0, worker.said

    def close(self) -> None:
        for worker in (*self._workers, *self._ended):
            if worker is not None:
                worker.end()


@contextmanager
def changed(variables: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class Trial:
    """A server, a fleet, and which ticks have to run."""

    def __init__(self, folder: Path, server: Server, record: Callable[[str], None]) -> None:
        self.server = server
        self.folder = folder
        self._record = record
        (folder / "app.py").write_text(PROGRAM)
        (folder / "ran").touch()
        seed = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(10**6))
        print(f"SOAK_SEED={seed}")
        self.fleet = Fleet(folder, server.url, random.Random(seed))
        self.must: set[Tick] = set()
        self.may: set[Tick] = set()

    def runs(self) -> dict[Tick, list[Run]]:
        found = defaultdict(list)
        for line in (self.folder / "ran").read_text().splitlines():
            name, at, jid, attempt, queued = line.split()
            late = _seconds(queued) - int(at)
            found[Tick(name, int(at))].append(Run(jid, int(attempt), late))
        return found

    def begin(self) -> float:
        """Start all workers; return the moment from which on ticks have to run."""
        now = time.time()
        self.fleet.start_all()
        self.may |= ticks(now, now + STARTS)
        return now + STARTS

    def end_without(self, begin: float, end: float) -> None:
        """Note that from `end` on nobody pushes: some ticks after it are there already."""
        self.must |= ticks(begin, end + SURE)
        self.may |= ticks(end + SURE, end + AHEAD + 5)

    def finish(self, begin: float) -> None:
        """Stop the fleet, let the jobs that are left run, and check what ran."""
        self.fleet.stop()
        end = time.time()
        self.end_without(begin, end)
        self.fleet.close()
        last = Fleet(self.folder, self.server.url, random.Random(0))
        try:
            for index in range(2):
                last.start(index, "--no-periodic")
            with Client(self.server.url) as client:
                wait_until(lambda: self._is_done(client, end), timeout=300)
            last.stop()
        finally:
            last.close()
        self.check()

    def _is_done(self, client: Client, end: float) -> bool:
        time.sleep(1)
        client.requeue("retries")  # the server's wait would take longer
        info = client.info()["faktory"]
        left = {**info["queues"], **info["sets"]}
        if time.time() < end + AHEAD + LATE or any(left.values()):
            return False
        # A job of a killed worker waits out its reservation.
        return self.must <= self.runs().keys() or time.time() > end + 150

    def check(self) -> None:
        runs = self.runs()
        late = max(each[0].late for each in runs.values())
        repeated = sum(len(each) - 1 for each in runs.values())
        self._record(
            f"periodic jobs: {dict(self.fleet.done)}, {len(runs)} ticks ran of {len(self.must)} to "
            f"{len(self.must | self.may)}, {repeated} runs of jobs whose worker was killed, queued "
            f"{late:.1f} s late at most; clocks are {'wrong' if self.fleet.clock else 'right'}"
        )
        assert sorted(self.must - runs.keys()) == []
        assert sorted(runs.keys() - self.must - self.may) == []
        # One job for each tick. A job whose worker was killed has its second attempt.
        assert {
            tick: each for tick, each in runs.items() if len({run.jid for run in each}) > 1
        } == {}
        copies = {
            tick: each
            for tick, each in runs.items()
            if max(Counter(run.attempt for run in each).values()) > 1
        }
        assert copies == {}


def _seconds(instant: str) -> float:
    return datetime.fromisoformat(instant).timestamp()


@pytest.fixture(params=["embedded", "real"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def trial(
    kind: str,
    tmp_path: Path,
    wait_until: Callable[..., object],
    request: pytest.FixtureRequest,
) -> Iterator[Trial]:
    folder = tmp_path / "data"
    folder.mkdir()
    with serving(kind, folder, wait_until) as server:
        properties = request.node.user_properties
        trial = Trial(tmp_path, server, lambda line: properties.append(("measured", line)))
        try:
            yield trial
        finally:
            trial.fleet.close()


def test_each_tick_runs_once_while_workers_are_killed_and_started(trial: Trial, kind: str) -> None:
    lasting = float(os.environ.get("SOAK_SECONDS") or (600 if kind == "real" else 60))
    begin = trial.begin()
    trial.fleet.disturb(time.time() + lasting)
    trial.fleet.settle()
    trial.finish(begin)


@pytest.mark.parametrize("kind", ["real"])
def test_ticks_without_any_worker_are_left_out(trial: Trial) -> None:
    begin = trial.begin()
    time.sleep(STARTS + 30)
    ended = time.time()
    trial.fleet.kill_all()
    trial.end_without(begin, ended)
    time.sleep(AHEAD + 60)
    left_out = ticks(ended + AHEAD + 5, time.time())
    begin = trial.begin()
    time.sleep(STARTS + 30)
    trial.finish(begin)
    assert len(left_out) > 20
    assert left_out.isdisjoint(trial.runs())


@pytest.mark.parametrize("jobs", ["sleep", "compute"])
@pytest.mark.parametrize("kind", ["real"])
def test_ticks_are_pushed_in_time_while_all_threads_are_busy(trial: Trial, jobs: str) -> None:
    begin = trial.begin()
    time.sleep(STARTS)
    with Client(trial.server.url) as client:
        for _ in range(WORKERS * THREADS):
            client.push({"jobtype": jobs, "args": [100], "reserve_for": 300, "retry": 0})
        busy = time.time()
        wait_until(lambda: not client.info()["faktory"]["queues"].get("default"))
        # All threads are busy: jobs that become due wait.
        wait_until(lambda: client.info()["faktory"]["queues"].get("default"), timeout=60)
        time.sleep(max(0, busy + 95 - time.time()))
        assert client.info()["faktory"]["queues"]["default"] > 50
    trial.finish(begin)
    assert max(each[0].late for each in trial.runs().values()) < LATE


MISSED = re.compile(r"WARNING.*?the schedule (\S+): (\d+) ticks")


@pytest.mark.parametrize("kind", ["real"])
def test_ticks_while_the_server_is_away_are_left_out_and_logged_once(trial: Trial) -> None:
    assert isinstance(trial.server, RealFaktory)
    begin = trial.begin()
    time.sleep(STARTS + 30)
    ended = time.time()
    trial.server.stop()
    trial.end_without(begin, ended)
    time.sleep(180)
    trial.server.start()
    back = time.time()
    # A scheduler tries again within 30 s.
    trial.may |= ticks(back, back + 30 + STARTS)
    left_out = ticks(ended + AHEAD + 5, back)
    time.sleep(30 + STARTS + 30)
    trial.finish(back + 30 + STARTS)
    assert left_out.isdisjoint(runs := trial.runs())
    counts = Counter(tick.name for tick in left_out)
    assert len(counts) > len(PERIODS) / 2
    for log in trial.fleet.logs():
        missed = Counter(name for name, _ in MISSED.findall(log))
        assert counts.keys() <= missed.keys()  # those with a tick beside the outage may miss it
        assert set(missed.values()) == {1}
        for name, number in MISSED.findall(log):
            # It does not know what others have pushed before and afterwards.
            around = {tick for tick in ticks(ended, back + 30 + STARTS) if tick.name == name}
            assert counts[name] <= int(number) <= len(around), (name, sorted(around - runs.keys()))

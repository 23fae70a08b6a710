"""`faktory-worker demo`: push thousands of jobs of several types, run them, count the runs.

Rules: on a server that it did not start, it touches only the queue and the job types that have this
run's name. It succeeds only if it counted that each job ran exactly as often as it should.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Lock, Thread
from time import monotonic, sleep
from typing import Any, ParamSpec

import faktory

from ...client.defaults import configure
from ...jobs.definition import FunctionJob

P = ParamSpec("P")
DemoJob = tuple[FunctionJob[Any, None], Callable[[int], Sequence[object]]]
"""A job, and the function that returns the arguments of its nth push."""

CONCURRENCY = 10

_LOOK = (
    "In a browser: http://127.0.0.1:7420/ while faktory-worker server runs; with jobs to look "
    "at, DEMO_WEB=1 make demo."
)
_THEIRS = "The jobs of that server in a browser: on its own pages, as a rule on port 7420."
STALL_TIMEOUT = 60.0
"""Seconds without a run after which the demo gives up."""


class Runs:
    """Counts how often each job ran; safe to use from the worker's threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._count: Counter[str] = Counter()
        self.total = 0
        self.retried = 0

    def count(self, jid: str, retry: bool = False) -> None:
        """Count one run of a job; `retry`: it had failed before."""
        with self._lock:
            self._count[jid] += 1
            self.total += 1
            self.retried += retry

    def differences(self, expected: dict[str, int]) -> list[str]:
        """Return a sentence for each job that did not run as often as `expected`, by jid."""
        every = expected.keys() | self._count.keys()
        return [
            f"job {jid} ran {self._count[jid]} times instead of {expected.get(jid, 0)}"
            for jid in sorted(every)
            if self._count[jid] != expected.get(jid, 0)
        ]


def run(jobs: int) -> int:
    """Run the demo with this many jobs; return the exit code."""
    if jobs < 100:
        raise ValueError(f"--jobs is {jobs}: the demo needs 100 or more.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # clean up first
    with _server() as (url, origin, page):
        configure(url=url)
        name = f"demo-{faktory.proto.new_jid()[:8]}"
        runs = Runs()
        demo_jobs = _declare(name, runs, jobs)
        worker = faktory.Worker(url, queues=[name], concurrency=CONCURRENCY, log=_quiet_log())
        thread = Thread(target=worker.run, name="demo-worker")
        # After the imports: Python may drop a Ctrl-C that comes in the middle of one.
        print(f"Server: {origin}. Core: {_core()}. Queue: {name}.", flush=True)
        with faktory.Client(url) as client, _cleaned_up(client, name, demo_jobs):
            try:
                expected, push_rate = _push(demo_jobs, jobs)
                started = monotonic()
                thread.start()
                _watch(client, demo_jobs, runs, expected)
                run_rate = runs.total / (monotonic() - started)
            finally:
                worker.stop()
                if thread.ident is not None:
                    thread.join()
        differences = runs.differences(expected)
        _report(len(expected), push_rate, run_rate, runs.retried, runs.total, differences)
        print(f"\n  {page}", flush=True)
        if "://" in page and os.environ.get("DEMO_WEB"):
            from . import demo_page

            demo_page.show(url)
        return 1 if differences else 0


@contextmanager
def _cleaned_up(client: faktory.Client, name: str, jobs: list[DemoJob]) -> Iterator[None]:
    """Remove this run's jobs from the server at the end of the block, also after an error."""

    def clean_up() -> None:
        client.remove_queues(name)
        for job, _ in jobs:
            client.discard("retries", jobtype=job.jobtype)
            client.discard("dead", jobtype=job.jobtype)

    try:
        yield
    except BaseException:
        with suppress(faktory.FaktoryError):
            clean_up()
        raise
    clean_up()


@contextmanager
def _server() -> Iterator[tuple[str, str, str]]:
    """Yield the server in FAKTORY_URL, or start an embedded one as a process.

    It comes with its origin, and a line about its pages in a browser.
    """
    given = os.environ.get("FAKTORY_URL")
    if given:
        yield given, "the one in FAKTORY_URL", _THEIRS
        return
    shows = bool(os.environ.get("DEMO_WEB"))
    command = [sys.executable, "-m", "faktory", "server", "--bind", "127.0.0.1:0", "--until-eof"]
    command += ["-q", "--web", _free_port()] if shows else ["-q", "--no-web"]
    # A password of the environment would be the server's, and it prints none.
    environ = {name: text for name, text in os.environ.items() if name != "FAKTORY_PASSWORD"}
    # In a session of its own, so that Ctrl-C does not end the server before the demo cleans up.
    # Its standard input is a pipe of ours: the server ends with us, even if we are killed.
    with subprocess.Popen(
        command,
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise faktory.FaktoryError("the embedded server did not start")
            page = process.stdout.readline().strip() if shows else _LOOK
            yield line.rpartition("=")[2].strip(), "an embedded one, in memory", page
        finally:
            process.terminate()


def _free_port() -> str:
    """Return the address of the pages: as ever, or with a free port if that one is taken."""
    try:
        with socket.create_server(("127.0.0.1", 7420)):
            return "127.0.0.1:7420"
    except OSError:
        return "127.0.0.1:0"


def _declare(name: str, runs: Runs, jobs: int) -> list[DemoJob]:
    """Declare the demo's jobs, the flaky one last."""

    def declare(verb: str, retry: int = 25) -> Callable[[Callable[P, None]], FunctionJob[P, None]]:
        return faktory.job(name=f"{name}.{verb}", queue=name, retry=retry)

    @declare("resize")
    def resize(image: int, size: str) -> None:
        if type(image) is not int or not 0 <= image < jobs or size != "thumb":
            raise AssertionError(f"the arguments changed on the way: {image}, {size!r}")
        runs.count(faktory.current_job().jid)

    @declare("measure")
    def measure(values: list[float], place: dict[str, Any]) -> None:
        if values != [place["first"], place["second"]]:
            raise AssertionError(f"the values changed on the way: {values}, {place}")
        runs.count(faktory.current_job().jid)

    @declare("greet")
    def greet(name: str, message: dict[str, Any]) -> None:
        if message["to"][0]["name"] != name:
            raise AssertionError(f"the text changed on the way: {name!r}, {message}")
        runs.count(faktory.current_job().jid)

    @declare("flaky", retry=3)
    def flaky(number: int) -> None:
        job = faktory.current_job()
        runs.count(job.jid, retry=job.attempt > 1)
        if job.attempt == 1:
            raise RuntimeError(f"number {number} fails the first time")

    names = ["Grüße", "日本語", "emoji 🎉", 'quote " and \\', "<tag> & more"]
    return [
        (resize, lambda n: (n, "thumb")),
        (
            measure,
            lambda n: ([n / 7, -n * 1e-9], {"first": n / 7, "second": -n * 1e-9, "ok": True}),
        ),
        (greet, lambda n: (names[n % 5], {"to": [{"name": names[n % 5], "cc": None}], "n": n})),
        (flaky, lambda n: (n,)),
    ]


def _push(demo_jobs: list[DemoJob], jobs: int) -> tuple[dict[str, int], float]:
    """Push one job in ten alone and the others in bulk, one in twenty of the flaky type.

    Return how often each jid should run, and the jobs per second.
    """
    flaky, _ = demo_jobs[-1]
    started = monotonic()
    expected: dict[str, int] = {}
    steady = demo_jobs[:-1]
    for number in range(jobs // 10):
        job, arguments = steady[number % len(steady)]
        expected[job.perform_async(*arguments(number))] = 1
    _show(f"pushed {len(expected):,} of {jobs:,}, one by one")
    for jid in flaky.perform_bulk((number,) for number in range(jobs // 20)):
        expected[jid] = 2
    left = jobs - len(expected)
    for position, (job, arguments) in enumerate(steady):
        many = left // len(steady) + (position < left % len(steady))
        jids = job.perform_bulk(arguments(number) for number in range(many))
        expected.update(dict.fromkeys(jids, 1))
        _show(f"pushed {len(expected):,} of {jobs:,}, by the thousand")
    return expected, len(expected) / (monotonic() - started)


def _watch(
    client: faktory.Client, demo_jobs: list[DemoJob], runs: Runs, expected: dict[str, int]
) -> None:
    """Wait for all runs, and requeue failed jobs, which otherwise wait for 15 seconds or more."""
    flaky = demo_jobs[-1][0]
    due = sum(expected.values())
    seen, since = -1, monotonic()
    while runs.total < due:
        if runs.total != seen:
            seen, since = runs.total, monotonic()
        elif monotonic() - since > STALL_TIMEOUT:
            break
        client.requeue("retries", jobtype=flaky.jobtype)
        _show(f"run {runs.total:,} of {due:,}")
        sleep(0.25)
    _show(f"run {runs.total:,} of {due:,}")
    if sys.stdout.isatty():
        print()


def _report(
    pushed: int, push_rate: float, run_rate: float, retried: int, total: int, differences: list[str]
) -> None:
    rows = [
        ("core", _core()),
        ("pushed", f"{pushed:,} jobs, {push_rate:,.0f} a second"),
        ("run", f"{total:,} times, {run_rate:,.0f} a second, {CONCURRENCY} at a time"),
        ("retried", f"{retried:,} that failed at first and came back"),
        (
            "count",
            "NOT as it should be" if differences else "every job ran exactly as often as it should",
        ),
    ]
    print()
    for title, text in rows:
        print(f"  {title:8} {text}")
    for line in differences[:10]:
        print(f"  {line}")
    if len(differences) > 10:
        print(f"  and {len(differences) - 10} more")


def _show(text: str) -> None:
    """Show progress: in place on a terminal, a line each elsewhere."""
    if sys.stdout.isatty():
        print(f"\r  {text:60}", end="", flush=True)
    else:
        print(f"  {text}", flush=True)


def _core() -> str:
    info = faktory.implementation_info()
    return f"{info['implementation']} ({info['reason']})"


def _quiet_log() -> logging.Logger:
    """Return a log for a worker whose jobs fail on purpose."""
    log = logging.getLogger("faktory.demo")
    log.setLevel(logging.ERROR)
    return log

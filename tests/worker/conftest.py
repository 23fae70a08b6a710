"""An embedded server with a short FETCH, workers that are stopped, and jobs that can be held."""

from __future__ import annotations

import gc
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from faktory import Client, Worker, current_job
from faktory.jobs import registry
from faktory.jobs.registry import Runnable
from faktory.jobs.runner import JobRunner
from faktory.server import EmbeddedServer
from faktory.server.state import Timing
from faktory.worker import timing as worker_timing
from faktory.worker.events import Events
from faktory.worker.manager import Manager

from .program import CHILDREN, Program

Push = Callable[..., str]
Start = Callable[..., "Running"]
WaitUntil = Callable[..., object]
Reported = Callable[..., None]
RunProgram = Callable[..., Program]


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    """A server whose FETCH waits 0.1 s for a job, not 2."""
    with EmbeddedServer(timing=Timing(fetch_wait=0.1)) as server:
        yield server


@pytest.fixture
def push(server: EmbeddedServer) -> Push:
    """`push(jobtype, *args, **fields)`: queue a job in "default", return its jid."""

    def push(jobtype: str, *args: Any, **fields: Any) -> str:
        with Client(server.url) as client:
            return client.push({"jobtype": jobtype, "args": list(args), **fields})

    return push


@pytest.fixture
def reported(server: EmbeddedServer, wait_until: WaitUntil) -> Reported:
    """`reported(jids, "ACK", "FAIL")`: wait until each job has this one report."""

    def reported(jids: str | Sequence[str], *verbs: str) -> None:
        jids = [jids] if isinstance(jids, str) else jids
        expected = {jid: [verb] for jid, verb in zip(jids, verbs, strict=True)}
        wait_until(lambda: {jid: reports(server, jid) for jid in jids} == expected)

    return reported


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test begin without declared jobs."""
    monkeypatch.setattr(registry, "_jobs", {})


class Running:
    """A worker that runs in a thread of its own, and the exception that `run` ended with."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="test-run")
        self.thread.start()

    def _run(self) -> None:
        try:
            self.worker.run()
        except BaseException as error:
            self.error = error

    def join(self) -> None:
        """Wait for `run` to return; raise its exception."""
        self.thread.join(15)
        assert not self.thread.is_alive()
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        """Stop the worker, and wait for `run` to return."""
        self.worker.stop()
        self.join()


@pytest.fixture
def start(server: EmbeddedServer, wait_until: WaitUntil) -> Iterator[Start]:
    """`start({"work": function}, concurrency=2)` or `start(worker)`: run a worker in a thread.

    Every worker is stopped after the test, and must leave no thread and no open socket.
    """
    running: list[Running] = []

    def start(
        worker: Worker | Mapping[str, Callable[..., object]] | None = None, **options: Any
    ) -> Running:
        if not isinstance(worker, Worker):
            worker = make_worker(server.url, worker, **options)
        running.append(Running(worker))
        return running[-1]

    yield start
    for each in running:
        each.worker.disconnect(force=True)
        each.thread.join(15)
        assert not each.thread.is_alive()
    wait_until(lambda: threads_left() == [])  # an abandoned one may be about to end
    running.clear()
    gc.collect()  # a socket that was not closed causes a warning now, which is an error


def make_worker(
    url: str, tasks: Mapping[str, Callable[..., object]] | None = None, **options: Any
) -> Worker:
    """Make a worker on which these functions are registered."""
    worker = Worker(url, **options)
    for name, function in (tasks or {}).items():
        worker.register(name, function)
    return worker


class Held:
    """A job that waits for `release`, in one call into C, where it cannot be interrupted."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self._released = threading.Event()
        self.release = self._released.set

    def hold(self, *_: object) -> None:
        self.began.set()
        self._released.wait(30)


@pytest.fixture
def held() -> Iterator[Held]:
    """`start({"work": held.hold})`; ask for it after `start`, so that jobs are released before."""
    held = Held()
    yield held
    held.release()


@pytest.fixture
def run_program(
    server: EmbeddedServer, tmp_path: Path, wait_until: WaitUntil
) -> Iterator[RunProgram]:
    """`run_program(code)`: run a worker in another process; no process may be left after it."""
    programs: list[Program] = []

    def run(code: str, warnings: str = "error") -> Program:
        programs.append(Program(tmp_path, server.url, code, warnings))
        return programs[-1]

    yield run
    try:
        for program in programs:
            if program.process.returncode is None:  # the test has not waited for its end
                assert program.stop() == 0, program.log
            wait_until(lambda program=program: not program.processes)
            assert "Warning" not in program.log, program.log
    finally:
        for program in programs:
            program.end()


@pytest.fixture
def run_children(run_program: RunProgram) -> RunProgram:
    """`run_children("work(concurrency=2).run()")`: run a worker with the jobs of CHILDREN."""
    return lambda code="work().run()": run_program(CHILDREN + code)


def make_manager(
    tasks: Mapping[str, Runnable],
    log: logging.Logger,
    get_queues: Callable[[], Sequence[str]] = list,
    make_client: Callable[[], Any] = lambda: None,
    timing: worker_timing.Timing = worker_timing.DEFAULT,
) -> Manager:
    """Make a manager without a worker: errors and what it posts are ignored."""
    return Manager(
        JobRunner(tasks), get_queues, make_client, Events(), succeed, succeed, succeed, log, timing
    )


def threads_left() -> list[str]:
    """Return the names of a worker's threads that are alive."""
    return [
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith("faktory-") and thread.name != "faktory-server"
    ]


def reports(server: EmbeddedServer, jid: str) -> list[str]:
    """Return the verbs of all reports of a job that the server received."""
    return [verb for verb, text in server.commands if verb in ("ACK", "FAIL") and jid in text]


def messages(caplog: pytest.LogCaptureFixture, part: str) -> list[str]:
    """Return the logged messages that contain a text."""
    return [message for message in caplog.messages if part in message]


def failure(server: EmbeddedServer, jid: str) -> dict[str, Any]:
    """Return the failure of a job that the server will retry."""
    found: dict[str, Any] = next(job["failure"] for job in server.retries if job["jid"] == jid)
    return found


def count(server: EmbeddedServer, verb: str) -> int:
    """Return how many commands with this verb the server received."""
    return sum(each == verb for each, _ in server.commands)


def end_reservation() -> None:
    """Make the current job overdue for its worker; the server's reservation goes on."""
    current_job()._ends = -math.inf


def succeed(*_: object) -> None:
    """Do nothing."""


def fail(*_: object) -> None:
    """Raise an error."""
    raise KeyError("lost")


def spin(*_: object) -> None:
    """Run until interrupted, in Python."""
    while True:
        time.sleep(0.001)

"""`Worker(executor=...)`, as faktory 1.0.0 took it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import faktory
from faktory import Worker, current_job
from faktory.server import EmbeddedServer

from .conftest import Push, Start, WaitUntil, reports
from .program import Program

Run = Callable[..., Program]

JOBS = """
from concurrent.futures import ProcessPoolExecutor

def plain(jid, *args):
    note("plain", jid, *args, os.getpid() != int(os.environ["MAIN"]))

@faktory.job
def declared(how):
    if how == "die": os._exit(3)
    if how == "raise": raise ValueError("wrong")
    note("declared", current_job().jid, os.getpid() != int(os.environ["MAIN"]))

if __name__ == "__main__":  # since Python 3.14 a child imports this anew
    os.environ["MAIN"] = str(os.getpid())
    worker = Worker(URL, executor=ProcessPoolExecutor, use_threads=True)
    worker.register("plain", plain, bind=True)
    worker.run()
"""


@pytest.fixture
def run(server: EmbeddedServer, tmp_path: Path, wait_until: WaitUntil) -> Iterator[Run]:
    programs: list[Program] = []

    def run(options: tuple[str, ...] = ("-W", "error")) -> Program:
        programs.append(Program(tmp_path, server.url, JOBS, options))
        return programs[-1]

    yield run
    try:
        for program in programs:
            assert program.stop() == 0, program.log
            wait_until(lambda program=program: not program.processes)
    finally:
        for program in programs:
            program.end()


def test_a_pool_of_processes_runs_functions_and_declared_jobs(
    server: EmbeddedServer, run: Run, push: Push, wait_until: WaitUntil
) -> None:
    jids = [push("plain", 1, "two"), push("declared", "well"), push("declared", "raise")]
    program = run()
    wait_until(
        lambda: [reports(server, jid) for jid in jids] == [["ACK"], ["ACK"], ["FAIL"]], timeout=10
    )
    assert program.notes == [f"plain {jids[0]} 1 two True", f"declared {jids[1]} True"]
    (retry,) = server.retries
    assert (retry["failure"]["errtype"], retry["failure"]["message"]) == ("ValueError", "wrong")


def test_a_pool_that_breaks_fails_the_job_that_ran_in_it_and_is_replaced(
    server: EmbeddedServer, run: Run, push: Push, wait_until: WaitUntil
) -> None:
    jids = [push("declared", "die"), push("declared", "well")]
    program = run(())  # the new pool forks a worker with threads, which Python warns of
    wait_until(lambda: [reports(server, jid) for jid in jids] == [["FAIL"], ["ACK"]])
    (retry,) = server.retries
    assert retry["failure"]["errtype"] == "BrokenProcessPool"
    assert "a new one takes its place" in program.log


class Seen(ThreadPoolExecutor):
    made: list[dict[str, Any]] = []

    def __init__(self, **options: Any) -> None:
        self.made.append(options)
        super().__init__(**options, thread_name_prefix="Worker")


def test_a_class_of_executors_is_called_with_the_concurrency_and_wins(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    ran: list[object] = []

    def work(*args: object) -> None:
        ran.append((args, current_job().jid, threading.current_thread().name[:6]))

    jid = push("work", 1)
    Seen.made.clear()
    worker = Worker(server.url, concurrency=3, executor=Seen, use_threads=False)
    worker.register("work", work)
    start(worker)
    wait_until(lambda: reports(server, jid) == ["ACK"])
    assert Seen.made == [{"max_workers": 3}]
    assert ran == [((1,), jid, "Worker")]


def test_a_job_that_is_interrupted_fails_though_the_executor_goes_on(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    go_on = threading.Event()

    @faktory.job(time_limit=0.05)
    def held() -> None:
        go_on.wait(10)

    jid = push("held")
    start(Worker(server.url, executor=ThreadPoolExecutor))
    wait_until(lambda: reports(server, jid) == ["FAIL"])
    go_on.set()
    assert server.retries[0]["failure"]["errtype"] == "TimeLimitExceeded"


def test_the_grace_period_ends_the_wait_for_an_executor(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    go_on, begun = threading.Event(), threading.Event()

    def held() -> None:
        begun.set()
        go_on.wait(10)

    jid = push("held")
    worker = Worker(server.url, executor=ThreadPoolExecutor, disconnect_wait=0.05)
    worker.register("held", held)
    running = start(worker)
    wait_until(begun.is_set)
    running.stop()
    go_on.set()
    assert reports(server, jid) == ["FAIL"]
    assert server.retries[0]["failure"]["errtype"] == "Shutdown"
    assert worker.abandoned == []


class Literal(Executor):
    """Keeps what was submitted."""

    submitted: list[tuple[object, ...]] = []

    def __init__(self, max_workers: int) -> None: ...

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.submitted.append((function, *args))
        future: Future[Any] = Future()
        future.set_result(function(*args))
        return future


def test_an_executor_gets_the_registered_function_itself_and_its_arguments(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    Literal.submitted.clear()
    jid = push("larger", "1")
    worker = Worker(server.url, executor=Literal)
    worker.register("larger", max, bind=True)
    start(worker)
    wait_until(lambda: reports(server, jid) == ["ACK"])
    assert Literal.submitted == [(max, jid, "1")]


def test_an_executor_that_is_made_already_is_refused() -> None:
    with (
        ThreadPoolExecutor(1) as executor,
        pytest.raises(ValueError, match=r"pass the class.*max_workers"),
    ):
        Worker("tcp://somewhere", executor=executor)  # type: ignore[arg-type]

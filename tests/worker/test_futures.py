"""`Worker(executor=...)`: jobs run in a pool of futures, as in faktory 1.0.0."""

from __future__ import annotations

import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest

import faktory
from faktory import Worker, current_job
from faktory.server import EmbeddedServer

from .conftest import Held, Push, Reported, RunProgram, Start, reports

JOBS = """
from concurrent.futures import ProcessPoolExecutor

def plain(jid, *args):
    note("plain", jid, *args, os.getpid() != int(os.environ["MAIN"]))

@faktory.job
def declared(how):
    if how == "die": os._exit(3)
    if how == "raise": raise ValueError("wrong")
    note("declared", current_job().jid, os.getpid() != int(os.environ["MAIN"]))

if __name__ == "__main__":  # since Python 3.14 a child imports this again
    os.environ["MAIN"] = str(os.getpid())
    worker = Worker(URL, executor=ProcessPoolExecutor, use_threads=True)
    worker.register("plain", plain, bind=True)
    worker.run()
"""


def test_a_pool_of_processes_runs_functions_and_declared_jobs(
    server: EmbeddedServer, run_program: RunProgram, push: Push, reported: Reported
) -> None:
    jids = [push("plain", 1, "two"), push("declared", "well"), push("declared", "raise")]
    program = run_program(JOBS)
    reported(jids, "ACK", "ACK", "FAIL")
    assert program.notes == [f"plain {jids[0]} 1 two True", f"declared {jids[1]} True"]
    (retry,) = server.retries
    assert (retry["failure"]["errtype"], retry["failure"]["message"]) == ("ValueError", "wrong")


def test_a_pool_that_breaks_fails_the_job_that_ran_in_it_and_is_replaced(
    server: EmbeddedServer, run_program: RunProgram, push: Push, reported: Reported
) -> None:
    jids = [push("declared", "die"), push("declared", "well")]
    # The new pool forks a worker that has threads, which Python warns of.
    program = run_program(JOBS, "ignore")
    reported(jids, "FAIL", "ACK")
    (retry,) = server.retries
    assert retry["failure"]["errtype"] == "BrokenProcessPool"
    assert "a new one takes its place" in program.log


class Seen(ThreadPoolExecutor):
    made: list[dict[str, Any]] = []

    def __init__(self, **options: Any) -> None:
        self.made.append(options)
        super().__init__(**options, thread_name_prefix="Worker")


def test_a_class_of_executors_is_called_with_the_concurrency_and_wins(
    start: Start, push: Push, reported: Reported
) -> None:
    ran: list[object] = []

    def work(*args: object) -> None:
        ran.append((args, current_job().jid, threading.current_thread().name[:6]))

    jid = push("work", 1)
    Seen.made.clear()
    start({"work": work}, concurrency=3, executor=Seen, use_threads=False)
    reported(jid, "ACK")
    assert Seen.made == [{"max_workers": 3}]
    assert ran == [((1,), jid, "Worker")]


def test_a_job_that_is_interrupted_fails_though_the_executor_goes_on(
    server: EmbeddedServer, start: Start, push: Push, reported: Reported, held: Held
) -> None:
    faktory.job(name="held", time_limit=0.05)(held.hold)
    jid = push("held")
    start(executor=ThreadPoolExecutor)
    reported(jid, "FAIL")
    held.release()
    assert server.retries[0]["failure"]["errtype"] == "TimeLimitExceeded"


def test_the_grace_period_ends_the_wait_for_an_executor(
    server: EmbeddedServer, start: Start, push: Push, held: Held
) -> None:
    jid = push("held")
    running = start({"held": held.hold}, executor=ThreadPoolExecutor, disconnect_wait=0.05)
    assert held.began.wait(20)
    running.stop()
    held.release()
    assert reports(server, jid) == ["FAIL"]
    assert server.retries[0]["failure"]["errtype"] == "Shutdown"
    assert running.worker.abandoned == []


class Literal(Executor):
    """Keeps the submitted calls, and makes them at once."""

    submitted: list[tuple[object, ...]] = []

    def __init__(self, max_workers: int) -> None: ...

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.submitted.append((function, *args))
        future: Future[Any] = Future()
        future.set_result(function(*args))
        return future


def test_an_executor_gets_the_registered_function_itself_and_its_arguments(
    server: EmbeddedServer, start: Start, push: Push, reported: Reported
) -> None:
    Literal.submitted.clear()
    jid = push("larger", "1")
    worker = Worker(server.url, executor=Literal)
    worker.register("larger", max, bind=True)
    start(worker)
    reported(jid, "ACK")
    assert Literal.submitted == [(max, jid, "1")]


def test_an_instance_of_an_executor_is_an_error() -> None:
    with (
        ThreadPoolExecutor(1) as executor,
        pytest.raises(ValueError, match=r"pass the class.*max_workers"),
    ):
        Worker("tcp://somewhere", executor=executor)  # type: ignore[arg-type]

"""`Worker(executor=...)`: jobs run in a pool of futures, as in faktory 1.0.0."""

from __future__ import annotations

import threading
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
)
from concurrent.futures.thread import BrokenThreadPool
from typing import Any

import pytest

import faktory
from faktory import Worker, current_job
from faktory.jobs.context import reservation_clock
from faktory.server import EmbeddedServer
from faktory.worker.timing import Timing

from .conftest import (
    Held,
    Push,
    Reported,
    RunProgram,
    Start,
    WaitUntil,
    end_reservation,
    messages,
    reports,
    succeed,
)

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


def test_an_error_that_pickle_cannot_copy_fails_its_job_and_breaks_no_pool(
    server: EmbeddedServer, run_program: RunProgram, push: Push, reported: Reported
) -> None:
    names = ("TwoArguments", "Nameless", "Local")
    jids = [push(kind, name, backtrace=5) for kind in ("hostile", "task") for name in names]
    program = run_program(
        """
class TwoArguments(Exception):
    def __init__(self, one, two): super().__init__(f"own {two}")
class Raises(BaseException): pass
class NamelessType(type):
    @property
    def __name__(cls): raise Raises
class Nameless(Exception, metaclass=NamelessType): pass
def task(name):
    class Local(Exception): pass
    if name == "TwoArguments": raise TwoArguments(1, "message")
    raise {"Nameless": Nameless, "Local": Local}[name]("own message")
@faktory.job
def hostile(name): task(name)
"""
        + JOBS.replace(
            'worker.register("plain"', 'worker.register("task", task)\n    worker.register("plain"'
        )
    )
    reported(jids, *["FAIL"] * 6)
    failures = [job["failure"] for job in server.retries]
    assert {each["message"] for each in failures} == {"own message"}
    assert {each["errtype"] for each in failures} == {*names}
    assert all(each["backtrace"] for each in failures)
    assert "executor is broken" not in program.log


def test_what_follows_from_an_error_in_a_pool_is_what_the_job_declares(
    server: EmbeddedServer, run_program: RunProgram, push: Push, reported: Reported
) -> None:
    hows = ("Away", "Copied", "Retry", "ValueError", "KeyError", "Cancelled", "Broken")
    jids = {how: push("policy", how, retry=3) for how in hows}
    program = run_program(
        """
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
class Away(Exception):
    def __init__(self, one, two): super().__init__("away")  # cannot be pickled
class Copied(Exception): pass
discarded = {"KeyError": KeyError, "Cancelled": CancelledError, "Broken": BrokenProcessPool}
kinds = {"Copied": Copied, "ValueError": ValueError, **discarded}
@faktory.job(
    retry_on=(Away, Copied), discard_on=(*discarded.values(),), backoff=lambda attempt: 100
)
def policy(how):
    if how == "Away": raise Away(1, 2)
    if how == "Retry": raise faktory.Retry("rate limited", after=60)
    raise kinds[how]("own")
"""
        + JOBS
    )
    reported([*jids.values()], "ACK", "ACK", "ACK", "FAIL", *["ACK"] * 3)
    assert "executor is broken" not in program.log
    scheduled = {job["jid"]: job["failure"]["message"] for job in server.scheduled}
    expected = {"Away": "away", "Copied": "own", "Retry": "rate limited"}
    assert scheduled == {jids[how]: message for how, message in expected.items()}
    assert [job["jid"] for job in server.dead] == [jids["ValueError"]]


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


@pytest.mark.parametrize("kind", [CancelledError, BrokenExecutor])
def test_what_the_executor_raises_too_is_the_jobs_own_error_where_the_job_raises_it(
    start: Start,
    push: Push,
    reported: Reported,
    caplog: pytest.LogCaptureFixture,
    kind: type[Exception],
) -> None:
    @faktory.job(discard_on=kind)
    def work() -> None:
        raise kind("of an executor in the job")

    jid = push("work")
    start(executor=ThreadPoolExecutor)
    reported(jid, "ACK")
    assert messages(caplog, "the executor is broken") == []


class Failing(ThreadPoolExecutor):
    """Cancels its first call, and breaks with the second one."""

    calls = 0

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        Failing.calls += 1
        future: Future[Any] = Future()
        if self.calls == 1:
            future.cancel()
        else:
            future.set_exception(BrokenThreadPool("its initializer failed"))
        return future


def test_a_job_whose_executor_fails_is_not_judged_by_its_policy(
    start: Start, push: Push, reported: Reported, caplog: pytest.LogCaptureFixture
) -> None:
    @faktory.job(discard_on=(CancelledError, BrokenExecutor))
    def work() -> None: ...

    Failing.calls = 0
    jids = [push("work"), push("work")]
    start(executor=Failing, concurrency=1)
    reported(jids, "FAIL", "FAIL")
    assert len(messages(caplog, "the executor is broken")) == 1


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


class Refusing(ThreadPoolExecutor):
    """Takes a call though it raises, as a pool does that gets no thread for it."""

    errors: list[BaseException] = []

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(function, *args, **kwargs)
        if self.errors:
            raise self.errors.pop(0)
        return future


def test_a_job_waits_while_the_executor_takes_none_and_runs_once(
    server: EmbeddedServer,
    start: Start,
    push: Push,
    reported: Reported,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ran: list[int] = []
    Refusing.errors = [
        RuntimeError("can't start new thread"),
        OSError(11, "no more"),
        BrokenExecutor("broken"),
        RuntimeError("can't start new thread"),
    ]
    jids = [push("work", number) for number in range(3)]
    timing = Timing(backoff=lambda attempt, random: 0.01)
    start({"work": ran.append}, executor=Refusing, timing=timing)
    reported(jids, *["ACK"] * 3)
    assert sorted(ran) == [0, 1, 2]
    assert Refusing.errors == []
    assert len(messages(caplog, "the executor takes no job, trying again")) == 1
    assert len(messages(caplog, "the executor is broken")) == 1


def test_a_job_that_waits_for_an_executor_is_interrupted(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    class Never(ThreadPoolExecutor):
        def submit(self, *_: Any, **__: Any) -> Future[Any]:
            raise OSError(24, "Too many open files")

    jid = push("work")
    running = start({"work": succeed}, executor=Never, disconnect_wait=0.05)
    wait_until(lambda: running.worker.busy == 1)
    running.stop()
    assert reports(server, jid) == ["FAIL"]
    assert server.retries[0]["failure"]["errtype"] == "Shutdown"


def test_a_job_in_a_pool_of_threads_extends_its_own_reservation(
    server: EmbeddedServer, start: Start, push: Push, reported: Reported
) -> None:
    @faktory.job
    def extends() -> None:
        end_reservation()
        current_job().extend(reservation_clock() + 60)

    jid = push("extends")
    start(executor=ThreadPoolExecutor)
    reported(jid, "ACK")


def test_a_pool_of_processes_that_cannot_start_leaves_none_and_the_job_waits(
    server: EmbeddedServer, run_program: RunProgram, push: Push, reported: Reported
) -> None:
    jids = [push("declared", "die"), push("declared", "well")]
    program = run_program(
        JOBS.replace(
            "    worker = Worker(URL,",
            """
    import multiprocessing
    from faktory.worker.timing import Timing
    fork, main, forks = os.fork, os.getpid(), []
    def seldom():
        if os.getpid() == main:
            forks.append(1)
            if len(forks) in (4, 6): raise OSError(11, "no more")
        return fork()
    os.fork = seldom
    def left():
        pools = [each for each in multiprocessing.active_children()]
        note("left", len(pools))
    worker = Worker(URL, concurrency=2, timing=Timing(backoff=lambda *_: 0.05),""",
        ).replace("    worker.run()", '    worker.on("shutdown", left)\n    worker.run()'),
        "ignore",
    )
    reported(jids[0], "FAIL")
    reported(push("declared", "well"), "ACK")
    assert program.stop() == 0
    assert "the executor takes no job, trying again: [Errno 11]" in program.log
    assert "left 2" in program.notes

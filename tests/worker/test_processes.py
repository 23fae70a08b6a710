"""`Worker(use_threads=False)`: a process for each slot."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from faktory import Client
from faktory.server import EmbeddedServer

from .conftest import Push, WaitUntil, reports
from .program import Program

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

Run = Callable[..., Program]

JOBS = """
def traced(function):
    @functools.wraps(function)
    def around(*args):
        note("around")
        return function(*args)
    return around

@faktory.job
@traced
def decorated(number):
    note("decorated", number, current_job().jid, os.getpid())

@faktory.job(time_limit=0.5)
def limited(how):
    try:
        time.sleep(30)
    except faktory.TimeLimitExceeded:
        note("struck")
        while how == "stubborn":
            time.sleep(30)
        raise

class OfMine(Exception):
    def __init__(self, one, two):  # cannot be pickled
        super().__init__(f"{one} and {two}")

@faktory.job
def fails(how):
    if how == "mine": raise OfMine("this", "that")
    if how == "discard": raise faktory.Discard("not needed")
    if how == "exit": sys.exit(3)
    if how == "os._exit": os._exit(3)
    if how == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if how == "segfault": ctypes.string_at(0)
    if how == "term": os.kill(os.getpid(), signal.SIGTERM)
    if how == "fork":
        if os.fork() == 0:
            return "out of the job"
        os.wait()

@faktory.job
def slow(seconds):
    note("slow", os.getpid())
    time.sleep(seconds)
    note("ended")

def closure():
    seen = []
    return lambda jid, *args: (seen.append(args), note("bound", jid, *args, len(seen)))

def work(**options):
    worker = Worker(URL, use_threads=False, **options)
    worker.register("bound", closure(), bind=True)
    @worker.error_handlers.append
    def tell(error, context):
        kind = type(error)
        note("error", kind.__name__, error, isinstance(error, Exception), os.getpid() == MAIN)
    worker.on("exhausted", lambda job, error: note("exhausted", job.jobtype, type(error).__name__))
    return worker
MAIN = os.getpid()
"""


@pytest.fixture
def run(server: EmbeddedServer, tmp_path: Path, wait_until: WaitUntil) -> Iterator[Run]:
    """`run("work(concurrency=2).run()")`: a program with JOBS; nothing of it may be left."""
    programs: list[Program] = []

    def run(code: str = "work().run()", jobs: str = JOBS) -> Program:
        programs.append(Program(tmp_path, server.url, jobs + code))
        return programs[-1]

    yield run
    try:
        for program in programs:
            if program.process.poll() is None:
                assert program.stop() == 0, program.log
            wait_until(lambda program=program: not program.processes)
            assert "Warning" not in program.log, program.log
    finally:
        for program in programs:
            program.end()


def failure(server: EmbeddedServer, jid: str) -> dict[str, Any]:
    found: dict[str, Any] = next(job["failure"] for job in server.retries if job["jid"] == jid)
    return found


# What runs


def test_decorated_functions_closures_and_bound_tasks_run_in_a_process_that_stays(
    server: EmbeddedServer, run: Run, push: Push, wait_until: WaitUntil
) -> None:
    jids = [push("decorated", 1), push("decorated", 2), push("bound", "a"), push("bound", "b")]
    program = run()
    wait_until(lambda: [reports(server, jid) for jid in jids] == [["ACK"]] * 4)
    first, second = [note.split() for note in program.notes if note.startswith("decorated")]
    assert [first[1:3], second[1:3]] == [["1", jids[0]], ["2", jids[1]]]
    assert first[3] == second[3] != str(program.process.pid)
    assert program.notes.count("around") == 2
    assert [note for note in program.notes if "bound" in note] == [
        f"bound {jids[2]} a 1",
        f"bound {jids[3]} b 2",
    ]


def test_each_slot_has_a_process_of_its_own(run: Run, push: Push, wait_until: WaitUntil) -> None:
    push("slow", 1.5)
    push("slow", 1.5)
    program = run("work(concurrency=2).run()")
    wait_until(lambda: program.notes.count("ended") == 2)
    assert program.notes[2:] == ["ended", "ended"]
    assert program.notes[0] != program.notes[1]


def test_the_middleware_runs_around_the_job_in_its_process(
    run: Run, push: Push, wait_until
) -> None:
    push("decorated", 1)
    program = run(
        """
@faktory.worker_middleware.add
def around_it(job, payload, call_next):
    note("before", os.getpid())
    return call_next()
work().run()
"""
    )
    wait_until(lambda: len(program.notes) == 3)
    assert program.notes[0].split()[1] == program.notes[2].split()[-1]


def test_what_is_registered_later_is_sent_there_if_it_can_be(
    server: EmbeddedServer, run: Run, push: Push, wait_until: WaitUntil
) -> None:
    jids = [push("top"), push("inner")]
    run(
        """
def top():
    note("top")
worker = work()
@functools.partial(worker.on, "startup")
def later():
    worker.register("top", top)
    worker.register("inner", lambda: None)
worker.run()
"""
    )
    wait_until(lambda: [reports(server, jid) for jid in jids] == [["ACK"], ["FAIL"]])
    assert "register it before" in failure(server, jids[1])["message"]


def test_a_job_pushes_and_tracks_itself(
    server: EmbeddedServer, run: Run, push: Push, wait_until: WaitUntil
) -> None:
    jid = push("tracked", custom={"track": 1})
    program = run(
        """
faktory.configure(url=URL)
@faktory.job
def tracked():
    try:
        current_job().track_progress(50, "half")
    except faktory.FaktoryEnterpriseRequired:
        note("enterprise")
    note(fails.perform_async("well"))
work().run()
"""
    )
    wait_until(lambda: len(program.notes) == 2)
    wait_until(lambda: [reports(server, each) for each in (jid, program.notes[1])] == [["ACK"]] * 2)
    assert program.notes[0] == "enterprise"


# What goes wrong


@pytest.mark.parametrize(
    ("how", "errtype", "message"),
    [
        ("mine", "OfMine", "this and that"),
        ("exit", "SystemExit", "3"),
        ("os._exit", "ProcessDied", "ended with exit code 3"),
        ("kill", "ProcessDied", "killed by SIGKILL"),
        ("segfault", "ProcessDied", "killed by SIGSEGV"),
    ],
)
def test_a_job_that_fails_or_dies_says_how_and_the_next_one_runs(
    server: EmbeddedServer,
    run: Run,
    push: Push,
    wait_until: WaitUntil,
    how: str,
    errtype: str,
    message: str,
) -> None:
    jid, after = push("fails", how, backtrace=20, retry=1), push("decorated", 1)
    program = run()
    wait_until(lambda: [reports(server, each) for each in (jid, after)] == [["FAIL"], ["ACK"]])
    said = failure(server, jid)
    assert said["errtype"] == errtype
    assert message in said["message"]
    handled = next(note for note in program.notes if note.startswith("error"))
    assert handled.startswith(f"error {errtype} ")
    assert handled.endswith("True True")
    if how == "mine":
        assert said["backtrace"][-1].endswith("OfMine: this and that")
        assert any("program.py" in line for line in said["backtrace"])
        assert "in fails" in program.log


def test_the_last_failure_is_told_as_exhausted(run: Run, push: Push, wait_until) -> None:
    push("fails", "kill", retry=0)
    program = run()
    wait_until(lambda: "exhausted fails ProcessDied" in program.notes)


def test_a_discarded_job_is_acknowledged(
    server: EmbeddedServer, run: Run, push: Push, wait_until: WaitUntil
) -> None:
    jid = push("fails", "discard")
    program = run()
    wait_until(lambda: reports(server, jid) == ["ACK"])
    wait_until(lambda: "discarded" in program.log)
    assert "not needed" in program.log
    assert program.notes == []


@pytest.mark.parametrize("how", ["term", "fork"])
def test_a_stray_term_and_a_fork_do_a_job_no_harm(
    server: EmbeddedServer, run: Run, push: Push, wait_until: WaitUntil, how: str
) -> None:
    jid, after = push("fails", how), push("decorated", 1)
    run()
    wait_until(lambda: [reports(server, each) for each in (jid, after)] == [["ACK"], ["ACK"]])


def test_one_child_that_is_killed_takes_no_other_job_down(
    server: EmbeddedServer, run: Run, push: Push, wait_until: WaitUntil
) -> None:
    jids = [push("slow", 1), push("slow", 1)]
    program = run("work(concurrency=2).run()")
    wait_until(lambda: len(program.notes) == 2)
    os.kill(int(program.notes[0].split()[1]), signal.SIGKILL)
    wait_until(lambda: sorted(reports(server, jid) for jid in jids) == [["ACK"], ["FAIL"]])


def test_a_child_that_dies_between_two_jobs_fails_no_job(
    server: EmbeddedServer, run: Run, push: Push, wait_until: WaitUntil
) -> None:
    first = push("decorated", 1)
    program = run()
    wait_until(lambda: reports(server, first) == ["ACK"])
    os.kill(int(program.notes[-1].split()[-1]), signal.SIGKILL)
    wait_until(lambda: len(program.processes) == 1)
    second = push("decorated", 2)
    wait_until(lambda: reports(server, second))
    assert reports(server, second) == ["ACK"]


# Limits and ends


def test_a_time_limit_strikes_in_a_sleep(
    server: EmbeddedServer, run: Run, push: Push, wait_until: WaitUntil
) -> None:
    jid, after = push("limited", "docile"), push("decorated", 1)
    program = run()
    wait_until(lambda: [reports(server, each) for each in (jid, after)] == [["FAIL"], ["ACK"]])
    assert failure(server, jid)["errtype"] == "TimeLimitExceeded"
    assert program.notes.count("struck") == 1
    assert "killed" not in program.log


def test_a_job_that_goes_on_after_its_time_limit_is_killed(
    server: EmbeddedServer, run: Run, push: Push, wait_until: WaitUntil
) -> None:
    jid, after = push("limited", "stubborn"), push("decorated", 1)
    program = run(
        """
from faktory.worker import processes
processes.INSIST[faktory.TimeLimitExceeded] = 0.2
work().run()
"""
    )
    wait_until(lambda: [reports(server, each) for each in (jid, after)] == [["FAIL"], ["ACK"]])
    said = failure(server, jid)
    assert said["errtype"] == "TimeLimitExceeded"
    assert "did not end within 0.2 s, and was killed" in said["message"]
    assert "error TimeLimitExceeded" in "".join(program.notes)


@pytest.mark.parametrize("how", ["docile", "stubborn"])
def test_at_the_end_of_the_grace_period_a_job_fails_with_shutdown_and_no_process_is_left(
    server: EmbeddedServer, run: Run, push: Push, wait_until: WaitUntil, how: str
) -> None:
    jid = push("held", how)
    program = run(
        f"""
from faktory.worker import processes
processes.INSIST[faktory.Shutdown] = {0.5 if how == "stubborn" else 10}
@faktory.job
def held(how):
    note("held")
    try:
        time.sleep(30)
    except faktory.Shutdown:
        while how == "stubborn":
            time.sleep(30)
        raise
work(disconnect_wait=0.1).run()
"""
    )
    wait_until(lambda: "held" in program.notes)
    assert program.stop() == 0
    assert reports(server, jid) == ["FAIL"]
    said = failure(server, jid)
    assert said["errtype"] == "Shutdown"
    assert ("was killed" in said["message"]) is (how == "stubborn")


def test_a_job_that_outlives_its_reservation_is_killed_not_left_behind(
    server: EmbeddedServer, run: Run, push: Push, wait_until: WaitUntil
) -> None:
    push("slow", 60)
    program = run(
        """
from faktory.jobs import context
from faktory.worker import worker
context.LEAST_RESERVE = context.DEFAULT_RESERVE = 1
worker.LOOK_EVERY = 0.02
work().run()
"""
    )
    wait_until(lambda: "It is killed, unreported" in program.log)
    pid = int(program.notes[0].split()[1])
    wait_until(lambda: pid not in program.processes)
    after = push("fails", "well")
    wait_until(lambda: reports(server, after) == ["ACK"])


def test_a_term_to_the_whole_group_lets_jobs_end(
    server: EmbeddedServer, run: Run, push: Push, wait_until: WaitUntil
) -> None:
    jid = push("slow", 0.5)
    program = run()
    wait_until(lambda: program.notes)
    os.killpg(program.process.pid, signal.SIGTERM)
    assert program.process.wait(10) == 0
    assert reports(server, jid) == ["ACK"]


def test_a_worker_that_is_killed_leaves_no_process(run: Run, push: Push, wait_until) -> None:
    push("slow", 60)
    push("decorated", 1)
    program = run("work(concurrency=2).run()")
    wait_until(lambda: len(program.notes) == 3)
    assert len(program.processes) == 3
    program.process.kill()
    program.process.wait()
    wait_until(lambda: not program.processes)


def test_a_worker_whose_nursery_is_killed_fails_its_jobs_and_ends_with_an_error(
    server: EmbeddedServer, run: Run, push: Push, wait_until: WaitUntil
) -> None:
    jid = push("slow", 1)
    program = run()
    wait_until(lambda: program.notes)
    child = int(program.notes[0].split()[1])
    (nursery,) = set(program.processes) - {child}
    os.kill(nursery, signal.SIGKILL)
    wait_until(lambda: reports(server, jid))
    os.kill(child, signal.SIGKILL)
    after = push("slow", 0)
    assert program.process.wait(10) == 1
    assert reports(server, after) == ["FAIL"]
    assert "Start the worker again" in program.log


def test_what_a_job_prints_is_there_once(
    server: EmbeddedServer, run: Run, push: Push, wait_until: WaitUntil
) -> None:
    jids = [push("prints", number) for number in range(2)]
    program = run(
        """
@faktory.job
def prints(number):
    print("printed", number)
    if number: os._exit(0)
print("beforehand")
work().run()
"""
    )
    wait_until(lambda: all(reports(server, jid) for jid in jids))
    assert program.log.count("beforehand") == program.log.count("printed 0") == 1


def test_what_a_job_leaves_running_does_not_hide_that_its_process_died(
    server: EmbeddedServer, run: Run, push: Push, wait_until: WaitUntil
) -> None:
    jid = push("leaves")
    program = run(
        """
@faktory.job
def leaves():
    os.system("sleep 3 &")
    if os.fork() == 0:
        time.sleep(3)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)
work().run()
"""
    )
    wait_until(lambda: reports(server, jid) == ["FAIL"])
    assert len(program.processes) >= 3  # the nursery and what was left


def test_a_job_waits_until_the_system_gives_a_process(
    server: EmbeddedServer, run: Run, push: Push, wait_until: WaitUntil
) -> None:
    jid = push("decorated", 1)
    program = run(
        """
from faktory.worker import nursery, processes
processes.AGAIN = 0.01
fork, failures = nursery.Nursery.fork, [OSError(11, "no more")] * 2
def seldom(*args):
    if failures: raise failures.pop()
    return fork(*args)
nursery.Nursery.fork = seldom
work().run()
"""
    )
    wait_until(lambda: reports(server, jid) == ["ACK"])
    assert program.log.count("the system gives no process") == 2


def test_threads_that_are_there_already_are_warned_of(
    server: EmbeddedServer, run: Run, wait_until: WaitUntil
) -> None:
    program = run(
        """
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
work().run()
"""
    )
    wait_until(lambda: "runs 1 other threads" in program.log)
    wait_until(lambda: server.workers)  # from then on a signal stops it


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_children_killed_at_random_lose_no_job(
    server: EmbeddedServer, run: Run, wait_until: WaitUntil
) -> None:
    count = 5000
    with Client(server.url) as client:
        jobs = ({"jobtype": "work", "args": [n], "retry": 0} for n in range(count))
        assert client.push_bulk(jobs) == {}
        program = run(
            """
@faktory.job(name="work")
def work_(number):
    time.sleep(0.002)
    note("ran", number)
logging.getLogger("faktory").setLevel(logging.ERROR)
work(concurrency=4).run()
"""
        )
        dice = random.Random(1)
        wait_until(lambda: program.notes)
        nursery = min(program.processes)

        def totals() -> dict[str, Any]:
            found: dict[str, Any] = client.info()["faktory"]
            return found

        end = time.monotonic() + 240
        kills = 0
        while totals()["total_processed"] + totals()["total_failures"] < count:
            assert time.monotonic() < end
            for pid in dice.sample(program.processes, 1):
                if pid != nursery:
                    kills += 1
                    os.kill(pid, signal.SIGKILL)
            wait_until(lambda: len(program.processes) > 1)
            time.sleep(0.03)
        wait_until(lambda: not totals()["sets"]["working"] if "sets" in totals() else True)
    assert program.stop() == 0
    acked = [text for verb, text in server.commands if verb == "ACK"]
    failed = [text for verb, text in server.commands if verb == "FAIL"]
    assert len(acked) + len(failed) == count
    assert all("ProcessDied" in text and "SIGKILL" in text for text in failed)
    assert 20 < len(failed) <= kills
    ran = {note.split()[1] for note in program.notes if note.startswith("ran")}
    assert len(ran) >= len(acked)

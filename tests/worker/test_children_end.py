"""`Worker(use_threads=False)`: time limits, and how workers and their processes end."""

from __future__ import annotations

import os
import signal
import socket
import sys

import pytest

from faktory.server import EmbeddedServer

from .conftest import Push, Reported, RunProgram, WaitUntil, failure, reports

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_a_time_limit_interrupts_a_sleep(
    server: EmbeddedServer, run_children: RunProgram, push: Push, reported: Reported
) -> None:
    jids = [push("limited", "docile"), push("decorated", 1)]
    program = run_children()
    reported(jids, "FAIL", "ACK")
    assert failure(server, jids[0])["errtype"] == "TimeLimitExceeded"
    assert program.notes.count("interrupted") == 1
    assert "killed" not in program.log


def test_a_job_that_goes_on_after_its_time_limit_is_killed(
    server: EmbeddedServer, run_children: RunProgram, push: Push, reported: Reported
) -> None:
    jids = [push("limited", "stubborn"), push("decorated", 1)]
    program = run_children("work(timing=Timing(time_limit_grace=0.2)).run()")
    reported(jids, "FAIL", "ACK")
    failed = failure(server, jids[0])
    assert failed["errtype"] == "TimeLimitExceeded"
    assert "did not end within 0.2 s, and was killed by faktory-worker" in failed["message"]
    assert "error TimeLimitExceeded" in "".join(program.notes)


@pytest.mark.parametrize(("how", "kill_grace"), [("docile", 5.0), ("stubborn", 0.2)])
def test_at_the_end_of_the_grace_period_a_job_fails_with_shutdown_and_no_process_is_left(
    server: EmbeddedServer,
    run_children: RunProgram,
    push: Push,
    wait_until: WaitUntil,
    how: str,
    kill_grace: float,
) -> None:
    jid = push("waits", how)
    program = run_children(
        f"""
@faktory.job
def waits(how):
    note("waits")
    try:
        time.sleep(30)
    except faktory.Shutdown:
        while how == "stubborn":
            time.sleep(30)
        raise
timing = Timing(kill_grace={kill_grace}, shutdown_grace=10.0)
work(disconnect_wait=0.1, timing=timing).run()
"""
    )
    wait_until(lambda: "waits" in program.notes)
    assert program.stop() == 0
    assert reports(server, jid) == ["FAIL"]
    failed = failure(server, jid)
    assert failed["errtype"] == "Shutdown"
    assert ("was killed" in failed["message"]) is (how == "stubborn")


def test_the_process_of_an_overdue_job_is_killed_and_no_thread_is_abandoned(
    run_children: RunProgram, push: Push, wait_until: WaitUntil, reported: Reported
) -> None:
    push("overdue")
    program = run_children(
        """
@faktory.job
def overdue():
    note("overdue", os.getpid())
    current_job().on_more_time(0.0)  # the reservation ended long ago
    time.sleep(60)
work(timing=Timing(check_interval=0.02)).run()
"""
    )
    wait_until(lambda: "It is killed, unreported" in program.log)
    pid = int(program.notes[0].split()[1])
    wait_until(lambda: pid not in program.processes)
    reported(push("fails", "well"), "ACK")


def test_a_term_to_the_whole_group_lets_jobs_end(
    server: EmbeddedServer, run_children: RunProgram, push: Push, wait_until: WaitUntil
) -> None:
    jid = push("held")
    program = run_children()
    wait_until(lambda: program.notes)
    os.killpg(program.process.pid, signal.SIGTERM)
    wait_until(lambda: "Shutdown: waiting up to 15 seconds for 1 job" in program.log)
    program.release()
    assert program.process.wait(10) == 0
    assert reports(server, jid) == ["ACK"]


def test_a_worker_that_is_killed_leaves_no_process(
    run_children: RunProgram, push: Push, wait_until: WaitUntil
) -> None:
    push("held")
    push("decorated", 1)
    program = run_children("work(concurrency=2).run()")
    wait_until(lambda: len(program.notes) == 3)
    assert len(program.processes) == 3
    program.process.kill()
    program.process.wait()
    wait_until(lambda: not program.processes)


def test_a_worker_whose_fork_server_is_killed_fails_the_next_job_and_ends_with_an_error(
    server: EmbeddedServer,
    run_children: RunProgram,
    push: Push,
    wait_until: WaitUntil,
    reported: Reported,
) -> None:
    jid = push("held")
    program = run_children()
    wait_until(lambda: program.notes)
    child = int(program.notes[0].split()[1])
    (fork_server,) = set(program.processes) - {child}
    os.kill(fork_server, signal.SIGKILL)
    program.release()
    reported(jid, "ACK")
    os.kill(child, signal.SIGKILL)
    after = push("held")
    assert program.process.wait(10) == 1
    assert reports(server, after) == ["FAIL"]
    assert "Start the worker again" in program.log


PRODUCES = """
@faktory.job
def produces(url):
    producer = faktory.Producer(url or URL, linger=60)
    for number in range(100):
        producer.push({"jobtype": "pushed", "args": [number], "queue": "other"})
    globals()["kept"] = producer
@faktory.job
def forks():
    if (pid := os.fork()) == 0:
        return produces("")
    os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("job", ["produces", "forks"])
def test_what_a_job_has_left_in_a_producer_is_pushed_when_its_process_ends(
    server: EmbeddedServer, run_children: RunProgram, push: Push, reported: Reported, job: str
) -> None:
    jid = push(job, *([""] if job == "produces" else []))
    program = run_children(PRODUCES + "work().run()")
    reported(jid, "ACK")
    assert program.stop() == 0
    assert len(server.queues["other"]) == 100


def test_what_a_producer_cannot_push_in_time_is_logged_with_its_number(
    run_children: RunProgram, push: Push, reported: Reported
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        jid = push("produces", f"tcp://127.0.0.1:{silent.getsockname()[1]}")
        program = run_children(PRODUCES + "work(timing=Timing(flush_grace=0.2)).run()")
        reported(jid, "ACK")
        assert program.stop() == 0
    assert program.log.count("100 jobs are not pushed yet") == 1


def test_a_process_that_does_not_end_is_killed_at_the_end_of_the_worker(
    run_children: RunProgram, push: Push, reported: Reported
) -> None:
    jid = push("stays")
    program = run_children(
        """
@faktory.job
def stays():
    from faktory.client import fork
    fork.on_end(lambda seconds: time.sleep(60))
work(timing=Timing(flush_grace=0.1)).run()
"""
    )
    reported(jid, "ACK")
    assert program.stop() == 0

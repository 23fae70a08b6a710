from __future__ import annotations

import re
import signal
import string
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import faktory
from faktory import Client
from faktory.cli.exits import Exit
from faktory.cli.worker.main import main
from faktory.server import EmbeddedServer
from faktory.server.state import Timing

from ..worker.real import RealFaktory
from .support import WORKER, Run, WaitUntil, call, push, reports

SHORT_OF_THREADS = """
from jobs import *
from faktory.worker.processor import Processor

def start(thread, real=Processor.start):
    if thread.name == "faktory-3":
        raise RuntimeError("can't start new thread")
    real(thread)

Processor.start = start
"""

OUT_OF_THREADS = """
from jobs import *
from faktory.worker.heartbeat import Heartbeat

def start(thread):
    raise RuntimeError("can't start new thread")

Heartbeat.start = start
"""

MANY = """
import logging
import threading
import time

import faktory

log = logging.getLogger("app")

@faktory.job
def sleeps():
    time.sleep(60)

@faktory.job
def spins():
    while True:
        pass

@faktory.job
def catches():
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            pass

@faktory.job
def refuses():
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass

@faktory.job
def logs():
    while True:
        log.info("busy")

@faktory.job
def ends():
    time.sleep(0.5)

@faktory.job
def starts_a_thread():
    threading.Thread(target=time.sleep, args=(60,)).start()
    time.sleep(60)
"""


# Running


@pytest.mark.parametrize(
    ("module", "number"),
    [("jobs", signal.SIGTERM), ("jobs.py", signal.SIGINT), ("./jobs.py", signal.SIGTERM)],
)
def test_it_runs_jobs_until_it_is_stopped(
    server: EmbeddedServer,
    run: Run,
    folder: Path,
    wait_until: WaitUntil,
    module: str,
    number: signal.Signals,
) -> None:
    worker = run(WORKER, "-r", module, "-q", "images", url=server.url)
    jid = push(server, "touch", str(folder / "done"), queue="images")
    wait_until((folder / "done").exists)
    worker.send(number)
    assert worker.wait() == Exit.STOPPED == 0
    assert reports(server, jid) == ["ACK"]
    assert worker.printed == ""
    assert (
        f"connected to Faktory 1.10.0 at {server.url.removeprefix('tcp://')} (tcp)" in worker.said
    )
    assert " 10 jobs at a time: " in worker.said
    assert f"touch {jid} start" in worker.said
    assert worker.said.splitlines()[-1].endswith("stopped, every job answered")
    assert "Traceback" not in worker.said


def test_labels_and_weights_reach_the_server(
    server: EmbeddedServer, run: Run, wait_until: WaitUntil
) -> None:
    flags = ["-q", "a,3", "-q", "b,1", "-l", "blue", "-l", "green", "-c", "1"]
    run(WORKER, "-r", "jobs", *flags, url=server.url)
    wait_until(lambda: any(verb == "FETCH" for verb, _ in server.commands))
    assert server.workers[0]["labels"] == ["blue", "green"]
    assert {text for verb, text in server.commands if verb == "FETCH"} <= {"a b", "b a"}


def test_the_password_is_not_shown(run: Run, wait_until: WaitUntil) -> None:
    with EmbeddedServer(password="geheim", timing=Timing(fetch_wait=0.1)) as server:
        worker = run(WORKER, "-r", "jobs", url=server.url)
        wait_until(lambda: " job types, " in worker.said)
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    assert "connected to Faktory 1.10.0 at 127.0.0.1:" in worker.said
    assert "geheim" not in worker.said


def test_a_loop_is_interrupted_after_the_grace_period_and_reported(
    server: EmbeddedServer, run: Run, wait_until: WaitUntil
) -> None:
    worker = run(WORKER, "-r", "jobs", "-t", "0.1", url=server.url)
    jid = push(server, "spin")
    wait_until(lambda: server.working)
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    assert reports(server, jid) == ["FAIL"]
    assert server.retries[0]["failure"]["errtype"] == "Shutdown"


def test_a_second_signal_does_not_wait_and_a_stuck_job_has_its_own_exit_code(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    worker = run(WORKER, "-r", "jobs", "-t", "1000", url=server.url)
    jid = push(server, "stuck", str(folder / "began"))
    wait_until((folder / "began").exists)
    worker.send(signal.SIGTERM)
    wait_until(lambda: "Shutdown: waiting up to 1000 seconds for 1 job to finish" in worker.said)
    worker.send(signal.SIGINT)
    assert worker.wait() == Exit.ABANDONED == 5
    assert reports(server, jid) == ["FAIL"]
    assert f"stuck {jid} does not end: abandoned" in worker.said
    assert "every job answered" not in worker.said
    assert re.search(
        r"stopped, some jobs left running or unreported, on: faktory-\d+$",
        worker.said.splitlines()[-1],
    )


@pytest.fixture(params=["embedded", "real"])
def either(
    request: pytest.FixtureRequest, tmp_path: Path, wait_until: WaitUntil
) -> Iterator[EmbeddedServer | RealFaktory]:
    """A server of each kind; the real one as `RealFaktory` says."""
    server: EmbeddedServer | RealFaktory
    if request.param == "embedded":
        with EmbeddedServer(timing=Timing(fetch_wait=0.1)) as server:
            yield server
        return
    server = RealFaktory(tmp_path / "server", wait_until)
    try:
        server.start()
        yield server
    finally:
        server.end()


def test_ten_jobs_that_end_in_every_way_are_reported_soon_after_the_grace_period(
    either: EmbeddedServer | RealFaktory, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    (folder / "many.py").write_text(MANY)
    jobtypes = [*("sleeps", "spins", "catches", "logs") * 2, "refuses", "ends"]
    worker = run(WORKER, "-r", "many", "-t", "1", url=either.url)
    wait_until(lambda: "job types, " in worker.said)
    with Client(either.url) as client:
        client.push_bulk([{"jobtype": jobtype, "args": []} for jobtype in jobtypes])
        wait_until(lambda: client.info()["faktory"]["sets"]["working"] == 10)
        worker.send(signal.SIGTERM)
        began = time.monotonic()
        assert worker.wait() == Exit.ABANDONED
        took = time.monotonic() - began
        info = client.info()["faktory"]
    assert took < 1 + 2 + 5  # five seconds for a machine that has other work, too
    assert info["sets"]["working"] == 0
    assert info["sets"]["retries"] == info["total_failures"] == 9
    assert info["total_processed"] == 10


def test_jobs_that_end_by_the_interrupt_are_not_abandoned(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    (folder / "many.py").write_text(MANY)
    worker = run(WORKER, "-r", "many", "-t", "0.2", url=server.url)
    for _ in range(5):
        push(server, "logs")
        push(server, "catches")
    wait_until(lambda: len(server.working) == 10)
    worker.send(signal.SIGTERM)
    assert worker.wait() == Exit.STOPPED
    assert len(server.retries) == 10


def test_a_thread_that_a_job_started_does_not_keep_the_process(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    (folder / "many.py").write_text(MANY)
    worker = run(WORKER, "-r", "many", "-t", "0.1", url=server.url)
    push(server, "starts_a_thread")
    wait_until(lambda: server.working)
    worker.send(signal.SIGTERM)
    assert worker.wait() == Exit.ABANDONED
    assert "some jobs left running" in worker.said


def test_the_second_of_two_interrupts_at_once_does_not_wait(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    worker = run(WORKER, "-r", "jobs", "-t", "1000", url=server.url)
    jid = push(server, "spin", str(folder / "began"))
    wait_until((folder / "began").exists)
    worker.send(signal.SIGINT)
    wait_until(lambda: "Shutdown: waiting" in worker.said)
    worker.send(signal.SIGINT)
    assert worker.wait() == Exit.STOPPED
    assert reports(server, jid) == ["FAIL"]
    assert "Traceback" not in worker.said.split("grace period is over")[0]


@pytest.mark.skipif(not hasattr(signal, "SIGTTIN"), reason="the system lacks these signals")
def test_it_logs_its_threads_on_ttin_and_gets_quiet_on_tstp(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    worker = run(WORKER, "-r", "jobs", "-c", "2", "-t", "0.1", url=server.url)
    jid = push(server, "spin", str(folder / "began"))
    wait_until((folder / "began").exists)
    worker.send(signal.SIGTTIN)
    wait_until(lambda: f", running spin {jid}:" in worker.said)
    wait_until(lambda: "in spin" in worker.said)  # the stack is many lines
    worker.send(signal.SIGTSTP)
    wait_until(lambda: "quiet: fetches no more jobs" in worker.said)
    worker.send(signal.SIGTERM)
    assert worker.wait() == Exit.STOPPED


def test_it_waits_for_a_server_and_can_be_stopped_meanwhile(
    run: Run, wait_until: WaitUntil, dead_url: str
) -> None:
    worker = run(WORKER, "-r", "jobs", url=dead_url)
    wait_until(lambda: "cannot reach" in worker.said)
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    assert worker.said.count("trying again") == 1
    assert "Traceback" not in worker.said


# Errors


@pytest.mark.parametrize("user", ["", ":wrong@"])
def test_a_wrong_password_ends_it_quickly_with_one_message(run: Run, user: str) -> None:
    with EmbeddedServer(password="right") as server:
        started = time.monotonic()
        worker = run(WORKER, "-r", "jobs", url=f"tcp://{user}{server.address.place}")
        assert worker.wait() == Exit.REFUSED == 4
        assert time.monotonic() - started < 10
    assert re.match("faktory-worker: the server .*password", worker.said.splitlines()[-1])
    assert "Traceback" not in worker.said


def test_an_interrupt_before_there_is_a_worker_has_its_own_exit_code(
    run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    (folder / "long.py").write_text("import time\nprint('begins')\ntime.sleep(60)\n")
    worker = run(WORKER, "-r", "long")
    wait_until(lambda: worker.printed == "begins\n")
    worker.send(signal.SIGINT)
    assert worker.wait() == Exit.INTERRUPTED == 130
    assert worker.said == "faktory-worker: interrupted\n"


def test_a_bug_of_ours_is_reported_as_one(server: EmbeddedServer, run: Run, folder: Path) -> None:
    (folder / "fault.py").write_text(
        "from jobs import *\n"
        "from faktory import Worker\n"
        "def run(worker): raise KeyError('inside')\n"
        "Worker.run = run\n"
    )
    worker = run(WORKER, "-r", "fault", url=server.url)
    assert worker.wait() == Exit.FAULT == 1
    assert worker.said.splitlines()[-1] == (
        "faktory-worker: KeyError('inside'): this is an error of faktory-worker itself, "
        "please report it"
    )


def test_a_queue_that_is_given_twice_is_one_queue(
    server: EmbeddedServer, run: Run, wait_until: WaitUntil
) -> None:
    run(WORKER, "-r", "jobs", "-q", "a", "-q", "a", "-c", "1", url=server.url)
    wait_until(lambda: ("FETCH", "a") in server.commands)


def test_a_worker_without_job_types_ends_before_it_connects(
    server: EmbeddedServer, run: Run
) -> None:
    worker = run(WORKER, "-r", "string", url=server.url)
    assert worker.wait() == Exit.USAGE
    assert worker.said == (
        "faktory-worker: no job type is registered, so every job would fail: "
        f"-r string is the module string ({string.__file__}), without a job. "
        "Put @faktory.job above a function, or name another module: -r app.jobs\n"
    )
    assert server.commands == []


def test_more_threads_than_the_system_gives_is_an_error_in_one_message(
    server: EmbeddedServer, run: Run, folder: Path
) -> None:
    (folder / "short.py").write_text(SHORT_OF_THREADS)
    worker = run(WORKER, "-r", "short", "-c", "5", url=server.url)
    assert worker.wait() == Exit.CANNOT_START == 6
    assert worker.said.splitlines()[-1] == (
        "faktory-worker: -c 5: only 2 of 5 threads for jobs could be started: "
        "can't start new thread. Use a lower concurrency, or more processes with fewer threads "
        "each."
    )
    assert "Traceback" not in worker.said


def test_no_thread_for_the_heartbeat_is_an_error_in_one_message(
    server: EmbeddedServer, run: Run, folder: Path
) -> None:
    (folder / "short.py").write_text(OUT_OF_THREADS)
    worker = run(WORKER, "-r", "short", "-c", "5", url=server.url)
    assert worker.wait() == Exit.CANNOT_START
    assert "-c 5: only 0 of 5 threads for jobs could be started" in worker.said.splitlines()[-1]
    assert "Traceback" not in worker.said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-q", "a,0"], "-q a,0: the weight '0' is not a whole number of 1 or more"),
        (["-q", "a,b"], "-q a,b: the weight 'b' is not a whole number"),
        (["-q", "a,3,limit=0"], "the limit '0' is not a whole number of 1 or more"),
        (["-q", "a,3", "-q", "a,1"], "-q a is given twice, with different weights: give it once"),
        (["-q", "a b"], "the queue is 'a b'"),
        (["-q", ""], "the queue is ''"),
        (["-l", "caf\udce9"], r"the label 'caf\udce9' holds a character that cannot be shown"),
        (["-l", "a\nb"], r"the label 'a\nb' holds a character"),
        (["-q", "caf\udce9"], r"the queue is 'caf\udce9'"),
        (["-c", "0"], "argument -c/--concurrency: '0' is not a whole number"),
        (["-c", "-1"], "argument -c/--concurrency"),
        (["-c", "ten"], "'ten' is not a whole number"),
        (["-t", "-1"], "argument -t/--timeout"),
        (["-t", "nan"], "'nan' is not a number of seconds"),
        (["-t", "inf"], "'inf' is not a number of seconds"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_wrong_usage_has_its_own_exit_code(flags: list[str], message: str) -> None:
    done = call(*flags, main=main)
    assert done.code == Exit.USAGE == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("FAKTORY_URL", "http://localhost", "use tcp://"),
        ("FAKTORY_URL", "tcp://host:port", "is not a number from 1 to 65535"),
        ("FAKTORY_PROVIDER", "tcp://host", "it must be the name of the variable"),
        ("FAKTORY_PROVIDER", "MY_URL", "the variable 'MY_URL', which is not set"),
        ("FAKTORY_WORKER_LABEL", "caf\udce9", r"the label 'caf\udce9' holds a character"),
    ],
)
def test_an_invalid_variable_is_wrong_usage(variable: str, value: str, message: str) -> None:
    done = call(main=main, env={variable: value})
    assert done.code == Exit.USAGE
    assert message in done.stderr


def test_version_and_help() -> None:
    shown = call("-V", main=main)
    assert (shown.code, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"faktory-worker {faktory.__version__} on Python ")
    assert f", core: {faktory.implementation} (" in shown.stdout
    help = call("-h", main=main)
    assert (help.code, help.stderr) == (0, "")
    assert "exit codes:" in help.stdout


def test_the_help_has_the_exit_codes_of_a_worker() -> None:
    text = call("-h", main=main).stdout.partition("exit codes:")[2]
    listed = re.findall(r"^ +(\d+) +([A-Z_]+) ", text, re.M)
    assert [Exit[name] for _, name in listed] == [int(code) for code, _ in listed]
    assert len(listed) == 10

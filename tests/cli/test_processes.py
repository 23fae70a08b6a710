"""`--processes`: workers are started, stopped and replaced, and the jobs of dead ones fail."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import which
from time import monotonic

import pytest

from faktory import Client
from faktory.cli.exits import Exit
from faktory.cli.worker.processes import WorkerChild, WorkerSupervisor
from faktory.cli.worker.reports import report_death
from faktory.server import EmbeddedServer
from faktory.worker.backends.supervisor import Child, Supervisor, Unreported, pair

from .support import WORKER, Process, Run, WaitUntil, alive, pids, push, ready, reports

Supervise = Callable[..., Process]

QUICK = """
import sys
from functools import partial
from faktory.cli.worker import processes
from faktory.cli.worker.main import main

processes.WorkerSupervisor = partial(
    processes.WorkerSupervisor, stop_grace=0.2, backoff=lambda attempt, random: 0.01
)
sys.exit(main())
"""
"""The command with short pauses; the supervisor imports no other module of the folder."""

SLOW = """
import os
import time

import faktory

@faktory.job
def slow(path):
    open(path, "w").close()
    while not os.path.exists(path + ".go"):
        time.sleep(0.01)

@faktory.job
def dies():
    os._exit(42)

@faktory.job
def dies_later(path, how):
    open(path, "w").close()
    while not os.path.exists(path + ".go"):
        time.sleep(0.01)
    os._exit(0) if how == "exit" else os.kill(os.getpid(), how)

@faktory.job
def again(path=None):
    if path is not None and faktory.current_job().attempt == 2:
        slow(path)
    raise faktory.Retry(after=300)

@faktory.job
def note_pid(path):
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\\n")
"""


NAPS = """
import asyncio
import os

import faktory

def says(word):
    os.write(1, f"{word} {os.getpid()}\\n".encode())

@faktory.aio.on_startup
async def opens():
    says("opens")

@faktory.aio.on_shutdown
async def closes():
    says("closes")

@faktory.job
async def nap():
    says("naps")
    try:
        await asyncio.sleep(3600)
    finally:
        says("wakes")
"""


@pytest.fixture(autouse=True)
def programs(folder: Path) -> None:
    """Write the modules that the commands use."""
    (folder / "quick.py").write_text(QUICK)
    (folder / "slow.py").write_text(SLOW)


@pytest.fixture
def supervise(run: Run, server: EmbeddedServer) -> Supervise:
    """`supervise("slow", 2, *flags)`: run two workers with the jobs of a module, and -v."""

    def supervise(module: str, processes: int, *flags: str, program: str = WORKER) -> Process:
        flags = ("-r", module, "--processes", str(processes), "-v", *flags)
        return run(program, *flags, url=server.url)

    return supervise


def stop(supervisor: Process, number: int = signal.SIGTERM) -> int:
    """Send a signal; return the exit code."""
    supervisor.send(number)
    return supervisor.wait()


# Running and stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_several_workers_run_jobs_until_the_supervisor_is_stopped(
    server: EmbeddedServer, supervise: Supervise, folder: Path, wait_until: WaitUntil, number: int
) -> None:
    supervisor = supervise("jobs", 3, "-c", "2")
    wait_until(lambda: ready(supervisor) == 3)
    jid = push(server, "touch", str(folder / "done"))
    wait_until((folder / "done").exists)
    wait_until(lambda: len(server.workers) == 3)
    assert stop(supervisor, number) == Exit.STOPPED
    assert reports(server, jid) == ["ACK"]
    assert "starts 3 workers, each for 2 jobs at a time" in supervisor.said
    assert supervisor.said.splitlines()[-1].endswith("stopped, every job answered")
    assert not any(map(alive, pids(supervisor)))
    assert "Traceback" not in supervisor.said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_stops_it_as_one_to_the_supervisor_does(
    server: EmbeddedServer, supervise: Supervise, folder: Path, wait_until: WaitUntil, number: int
) -> None:
    supervisor = supervise("slow", 2)
    jid = push(server, "slow", str(folder / "began"))
    wait_until((folder / "began").exists)
    os.killpg(supervisor.process.pid, number)
    wait_until(lambda: "Shutdown: waiting up to 25 seconds for 1 job" in supervisor.said)
    (folder / "began.go").touch()
    assert supervisor.wait() == Exit.STOPPED
    assert reports(server, jid) == ["ACK"]


def test_a_supervisor_that_was_started_with_its_signals_blocked_gets_them(
    supervise: Supervise, folder: Path, wait_until: WaitUntil
) -> None:
    block = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {15, signal.SIGCHLD})"
    (folder / "blocked.py").write_text(block + QUICK)
    supervisor = supervise("slow", 1, program="blocked")
    wait_until(lambda: ready(supervisor) == 1)
    os.kill(pids(supervisor)[0], signal.SIGKILL)
    wait_until(lambda: ready(supervisor) == 2)
    assert stop(supervisor) == Exit.STOPPED


@pytest.mark.parametrize(
    "odd",
    [b'r["w1", "tcp', b"r\xff", b"r5", b"r[1]", b"r[1,2,3,4]", b"r" + b"[" * 20_000],
    ids=["cut", "bytes", "number", "types", "long", "deep"],
)
def test_an_odd_word_of_a_worker_does_not_end_the_supervisor(
    odd: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = WorkerSupervisor(1, concurrency=1, grace=25, url="tcp://127.0.0.1:1")
    (worker,) = supervisor.children
    assert isinstance(worker, WorkerChild)
    worker.channel, other = pair()
    with other:
        other.sendall(odd + b"\n" + odd + b"\nq\n")
        supervisor.on_channel(worker)
        assert worker.quiet
        assert not worker.known.worker_id
        assert [record.levelname for record in caplog.records].count("WARNING") == 1
        other.sendall(b'r["w1"]\n')
        supervisor.on_channel(worker)
        assert worker.known.worker_id == "w1"
        worker.close_channel()


def test_a_worker_that_reads_nothing_does_not_hold_up_the_supervisor() -> None:
    worker = WorkerChild(1, concurrency=1)
    worker.channel, other = pair()
    with other:
        for _ in range(5000):  # more than the channel takes
            worker.send(b"q")
        worker.close_channel()
        assert 0 < len(other.recv(5000, socket.MSG_WAITALL)) < 5000


def test_the_second_signal_ends_the_grace_period(
    server: EmbeddedServer, supervise: Supervise, folder: Path, wait_until: WaitUntil
) -> None:
    supervisor = supervise("slow", 2, "-t", "1e12")
    jid = push(server, "slow", str(folder / "began"))
    wait_until((folder / "began").exists)
    supervisor.send(signal.SIGTERM)
    wait_until(lambda: "Shutdown: waiting up to 1e+12 seconds for 1 job" in supervisor.said)
    assert stop(supervisor) == Exit.STOPPED
    assert reports(server, jid) == ["FAIL"]


def test_jobs_abandoned_by_one_worker_show_in_the_exit_code(
    server: EmbeddedServer, supervise: Supervise, wait_until: WaitUntil
) -> None:
    supervisor = supervise("jobs", 2, "-t", "0.1")
    jid = push(server, "stuck")
    wait_until(lambda: f"stuck {jid} start" in supervisor.said)
    assert stop(supervisor) == Exit.ABANDONED
    assert reports(server, jid) == ["FAIL"]
    assert "ended with exit code 5 (ABANDONED)" in supervisor.said


def test_a_worker_that_does_not_stop_is_killed_after_the_grace_period(
    supervise: Supervise, wait_until: WaitUntil
) -> None:
    supervisor = supervise("jobs", 2, "-t", "0.1", program="quick")
    wait_until(lambda: ready(supervisor) == 2)
    pid = pids(supervisor)[0]
    os.kill(pid, signal.SIGSTOP)
    assert stop(supervisor) == Exit.ABANDONED
    assert f"worker 1 (process {pid}) does not end, and is killed" in supervisor.said
    assert "was killed by SIGKILL" in supervisor.said


def test_signals_make_all_workers_log_their_threads_and_get_quiet(
    supervise: Supervise, wait_until: WaitUntil
) -> None:
    supervisor = supervise("jobs", 2, "-c", "1")
    wait_until(lambda: ready(supervisor) == 2)
    supervisor.send(signal.SIGTTIN)
    wait_until(lambda: supervisor.said.count("thread MainThread:") == 2)
    supervisor.send(signal.SIGTSTP)
    wait_until(lambda: supervisor.said.count("quiet: fetches no more jobs; ") == 2)
    os.kill(pids(supervisor)[0], signal.SIGKILL)
    wait_until(lambda: "was killed by SIGKILL; quiet, so it is not replaced" in supervisor.said)
    assert len(pids(supervisor)) == 2
    assert stop(supervisor) == Exit.STOPPED


def test_workers_stop_when_their_supervisor_is_gone(
    supervise: Supervise, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDEVMODE", "1")  # a socket that is left open is an error
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    supervisor = supervise("jobs", 2)
    wait_until(lambda: ready(supervisor) == 2)
    supervisor.send(signal.SIGKILL)
    supervisor.process.wait()
    wait_until(lambda: not any(map(alive, pids(supervisor))))
    wait_until(lambda: supervisor.silent)
    assert supervisor.said.count("the supervisor of this worker is gone, so it stops") == 2
    assert supervisor.said.count("stopped, every job answered") == 2
    assert "ResourceWarning" not in supervisor.said


def test_each_worker_has_a_loop_of_async_jobs_with_its_hooks(
    server: EmbeddedServer, supervise: Supervise, folder: Path, wait_until: WaitUntil
) -> None:
    (folder / "naps.py").write_text(NAPS)
    jids = [push(server, "nap") for _ in range(2)]
    supervisor = supervise("naps", 2, "-c", "1", "-t", "1")
    wait_until(lambda: supervisor.printed.count("naps") == 2)
    assert stop(supervisor) == Exit.STOPPED
    assert [reports(server, jid) for jid in jids] == [["FAIL"], ["FAIL"]]
    lines = [line.split() for line in supervisor.printed.splitlines()]
    for pid in pids(supervisor):
        did = [word for word, number in lines if number == str(pid)]
        assert did == ["opens", "naps", "wakes", "closes"]


def test_the_supervisor_can_be_stopped_while_modules_are_imported(
    supervise: Supervise, folder: Path, wait_until: WaitUntil
) -> None:
    (folder / "long.py").write_text("import time\nprint('begins')\ntime.sleep(60)\n")
    supervisor = supervise("long", 2)
    wait_until(lambda: supervisor.printed.count("begins") == 2)
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait(5) == Exit.STOPPED


# Workers that end


def test_a_worker_that_is_killed_or_ends_is_replaced_and_the_other_one_goes_on(
    server: EmbeddedServer, supervise: Supervise, folder: Path, wait_until: WaitUntil
) -> None:
    supervisor = supervise("slow", 2, "-c", "1", program="quick")
    wait_until(lambda: ready(supervisor) == 2)
    jid = push(server, "slow", str(folder / "began"))
    started = f"faktory-1 slow {jid} start"
    wait_until(lambda: (folder / "began").exists() and started in supervisor.said)
    (busy,) = [pid for pid in pids(supervisor) if f"{pid} {started}" in supervisor.said]
    (idle,) = [pid for pid in pids(supervisor) if pid != busy]
    os.kill(idle, signal.SIGKILL)
    wait_until(lambda: ready(supervisor) == 3)
    assert "was killed by SIGKILL; another takes its place in 0.0 s" in supervisor.said
    push(server, "dies")
    wait_until(lambda: ready(supervisor) == 4)
    assert "ended with exit code 42; another takes its place" in supervisor.said
    assert alive(busy)
    (folder / "began.go").touch()
    wait_until(lambda: reports(server, jid) == ["ACK"])
    assert stop(supervisor) == Exit.STOPPED


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("1 / 0", "ended with exit code 3 (IMPORT), the 5th worker in a row"),
        ("import os; os._exit(0)", "ended with exit code 0 (STOPPED), the 5th worker in a row"),
    ],
)
def test_five_workers_in_a_row_that_end_before_they_are_ready_end_the_supervisor(
    supervise: Supervise, folder: Path, source: str, message: str
) -> None:
    (folder / "broken.py").write_text(source)
    supervisor = supervise("broken", 1, program="quick")
    assert supervisor.wait() == Exit.GAVE_UP == 8
    assert len(pids(supervisor)) == 5
    assert message in supervisor.said
    last = supervisor.said.splitlines()[-1]
    assert last.startswith("faktory-worker: gave up: workers could not")
    assert supervisor.said.count("ZeroDivisionError: division by zero\n") in (0, 5)


def test_a_wrong_password_ends_the_supervisor_too(run: Run) -> None:
    with EmbeddedServer(password="right") as server:
        url = f"tcp://:wrong@{server.address.place}"
        supervisor = run("quick", "-r", "jobs", "--processes", "1", url=url)
        assert supervisor.wait() == Exit.GAVE_UP
    assert "ended with exit code 4 (REFUSED), the 5th worker in a row" in supervisor.said


def test_workers_that_are_killed_before_they_are_ready_never_end_the_supervisor(
    supervise: Supervise, folder: Path, wait_until: WaitUntil
) -> None:
    (folder / "unlucky.py").write_text(
        "from jobs import *\n"
        "import os, signal\n"
        "from pathlib import Path\n"
        "tries = Path('tries')\n"
        "tries.write_text((tries.read_text() if tries.exists() else '') + 'x')\n"
        "if len(tries.read_text()) <= 7: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    supervisor = supervise("unlucky", 1, program="quick")
    wait_until(lambda: ready(supervisor) == 1)
    assert len(pids(supervisor)) == 8
    assert stop(supervisor) == Exit.STOPPED


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-q", "a,2", "-q", "a", "-r", "jobs"], "-q a is given twice, with different weights"),
        ([], "no module is named that defines the jobs"),
    ],
)
def test_an_error_that_each_worker_would_raise_is_printed_once(
    run: Run, flags: list[str], message: str
) -> None:
    supervisor = run(WORKER, "--processes", "3", *flags)
    assert supervisor.wait() == Exit.USAGE
    assert supervisor.said.startswith(f"faktory-worker: {message}")
    assert supervisor.said.count("\n") == 1


# The jobs of a worker that died


def failures(server: EmbeddedServer) -> dict[str, tuple[str, str]]:
    """Return the type and the message of each failure that the server keeps, by jid."""
    return {
        job["jid"]: (job["failure"]["errtype"], job["failure"]["message"])
        for job in (*server.retries, *server.dead)
    }


@pytest.mark.parametrize(
    ("number", "how"),
    [
        (signal.SIGKILL, "was killed by SIGKILL before the job was done: by the system"),
        (signal.SIGSEGV, "was killed by SIGSEGV before the job was done"),
        (signal.SIGRTMIN + 5, f"was killed by signal {signal.SIGRTMIN + 5} before the job"),
    ],
)
def test_the_jobs_of_a_worker_that_is_killed_fail_at_once_with_how_it_died(
    server: EmbeddedServer,
    supervise: Supervise,
    folder: Path,
    wait_until: WaitUntil,
    number: int,
    how: str,
) -> None:
    supervisor = supervise("slow", 1, "-c", "3", program="quick")
    jids = {push(server, "slow", str(folder / name), retry=1) for name in ("one", "two")}
    wait_until(lambda: (folder / "one").exists() and (folder / "two").exists())
    worker_id = server.working[0]["wid"]
    server.clear_commands()
    os.kill(pids(supervisor)[0], number)
    wait_until(lambda: failures(server).keys() == jids)
    assert {errtype for errtype, _ in failures(server).values()} == {"ProcessDied"}
    assert all(how in message for _, message in failures(server).values())
    greetings = [text for verb, text in server.commands if verb == "HELLO"]
    assert any(worker_id in text for text in greetings)
    assert all(jid in supervisor.said for jid in jids)
    wait_until(lambda: ready(supervisor) == 2)
    assert stop(supervisor) == Exit.STOPPED


def test_the_jobs_of_a_worker_that_died_are_reported_when_the_server_is_back(
    server: EmbeddedServer, supervise: Supervise, folder: Path, wait_until: WaitUntil
) -> None:
    supervisor = supervise("slow", 1, "-c", "1", program="quick")
    jid = push(server, "slow", str(folder / "began"), retry=1)
    wait_until((folder / "began").exists)
    server.refuse_connections()
    server.disconnect()
    os.kill(pids(supervisor)[0], signal.SIGKILL)
    wait_until(lambda: "was killed by SIGKILL with jobs" in supervisor.said)
    assert failures(server) == {}
    server.accept_connections()
    wait_until(lambda: jid in failures(server))
    assert stop(supervisor) == Exit.STOPPED


def test_a_job_whose_reservation_is_over_is_left_alone_when_its_worker_dies(
    server: EmbeddedServer,
) -> None:
    supervisor = WorkerSupervisor(1, concurrency=1, grace=25, url=server.url)
    (worker,) = supervisor.children
    assert isinstance(worker, WorkerChild)
    worker.jobs.write("thread", "over-12345678", monotonic() - 1)
    supervisor.on_exit(worker, -signal.SIGKILL)
    assert supervisor.children == [worker]  # and nobody who reports it
    worker.jobs.write("thread", "held-12345678", monotonic() + 60)
    supervisor.on_exit(worker, -signal.SIGKILL)
    assert len(supervisor.children) == 2

    jobs = {
        "over-12345678": Unreported(monotonic() - 1, False),
        "held-12345678": Unreported(monotonic() + 60, False),
        "soon-12345678": Unreported(monotonic() + 60, True),
        "late-12345678": Unreported(monotonic() - 1, True),
    }
    report_death(Client(server.url, worker_id="died"), jobs, "died", until=monotonic() + 5)
    assert [reports(server, jid) for jid in jobs] == [[], ["FAIL"], ["ACK"], []]
    assert [verb for verb, _ in server.commands if verb in ("ACK", "FAIL")] == ["FAIL", "ACK"]


@pytest.mark.parametrize(("held", "reported"), [("PUSHB", []), ("ACK", ["ACK"])])
def test_a_worker_that_dies_between_push_and_ack_does_not_double_its_job(
    server: EmbeddedServer,
    supervise: Supervise,
    folder: Path,
    wait_until: WaitUntil,
    held: str,
    reported: list[str],
) -> None:
    """When it dies it is not known whether the job was pushed again, or it is known."""
    jid = push(server, "again")
    server.clear_commands()
    server.hold(held)
    supervisor = supervise("slow", 1, "-c", "1", program="quick")
    wait_until(lambda: any(verb == held and jid in text for verb, text in server.commands))
    server.clear_commands()
    os.kill(pids(supervisor)[0], signal.SIGKILL)
    wait_until(lambda: "was killed by SIGKILL; another" in supervisor.said)
    if reported:
        wait_until(lambda: reports(server, jid) == reported)
    server.release(held)
    wait_until(lambda: ready(supervisor) == 2)
    assert stop(supervisor) == Exit.STOPPED
    assert reports(server, jid) == reported
    assert server.retries == []
    if reported:
        assert [job["jid"] for job in server.scheduled] == [jid]
        assert server.working == []


def test_a_worker_that_dies_while_its_job_runs_again_fails_it(
    server: EmbeddedServer, supervise: Supervise, folder: Path, wait_until: WaitUntil
) -> None:
    """What was noted for the run before does not hold for this one."""
    supervisor = supervise("slow", 1, "-c", "1", program="quick")
    jid = push(server, "again", str(folder / "again"))
    wait_until(lambda: server.scheduled and not server.working)
    with Client(server.url) as client:
        client.requeue("scheduled")
    wait_until((folder / "again").exists)
    os.kill(pids(supervisor)[0], signal.SIGKILL)
    wait_until(lambda: jid in failures(server))
    assert failures(server)[jid][0] == "ProcessDied"
    assert stop(supervisor) == Exit.STOPPED


def test_a_worker_that_dies_without_a_job_fails_none(
    server: EmbeddedServer, supervise: Supervise, folder: Path, wait_until: WaitUntil
) -> None:
    supervisor = supervise("slow", 1, "-c", "1", program="quick")
    jid = push(server, "note_pid", str(folder / "notes"))
    wait_until(lambda: reports(server, jid) == ["ACK"])
    wait_until(lambda: ready(supervisor) == 1)
    server.clear_commands()
    wait_until(lambda: [verb for verb, _ in server.commands].count("FETCH") > 1)
    os.kill(pids(supervisor)[0], signal.SIGKILL)
    wait_until(lambda: ready(supervisor) == 2)
    assert "had not reported" not in supervisor.said
    assert stop(supervisor) == Exit.STOPPED
    assert reports(server, jid) == []


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("exit", "ended with exit code 0"),
        (signal.SIGKILL, "was killed by SIGKILL"),
        (signal.SIGRTMIN + 3, f"was killed by signal {signal.SIGRTMIN + 3}"),
    ],
)
def test_a_worker_that_dies_with_its_jobs_while_stopping_shows_in_the_exit_code(
    server: EmbeddedServer,
    supervise: Supervise,
    folder: Path,
    wait_until: WaitUntil,
    how: str | int,
    text: str,
) -> None:
    supervisor = supervise("slow", 2, "-c", "1")
    jid = push(server, "dies_later", str(folder / "began"), how, retry=1)
    wait_until((folder / "began").exists)
    supervisor.send(signal.SIGTERM)
    wait_until(lambda: "Shutdown: waiting up to 25 seconds for 1 job" in supervisor.said)
    (folder / "began.go").touch()
    assert supervisor.wait() == Exit.ABANDONED == 5
    assert re.search(rf"worker [12] \(process \d+\) {text} with jobs .*{jid}", supervisor.said)
    assert supervisor.said.splitlines()[-1].endswith("some jobs left running or unreported")
    assert jid in failures(server)


def test_a_report_that_is_not_delivered_while_stopping_shows_in_the_exit_code(
    server: EmbeddedServer, supervise: Supervise, folder: Path, wait_until: WaitUntil
) -> None:
    supervisor = supervise("slow", 1, "-c", "1", "-t", "0.1", program="quick")
    jid = push(server, "slow", str(folder / "began"), retry=1)
    wait_until((folder / "began").exists)
    server.refuse_connections()
    server.disconnect()
    os.kill(pids(supervisor)[0], signal.SIGKILL)
    wait_until(lambda: "was killed by SIGKILL with jobs" in supervisor.said)
    assert stop(supervisor) == Exit.ABANDONED
    assert jid not in failures(server)


def test_a_supervisor_reaps_processes_that_are_not_its_own() -> None:
    supervisor = WorkerSupervisor(1, concurrency=1, grace=25, url="tcp://127.0.0.1:1")
    pid = os.posix_spawn("/bin/true", ["true"], {})  # as one whose parent has ended
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    supervisor._reap()
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)


def test_signals_that_keep_coming_do_not_hide_that_a_child_has_ended() -> None:
    """Each of them is handled, and the next one has come by then."""
    ended: list[int] = []

    class Storm(Supervisor[Child]):
        signals = (signal.SIGUSR1,)
        handled = 0

        def done(self) -> bool:
            return bool(ended)

        def on_start(self, child: Child) -> None:
            os.kill(os.getpid(), signal.SIGUSR1)

        def on_signal(self, number: int) -> None:
            self.handled += 1
            if self.handled < 100_000:
                os.kill(os.getpid(), number)

        def on_exit(self, child: Child, status: int) -> None:
            child.close_channel()
            ended.append(status)

    storm = Storm([Child(1)])
    if storm.run() is not None:
        os._exit(7)
    assert ended == [7]
    assert storm.handled < 100_000


@pytest.mark.skipif(os.getuid() != 0 or which("unshare") is None, reason="needs root and unshare")
@pytest.mark.parametrize("flags", [[], ["--processes", "1"]])
def test_as_process_1_it_answers_a_term_while_modules_are_imported_and_when_it_runs(
    server: EmbeddedServer, folder: Path, wait_until: WaitUntil, flags: list[str]
) -> None:
    (folder / "first.py").write_text(
        "import os, time\nprint(os.getpid(), flush=True)\n"
        "while os.path.exists('wait'): time.sleep(0.01)\nfrom slow import *\n"
    )
    command = ["unshare", "--pid", "--fork", sys.executable, "-m", WORKER, "-r", "first", *flags]
    env = {**os.environ, "FAKTORY_URL": server.url, "PYTHONPATH": ""}
    for wait in (True, False):
        if wait:
            (folder / "wait").touch()
        with subprocess.Popen(
            command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert (int(process.stdout.readline()) == 1) is not bool(flags)
            if not wait:
                wait_until(lambda: server.workers)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            os.kill(int(children.read_text().split()[0]), signal.SIGTERM)
            assert process.wait(15) == Exit.STOPPED
        (folder / "wait").unlink(missing_ok=True)


# A real server


def test_workers_run_the_jobs_of_a_real_server(
    real_server_url: str, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    queue = f"processes-{os.getpid()}-{os.urandom(4).hex()}"
    notes = folder / "notes"
    notes.touch()
    jobs = [{"jobtype": "note_pid", "args": [str(notes)], "queue": queue} for _ in range(200)]
    with Client(real_server_url) as client:
        client.push_bulk(jobs)
        flags = ["-r", "slow", "--processes", "3", "-q", queue, "-c", "2", "-v"]
        supervisor = run("quick", *flags, url=real_server_url)
        wait_until(lambda: notes.read_text().count("\n") == 200)
        wait_until(lambda: ready(supervisor) == 3)
        client.push_bulk(jobs)
        wait_until(lambda: notes.read_text().count("\n") == 400)
        os.kill(pids(supervisor)[0], signal.SIGKILL)
        wait_until(lambda: ready(supervisor) == 4)
        assert stop(supervisor) == Exit.STOPPED
        client.remove_queues(queue)
    assert supervisor.said.count("stopped, every job answered") == 4

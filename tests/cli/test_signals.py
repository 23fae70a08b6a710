"""Signals to `faktory-worker`, at the moments of its life, and what they do under a supervisor."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from faktory.cli.exits import Exit
from faktory.server import EmbeddedServer

from ..support import half
from .support import WORKER, Process, Run, WaitUntil, alive, pids, push, ready, reports

PROGRAM = """
import os
import signal
import time

import faktory

@faktory.job
def held(path):
    open(path, "w").close()
    while not os.path.exists(path + ".go"):
        time.sleep(0.01)

@faktory.job
def forks(path):
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    time.sleep(0.1)
    os.kill(pid, signal.SIGTERM)
    _, status = os.waitpid(pid, 0)
    pid = os.fork()
    if pid == 0:
        os._exit(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    _, second = os.waitpid(pid, 0)
    with open(path, "w") as file:
        file.write(f"{os.waitstatus_to_exitcode(status)} {os.waitstatus_to_exitcode(second)}")
"""

SUPERVISED = [[], ["--processes", "2"]]
"""Flags of a worker alone, and under a supervisor."""

Begin = Callable[..., Process]


@pytest.fixture
def begin(run: Run, server: EmbeddedServer, folder: Path, wait_until: WaitUntil) -> Begin:
    """`begin("--processes", "2")`: start a worker, and wait until it fetches."""
    (folder / "program.py").write_text(PROGRAM)

    def begin(*flags: str) -> Process:
        worker = run(WORKER, "-r", "program", "-c", "1", "-v", *flags, url=server.url)
        if "--processes" in flags:
            wait_until(lambda: ready(worker) == 2)
        else:
            wait_until(lambda: any(verb == "FETCH" for verb, _ in server.commands))
        return worker

    return begin


# While the modules are imported

SLOW_IMPORT = """
import time
print("begins")
{0}
"""


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("SIGTERM", Exit.STOPPED),
        ("SIGQUIT", Exit.STOPPED),
        ("SIGHUP", Exit.STOPPED),
        ("SIGXCPU", Exit.STOPPED),
        ("SIGINT", Exit.INTERRUPTED),
    ],
)
def test_a_signal_while_modules_are_imported_ends_the_command(
    server: EmbeddedServer,
    run: Run,
    folder: Path,
    wait_until: WaitUntil,
    name: str,
    code: Exit,
) -> None:
    (folder / "long.py").write_text(SLOW_IMPORT.format("time.sleep(60)"))
    worker = run(WORKER, "-r", "long", url=server.url)
    wait_until(lambda: "begins" in worker.printed)
    worker.send(getattr(signal, name))
    assert worker.wait() == code
    assert "Traceback" not in worker.said
    assert server.commands == []


def test_a_term_that_a_module_catches_holds_all_the_same(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    catches = "try:\n    time.sleep(60)\nexcept BaseException:\n    pass\nfrom jobs import *"
    (folder / "long.py").write_text(SLOW_IMPORT.format(catches))
    worker = run(WORKER, "-r", "long", url=server.url)
    wait_until(lambda: "begins" in worker.printed)
    worker.send(signal.SIGTERM)
    assert worker.wait() == Exit.STOPPED
    assert server.commands == []


def test_the_second_term_does_not_wait_for_a_module_that_catches_them(
    run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    catches = """
while True:
    try:
        time.sleep(60)
    except BaseException:
        print("caught")
"""
    (folder / "long.py").write_text(SLOW_IMPORT.format(catches))
    worker = run(WORKER, "-r", "long")
    wait_until(lambda: "begins" in worker.printed)
    worker.send(signal.SIGTERM)
    wait_until(lambda: "caught" in worker.printed)
    worker.send(signal.SIGTERM)
    assert worker.wait() == Exit.STOPPED


def test_a_worker_that_is_made_quiet_while_modules_are_imported_fetches_nothing(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    (folder / "long.py").write_text(
        SLOW_IMPORT.format("while not __import__('os').path.exists('go'): time.sleep(0.01)")
        + "from jobs import *\n"
    )
    worker = run(WORKER, "-r", "long", url=server.url)
    wait_until(lambda: "begins" in worker.printed)
    worker.send(signal.SIGTSTP)
    worker.send(signal.SIGTTIN)
    worker.send(signal.SIGUSR1)
    (folder / "go").touch()
    wait_until(lambda: server.workers)
    wait_until(lambda: "quiet: fetches no more jobs" in worker.said)
    worker.send(signal.SIGTERM)
    assert worker.wait() == Exit.STOPPED
    assert not any(verb == "FETCH" for verb, _ in server.commands)


def test_a_term_that_was_blocked_by_who_started_the_command_is_answered(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    (folder / "blocked.py").write_text(
        "import signal, sys\n"
        "from faktory.cli.worker.main import main\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {15})\nsys.exit(main())\n"
    )
    worker = run("blocked", "-r", "jobs", url=server.url)
    wait_until(lambda: server.workers)
    worker.send(signal.SIGTERM)
    assert worker.wait() == Exit.STOPPED


# While it runs


@pytest.mark.parametrize("flags", SUPERVISED)
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGXCPU"])
def test_a_signal_to_stop_loses_no_job(
    server: EmbeddedServer,
    begin: Begin,
    folder: Path,
    wait_until: WaitUntil,
    name: str,
    flags: list[str],
) -> None:
    if flags and name in ("SIGHUP", "SIGXCPU"):
        pytest.skip("another meaning to a supervisor, or none")
    worker = begin(*flags)
    jid = push(server, "held", str(folder / "began"))
    wait_until((folder / "began").exists)
    worker.send(getattr(signal, name))
    wait_until(lambda: "Shutdown: waiting up to 25 seconds for 1 job" in worker.said)
    assert worker.said.count("running held") == (name == "SIGQUIT")
    (folder / "began.go").touch()
    assert worker.wait() == Exit.STOPPED
    assert reports(server, jid) == ["ACK"], worker.said
    assert "Traceback" not in worker.said


def test_a_quit_to_the_whole_group_logs_the_stacks_once(
    server: EmbeddedServer, begin: Begin, folder: Path, wait_until: WaitUntil
) -> None:
    worker = begin("--processes", "2")
    jid = push(server, "held", str(folder / "began"))
    wait_until((folder / "began").exists)
    os.killpg(worker.process.pid, signal.SIGQUIT)
    wait_until(lambda: "Shutdown: waiting up to 25 seconds for 1 job" in worker.said)
    (folder / "began.go").touch()
    assert worker.wait() == Exit.STOPPED
    assert reports(server, jid) == ["ACK"]
    assert worker.said.count("running held") == 1


@pytest.mark.parametrize("flags", SUPERVISED)
def test_a_signal_without_a_meaning_is_ignored_with_a_line(
    begin: Begin, wait_until: WaitUntil, flags: list[str]
) -> None:
    worker = begin(*flags)
    for name in ("SIGUSR1", "SIGUSR2"):
        worker.send(getattr(signal, name))
        wait_until(lambda name=name: f"{name} is ignored" in worker.said)
    worker.send(signal.SIGTERM)
    assert worker.wait() == Exit.STOPPED
    assert worker.said.count("is ignored") == 2


@pytest.mark.parametrize("flags", SUPERVISED)
def test_a_hup_that_nohup_ignores_stays_ignored(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil, flags: list[str]
) -> None:
    (folder / "nohup.py").write_text(
        "import signal, sys\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from faktory.cli.worker.main import main\nsys.exit(main())\n"
    )
    worker = run("nohup", "-r", "jobs", "-v", *flags, url=server.url)
    wait_until(lambda: len(server.workers) == max(1, len(flags)))
    os.killpg(worker.process.pid, signal.SIGHUP)
    worker.send(signal.SIGUSR1)
    wait_until(lambda: "SIGUSR1 is ignored" in worker.said)
    assert "SIGHUP" not in worker.said
    assert "Shutdown" not in worker.said
    worker.send(signal.SIGTERM)
    assert worker.wait() == Exit.STOPPED


@pytest.mark.parametrize("flags", SUPERVISED)
def test_what_a_job_forks_has_the_signals_of_a_plain_program(
    server: EmbeddedServer, begin: Begin, folder: Path, wait_until: WaitUntil, flags: list[str]
) -> None:
    begin(*flags)
    path = folder / "found"
    push(server, "forks", str(path))
    wait_until(lambda: path.exists() and path.read_text())
    assert path.read_text() == "-15 1"


# After it has stopped


@half(name=["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"], flags=SUPERVISED)
def test_signals_after_it_has_stopped_do_not_change_the_exit_code(
    begin: Begin, folder: Path, wait_until: WaitUntil, name: str, flags: list[str]
) -> None:
    worker = begin(*flags)
    worker.send(signal.SIGTERM)
    wait_until(lambda: "Shutdown" in worker.said or "stopping" in worker.said)
    while worker.process.poll() is None:
        if "stopped, every job answered" in worker.said:
            worker.send(getattr(signal, name))
            time.sleep(0.001)
    assert worker.wait() == Exit.STOPPED


# HUP to a supervisor


def test_a_hup_replaces_one_worker_after_the_other_when_its_jobs_have_finished(
    server: EmbeddedServer, begin: Begin, folder: Path, wait_until: WaitUntil
) -> None:
    supervisor = begin("--processes", "2")
    first, second = pids(supervisor)
    jid = push(server, "held", str(folder / "began"))
    wait_until((folder / "began").exists)
    busy = wait_until(
        lambda: next((p for p in (first, second) if f"{p} faktory-1 held" in supervisor.said), 0)
    )
    (folder / "program.py").write_text(PROGRAM + "print('the new program')\n")
    supervisor.send(signal.SIGHUP)
    wait_until(lambda: "SIGHUP: the workers are replaced" in supervisor.said)
    if busy == second:
        wait_until(lambda: ready(supervisor) == 3)
        assert not alive(first)
    else:
        wait_until(lambda: f"{busy} MainThread quiet" in supervisor.said)
        assert ready(supervisor) == 2
    assert alive(busy)
    (folder / "began.go").touch()
    wait_until(lambda: ready(supervisor) == 4)
    wait_until(lambda: supervisor.printed.count("the new program") == 2)
    assert not alive(first)
    assert not alive(second)
    assert reports(server, jid) == ["ACK"]
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait() == Exit.STOPPED


def test_a_reload_of_a_program_that_cannot_begin_stops_one_worker_only(
    server: EmbeddedServer, begin: Begin, folder: Path, wait_until: WaitUntil
) -> None:
    supervisor = begin("--processes", "2")
    (folder / "program.py").write_text("1 / 0\n")
    supervisor.send(signal.SIGHUP)
    wait_until(lambda: "the reload ends here: the other workers go on" in supervisor.said)
    assert alive(pids(supervisor)[1])
    (folder / "program.py").write_text(PROGRAM)
    supervisor.send(signal.SIGHUP)
    wait_until(lambda: ready(supervisor) == 4)
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait() == Exit.STOPPED


# Quiet


def test_a_replacement_of_a_quiet_worker_is_quiet_from_its_first_moment(
    server: EmbeddedServer, begin: Begin, wait_until: WaitUntil
) -> None:
    supervisor = begin("--processes", "2")
    quiet, other = pids(supervisor)
    for pid in (quiet, other):
        os.kill(pid, signal.SIGTSTP)
    wait_until(lambda: supervisor.said.count("is quiet, and so is each that takes") == 2)
    wait_until(lambda: supervisor.said.count("quiet: fetches no more jobs; ") == 2)
    server.clear_commands()
    os.kill(quiet, signal.SIGKILL)
    os.kill(other, signal.SIGTERM)
    wait_until(lambda: ready(supervisor) == 4)
    wait_until(lambda: sum(verb == "BEAT" for verb, _ in server.commands) >= 2)
    wait_until(lambda: supervisor.said.count("quiet: fetches no more jobs; ") == 4)
    assert supervisor.said.count("started, quiet as the one before") == 2
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait() == Exit.STOPPED
    assert not any(verb == "FETCH" for verb, _ in server.commands)


def test_workers_that_begin_while_the_supervisor_gets_quiet_fetch_nothing(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    (folder / "long.py").write_text(
        SLOW_IMPORT.format("while not __import__('os').path.exists('go'): time.sleep(0.01)")
        + "from jobs import *\n"
    )
    supervisor = run(WORKER, "-r", "long", "--processes", "2", "-v", url=server.url)
    wait_until(lambda: supervisor.printed.count("begins") == 2)
    supervisor.send(signal.SIGTSTP)
    wait_until(lambda: "no worker is replaced" in supervisor.said)
    (folder / "go").touch()
    wait_until(lambda: ready(supervisor) == 2)
    wait_until(lambda: len(server.workers) == 2)
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait() == Exit.STOPPED
    assert not any(verb == "FETCH" for verb, _ in server.commands)


def test_a_worker_that_the_server_stops_is_replaced(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    (folder / "beats.py").write_text(
        "from jobs import *\nimport faktory\nfaktory.Worker.send_heartbeat_every = 0.05\n"
    )
    supervisor = run(WORKER, "-r", "beats", "--processes", "1", "-v", url=server.url)
    wait_until(lambda: server.workers)
    server.terminate(server.workers[0]["wid"])
    wait_until(lambda: ready(supervisor) == 2)
    assert "the server asks this worker to terminate" in supervisor.said
    assert "(STOPPED); another takes its place" in supervisor.said
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait() == Exit.STOPPED

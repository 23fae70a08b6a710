from __future__ import annotations

import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import faktory
from faktory import Client
from faktory.cli.worker import Exit, main
from faktory.server import EmbeddedServer

from .conftest import Process

Run = Callable[..., Process]
WaitUntil = Callable[..., object]

WORKER = "faktory.cli.worker"

SHORT_OF_THREADS = """
from jobs import *
from faktory.worker.jobthread import JobThread

def start(thread, real=JobThread.start):
    if thread.name == "faktory-3":
        raise RuntimeError("can't start new thread")
    real(thread)

JobThread.start = start
"""


def push(server: EmbeddedServer, jobtype: str, *args: object, queue: str = "default") -> str:
    with Client(server.url) as client:
        return client.push({"jobtype": jobtype, "args": list(args), "queue": queue})


def reports(server: EmbeddedServer, jid: str) -> list[str]:
    return [verb for verb, text in server.commands if verb in ("ACK", "FAIL") and jid in text]


@pytest.fixture
def dead_url() -> str:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return f"tcp://127.0.0.1:{sock.getsockname()[1]}"


# Running


@pytest.mark.parametrize(
    ("module", "number"),
    [("jobs", signal.SIGTERM), ("jobs.py", signal.SIGINT), ("./jobs.py", signal.SIGTERM)],
)
def test_it_runs_jobs_until_it_is_told_to_stop(
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
    assert f"faktory-worker {faktory.__version__} on Python" in worker.said
    assert f"core: {faktory.implementation} (" in worker.said
    assert f"server: {server.url}, concurrency: 10" in worker.said
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
    with EmbeddedServer(password="geheim") as server:
        worker = run(WORKER, "-r", "jobs", url=server.url)
        wait_until(lambda: server.workers)
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    assert "server: tcp://:***@" in worker.said
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


def test_a_second_signal_does_not_wait_and_a_stuck_job_shows_in_the_exit_code(
    server: EmbeddedServer, run: Run, wait_until: WaitUntil
) -> None:
    worker = run(WORKER, "-r", "jobs", "-t", "1000", url=server.url)
    jid = push(server, "stuck")
    wait_until(lambda: server.working)
    worker.send(signal.SIGTERM)
    wait_until(lambda: "Shutdown: waiting up to 1000 seconds for 1 jobs to finish" in worker.said)
    worker.send(signal.SIGINT)
    assert worker.wait() == Exit.LEFT_BEHIND == 5
    assert reports(server, jid) == ["FAIL"]
    assert f"stuck {jid} does not end: left behind" in worker.said
    assert "every job answered" not in worker.said
    assert re.search(
        r"stopped, some jobs left running or unreported, on: faktory-\d+$",
        worker.said.splitlines()[-1],
    )


def test_it_waits_for_a_server_and_can_be_stopped_meanwhile(
    run: Run, wait_until: WaitUntil, dead_url: str
) -> None:
    worker = run(WORKER, "-r", "jobs", url=dead_url)
    wait_until(lambda: "lost the server, trying until it is back" in worker.said)
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    assert worker.said.count("lost the server") == 1
    assert "Traceback" not in worker.said


# What is wrong


@pytest.mark.parametrize("user", ["", ":wrong@"])
def test_a_wrong_password_ends_it_quickly_and_readably(run: Run, user: str) -> None:
    with EmbeddedServer(password="right") as server:
        started = time.monotonic()
        worker = run(WORKER, "-r", "jobs", url=f"tcp://{user}{server.address.place}")
        assert worker.wait() == Exit.REFUSED == 4
        assert time.monotonic() - started < 5
    assert re.match("faktory-worker: the server .*password", worker.said.splitlines()[-1])
    assert "Traceback" not in worker.said


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere", "faktory-worker: -r nowhere: cannot be imported: No module named 'nowhere'"),
        ("no.where", "faktory-worker: -r no.where: cannot be imported: No module named 'no'"),
        (
            "nowhere.py",
            "faktory-worker: -r nowhere.py: cannot be imported: there is no file nowhere.py",
        ),
    ],
)
def test_a_module_that_is_not_there_is_told_in_one_line(run: Run, name: str, told: str) -> None:
    worker = run(WORKER, "-r", name)
    assert worker.wait() == Exit.IMPORT == 3
    assert worker.said == told + "\n"


@pytest.mark.parametrize("name", ["broken", "broken.py"])
@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import nowhere", "ModuleNotFoundError(\"No module named 'nowhere'\")"),
        ("1 / 0", "ZeroDivisionError('division by zero')"),
        ("def", "SyntaxError("),
        ("raise SystemExit(0)", "SystemExit(0)"),
        ("import faktory\n@faktory.job\nasync def work(): ...", "TypeError('work is an async"),
    ],
)
def test_a_module_that_fails_is_shown_with_its_traceback(
    run: Run, folder: Path, name: str, source: str, told: str
) -> None:
    (folder / "broken.py").write_text(source)
    worker = run(WORKER, "-r", name)
    assert worker.wait() == Exit.IMPORT
    assert "Traceback" in worker.said
    assert "broken.py" in worker.said
    assert f"faktory-worker: -r {name}: cannot be imported: {told}" in worker.said.splitlines()[-1]


def test_two_modules_with_the_same_job_are_told_apart(run: Run, folder: Path) -> None:
    (folder / "twin.py").write_text((folder / "jobs.py").read_text())
    worker = run(WORKER, "-r", "jobs.py", "-r", "./twin.py")
    assert worker.wait() == Exit.IMPORT
    assert "the job type 'touch' is taken: by " in worker.said
    assert "jobs.py:touch, and now by " in worker.said
    assert "twin.py:touch." in worker.said


def test_a_queue_that_is_given_twice_is_one_queue(
    server: EmbeddedServer, run: Run, wait_until: WaitUntil
) -> None:
    run(WORKER, "-r", "jobs", "-q", "a", "-q", "a", "-c", "1", url=server.url)
    wait_until(lambda: ("FETCH", "a") in server.commands)


@pytest.mark.parametrize("name", ["./os.py", "./antigravity.py"])  # the second is not loaded
def test_a_file_with_the_name_of_a_module_of_python_is_refused(
    run: Run, folder: Path, name: str
) -> None:
    (folder / name).write_text("")
    worker = run(WORKER, "-r", name)
    assert worker.wait() == Exit.IMPORT
    assert f"-r {name}: cannot be imported: the module name {Path(name).stem} is taken, by " in (
        worker.said
    )
    assert "Rename the file" in worker.said
    assert worker.said.count("\n") == 1


def test_two_files_with_the_same_module_name_are_refused(run: Run, folder: Path) -> None:
    for name in ("x", "y"):
        (folder / name).mkdir()
        (folder / name / "tasks.py").write_text("")
    worker = run(WORKER, "-r", "x/tasks.py", "-r", "y/tasks.py")
    assert worker.wait() == Exit.IMPORT
    taken = "-r y/tasks.py: cannot be imported: the module name tasks is taken, by "
    assert taken in worker.said
    assert "x/tasks.py. " in worker.said
    assert worker.said.count("\n") == 1


def test_the_same_file_twice_is_loaded_once(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    (folder / "once.py").write_text("from jobs import *\nprint('loaded')\n")
    flags = ["-r", "once.py", "-r", "./once.py", "-r", "once"]
    worker = run(WORKER, *flags, url=server.url)
    wait_until(lambda: server.workers)
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    assert worker.printed == "loaded\n"


def test_a_worker_without_any_job_is_told_before_it_takes_one(
    server: EmbeddedServer, run: Run
) -> None:
    worker = run(WORKER, "-r", "string", url=server.url)
    assert worker.wait() == Exit.USAGE
    assert worker.said == (
        "faktory-worker: no job type is registered, so every job would fail. "
        "Name the module that defines jobs: -r app.jobs\n"
    )
    assert server.commands == []


def test_more_threads_than_the_system_gives_are_told_in_one_message(
    server: EmbeddedServer, run: Run, folder: Path
) -> None:
    (folder / "short.py").write_text(SHORT_OF_THREADS)
    worker = run(WORKER, "-r", "short", "-c", "5", url=server.url)
    assert worker.wait() == Exit.CANNOT_START == 6
    assert worker.said.splitlines()[-1] == (
        "faktory-worker: -c 5: only 2 of 5 job threads could be started: can't start new thread. "
        "Use a lower concurrency, or more processes with fewer threads each."
    )
    assert "Traceback" not in worker.said


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["-q", "a,0"], "-q a,0: the weight '0' is no whole number of 1 or more"),
        (["-q", "a,b"], "-q a,b: the weight 'b' is no whole number"),
        (["-q", "a,2", "-q", "b"], "-q b has no weight and others have one"),
        (["-q", "a,3", "-q", "a,1"], "-q a is given twice, with different weights: give it once"),
        (["-q", "a b"], "the queue is 'a b'"),
        (["-q", ""], "the queue is ''"),
        (["-c", "0"], "argument -c/--concurrency: '0' is no whole number"),
        (["-c", "-1"], "argument -c/--concurrency"),
        (["-c", "ten"], "'ten' is no whole number"),
        (["-t", "-1"], "argument -t/--timeout"),
        (["-t", "nan"], "'nan' is no number of seconds"),
        (["-t", "inf"], "'inf' is no number of seconds"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_wrong_usage_is_told_and_has_its_own_exit_code(
    flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(flags)
    except SystemExit as error:  # argparse's own way
        code = int(error.code or 0)
    assert code == Exit.USAGE == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("FAKTORY_URL", "http://localhost", "use tcp://"),
        ("FAKTORY_URL", "tcp://host:port", "is no number from 1 to 65535"),
        ("FAKTORY_PROVIDER", "tcp://host", "it must be the name of the variable"),
    ],
)
def test_a_wrong_variable_is_wrong_usage(
    variable: str,
    value: str,
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, value)
    assert main([]) == Exit.USAGE
    assert told in capsys.readouterr().err


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, told in (("-V", f"faktory-worker {faktory.__version__}\n"), ("-h", "exit codes:")):
        with pytest.raises(SystemExit) as ended:
            main([flag])
        assert ended.value.code == 0
        assert told in capsys.readouterr().out

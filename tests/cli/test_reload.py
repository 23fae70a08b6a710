from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from faktory import Client
from faktory.cli.exits import Exit
from faktory.server import EmbeddedServer

from .conftest import Process
from .test_parent import alive, pids, ready

Run = Callable[..., Process]
WaitUntil = Callable[..., object]

WORKER = "faktory.cli.worker"
QUIET = "quiet: no more jobs are fetched"

PROGRAM = """
import os
import time

import faktory

@faktory.job
def tells(path):
    with open(path, "w") as file:
        file.write("{word}")

@faktory.job
def slow(path):
    open(path, "w").close()
    while not os.path.exists(path + ".go"):
        time.sleep(0.01)
"""


def push(server: EmbeddedServer, jobtype: str, *args: object) -> str:
    with Client(server.url) as client:
        return client.push({"jobtype": jobtype, "args": list(args), "retry": 0})


@pytest.fixture
def program(folder: Path) -> Path:
    path = folder / "program.py"
    path.write_text(PROGRAM.format(word="first"))
    return path


@pytest.fixture
def reloading(server: EmbeddedServer, run: Run, program: Path, wait_until: WaitUntil) -> Process:
    """A worker that has begun anew at least once: the files are watched."""
    flags = ["-r", "program", "--reload", "-c", "1", "-v", "-t", "5"]
    parent = run(WORKER, *flags, url=server.url)
    wait_until(lambda: ready(parent) == 1)

    def noticed() -> bool:
        os.utime(program)
        return "changed: program.py" in parent.said

    wait_until(noticed)
    wait_until(lambda: ready(parent) >= 2)
    return parent


def words(server: EmbeddedServer, path: Path) -> str:
    """What the program of now writes."""
    path.unlink(missing_ok=True)
    push(server, "tells", str(path))
    return path.read_text() if path.exists() else ""


def test_a_saved_file_takes_effect_and_running_jobs_finish_first(
    server: EmbeddedServer,
    reloading: Process,
    folder: Path,
    program: Path,
    wait_until: WaitUntil,
) -> None:
    jid = push(server, "slow", str(folder / "began"))
    wait_until((folder / "began").exists)
    began, changes = pids(reloading), reloading.said.count("changed:")
    program.write_text(PROGRAM.format(word="second"))
    wait_until(lambda: reloading.said.count("changed:") > changes)
    # Not one more QUIET: the fixture's last touch of the file may have made the worker quiet.
    wait_until(lambda: any(str(began[-1]) in line for line in reloading.stderr if QUIET in line))
    assert pids(reloading) == began
    push(server, "tells", str(folder / "told"))
    (folder / "began.go").touch()
    wait_until(lambda: (folder / "told").exists() and (folder / "told").read_text())
    assert (folder / "told").read_text() == "second"
    assert [verb for verb, text in server.commands if verb == "ACK" and jid in text] == ["ACK"]
    reloading.send(signal.SIGTERM)
    assert reloading.wait() == Exit.STOPPED
    assert not any(map(alive, pids(reloading)))


def test_a_syntax_error_waits_for_the_next_save(
    server: EmbeddedServer,
    reloading: Process,
    folder: Path,
    program: Path,
    wait_until: WaitUntil,
) -> None:
    program.write_text("def broken(:\n")
    told = "program.py, line 1: invalid syntax; what runs goes on until the next"
    wait_until(lambda: told in reloading.said)
    push(server, "tells", str(folder / "told"))
    wait_until(lambda: (folder / "told").exists() and (folder / "told").read_text() == "first")
    program.write_text(PROGRAM.format(word="second"))
    wait_until(lambda: words(server, folder / "told") == "second")
    reloading.send(signal.SIGINT)
    assert reloading.wait() == Exit.STOPPED


def test_a_program_that_cannot_be_imported_waits_for_the_next_save(
    server: EmbeddedServer,
    reloading: Process,
    folder: Path,
    program: Path,
    wait_until: WaitUntil,
) -> None:
    program.write_text("import nowhere\n")
    wait_until(lambda: "(IMPORT); waiting for a file to be saved" in reloading.said)
    assert "No module named 'nowhere'" in reloading.said
    program.write_text(PROGRAM.format(word="second"))
    wait_until(lambda: words(server, folder / "told") == "second")
    reloading.send(signal.SIGTERM)
    assert reloading.wait() == Exit.STOPPED


def test_without_the_extra_it_says_how_to_install_it(run: Run, folder: Path) -> None:
    (folder / "without.py").write_text(
        "import sys\nsys.modules['watchfiles'] = None\n"
        "from faktory.cli.worker import main\nsys.exit(main())\n"
    )
    worker = run("without", "-r", "jobs", "--reload")
    assert worker.wait() == Exit.USAGE
    assert worker.said == (
        "faktory-worker: --reload needs watchfiles: pip install 'faktory-worker[reload]'\n"
    )

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from faktory.cli.exits import Exit
from faktory.server import EmbeddedServer

from .support import WORKER, Process, Run, WaitUntil, alive, pids, push, ready

QUIET = "quiet: fetches no more jobs"

PROGRAM = """
import asyncio
import os
import time

import faktory

@faktory.aio.on_shutdown
async def closes():
    print("{word} closes", flush=True)

@faktory.job
async def naps(path):
    open(path, "w").close()
    while not os.path.exists(path + ".go"):
        await asyncio.sleep(0.01)
    print("{word} naps", flush=True)

@faktory.job
def writes(path):
    with open(path, "w") as file:
        file.write("{word}")

@faktory.job
def slow(path):
    open(path, "w").close()
    while not os.path.exists(path + ".go"):
        time.sleep(0.01)
"""


@pytest.fixture
def program(folder: Path) -> Path:
    path = folder / "program.py"
    path.write_text(PROGRAM.format(word="first"))
    return path


@pytest.fixture
def reloading(server: EmbeddedServer, run: Run, program: Path, wait_until: WaitUntil) -> Process:
    """A worker whose files are being watched."""
    flags = ["-r", "program", "--reload", "-c", "1", "-v", "-t", "5"]
    parent = run(WORKER, *flags, url=server.url)
    wait_until(lambda: ready(parent) == 1)
    children = Path(f"/proc/{parent.process.pid}/task/{parent.process.pid}/children")
    if children.exists():
        wait_until(lambda: any(map(is_watching, children.read_text().split())))
        return parent

    def is_noticed() -> bool:
        os.utime(program)
        return "changed: program.py" in parent.said

    wait_until(is_noticed)
    wait_until(lambda: ready(parent) >= 2)
    return parent


def is_watching(pid: str) -> bool:
    """Return whether Linux watches files for this process."""
    try:
        descriptors = [path.read_text() for path in Path(f"/proc/{pid}/fdinfo").iterdir()]
    except OSError:  # one was closed meanwhile
        return False
    return any("inotify wd:" in text for text in descriptors)


def written(server: EmbeddedServer, path: Path) -> str:
    """Return what the present version of the program writes."""
    path.unlink(missing_ok=True)
    push(server, "writes", str(path))
    return path.read_text() if path.exists() else ""


def test_a_saved_file_reloads_the_program_when_running_jobs_have_finished(
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
    push(server, "writes", str(folder / "written"))
    (folder / "began.go").touch()
    wait_until(lambda: (folder / "written").exists() and (folder / "written").read_text())
    assert (folder / "written").read_text() == "second"
    assert [verb for verb, text in server.commands if verb == "ACK" and jid in text] == ["ACK"]
    reloading.send(signal.SIGTERM)
    assert reloading.wait() == Exit.STOPPED
    assert not any(map(alive, pids(reloading)))


def test_async_jobs_finish_and_their_loop_closes_before_the_new_program_runs_some(
    server: EmbeddedServer,
    reloading: Process,
    folder: Path,
    program: Path,
    wait_until: WaitUntil,
) -> None:
    push(server, "naps", str(folder / "began"))
    wait_until((folder / "began").exists)
    changes = reloading.said.count("changed:")
    program.write_text(PROGRAM.format(word="second"))
    wait_until(lambda: reloading.said.count("changed:") > changes)
    (folder / "began.go").touch()
    wait_until(lambda: reloading.printed == "first naps\nfirst closes\n")
    push(server, "naps", str(folder / "began"))
    wait_until(lambda: "second naps" in reloading.printed)
    reloading.send(signal.SIGTERM)
    assert reloading.wait() == Exit.STOPPED
    assert reloading.printed.endswith("second naps\nsecond closes\n")


def test_after_a_syntax_error_the_old_code_runs_until_the_next_save(
    server: EmbeddedServer,
    reloading: Process,
    folder: Path,
    program: Path,
    wait_until: WaitUntil,
) -> None:
    program.write_text("def broken(:\n")
    error = "program.py, line 1: invalid syntax; the old code goes on running until the next save"
    wait_until(lambda: error in reloading.said)
    push(server, "writes", str(folder / "written"))
    path = folder / "written"
    wait_until(lambda: path.exists() and path.read_text() == "first")
    program.write_text(PROGRAM.format(word="second"))
    wait_until(lambda: written(server, folder / "written") == "second")
    reloading.send(signal.SIGINT)
    assert reloading.wait() == Exit.STOPPED


def test_after_an_import_error_the_supervisor_waits_for_the_next_save(
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
    wait_until(lambda: written(server, folder / "written") == "second")
    reloading.send(signal.SIGTERM)
    assert reloading.wait() == Exit.STOPPED


def test_a_hup_reloads_the_program_although_no_file_has_changed(
    server: EmbeddedServer, reloading: Process, folder: Path, wait_until: WaitUntil
) -> None:
    jid = push(server, "slow", str(folder / "began"))
    wait_until((folder / "began").exists)
    count = len(pids(reloading))
    os.killpg(reloading.process.pid, signal.SIGHUP)  # as a terminal does that is closed
    wait_until(lambda: "SIGHUP: the workers are replaced" in reloading.said)
    (folder / "began.go").touch()
    wait_until(lambda: len(pids(reloading)) > count)
    wait_until(lambda: written(server, folder / "written") == "first")
    os.killpg(reloading.process.pid, signal.SIGTERM)
    assert reloading.wait() == Exit.STOPPED
    assert [verb for verb, text in server.commands if verb == "ACK" and jid in text] == ["ACK"]
    assert "nobody watches" not in reloading.said


def test_without_the_extra_the_error_names_it(run: Run, folder: Path) -> None:
    (folder / "without.py").write_text(
        "import sys\nsys.modules['watchfiles'] = None\n"
        "from faktory.cli.worker.main import main\nsys.exit(main())\n"
    )
    worker = run("without", "-r", "jobs", "--reload")
    assert worker.wait() == Exit.USAGE
    assert worker.said == (
        "faktory-worker: --reload needs watchfiles: pip install 'faktory-worker[reload]'\n"
    )

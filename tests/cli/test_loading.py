from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from faktory import Client
from faktory.cli.exits import Exit
from faktory.server import EmbeddedServer

from .conftest import Process

Run = Callable[..., Process]
WaitUntil = Callable[..., object]

WORKER = "faktory.cli.worker"


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
    assert worker.wait() == Exit.MISSING == 7
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
    assert worker.wait() == Exit.IMPORT == 3
    assert 'broken.py", line ' in worker.said
    assert "faktory/cli" not in worker.said
    assert "importlib" not in worker.said
    assert f"faktory-worker: -r {name}: cannot be imported: {told}" in worker.said.splitlines()[-1]


def test_two_modules_with_the_same_job_are_told_apart(run: Run, folder: Path) -> None:
    (folder / "twin.py").write_text((folder / "jobs.py").read_text())
    worker = run(WORKER, "-r", "jobs.py", "-r", "./twin.py")
    assert worker.wait() == Exit.IMPORT
    assert "the job type 'touch' is taken: by " in worker.said
    assert "jobs.py:touch, and now by " in worker.said
    assert "twin.py:touch." in worker.said


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


# Packages


@pytest.fixture
def package(folder: Path) -> Path:
    """A package app with jobs in three places, and a module that must not be imported."""
    job = "import faktory\n@faktory.job\ndef {}(): print('{} ran')\n"
    for place in ("jobs", "mail/tasks", "deep/down/jobs", "deep/jobs/__init__"):
        path = folder / "app" / f"{place}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        name = place.removesuffix("/__init__").replace("/", "_")
        path.write_text(job.format(name, name))
    for place in ("other", "mail/models", "not-a-package/jobs"):
        path = folder / "app" / f"{place}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise SystemExit('nobody asked for this')")
    (folder / "app" / "__init__.py").touch()
    return folder / "app"


@pytest.mark.usefixtures("package")
def test_a_dot_at_the_end_finds_the_jobs_below_a_package(
    server: EmbeddedServer, run: Run, wait_until: WaitUntil
) -> None:
    worker = run(WORKER, "-r", "app.", "-c", "1", url=server.url)
    names = ["jobs", "mail_tasks", "deep_down_jobs", "deep_jobs"]
    with Client(server.url) as client:
        client.push_bulk([{"jobtype": name, "args": []} for name in names])
    wait_until(lambda: worker.printed.count(" ran\n") == 4)
    worker.send(signal.SIGTERM)
    assert worker.wait() == Exit.STOPPED
    assert sorted(worker.printed.splitlines()) == sorted(f"{name} ran" for name in names)


def test_a_package_that_fails_or_holds_no_jobs_is_told(
    run: Run, folder: Path, package: Path
) -> None:
    (folder / "bare").mkdir()
    (folder / "bare" / "__init__.py").touch()
    (package / "jobs.py").write_text("import nowhere")
    bare, gone, broken = (run(WORKER, "-r", name) for name in ("bare.", "gone.", "app."))
    assert bare.wait() == Exit.MISSING
    assert bare.said == (
        "faktory-worker: -r bare.: cannot be imported: there is no jobs and no tasks below it\n"
    )
    assert gone.wait() == Exit.MISSING
    assert gone.said == ("faktory-worker: -r gone.: cannot be imported: No module named 'gone'\n")
    assert broken.wait() == Exit.IMPORT
    assert "app/jobs.py" in broken.said


def test_modules_and_files_are_loaded_in_their_order(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    for name in ("one", "two"):
        (folder / f"{name}.py").write_text(f"print('{name}')")
    worker = run(WORKER, "-r", "two", "-r", "jobs", "-r", "one.py", url=server.url)
    wait_until(lambda: worker.printed == "two\none\n")

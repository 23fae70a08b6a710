from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from zipfile import ZipFile

import pytest

from faktory import Client
from faktory.cli import loading
from faktory.cli.exits import Exit
from faktory.cli.worker.reload import _folders
from faktory.jobs import registry
from faktory.server import EmbeddedServer

from .support import WORKER, Load, Run, WaitUntil


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "-r nowhere: cannot be imported: No module named 'nowhere'. "),
        ("no.where", "-r no.where: cannot be imported: No module named 'no'. "),
        ("nowhere.py", "-r nowhere.py: cannot be imported: there is no file nowhere.py in /"),
    ],
)
def test_a_missing_module_is_reported_in_one_line(load: Load, name: str, message: str) -> None:
    code, printed, said = load(name)
    assert (code, printed) == (Exit.MISSING, "")
    assert said.startswith(f"faktory-worker: {message}")
    assert said.count("\n") == 1
    assert Exit.MISSING == 7


@pytest.mark.parametrize("name", ["broken", "broken.py"])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def", "SyntaxError: invalid syntax (broken.py, line 1)"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("import faktory\n@faktory.job\ndef work(): yield", "TypeError: work is a generator"),
    ],
)
def test_an_error_of_a_module_is_shown_with_its_traceback(
    load: Load, folder: Path, name: str, source: str, message: str
) -> None:
    (folder / "broken.py").write_text(source)
    done = load(name)
    assert done.code == Exit.IMPORT == 3
    assert 'broken.py", line ' in done.stderr
    assert "faktory/cli" not in done.stderr
    assert "importlib" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert f"faktory-worker: -r {name}: cannot be imported: {message}" in last


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("uvloop", "is not MODULE:NAME, such as uvloop:new_event_loop"),
        ("nowhere:new_event_loop", "cannot be had: No module named 'nowhere'"),
        ("loops:missing", "cannot be had: module 'loops' has no attribute 'missing'"),
        ("loops:five", "is 5: it must be a function that makes an event loop"),
    ],
)
def test_a_loop_factory_that_cannot_be_had_is_reported_in_one_line(
    load: Load, folder: Path, monkeypatch: pytest.MonkeyPatch, factory: str, message: str
) -> None:
    (folder / "loops.py").write_text("five = 5")
    monkeypatch.setenv("FAKTORY_WORKER_LOOP_FACTORY", factory)
    assert load("loops") == (
        Exit.USAGE,
        "",
        f"faktory-worker: --loop-factory {factory} {message}\n",
    )


def test_the_loop_factory_makes_the_loop_of_async_jobs(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    (folder / "loops.py").write_text(
        "import asyncio, faktory\n"
        "class Own(asyncio.SelectorEventLoop): ...\n"
        "@faktory.job\n"
        "async def work():\n"
        "    print(type(asyncio.get_running_loop()).__name__, flush=True)\n"
    )
    with Client(server.url) as client:
        client.push({"jobtype": "work", "args": []})
    worker = run(WORKER, "-r", "loops", "--loop-factory", "loops:Own", url=server.url)
    wait_until(lambda: "Own" in worker.printed)
    worker.send(signal.SIGTERM)
    assert worker.wait() == Exit.STOPPED


def test_as_a_process_an_error_of_a_module_is_shown_alike(run: Run, folder: Path) -> None:
    (folder / "broken.py").write_text("1 / 0")
    worker = run(WORKER, "-r", "broken")
    assert worker.wait() == Exit.IMPORT
    first, second, *_, last = worker.said.splitlines()
    assert first == "Traceback (most recent call last):"
    assert second == f'  File "{folder}/broken.py", line 1, in <module>'
    assert last == (
        "faktory-worker: -r broken: cannot be imported: ZeroDivisionError: division by zero"
    )


def test_a_job_type_that_two_modules_declare_is_an_error(load: Load, folder: Path) -> None:
    (folder / "twin.py").write_text((folder / "jobs.py").read_text())
    done = load("jobs.py", "./twin.py")
    assert done.code == Exit.IMPORT
    assert "the job type 'touch' is taken: by " in done.stderr
    assert "jobs.py:touch, and now by " in done.stderr
    assert "twin.py:touch." in done.stderr


@pytest.mark.parametrize("name", ["./os.py", "./antigravity.py"])  # the second is not loaded
def test_a_file_with_the_name_of_a_module_of_python_is_an_error(
    load: Load, folder: Path, name: str
) -> None:
    (folder / name).write_text("")
    done = load(name)
    assert done.code == Exit.IMPORT
    assert f"-r {name}: cannot be imported: the module name {Path(name).stem} is taken, by " in (
        done.stderr
    )
    assert "Rename the file" in done.stderr
    assert done.stderr.count("\n") == 1


def test_two_files_with_the_same_module_name_are_an_error(load: Load, folder: Path) -> None:
    for name in ("x", "y"):
        (folder / name).mkdir()
        (folder / name / "tasks.py").write_text("")
    done = load("x/tasks.py", "y/tasks.py")
    assert done.code == Exit.IMPORT
    taken = "-r y/tasks.py: cannot be imported: the module name tasks is taken, by "
    assert taken in done.stderr
    assert "x/tasks.py. " in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_file_that_is_given_twice_is_loaded_once(
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
        path.write_text("raise SystemExit('this must not be imported')")
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


def test_a_package_that_fails_or_has_no_jobs_is_an_error(
    load: Load, folder: Path, package: Path
) -> None:
    (folder / "bare").mkdir()
    (folder / "bare" / "__init__.py").touch()
    (package / "jobs.py").write_text("import nowhere")
    bare, gone, broken = (load(name) for name in ("bare.", "gone.", "app."))
    assert bare.code == Exit.MISSING
    assert bare.stderr == (
        "faktory-worker: -r bare.: cannot be imported: "
        "there is no jobs.py and no tasks.py below it\n"
    )
    assert gone.code == Exit.MISSING
    assert "-r gone.: cannot be imported: No module named 'gone'. " in gone.stderr
    assert broken.code == Exit.IMPORT
    assert "app/jobs.py" in broken.stderr


@pytest.fixture
def loaded(folder: Path, load: Load) -> Callable[..., list[str]]:
    """`loaded("app")`: load that in the folder; return the names of the jobs so far."""

    def loaded(*names: str, cwd: Path = folder) -> list[str]:
        with chdir(cwd):
            loading.load(names)
        return [name for name in registry.names() if name != "touch"]

    return loaded


Loaded = Callable[..., list[str]]


@pytest.mark.parametrize(
    "name", ["app", "app.", "./app", "app/", "./app/", "{folder}/app", "sub/../app", "app/."]
)
def test_a_package_is_imported_with_its_jobs_and_tasks_however_it_is_named(
    loaded: Loaded, folder: Path, package: Path, name: str
) -> None:
    (folder / "sub").mkdir()
    (package / "__init__.py").write_text("import faktory\n@faktory.job\ndef root(): ...\n")
    for place in ("tests/jobs", "deep/test/tasks"):
        path = package / f"{place}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise SystemExit('this must not be imported')")
    assert set(loaded(name.format(folder=folder))) == {
        "root", "jobs", "mail_tasks", "deep_down_jobs", "deep_jobs"
    }  # fmt: skip
    assert sys.modules["app"].__file__ == str(package / "__init__.py")


def test_a_package_without_jobs_below_it_is_imported_alone(loaded: Loaded, folder: Path) -> None:
    (folder / "bare").mkdir()
    (folder / "bare" / "__init__.py").write_text("import faktory\n@faktory.job\ndef one(): ...\n")
    assert loaded("bare") == ["one"]
    assert loaded("./bare") == ["one"]  # once


def test_a_package_below_a_folder_is_imported_by_its_own_name(
    loaded: Loaded, folder: Path, package: Path
) -> None:
    (folder / "src").mkdir()
    package.rename(folder / "src" / "app")
    assert "mail_tasks" in loaded("src/app")
    assert sys.modules["app.jobs"].__file__ == str(folder / "src" / "app" / "jobs.py")


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("name", [".", "./", "{folder}"])
def test_a_folder_brings_its_own_jobs_and_those_of_the_packages_in_it(
    loaded: Loaded, folder: Path, name: str
) -> None:
    job = "import faktory\n@faktory.job\ndef {0}(): ...\n"
    wrong = "raise SystemExit('this must not be imported')"
    files = {
        "tasks.py": job.format("own"),
        "setup.py": wrong,
        "conftest.py": wrong,
        "tests/__init__.py": wrong,
        "tests/jobs.py": wrong,
        "venv/lib/jobs.py": wrong,
        "venv/jobs.py": wrong,
        "my-app/__init__.py": wrong,
        "my-app/jobs.py": wrong,
        "other/__init__.py": wrong,
        "other/views.py": wrong,
        "fine/__init__.py": "from .tasks import second",
        "fine/tasks.py": job.format("second"),
    }
    for place, source in files.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(source)
    found = set(loaded(name.format(folder=folder)))
    assert found > {"own", "jobs", "mail_tasks", "deep_down_jobs", "deep_jobs", "second"}
    assert "touch" in registry.names()  # of jobs.py


def test_the_working_folder_may_be_a_package(loaded: Loaded, package: Path) -> None:
    for name in (".", "jobs.py", "./mail"):
        assert "jobs" in loaded(name, cwd=package)
    assert sys.modules["app.jobs"].__file__ == str(package / "jobs.py")
    assert "jobs" not in sys.modules
    assert "mail_tasks" in registry.names()


def test_a_folder_without_jobs_is_missing_and_the_message_says_where_some_may_be(
    load: Load, folder: Path
) -> None:
    (folder / "empty" / "app").mkdir(parents=True)
    none = f"there is no jobs.py and no tasks.py in {folder / 'empty'}, nor in a package"
    done = load("./empty")
    assert done.code == Exit.MISSING
    assert done.stderr.endswith(f"{none} (a folder with __init__.py) in it\n")
    (folder / "empty" / "app" / "tasks.py").touch()
    assert load("./empty").stderr.endswith(" in it. Is it -r empty/app?\n")


def test_a_folder_called_tasks_that_is_not_a_package_has_a_hint(load: Load, folder: Path) -> None:
    (folder / "tasks").mkdir()
    (folder / "tasks" / "email.py").touch()
    done = load("./tasks/")
    assert done.code == Exit.MISSING
    assert f"there is no jobs.py and no tasks.py in {folder / 'tasks'}, nor in a" in done.stderr
    assert done.stderr.endswith(". Is it -r tasks/email.py?\n")


def test_a_folder_that_is_named_as_a_module_and_has_no_jobs_is_missing(
    load: Load, folder: Path
) -> None:
    (folder / "plain").mkdir()
    (folder / "plain" / "other.py").touch()
    done = load("plain")
    assert done.code == Exit.MISSING
    assert done.stderr == (
        "faktory-worker: -r plain: cannot be imported: "
        f"there is no jobs.py and no tasks.py below {folder / 'plain'}\n"
    )


@pytest.mark.parametrize("name", ["src", "./src"])
def test_a_folder_that_only_holds_packages_is_a_path_however_it_is_named(
    loaded: Loaded, folder: Path, package: Path, name: str
) -> None:
    (folder / "src").mkdir()
    package.rename(folder / "src" / "app")
    assert "mail_tasks" in loaded(name)
    assert sys.modules["app.jobs"].__file__ == str(folder / "src" / "app" / "jobs.py")
    assert not any(name.startswith("src") for name in sys.modules)
    with chdir(folder):
        assert loading.place(name) == (folder / "src").resolve()


def test_a_folder_with_modules_is_a_package_even_without_an_init(
    loaded: Loaded, package: Path
) -> None:
    (package / "__init__.py").unlink()
    (package / "mail" / "__init__.py").touch()
    assert set(loaded("app")) == {"jobs", "mail_tasks", "deep_down_jobs", "deep_jobs"}
    assert "app.jobs" in sys.modules


@pytest.mark.parametrize("name", ["./gone", "gone/", "./gone.", "gone/jobs.py"])
def test_a_path_that_does_not_exist_is_missing_and_nothing_that_is_not_there_is_suggested(
    load: Load, name: str
) -> None:
    done = load(name)
    assert done.code == Exit.MISSING
    assert re.search(r"there is no (such file or folder|file gone/jobs\.py)", done.stderr)
    assert "Is it" not in done.stderr


def test_a_file_of_a_package_is_imported_as_part_of_it(loaded: Loaded, package: Path) -> None:
    (package / "jobs.py").write_text(
        "import faktory\nfrom . import helper\nfrom app import jobs as again\n"
        "@faktory.job\ndef one(): ...\n"
    )
    (package / "helper.py").touch()
    assert loaded("app/jobs.py", "app.jobs", "./app/jobs.py") == ["one"]
    assert loaded("app/__init__.py") == ["one"]


def test_another_module_of_the_same_name_is_an_error(
    load: Load, folder: Path, package: Path
) -> None:
    (folder / "elsewhere" / "app").mkdir(parents=True)
    (folder / "elsewhere" / "app" / "__init__.py").touch()
    done = load("./app", "elsewhere/app")
    assert done.code == Exit.IMPORT
    taken = "-r elsewhere/app: cannot be imported: the module name app is taken, by "
    assert f"{taken}{package}/__init__.py. " in done.stderr
    (folder / "elsewhere" / "jobs.py").write_text("")
    done = load("./jobs.py", "./elsewhere")
    assert done.code == Exit.IMPORT
    assert "-r ./elsewhere: cannot be imported: the module name jobs is taken" in done.stderr


def test_an_error_in_a_module_that_was_found_has_its_traceback(load: Load, package: Path) -> None:
    (package / "mail" / "tasks.py").write_text("import gone")
    for name in ("app", "./app", "app/"):
        done = load(name)
        assert done.code == Exit.IMPORT
        assert 'app/mail/tasks.py", line 1' in done.stderr
        assert f"-r {name}: cannot be imported: ModuleNotFoundError" in done.stderr


def test_what_paths_name_is_watched_with_its_package(
    folder: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "sub").mkdir()
    (folder / "sub" / "tasks.py").touch()
    here = folder.resolve()
    app, sub = here / "app", here / "sub"
    modules = dict.fromkeys(("app", "app.jobs", "app.", "gone/"))
    paths = {".": here, "./": here, "./app": app, "app/deep/jobs/": app / "deep" / "jobs"}
    files = {"app/mail/tasks.py": app / "mail", "app/jobs.py": app, "sub/tasks.py": sub}
    expected = {**modules, **paths, **files}
    assert {name: loading.place(name) for name in expected} == expected
    (package / "deep" / "__init__.py").touch()
    assert loading.place("app/deep/jobs") == app
    monkeypatch.chdir(sub)
    assert _folders(["../app/deep/jobs", "tasks.py", "..", "os"]) == [sub, here, app]


def test_modules_and_files_are_loaded_in_their_order(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    for name in ("one", "two"):
        (folder / f"{name}.py").write_text(f"print('{name}')")
    worker = run(WORKER, "-r", "two", "-r", "jobs", "-r", "one.py", url=server.url)
    wait_until(lambda: worker.printed == "two\none\n")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("app/jobs", "Is it -r app.jobs?"),
        ("./app/jobs/", "Is it -r app.jobs?"),
        ("./app/tasks/", "there is no such file or folder in /"),
        ("...", "Name a module or package, -r app, a file, -r app/jobs.py, or a folder, -r ./app"),
        (".jobs", "Is it -r jobs?"),
        ("..jobs", "Is it -r jobs?"),
        ("app..jobs", "Is it -r app.jobs?"),
        ("app..", "Is it -r app?"),
        (".gone", "that is not a module's name\n"),
        ("my app/jobs", "Name a module or package, -r app"),
        ("app\0", "Name a module or package, -r app"),
        ("./app\0", "Name a module or package, -r app"),
        ("app\udcff", "Name a module or package, -r app"),
    ],
)
def test_what_is_not_a_modules_name_is_said_to_be_missing(
    load: Load, folder: Path, name: str, hint: str
) -> None:
    (folder / "app").mkdir()
    (folder / "app" / "jobs.py").touch()
    done = load(name)
    assert done.code == Exit.MISSING == 7
    what = "there is no such file or folder" if "/" in name or name == "..." else "that is not a"
    assert f"cannot be imported: {what}" in done.stderr
    assert hint in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", [".py", "..py", "./.py", "a b.py", "app/gone.py", "my-app", "a b"])
def test_what_does_not_exist_is_missing_whatever_its_name(load: Load, name: str) -> None:
    assert load(name).code == Exit.MISSING


@pytest.mark.parametrize("name", ["pkg/jobs.py", "./pkg/jobs.py", "{folder}/pkg/jobs.py"])
@pytest.mark.parametrize(
    "line", ["from . import other", "from .other import x", "from .. import a"]
)
def test_a_file_of_a_package_with_relative_imports_has_a_hint(
    load: Load, folder: Path, name: str, line: str
) -> None:
    (folder / "pkg").mkdir()
    (folder / "pkg" / "jobs.py").write_text(line)
    done = load(name.format(folder=folder))
    assert done.code == Exit.IMPORT == 3
    assert done.stderr.endswith("Name it as part of that: -r pkg.jobs\n")


LAZY = """
import os
import faktory

@faktory.job
def go(folder):
    os.chdir(folder)
    import helper
    helper.done()
"""


@pytest.mark.parametrize("name", ["lazy", "sub/lazy.py"])
def test_a_job_may_import_lazily_after_it_changed_the_folder(
    name: str,
    run: Run,
    folder: Path,
    server: EmbeddedServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    (folder / "sub").mkdir()
    place = folder / "sub" if "sub" in name else folder
    (place / "lazy.py").write_text(LAZY)
    (place / "helper.py").write_text("def done(): print('imported', flush=True)")
    with Client(server.url) as client:
        client.push({"jobtype": "go", "args": ["/"], "retry": 0})
    worker = run(WORKER, "-r", name, "--max-jobs", "1", url=server.url)
    assert worker.wait() == 0
    assert worker.printed == "imported\n", worker.said


def test_a_package_in_a_zip_is_searched(load: Load, folder: Path) -> None:
    declared = "import faktory\n@faktory.job\ndef {0}(): ...\n"
    with ZipFile(folder / "app.zip", "w") as archive:
        for file in ("zipped/__init__.py", "zipped/deep/__init__.py"):
            archive.writestr(file, "")
        archive.writestr("zipped/jobs.py", declared.format("one"))
        archive.writestr("zipped/deep/tasks.py", declared.format("two"))
        archive.writestr("zipped/other.py", "1 / 0")
    sys.path.insert(0, str(folder / "app.zip"))
    with chdir(folder):
        loading.load(["zipped."])
    assert {"one", "two"} <= set(registry.names())


def test_a_package_in_a_zip_without_jobs_is_missing(load: Load, folder: Path) -> None:
    with ZipFile(folder / "app.zip", "w") as archive:
        archive.writestr("zipped2/__init__.py", "")
    sys.path.insert(0, str(folder / "app.zip"))
    done = load("zipped2.")
    assert done.code == Exit.MISSING
    assert "there is no jobs.py and no tasks.py below it" in done.stderr


def test_the_working_folder_is_searched_by_its_whole_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", ["/elsewhere"])
    monkeypatch.chdir(folder)
    for _ in range(2):
        loading.load([])
        assert sys.path == [os.getcwd(), "/elsewhere"]

"""What a worker says where -r finds nothing, no job, or a module that cannot be imported."""

from __future__ import annotations

import json
import re
import sysconfig
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest

from faktory import Client
from faktory.cli import hints, loading
from faktory.cli.exits import Exit
from faktory.server import EmbeddedServer

from .support import WORKER, Load, Run

Write = Callable[..., None]

NO_JOBS = "faktory-worker: no job type is registered, so every job would fail: "
PUT = "Put @faktory.job above a function, or name another module: -r app.jobs\n"


@pytest.fixture
def write(folder: Path) -> Write:
    """`write("app/jobs.py", "import faktory")`: write a file, and empty __init__.py above it."""

    def write(place: str, text: str = "") -> None:
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        for above in path.relative_to(folder).parents:
            if above.name and above.name != "src":
                (folder / above / "__init__.py").touch()
        path.write_text(text)

    return write


# Without a job


def test_a_module_without_jobs_is_named_with_its_file(
    load: Load, folder: Path, write: Write
) -> None:
    write("bare.py", "def work(): ...")
    for name in ("bare", "bare.py"):
        done = load(name)
        what = f"-r {name} is the module bare ({folder / 'bare.py'}), without a job. "
        assert done == (Exit.USAGE, "", f"{NO_JOBS}{what}{PUT}")


def test_a_package_without_jobs_is_named_with_the_modules_below_it(
    load: Load, folder: Path, write: Write
) -> None:
    write("app/__init__.py")
    done = load("app")
    package = f"-r app is the package app ({folder / 'app/__init__.py'})"
    alone = f"{package} with no module called jobs or tasks below it, without a job. "
    assert done == (Exit.USAGE, "", f"{NO_JOBS}{alone}{PUT}")
    write("app/mail.py")
    write("app/views.py")
    remedy = "Name the module that defines jobs, of app.mail, app.views: -r app.mail\n"
    assert load("app").stderr == f"{NO_JOBS}{alone}{remedy}"
    write("app/jobs.py")
    write("app/shop/tasks.py")
    done = load("app")
    assert done.stderr == f"{NO_JOBS}{package} with app.jobs, app.shop.tasks, without a job. {PUT}"


def test_all_that_was_loaded_is_named(load: Load, folder: Path, write: Write) -> None:
    write("one.py")
    write("src/shop/tasks.py")
    done = load("one", "./src")
    assert done.stderr == (
        f"{NO_JOBS}-r one is the module one ({folder / 'one.py'}); "
        f"-r ./src is the module shop.tasks ({folder / 'src/shop/tasks.py'}), without a job. {PUT}"
    )


CLASS = """
import faktory

class Base(faktory.Job):
    faktory_options = {{"queue": "a"}}

class Report(Base):
    def {}(self, number): ...
"""


def test_a_class_without_perform_is_named_with_the_method_that_may_be_meant(
    load: Load, folder: Path, write: Write
) -> None:
    for number, (name, hint) in enumerate(
        {
            "preform": " Did you mean perform, instead of preform?",
            "run": " Did you mean perform, instead of run?",
            "other": "",
        }.items()
    ):
        write(f"kind{number}.py", CLASS.format(name))
        done = load(f"kind{number}")
        place = folder / f"kind{number}.py"
        assert done == (
            Exit.USAGE,
            "",
            f"{NO_JOBS}-r kind{number} is the module kind{number} ({place}), without a job. "
            f"The class kind{number}.Report has no perform.{hint}\n",
        )


def test_without_r_the_remedy_names_it(load: Load) -> None:
    done = load()
    assert done.code == Exit.USAGE
    assert "-r " in done.stderr


# Nothing there


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("job", "jobs.py is here: -r jobs.py"),
        ("nowhere", "jobs.py is here: -r jobs.py"),
        ("mail", "there is app/mail.py: -r app/mail.py"),
        ("app.mial", "there is app/mail.py: -r app/mail.py"),
        ("mial.py", "there is app/mail.py: -r app/mail.py"),
        ("other/mail.py", "there is app/mail.py: -r app/mail.py"),
        ("./other/mail", "there is app/mail.py: -r app/mail.py"),
        ("shop", "there is src/shop: -r src/shop"),
        ("shop.jobs", "jobs.py is here: -r jobs.py"),
        ("ap", "app is here: -r app"),
    ],
)
def test_what_is_near_is_named_where_nothing_is_found(
    load: Load, folder: Path, write: Write, name: str, near: str
) -> None:
    write("app/mail.py", "import faktory\n@faktory.job\ndef mail(): ...")
    write("src/shop/tasks.py")
    write("tests/mail.py")
    write(".hidden/mail.py")
    done = load(name)
    assert done.code == Exit.MISSING
    assert f". {near}" in done.stderr or f"{near}\n" in done.stderr
    assert done.stderr.count("\n") == 1
    there = near.rpartition("-r ")[2]
    with chdir(folder):
        assert loading.load([there])


def test_the_folders_that_were_searched_are_named(
    load: Load, folder: Path, write: Write, tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    more = tmp_path_factory.mktemp("more")
    monkeypatch.setattr("sys.path", [str(more), sysconfig.get_path("stdlib"), "/gone"])
    done = load("nowhere")
    assert done.stderr == (
        "faktory-worker: -r nowhere: cannot be imported: No module named 'nowhere'. "
        f"jobs.py is here: -r jobs.py. Searched: {folder}, {more}\n"
    )
    write("app/mail.py")
    done = load("app.other")
    assert done.stderr.endswith(f"jobs.py is here: -r jobs.py. Searched: {folder / 'app'}\n")
    write("plain.py")
    assert "'plain' is not a package" in load("plain.jobs").stderr


def test_nothing_is_named_where_nothing_is_near(load: Load, folder: Path) -> None:
    (folder / "jobs.py").unlink()
    done = load("nowhere.py")
    assert done.stderr == (
        "faktory-worker: -r nowhere.py: cannot be imported: "
        f"there is no file nowhere.py in {folder}\n"
    )


def test_the_search_is_bounded(folder: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    write("a/b/c/mail.py")
    write("a/b/c/d/sent.py")
    assert hints.near("mail") == ". there is a/b/c/mail.py: -r a/b/c/mail.py"
    assert "sent" not in hints.near("sent")
    monkeypatch.setattr(hints, "_ENTRIES", 2)
    assert "mail" not in hints.near("mail")
    folder.joinpath("gone").mkdir()
    monkeypatch.chdir(folder / "gone")
    (folder / "gone").rmdir()
    assert hints.near("jobs") == ""


# Broken


def test_a_syntax_error_is_said_once_with_its_file_and_line(
    run: Run, folder: Path, write: Write
) -> None:
    write("syn.py", "import faktory\n\n\ndef work()\n    ...\n")
    worker = run(WORKER, "-r", "syn")
    assert worker.wait() == Exit.IMPORT
    assert worker.said == (
        f'  File "{folder}/syn.py", line 4\n'
        "    def work()\n"
        "              ^\n"
        "faktory-worker: -r syn: cannot be imported: SyntaxError: expected ':' (syn.py, line 4)\n"
    )


def test_a_refusal_is_said_once_below_the_users_line(run: Run, folder: Path, write: Write) -> None:
    write("wrong.py", 'import faktory\n\n@faktory.job(queue="a b")\ndef work(): ...\n')
    worker = run(WORKER, "-r", "wrong")
    assert worker.wait() == Exit.IMPORT
    first, place, *code, last = worker.said.splitlines()
    assert first == "Traceback (most recent call last):"
    assert place == f'  File "{folder}/wrong.py", line 3, in <module>'
    assert code[0] == '    @faktory.job(queue="a b")'
    assert len(code) <= 2  # with the line of ^^^^
    assert last.startswith(
        "faktory-worker: -r wrong: cannot be imported: "
        "FaktoryPayloadError: the job 'work': queue is 'a b'"
    )
    assert worker.said.count("the job 'work'") == 1
    assert "\\'" not in worker.said


def test_a_name_that_is_declared_twice_is_said_once_with_both_lines(
    run: Run, folder: Path, write: Write
) -> None:
    write("twice.py", "import faktory\n" + "\n@faktory.job\ndef work(): ...\n" * 2)
    worker = run(WORKER, "-r", "twice")
    assert worker.wait() == Exit.IMPORT
    file = folder / "twice.py"
    assert worker.said.splitlines()[-1] == (
        "faktory-worker: -r twice: cannot be imported: ValueError: the job type 'work' is "
        f"declared twice: at {file}:3, and at {file}:6. Give one of them another name."
    )
    assert worker.said.count("declared twice") == 1
    assert "faktory/jobs" not in worker.said


def test_the_cause_of_an_error_and_its_notes_are_kept(run: Run, write: Write) -> None:
    write(
        "chained.py",
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n"
        '    raise RuntimeError("two\\nlines") from error\n',
    )
    worker = run(WORKER, "-r", "chained")
    assert worker.wait() == Exit.IMPORT
    assert "ZeroDivisionError: division by zero\n\nThe above exception" in worker.said
    assert worker.said.endswith("cannot be imported: RuntimeError: two\n    lines\n")
    assert worker.said.count("RuntimeError: two") == 1
    write("noted.py", 'error = ValueError("why")\nerror.add_note("note")\nraise error\n')
    worker = run(WORKER, "-r", "noted")
    assert worker.wait() == Exit.IMPORT
    assert "ValueError: why\nnote\nfaktory-worker: " in worker.said


# Jobs that are refused as they run

JOBS = """
import faktory

@faktory.job
def resize(image: str, width: int = 200): ...

class Report(faktory.Job):
    def perform(self, day): ...

@faktory.job
def broken():
    return other()

def other():
    return resize(1, 2, 3)

@faktory.job
def pushes():
    resize.perform_async()

@faktory.job
async def later(image): ...
"""


def test_a_job_that_cannot_be_called_is_one_line_and_others_have_the_users_lines(
    server: EmbeddedServer, run: Run, write: Write
) -> None:
    write("refused.py", JOBS)
    jobs = {
        "gone": [],
        "resize": [1, 2, 3],
        "Report": [],
        "later": [],
        "broken": [],
        "pushes": [],
    }
    with Client(server.url) as client:
        for name, args in jobs.items():
            client.push({"jobtype": name, "args": args, "jid": f"{name}-123456", "retry": 0})
    worker = run(WORKER, "-r", "refused", "-c", "1", "--burst", url=server.url)
    assert worker.wait() == 0
    lines = worker.said.splitlines()
    after = {}
    for index, line in enumerate(lines):
        if found := re.search(r"([a-zA-Z]+)-123456 fail .*?((?:TypeError|UnknownJob): .*)", line):
            name, said = found.groups()
            ends = index + 1
            while not lines[ends].startswith("20"):
                ends += 1
            after[name] = [said, *lines[index + 1 : ends]]
    assert after["gone"][0].startswith("UnknownJob: no job of type 'gone' is registered here.")
    signature = "the job is resize(image: str, width: int = 200)"
    assert after["resize"] == [
        "TypeError: resize() takes from 1 to 2 positional arguments but 3 were given; " + signature
    ]
    assert after["Report"] == [
        "TypeError: Report.perform() missing 1 required positional argument: 'day'; "
        "the job is Report(day)"
    ]
    assert after["later"] == [
        "TypeError: later() missing 1 required positional argument: 'image'; "
        "the job is later(image)"
    ]
    assert [len(after[name]) for name in ("gone", "resize", "Report", "later")] == [1, 1, 1, 1]
    for name, line in (("broken", "in broken"), ("pushes", "in pushes")):
        assert after[name][1] == "Traceback (most recent call last):"
        assert after[name][2].endswith(line)
    assert "faktory/jobs" not in "\n".join(after["pushes"])
    assert after["pushes"][0] == (
        "TypeError: resize: missing a required argument: 'image'; " + signature
    )


def test_in_json_such_a_job_has_no_traceback(
    server: EmbeddedServer, run: Run, write: Write
) -> None:
    write("refused.py", JOBS)
    with Client(server.url) as client:
        client.push({"jobtype": "gone", "args": [], "retry": 0})
    flags = ["-r", "refused", "-c", "1", "--burst", "--log-format=json"]
    worker = run(WORKER, *flags, url=server.url)
    assert worker.wait() == 0
    failed = [
        line for line in map(json.loads, worker.said.splitlines()) if "fail" in line["message"]
    ]
    assert len(failed) == 1
    assert "exception" not in failed[0]

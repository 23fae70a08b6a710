from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from faktory.cli.exits import Exit
from faktory.cli.worker import config
from faktory.cli.worker.flags import FLAGS
from faktory.server import EmbeddedServer

from .support import WORKER, Run, WaitUntil

FILE = """
require = "jobs"
queue = ["a", "b"]
concurrency = 3
label = ["of the file"]

[staging]
concurrency = 4
timeout = 2

[production]
queue = { critical = 3, bulk = 1 }
concurrency = 5
timeout = 0.5
max_jobs = 1000
log-format = "json"
verbose = true
"""


@pytest.fixture
def file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    path = folder / "worker.toml"
    path.write_text(FILE)
    return path


def load(*argv: str, **environ: str) -> dict[str, Any]:
    variables = {f"FAKTORY_WORKER_{name}": value for name, value in environ.items()}
    return vars(config.load(argv, variables))


def error(*argv: str, **environ: str) -> str:
    with pytest.raises(config.ConfigError) as raised:
        load(*argv, **environ)
    return str(raised.value)


# Which source goes first


def test_without_options_every_flag_has_its_default() -> None:
    assert load() == {
        **{flag.attribute: flag.default for flag in FLAGS},
        "warnings": [],
        "queue_source": "no -q: default and every queue that the jobs declare",
    }


@pytest.mark.usefixtures("file")
def test_the_log_can_say_where_the_queues_come_from() -> None:
    assert load("-C", "worker.toml")["queue_source"] == "from worker.toml"
    variable = {"QUEUE": "v"}
    assert load("-C", "worker.toml", **variable)["queue_source"] == "from FAKTORY_WORKER_QUEUE"
    assert load("-C", "worker.toml", "-q", "a", **variable)["queue_source"] == "from -q"


@pytest.mark.usefixtures("file")
def test_the_command_line_goes_before_variables_these_before_the_file() -> None:
    flags = ["-C", "worker.toml"]
    assert load(*flags)["concurrency"] == 3
    assert load(*flags, "-e", "staging")["concurrency"] == 4
    assert load(*flags, "-e", "staging", CONCURRENCY="6")["concurrency"] == 6
    assert load(*flags, "-e", "staging", "-c", "7", CONCURRENCY="6")["concurrency"] == 7


@pytest.mark.usefixtures("file")
def test_a_table_overrides_the_top_of_the_file_key_by_key() -> None:
    options = load("-C", "worker.toml", "-e", "production")
    assert options["require"] == ["jobs"]
    assert options["label"] == ["of the file"]
    assert options["queue"] == ["critical,3", "bulk,1"]
    assert options["timeout"] == 0.5
    assert options["max_jobs"] == 1000
    assert options["log_format"] == "json"
    assert options["verbose"] is True


@pytest.mark.usefixtures("file")
def test_a_list_replaces_a_list() -> None:
    assert load("-C", "worker.toml", "-q", "c")["queue"] == ["c"]
    assert load("-C", "worker.toml", QUEUE="c d")["queue"] == ["c", "d"]
    assert load("-q", "e", QUEUE="c d")["queue"] == ["e"]


@pytest.mark.usefixtures("file")
def test_variables_can_name_the_file_and_the_table() -> None:
    assert load(CONFIG="worker.toml", ENV="staging")["concurrency"] == 4
    assert load("-e", "staging", CONFIG="worker.toml", ENV="nonsense")["concurrency"] == 4


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("REQUIRE", "app.jobs 'my jobs.py'", ["app.jobs", "my jobs.py"]),
        ("QUEUE", "critical,3 bulk,1", ["critical,3", "bulk,1"]),
        ("CONCURRENCY", "4", 4),
        ("TIMEOUT", "0.5", 0.5),
        ("GIVE_BACK", "1", True),
        ("NO_PERIODIC", "1", True),
        ("PROCESSES", "2", 2),
        ("MAX_JOBS", "9", 9),
        ("MAX_MEMORY", "512", 512),
        ("BURST", "1", True),
        ("TIME_LIMIT", "0.5", 0.5),
        ("LOOP_FACTORY", "uvloop:new_event_loop", "uvloop:new_event_loop"),
        ("RELOAD", "1", True),
        ("RELOAD", "no", False),
        ("HEALTH", "0.0.0.0:7431", ("0.0.0.0", 7431)),
        ("LABEL", "blue green", ["blue", "green"]),
        ("TAG", "shop", "shop"),
        ("LOG_FORMAT", "json", "json"),
        ("LOG_LEVEL", "warning", "WARNING"),
        ("VERBOSE", "TRUE", True),
        ("PLAIN", "1", True),
        ("CONCURRENCY", "", 10),
    ],
)
def test_every_flag_has_a_variable(variable: str, text: str, value: object) -> None:
    assert load(**{variable: text})[variable.lower()] == value


def test_the_list_above_is_complete() -> None:
    (mark,) = test_every_flag_has_a_variable.pytestmark  # type: ignore[attr-defined]
    known = {flag.variable for flag in FLAGS if flag.name != "url"}  # FAKTORY_URL, of clients
    assert {f"FAKTORY_WORKER_{row[0]}" for row in mark.args[1]} | {
        "FAKTORY_WORKER_CONFIG",
        "FAKTORY_WORKER_ENV",
    } == known


# Errors


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("concurency = 1", "-C worker.toml: concurency: no such key. Did you mean concurrency?"),
        ("[a]\nmax_job = 1", "-C worker.toml: [a] max_job: no such key. Did you mean max-jobs?"),
        ("zzz = 1", "-C worker.toml: zzz: no such key. There are: require, queue, "),
        ("env = 'x'", "-C worker.toml: env: no such key."),
        (
            "concurrency = '4'",
            "-C worker.toml: concurrency: '4' is text. Write it without quotes: concurrency = 4",
        ),
        ("timeout = '2.0'", "timeout: '2.0' is text. Write it without quotes: timeout = 2"),
        ("burst = 'yes'", "burst: 'yes' is text. Write it without quotes: burst = true"),
        ("[a]\nmax_jobs = '5'", "[a] max_jobs: '5' is text. Write it without quotes: max_jobs = 5"),
        ("concurrency = 'ten'", "concurrency: 'ten' is not a whole number of 1 or more"),
        (
            "url = 'tcp://:geheim@host:7419'",
            "-C worker.toml: url: the server's address is not a key, since a file gets committed, "
            "and its password with it. Set FAKTORY_URL, or FAKTORY_PROVIDER to the name of the "
            "variable that has it",
        ),
        ("log-level = 'loud'", "'loud' is not a level of the log: DEBUG, INFO, WARNING, ERROR, "),
        ("concurrency = true", "concurrency: True is not a whole number of 1 or more"),
        ("concurrency = 0", "concurrency: 0 is not a whole number of 1 or more"),
        ("timeout = true", "timeout: True is not a number of seconds, 0 or more"),
        ("timeout = nan", "timeout: nan is not a number of seconds, 0 or more"),
        ("tag = 1", "tag: 1 is not a string"),
        ("label = [1]", "label: [1] is neither a string nor a list of strings"),
        ("queue = 1", "queue: 1 is neither a string nor a list of strings"),
        (
            "[queue]\na = 0",
            "queue: {'a': 0} is not a table of weights: each must be a whole number",
        ),
        ("[queue]\na = 'b'", "queue: {'a': 'b'} is not a table of weights"),
        ("verbose = 1", "verbose: 1 is neither true nor false"),
        ("log-format = 'xml'", "log-format: 'xml' is neither text nor json"),
        ("[a]\ntimeout = -1", "-C worker.toml: [a] timeout: -1 is not a number of seconds"),
        ("max-jobs = 1\nmax_jobs = 2", "max_jobs: given twice, with - and with _"),
        ("a =", "-C worker.toml: is not TOML: Invalid value (at end of document)"),
    ],
)
def test_an_error_in_a_file_is_named_by_its_place(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    assert message in error("-C", "worker.toml")


def test_a_file_may_begin_with_a_byte_order_mark(file: Path) -> None:
    file.write_text("tag = 'café'\r\nconcurrency = 3\r\n", "utf-8-sig")
    options = load("-C", "worker.toml")
    assert (options["tag"], options["concurrency"]) == ("café", 3)


def test_an_unreadable_file_is_an_error(file: Path) -> None:
    assert error("-C", "gone.toml") == "-C gone.toml: cannot be read: No such file or directory"
    file.write_bytes(b"\xff")
    assert error(CONFIG="worker.toml").startswith("-C worker.toml: is not TOML")


def test_an_unknown_table_is_an_error(file: Path) -> None:
    message = "-e prod: worker.toml has no table [prod]: there is "
    assert error("-C", "worker.toml", ENV="prod") == message + "[staging], [production]"
    file.write_text("")
    assert error("-C", "worker.toml", "-e", "prod") == message + "no table at all"
    assert load("-e", "prod")["env"] == "prod"  # without a file it has no meaning


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("CONCURRENCY", "ten", "'ten' is not a whole number of 1 or more"),
        ("TIMEOUT", "-1", "'-1' is not a number of seconds, 0 or more"),
        ("RELOAD", "maybe", "'maybe' is neither true nor false"),
        ("LOG_FORMAT", "xml", "'xml' is neither text nor json"),
        ("REQUIRE", "'open", '"\'open" is neither a string nor a list of strings'),
    ],
)
def test_an_error_in_a_variable_names_it(variable: str, text: str, message: str) -> None:
    assert error(**{variable: text}) == f"FAKTORY_WORKER_{variable}: {message}"


def test_an_unknown_variable_is_ignored_and_a_misspelt_one_a_warning() -> None:
    # Kubernetes sets the last two for a service named faktory-worker.
    options = load(CONCURENCY="3", SERVICE_HOST="10.0.0.1", PORT="tcp://10.0.0.1:80")
    assert options["warnings"] == [
        "the variable FAKTORY_WORKER_CONCURENCY has no meaning. "
        "Did you mean FAKTORY_WORKER_CONCURRENCY?"
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--procesess", "4"], "unrecognized arguments: --procesess 4. Did you mean --processes?"),
        (
            ["app.jobs"],
            "unrecognized arguments: app.jobs. Does it define the jobs? -r app.jobs",
        ),
        (["--zzz"], "unrecognized arguments: --zzz"),
        (
            ["--log-level", "loud"],
            "argument --log-level: 'loud' is not a level of the log: DEBUG, INFO, WARNING, ERROR, "
            "CRITICAL",
        ),
        (
            ["--log-levle", "info"],
            "unrecognized arguments: --log-levle info. Did you mean --log-level?",
        ),
        (["--conc", "4"], "unrecognized arguments: --conc 4. Did you mean --concurrency?"),
        (["--processes"], "argument --processes: expected one argument"),
        (["--log-format", "xml"], "argument --log-format: 'xml' is neither text nor json"),
    ],
)
def test_an_error_on_the_command_line_has_a_hint(argv: list[str], message: str) -> None:
    assert error(*argv) == message


@pytest.mark.parametrize(
    ("argv", "environ", "format"),
    [
        ([], {}, "text"),
        (["--log-format", "json", "--nonsense"], {}, "json"),
        (["--log-format=json"], {}, "json"),
        (["--log-format"], {}, "text"),
        (["--log-format", "text"], {"LOG_FORMAT": "json"}, "text"),
        ([], {"LOG_FORMAT": "json"}, "json"),
        (["-C", "worker.toml"], {}, "json"),
        (["-Cworker.toml"], {}, "json"),
        (["--config=worker.toml"], {"LOG_FORMAT": "text"}, "text"),
        ([], {"CONFIG": "worker.toml"}, "json"),
        (["-C", "gone.toml"], {}, "text"),
    ],
)
@pytest.mark.parametrize(
    ("before", "variables"),
    [
        (["--nonsense"], {}),
        (["-c", "0"], {}),
        (["-c"], {}),
        ([], {"CONCURRENCY": "ten"}),
    ],
)
@pytest.mark.usefixtures("file")
def test_an_error_knows_the_format_of_the_log_wherever_both_are(
    argv: list[str],
    environ: dict[str, str],
    format: str,
    before: list[str],
    variables: dict[str, str],
) -> None:
    with pytest.raises(config.ConfigError) as raised:
        load(*before, *argv, **environ, **variables)
    assert raised.value.log_format == format


@pytest.mark.parametrize(
    ("error", "format"),
    [("[c]\nnonsense = 1", "json"), ("tag = 1", "json"), ("[not TOML", "text")],
)
def test_an_error_in_the_file_is_logged_in_the_format_that_the_file_asks_for(
    file: Path, error: str, format: str
) -> None:
    file.write_text(f"{FILE}\n{error}\n")
    with pytest.raises(config.ConfigError) as raised:
        load("-C", "worker.toml")
    assert raised.value.log_format == format


def test_a_file_of_ruby_users_is_not_toml(file: Path) -> None:
    for name in ("faktory.yml", "faktory.YAML"):
        path = file.with_name(name)
        path.write_text(":concurrency: 5\n:queues:\n  - critical\n")
        assert error("-C", str(path)) == (
            f"-C {path}: is YAML, and the file of faktory-worker is TOML, with the same keys where "
            "they exist: :concurrency: 5 is concurrency = 5"
        )


def test_the_variable_of_the_address_has_a_hint() -> None:
    assert load(URL="tcp://localhost")["warnings"] == [
        "the variable FAKTORY_WORKER_URL has no meaning. Did you mean FAKTORY_URL?"
    ]
    assert load("--url", "tcp://localhost")["url"] == "tcp://localhost"


@pytest.mark.parametrize(
    ("argv", "environ", "level"),
    [
        ([], {}, "INFO"),
        (["-v"], {}, "DEBUG"),
        (["--log-level", "Error"], {}, "ERROR"),
        (["-v", "--log-level", "error"], {}, "ERROR"),
        ([], {"LOG_LEVEL": "warning"}, "WARNING"),
        (["-v"], {"LOG_LEVEL": "warning"}, "DEBUG"),
        (["--log-level", "info"], {"VERBOSE": "1"}, "INFO"),
        (["-C", "worker.toml", "-e", "production"], {}, "DEBUG"),
        (["-C", "worker.toml", "-e", "production"], {"LOG_LEVEL": "critical"}, "CRITICAL"),
    ],
)
@pytest.mark.usefixtures("file")
def test_the_level_of_the_log_is_that_of_the_first_source(
    argv: list[str], environ: dict[str, str], level: str
) -> None:
    assert load(*argv, **environ)["log_level"] == level


@pytest.mark.parametrize("label", ["INFO", "debug"])
def test_a_label_that_is_a_level_has_a_hint(label: str) -> None:
    expected = [
        f"-l {label} is a label of this worker, which the server's pages show. The level of the "
        f"log is --log-level {label.lower()}"
    ]
    assert load("-l", label, "-l", "blue")["warnings"] == expected
    assert load(LABEL=label)["warnings"] == expected
    assert load("-l", label)["label"] == [label]


# pyproject.toml

PROJECT = """
[project]
name = "shop"

[tool.faktory-worker]
require = ["jobs"]
concurrency = 3

[tool.faktory-worker.production]
concurrency = 5
log-format = "json"
"""


@pytest.fixture
def project(file: Path) -> Path:
    path = file.with_name("pyproject.toml")
    path.write_text(PROJECT)
    return path


@pytest.mark.usefixtures("project")
def test_the_table_of_pyproject_is_read_by_itself() -> None:
    assert (load()["require"], load()["concurrency"]) == (["jobs"], 3)
    assert load("-e", "production")["concurrency"] == 5
    assert load(ENV="production")["log_format"] == "json"
    assert load("-c", "7")["concurrency"] == 7
    assert load(CONCURRENCY="6")["concurrency"] == 6


@pytest.mark.usefixtures("project")
def test_another_file_goes_before_it_and_it_can_be_named() -> None:
    assert load("-C", "worker.toml")["queue"] == ["a", "b"]
    assert load(CONFIG="worker.toml")["label"] == ["of the file"]
    assert load("-C", "pyproject.toml", "-e", "production")["concurrency"] == 5


@pytest.mark.parametrize("text", ["", "[project]\nname = 'shop'\n", "tool = 1\n"])
def test_without_the_table_it_is_ignored(project: Path, text: str) -> None:
    project.write_text(text)
    assert load()["concurrency"] == 10
    assert load("-e", "production")["env"] == "production"
    assert error("-C", str(project)) == f"-C {project}: has no table [tool.faktory-worker]"


def test_one_that_is_not_toml_is_a_warning(project: Path) -> None:
    project.write_text("[tool")
    (warning,) = load()["warnings"]
    assert warning.startswith("pyproject.toml: is not TOML: ")
    assert warning.endswith("So its table [tool.faktory-worker], if any, does not count")
    assert error("-C", "pyproject.toml").startswith("-C pyproject.toml: is not TOML: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[tool.faktory-worker]\nconcurency = 1",
            "pyproject.toml: [tool.faktory-worker] concurency: no such key. "
            "Did you mean concurrency?",
        ),
        (
            "[tool.faktory-worker.a]\nconcurrency = '1'",
            "pyproject.toml: [tool.faktory-worker.a] concurrency: '1' is text. "
            "Write it without quotes: concurrency = 1",
        ),
        ("tool.faktory-worker = 5", "pyproject.toml: tool.faktory-worker is 5, not a table"),
    ],
)
def test_an_error_in_its_table_is_named_by_its_place(
    project: Path, text: str, message: str
) -> None:
    project.write_text(text)
    assert error() == message
    assert error("-C", "pyproject.toml") == f"-C {message}"


@pytest.mark.usefixtures("project")
def test_an_unknown_table_of_it_is_an_error() -> None:
    assert error("-e", "prod") == (
        "-e prod: pyproject.toml has no table [tool.faktory-worker.prod]: there is "
        "[tool.faktory-worker.production]"
    )


def test_a_table_of_no_file_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load("-e", "prod")["warnings"] == [
        "-e prod: there is no file that could have such a table: name one by -C, or go to the "
        "folder whose pyproject.toml has [tool.faktory-worker]"
    ]


@pytest.mark.usefixtures("project")
def test_a_worker_runs_by_the_table_alone(server: EmbeddedServer, run: Run) -> None:
    worker = run(WORKER, "--burst", url=server.url)
    assert worker.wait() == Exit.STOPPED
    assert ", 3 jobs at a time" in worker.said


# As a command


@pytest.mark.usefixtures("file")
def test_a_worker_runs_by_a_file(server: EmbeddedServer, run: Run, wait_until: WaitUntil) -> None:
    worker = run(WORKER, "-C", "worker.toml", "-e", "staging", url=server.url)
    wait_until(lambda: len(server.workers) == 1)
    wait_until(lambda: ("FETCH", "a b") in server.commands)
    assert server.workers[0]["labels"] == ["of the file"]
    worker.send(signal.SIGTERM)
    assert worker.wait() == Exit.STOPPED
    assert ", 4 jobs at a time" in worker.said


def test_a_worker_runs_by_variables(
    server: EmbeddedServer, run: Run, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("REQUIRE", "jobs"), ("QUEUE", "x"), ("CONCURENCY", "9")):
        monkeypatch.setenv(f"FAKTORY_WORKER_{name}", value)
    worker = run(WORKER, url=server.url)
    wait_until(lambda: ("FETCH", "x") in server.commands)
    assert worker.said.startswith("faktory-worker: warning: the variable FAKTORY_WORKER_CONCURENCY")


def test_an_error_is_one_line_and_an_exit_code(run: Run, file: Path) -> None:
    file.write_text("concurency = 1")
    worker = run(WORKER, "-C", "worker.toml")
    assert worker.wait() == Exit.USAGE == 2
    assert worker.said == (
        "faktory-worker: -C worker.toml: concurency: no such key. Did you mean concurrency? "
        "See faktory-worker --help\n"
    )

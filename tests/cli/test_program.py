"""`faktory-worker`, `python -m faktory`: one program; its help, its page and its completions."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest

import faktory
from faktory import Client
from faktory.cli import program
from faktory.cli.exits import Exit
from faktory.cli.names import TOOLS
from faktory.cli.parser import Parser
from faktory.cli.tools import main as tools
from faktory.cli.worker import command_line, config
from faktory.cli.worker.flags import FILE_KEYS, FLAGS
from faktory.server import EmbeddedServer

from .support import Run, WaitUntil, call
from .support import run as run_process

ROOT = Path(__file__).parents[2]
SHELLS = ("bash", "zsh", "tcsh")


def call_program(*command: str, **options: object) -> tuple[int, str, str]:
    """Run `faktory-worker COMMAND` inside this process."""
    return call(*command, main=program.main, **options)  # type: ignore[arg-type]


# Which command runs


def test_a_tool_is_a_command_of_both(server: EmbeddedServer, client: Client) -> None:
    client.push({"jobtype": "work", "args": [], "queue": "mail"})
    expected = "queue  jobs  oldest waits\nmail      1"
    assert call_program("queues", url=server.url)[1].startswith(expected)
    assert run_process("queues", url=server.url).stdout.startswith(expected)


def test_an_error_names_the_command_as_it_was_typed() -> None:
    url = "tcp://127.0.0.1:1"
    said = "nothing listens on 127.0.0.1:1 (connection refused)."
    code, _, error = call_program("info", "--url", url)
    assert (code, error.startswith(f"faktory-worker info: {said}")) == (Exit.UNREACHABLE, True)
    done = run_process("info", "--url", url)
    assert done.stderr.startswith(f"python -m faktory info: {said}")


@pytest.mark.parametrize(
    "command",
    [
        ("faktory.cli.program", "-r", "jobs"),
        ("faktory.cli.program", "worker", "-r", "jobs"),
        ("faktory", "worker", "-r", "jobs"),
        ("faktory", "-r", "jobs"),
        ("faktory.cli.worker", "-r", "jobs"),
    ],
    ids=" ".join,
)
def test_the_worker_runs_with_and_without_its_name(
    command: tuple[str, ...], server: EmbeddedServer, client: Client, run: Run, folder: Path
) -> None:
    client.push({"jobtype": "touch", "args": [str(folder / "ran")]})
    worker = run(*command, "--burst", url=server.url)
    assert worker.wait() == Exit.STOPPED, worker.said
    assert (folder / "ran").exists()


def test_main_of_the_worker_is_the_worker(server: EmbeddedServer, folder: Path) -> None:
    code = "import sys; from faktory.cli.worker.main import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "-r", "jobs", "--burst", "--url", server.url],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == Exit.STOPPED, done.stderr


LOADED = """
import sys
from faktory.cli.program import main
try:
    code = main({!r})
except SystemExit as error:
    code = error.code
print(code, *sorted(name for name in sys.modules if name.startswith("faktory.cli.")))
"""


@pytest.mark.parametrize(
    ("argv", "other"),
    [
        (["-r", "no.such.module"], "faktory.cli.tools"),
        (["worker", "--help"], "faktory.cli.tools"),
        (["queues", "--help"], "faktory.cli.worker"),
        (["info", "--url", "tcp://127.0.0.1:1"], "faktory.cli.worker"),
    ],
)
def test_a_worker_imports_no_tools_and_a_tool_not_the_worker(
    argv: list[str], other: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(argv)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
    )
    loaded = done.stdout.splitlines()[-1].split()
    assert "faktory.cli.names" in loaded
    assert other not in loaded


# What it says of itself

NOTHING_TO_RUN = (
    "faktory-worker: no module is named that defines the jobs: faktory-worker -r app.jobs. The "
    "tools are doctor, server, push, queues and others, as in faktory-worker doctor: see "
    "faktory-worker --help\n"
)


@pytest.mark.parametrize("argv", [(), ("-c", "2"), ("worker",), ("--processes", "2")])
def test_the_worker_without_jobs_names_the_flag_and_the_tools(
    argv: tuple[str, ...], run: Run
) -> None:
    worker = run("faktory.cli.program", *argv)
    assert worker.wait() == Exit.USAGE == 2
    assert worker.said == NOTHING_TO_RUN


def test_the_module_alone_lists_what_there_is() -> None:
    done = run_process()
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout == run_process("--help").stdout
    for name, text in {**TOOLS, "worker": "run the jobs of a program"}.items():
        assert re.search(rf"^  {name} +{text[:20]}", done.stdout, re.M), name


@pytest.mark.parametrize("start", [run_process, call_program])
def test_both_say_their_version(start: Callable[..., tuple[int, str, str]]) -> None:
    code, out, error = start("-V")
    assert (code, error) == (0, "")
    assert out.startswith(f"faktory-worker {faktory.__version__}")


def test_the_help_of_the_worker_names_the_tools() -> None:
    _, text, _ = call_program("--help")
    assert text == call_program("worker", "--help")[1]
    tools_in_it = text.partition("\ntools:\n")[2].partition("\n  faktory-worker TOOL")[0]
    assert re.findall(r"^  (\w+) ", tools_in_it, re.M) == [*TOOLS]


EVERY_HELP = [["--help"], ["worker", "--help"], *([name, "--help"] for name in TOOLS)]


@pytest.mark.parametrize("start", [tools.main, program.main], ids=["tools", "program"])
@pytest.mark.parametrize("columns", ["40", "80", "200"])
@pytest.mark.parametrize("argv", EVERY_HELP, ids=lambda argv: argv[0])
def test_each_help_has_80_columns_on_any_terminal(
    argv: list[str], columns: str, start: Callable[..., int]
) -> None:
    if start is tools.main and argv[0] == "worker":
        return
    done = call(*argv, main=start, env={"COLUMNS": columns})
    assert (done.code, done.stderr) == (0, "")
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []
    assert done.stdout == call(*argv, main=start, env={"COLUMNS": "100"}).stdout


@pytest.mark.parametrize("argv", EVERY_HELP, ids=lambda argv: argv[0])
def test_no_help_breaks_a_flag(argv: list[str]) -> None:
    assert not re.search(r"[\w-]-$", call_program(*argv)[1], re.M)


def examples(text: str) -> list[str]:
    """Return the commands at the end of a help, below what each does."""
    lines = text.partition("\nexamples:\n")[2].splitlines()
    assert lines
    assert all(re.match(r"  \S.*:$", line) for line in lines[::2])
    assert all(line.startswith("    ") for line in lines[1::2])
    return [line.strip() for line in lines[1::2]]


def check_command(command: str, prog: str) -> None:
    """Check that a command is a valid one."""
    words = shlex.split(command)
    while "=" in words[0]:
        words.pop(0)
    words = words[len(prog.split()) :]
    if words[0] in TOOLS:
        assert tools._parser().parse_args(words).tool == words[0]
    else:
        errors: list[str] = []
        command_line.parse(words[1:] if words[0] == "worker" else words, errors)
        assert errors == []


@pytest.mark.parametrize("argv", EVERY_HELP, ids=lambda argv: argv[0])
def test_each_help_ends_in_examples_that_are_valid(argv: list[str]) -> None:
    found = examples(call_program(*argv)[1])
    assert len(found) >= 2
    for command in found:
        check_command(command, "faktory-worker")


def test_the_examples_of_the_module_name_it() -> None:
    for argv in (["--help"], ["push", "--help"]):
        for command in examples(run_process(*argv).stdout):
            assert command.startswith("python -m faktory ")
            check_command(command, "python -m faktory")


def test_each_tool_has_a_name_and_each_name_a_tool() -> None:
    parser = argparse.ArgumentParser()
    adding = parser.add_subparsers(parser_class=Parser)
    tools.add_tools(adding, "x")
    assert sorted(adding.choices) == sorted(TOOLS)


# What may have been meant


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["quues"], "unrecognized arguments: quues. Did you mean queues? "),
        (["docter", "-r", "app"], "unrecognized arguments: docter. Did you mean doctor? "),
        (["wroker"], "unrecognized arguments: wroker. Did you mean worker? "),
        (["help"], "unrecognized arguments: help. Did you mean --help? "),
        (["app"], "unrecognized arguments: app. Does it define the jobs? -r app. "),
        (["push.py"], "unrecognized arguments: push.py. Does it define the jobs? -r push.py. "),
        (
            ["--url", "tcp://localhost:7419", "queues"],
            "unrecognized arguments: queues. The name of a tool comes first: "
            "faktory-worker queues. ",
        ),
        (["--veresion"], "unrecognized arguments: --veresion. Did you mean --version? "),
        (["-"], "unrecognized arguments: -. "),
        (["--"], "unrecognized arguments: --. "),
    ],
)
def test_a_word_near_a_tool_has_a_hint(argv: list[str], message: str, run: Run) -> None:
    code, out, error = call_program(*argv)
    assert (code, out) == (2, "")
    assert error == f"faktory-worker: {message}See faktory-worker --help\n"


def test_a_file_beside_it_is_rather_a_module(folder: Path, run: Run) -> None:
    (folder / "pushes.py").touch()
    worker = run("faktory.cli.program", "pushes")
    assert worker.wait() == 2
    assert "Does it define the jobs? -r pushes." in worker.said


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["queues", "--jsn"], "unrecognized arguments: --jsn. Did you mean --json?"),
        (["push", "--querue", "x", "w"], "unrecognized arguments: --querue. Did you mean --queue?"),
        (["health", "--lve"], "unrecognized arguments: --lve. Did you mean --live?"),
        (["server", "--dta=x"], "unrecognized arguments: --dta=x. Did you mean --data?"),
        (["info", "now"], "unrecognized arguments: now."),
        (["info", "-"], "unrecognized arguments: -."),
        (["mutate", "requeu", "dead"], "Did you mean requeue?"),
        (["mutate", "kill", "retires"], "Did you mean retries?"),
        (["mutate", "kill"], "the following arguments are required: SET."),
    ],
    ids=lambda each: each[0] if isinstance(each, list) else "",
)
def test_an_argument_of_a_tool_that_is_misspelt_has_a_hint(argv: list[str], message: str) -> None:
    code, out, error = call_program(*argv)
    tool = f"faktory-worker {argv[0]}"
    assert (code, out) == (2, "")
    assert error.startswith(f"{tool}: ")
    assert error.endswith(f"{message} See {tool} --help\n")
    assert error.count("\n") == 1


# --url


def test_the_server_of_the_flag_goes_before_all_others(
    server: EmbeddedServer, client: Client, run: Run, folder: Path, dead_url: str
) -> None:
    (folder / "app.py").write_text(
        "import os, faktory\n"
        f"faktory.configure(url={dead_url!r})\n"
        "@faktory.job\n"
        "def first():\n"
        "    second.perform_async(os.environ['FAKTORY_URL'])\n"
        "@faktory.job\n"
        "def second(url):\n"
        "    print('pushed', url)\n"
    )
    client.push({"jobtype": "first", "args": []})
    worker = run("faktory.cli.program", "-r", "app", "--url", server.url, "--burst", url=dead_url)
    assert worker.wait() == Exit.STOPPED
    assert worker.printed == f"pushed {server.url}\n"


def test_workers_of_a_supervisor_use_it_too(
    server: EmbeddedServer, run: Run, wait_until: WaitUntil, dead_url: str
) -> None:
    flags = ("-r", "jobs", "--processes", "2", "--burst", "--url", server.url)
    supervisor = run("faktory.cli.program", *flags, url=dead_url)
    assert supervisor.wait() == Exit.STOPPED, supervisor.said


def test_an_address_that_is_not_one_keeps_its_password(run: Run) -> None:
    worker = run("faktory.cli.program", "-r", "jobs", "--url", "http://:geheim@localhost")
    assert worker.wait() == Exit.USAGE
    assert worker.said.startswith("faktory-worker: --url: the address ")
    assert "use tcp:// or, for TLS, tcp+tls://" in worker.said
    assert "geheim" not in worker.said


# The log


def test_a_level_silences_what_is_below_it(
    server: EmbeddedServer, client: Client, run: Run, folder: Path
) -> None:
    client.push({"jobtype": "touch", "args": [str(folder / "ran")]})
    flags = ("-r", "jobs", "--burst", "--log-level", "Warning")
    worker = run("faktory.cli.program", *flags, url=server.url)
    assert worker.wait() == Exit.STOPPED
    assert (folder / "ran").exists()
    assert worker.said == ""


def test_a_label_that_is_a_level_has_a_hint_and_the_worker_runs(
    server: EmbeddedServer, run: Run
) -> None:
    flags = ("-r", "jobs", "--burst", "-l", "INFO")
    worker = run("faktory.cli.program", *flags, url=server.url)
    assert worker.wait() == Exit.STOPPED
    assert worker.said.startswith(
        "faktory-worker: warning: -l INFO is a label of this worker, which the server's pages "
        "show. The level of the log is --log-level info\n"
    )


# Completion


@pytest.mark.parametrize("shell", SHELLS)
def test_a_completion_is_made_for_each_shell(shell: str) -> None:
    pytest.importorskip("shtab", reason="needs shtab (extra cli or test)")
    code, script, error = call_program("--print-completion", shell)
    assert (code, error) == (0, "")
    for word in ("doctor", "--concurrency", "--log-level", "--print-completion"):
        assert word.lstrip("-") in script


def test_a_shell_that_is_not_known_is_wrong_usage() -> None:
    pytest.importorskip("shtab", reason="needs shtab (extra cli or test)")
    code, out, error = call_program("--print-completion=csh")
    assert (code, out) == (2, "")
    assert error.startswith("faktory-worker: --print-completion csh: shtab knows bash, ")


def test_without_shtab_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert call_program("--print-completion", "bash") == (
        2,
        "",
        "faktory-worker: --print-completion needs shtab: pip install 'faktory-worker[cli]'. "
        "See faktory-worker --help\n",
    )


COMPLETE = """
source "$1"
shift
function=$(complete -p faktory-worker | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
"$function"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """`complete("faktory-worker", "do")`: what a real bash offers there."""
    pytest.importorskip("shtab", reason="needs shtab (extra cli or test)")
    if (bash := shutil.which("bash")) is None:
        pytest.skip("needs bash")
    script = tmp_path_factory.mktemp("completion") / "faktory-worker"
    script.write_text(call_program("--print-completion", "bash")[1])

    def complete(*words: str) -> list[str]:
        command = [bash, "--norc", "--noprofile", "-c", COMPLETE, "bash", str(script), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return complete


def test_bash_completes_tools_and_flags(complete: Callable[..., list[str]]) -> None:
    assert complete("faktory-worker", "do") == ["doctor"]
    assert {"--queue", "--file", "--jid", "--json", "--url"} <= {
        *complete("faktory-worker", "push", "--")
    }
    assert complete("faktory-worker", "--proc") == ["--processes"]
    assert complete("faktory-worker", "worker", "--log-") == ["--log-format", "--log-level"]
    assert complete("faktory-worker", "mutate", "re") == ["requeue"]


# The page


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    """docs/commands.py, which makes the page."""
    path = ROOT / "docs" / "commands.py"
    if not path.exists():
        pytest.skip("the documentation is not beside these tests")
    spec = importlib.util.spec_from_file_location("commands_page", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_commands_is_what_the_code_says(maker: ModuleType) -> None:
    assert maker.PAGE.read_text("utf-8") == maker.make(), "run: python docs/commands.py"


def commands_on(page: str) -> Sequence[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```$", page, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines() if line[:1] != "#"]
    return [line.partition(" > ")[0] for line in lines if "[flags]" not in line]


def test_the_page_has_all_flags_tools_and_codes(maker: ModuleType) -> None:
    page = maker.PAGE.read_text("utf-8")
    for flag in FLAGS:
        assert f"`--{flag.name}" in page
        assert f"`{flag.variable}`" in page
    for key in FILE_KEYS:
        assert f"`, `{key}` |" in page
    for name in TOOLS:
        assert f"\n### {name}\n" in page
    for code in Exit:
        assert f"| {int(code)} | " in page
    commands = commands_on(page)
    assert len(commands) > 40
    for command in commands:
        if "--print-completion" not in command:
            check_command(command, "faktory-worker")


def test_flags_on_the_pages_do_not_break_at_their_hyphens() -> None:
    style = ROOT / "docs" / "_static" / "tables.css"
    if not style.exists():
        pytest.skip("the documentation is not beside these tests")
    rule = re.search(r"^code\.narrow \.pre \{([^}]*)\}", style.read_text(), re.M)
    assert rule is not None
    assert "white-space: nowrap" in rule[1]


def test_options_of_the_page_load(maker: ModuleType, tmp_path: Path) -> None:
    toml = re.search(r"^```toml\n(.*?)^```$", maker.make(), re.M | re.S)
    assert toml is not None
    path = tmp_path / "worker.toml"
    path.write_text(toml[1])
    assert config.load(["-C", str(path), "-e", "production"], {}).processes == 4

"""Run every code block of the pages and the README, and compare the output that they show.

The language of a block selects how it runs.

python    The blocks of a page are one program, in their order. `faktory` is imported, and
          FAKTORY_URL is the address of an embedded server. `# -> 3` at the end of a line is the
          line's expected value, `...` in it matches anything.
sh        Each command runs, except `make` and `pip`: then verb, package and extra must exist.
          A command that does not end by itself, like a worker, runs until the end of the page,
          where TERM must end it with code 0.
output    The output of the commands before it, in any order and among other output.
toml      A file for `faktory-worker -C`; every table must load.
ini, dockerfile, text   The commands in it must exist: flags of `faktory-worker`, files of the page.
          Otherwise they are only shown. No other languages are allowed.

A block whose first line is a file name, `# jobs.py` or `# shop/tasks.py`, is that file and not part
of the program; a later block must use it. A block without a language is sh.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

import faktory
import faktory.testing
from faktory import Client
from faktory.cli.names import TOOLS
from faktory.cli.tools import main as tools
from faktory.cli.worker import config
from faktory.server import EmbeddedServer
from faktory.server.state import Timing

ROOT = Path(__file__).parent.parent
OWN_TESTS = {"jobs.md": "tests/jobs/test_docs.py", "testing.md": "tests/testing/test_docs.py"}
PAGES = [
    *(path for path in sorted((ROOT / "docs").glob("*.md")) if path.name not in OWN_TESTS),
    *filter(Path.exists, (ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY"))),
    ROOT / "benchmarks/README.md",
]
LINKING = [*filter(Path.exists, (*PAGES, ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md"))]
OPTIONAL = (
    r"starlette|flask|fastapi|aiohttp|opentelemetry\.sdk|sentry_sdk|prometheus_client|sqlalchemy"
)
LANGUAGES = {"python", "sh", "output", "toml", "ini", "dockerfile", "text", "bash"}
"""What blocks are written in; bash is for commands.md, which tests/cli/test_program.py parses."""

KEEPS_RUNNING = re.compile(
    rf"((?:\w+=\S* )*)(faktory-worker server|faktory-worker(?!.* --burst| (?:{'|'.join(TOOLS)})\b)"
    r"|python -m faktory server|python \w*worker\.py"
    r"|python manage\.py faktory(?!.* --burst))\b"
)
"""Commands that do not end by themselves, with the variables before them."""

EXPECTED = re.compile(r"^(\s*)(\S.*?)\s+# -> (.*)$", re.M)
FILE = re.compile(r"# ((?:\w+/)*[\w-]+\.(?:py|toml))\n")

CHECK = """
from doctest import ELLIPSIS, OutputChecker

def check_value(value, line, expected):
    assert OutputChecker().check_output(expected + "\\n", repr(value) + "\\n", ELLIPSIS), (
        f"line {line} is {value!r}, not {expected}"
    )
"""


MANAGE = """
import os, sys
from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
execute_from_command_line(sys.argv)
"""
"""What django-admin startproject makes."""


class Block(NamedTuple):
    """A code block, and the line where it begins."""

    language: str
    code: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    if find_spec("django_tasks") is not None:  # where Django itself has none
        text = text.replace("from django.tasks import", "from django_tasks import")
    return [
        Block(
            found[2].rstrip() or "sh",
            textwrap.dedent(found[3]),
            text.count("\n", 0, found.start(3)) + 1,
        )
        for found in re.finditer(r"^( *)```([^\n]*)\n(.*?)^\1```$", text, re.M | re.S)
        if not found[2].startswith("{")
    ]


def is_file(block: Block) -> bool:
    return FILE.match(block.code) is not None


def program_of(blocks: list[Block]) -> str:
    """Join the python blocks of a page into one file, with the page's line numbers."""
    lines = ["import faktory, check_page"]
    for block in blocks:
        if block.language == "python" and not is_file(block):
            lines += [""] * (block.line - 1 - len(lines))
            code = EXPECTED.sub(
                lambda found: f"{found[1]}check_page.check_value(({found[2]}), LINE, {found[3]!r})",
                block.code,
            )
            lines += [
                line.replace("LINE", str(block.line + number))
                for number, line in enumerate(code.splitlines())
            ]
    return "\n".join(lines) + "\n"


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    """Start a server whose FETCH takes 0.1 s, not 2: a worker that stops waits for it."""
    with EmbeddedServer(enterprise=True, timing=Timing(fetch_wait=0.1)) as server:
        yield server


@pytest.fixture
def environment(tmp_path: Path, server: EmbeddedServer) -> dict[str, str]:
    """Return the environment of a reader: the two commands, and a server."""
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "check_page.py").write_text(CHECK)
    for name, does in {"python": "", "faktory-worker": "-m faktory.cli.worker"}.items():
        path = commands / name
        path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {does} "$@"\n')
        path.chmod(0o755)
    kept = {name: text for name, text in os.environ.items() if not name.startswith("FAKTORY_WOR")}
    return {
        **kept,
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(commands),
        "PYTHONUNBUFFERED": "1",
        "FAKTORY_URL": server.url,
    }


@pytest.fixture
def folder(tmp_path: Path, page: Path) -> Path:
    """Return the folder of a reader, with the files of the page."""
    folder = tmp_path / "work"
    folder.mkdir()
    for block in blocks_of(page):
        if found := FILE.match(block.code):
            path = folder / found[1]
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.code, encoding="utf-8")
        for needed in re.findall(rf"^(?:import|from) ({OPTIONAL})\b", block.code, re.M):
            pytest.importorskip(needed, reason=f"this page needs {needed} (extra docs or test)")
    if page.name == "arguments.md":
        pytest.importorskip("msgspec", reason="this page needs msgspec (extra types or test)")
    if page.name == "django.md":
        pytest.importorskip("django", reason="this page needs Django (extra test)")
        (folder / "manage.py").write_text(MANAGE)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_has_a_known_language(page: Path) -> None:
    assert {block.language for block in blocks_of(page)} <= LANGUAGES
    assert page.read_text("utf-8").count("```") % 2 == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_uses_the_files_that_it_shows(page: Path) -> None:
    blocks = blocks_of(page)
    for number, block in enumerate(blocks):
        if (found := FILE.match(block.code)) and block.language == "python":
            name = found[1].removesuffix(".py").replace("/", ".")
            later = "\n".join(other.code for other in blocks[number + 1 :])
            assert re.search(rf"\b{name}(\.py)?\b", later), f"{found[1]} is never run"


@pytest.mark.parametrize("name", OWN_TESTS)
def test_a_page_with_its_own_test_has_python_blocks_only(name: str) -> None:
    assert {block.language for block in blocks_of(ROOT / "docs" / name)} == {"python"}
    assert name in (ROOT / OWN_TESTS[name]).read_text()


def test_every_public_name_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    described = set(re.findall(r"^\.\. (?:auto|py:)\w+:: (?:\w+\.)*(\w+)", page, re.M))
    rooms = (faktory, faktory.jobs, faktory.proto, faktory.testing)
    assert {name for room in rooms for name in room.__all__} <= described


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.name)
def test_the_links_and_paths_of_a_page_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / link).exists(), link
    for path in re.findall(r"`((?:docs|examples|tests|benchmarks)/[\w/.-]*)[:`]", text):
        assert (ROOT / path).exists(), path


def test_the_architecture_lists_every_module_in_its_room() -> None:
    tree = (ROOT / "ARCHITECTURE.md").read_text("utf-8").split("```")[1]
    package = Path(faktory.__file__).parent
    named: set[Path] = set()
    folders: list[tuple[int, Path]] = []
    for line in tree.partition("\ntests/")[0].splitlines()[2:]:
        indent = len(line) - len(line.lstrip())
        while folders and folders[-1][0] >= indent:
            folders.pop()
        folder = folders[-1][1] if folders else package
        if match := re.match(r" +(\w+)/ ", line):
            folder /= match[1]
            folders.append((indent, folder))
        named |= {folder / name for name in re.findall(r"[\w/]+\.py\b", line)}
    there = {path for path in package.rglob("*.py") if path.name != "__init__.py"}
    assert named - {package / "__init__.py"} == there


def having(language: str) -> list[Path]:
    return [page for page in PAGES if any(each.language == language for each in blocks_of(page))]


@pytest.mark.parametrize("page", having("python"), ids=lambda page: page.name)
def test_the_python_of_a_page_runs(
    page: Path, folder: Path, environment: dict[str, str], request: pytest.FixtureRequest
) -> None:
    blocks = blocks_of(page)
    program = program_of(blocks)
    if "fork()" in program and not hasattr(os, "fork"):
        pytest.skip("this page forks, and this system cannot")
    if "private-ca.pem" in program:
        certificate, _ = request.getfixturevalue("certificate")
        (folder / "private-ca.pem").write_bytes(certificate.read_bytes())
    path = folder / f"{page.stem.replace('-', '_')}_page.py"
    path.write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(path)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout


class Shell:
    """Runs the commands of a page one after another, in the reader's environment."""

    def __init__(
        self,
        folder: Path,
        environment: dict[str, str],
        server: EmbeddedServer,
        wait_until: Callable[..., object],
    ) -> None:
        self._folder = folder
        self._environment = environment
        self._server = server
        self._wait_until = wait_until
        self._output = folder.parent / "output.txt"
        self._output.touch()
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    @property
    def output(self) -> str:
        return self._output.read_text()

    def run(self, command: str) -> None:
        found = KEEPS_RUNNING.match(command)
        if found is None:
            code = self._start(f"set -e; {command}").wait(30)
            assert code == 0, f"{command} ended with {code}\n{self.output}"
            return
        variables, name = found.groups()
        before, workers = len(self.output), self._workers()
        if name.endswith("server"):  # the page's port may be in use here
            command = command.replace(name, f"{name} --no-web --bind 127.0.0.1:0")
        process = self._start(f"{variables}exec {command.removeprefix(variables)}")
        self._running.append((command, process))
        if name.endswith("server"):
            url = self._wait_until(lambda: re.search(r"FAKTORY_URL=(\S+)\n", self.output[before:]))
            assert isinstance(url, re.Match)
            self._environment["FAKTORY_URL"] = url[1]
        else:  # before it is ready, a TERM would kill it
            self._wait_until(lambda: self._workers() > workers or self._has_ended())

    def wait_for(self, line: str) -> None:
        pattern = ".*".join(re.escape(part) for part in line.split("..."))
        self._wait_until(lambda: re.search(pattern, self.output) or self._has_ended())
        assert re.search(pattern, self.output), f"nothing like {line!r} in:\n{self.output}"

    def end(self) -> None:
        for command, process in reversed(self._running):
            process.terminate()
            code = process.wait(20)
            assert code == 0, f"{command} ended with {code}\n{self.output}"

    def _start(self, script: str) -> subprocess.Popen[bytes]:
        with self._output.open("a") as output:
            return subprocess.Popen(
                ["sh", "-c", script],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def _workers(self) -> int:
        """Return the number of workers; for another server, the number of connections."""
        url = self._environment["FAKTORY_URL"]
        if url == self._server.url:
            return len(self._server.workers)
        with Client(url) as client:
            return int(client.info()["server"]["connections"])

    def _has_ended(self) -> bool:
        return any(process.poll() is not None for _, process in self._running)

    def kill(self) -> None:
        for _, process in self._running:
            process.kill()
            process.wait()


def commands_of(block: Block) -> list[str]:
    lines = re.sub(r"\\\n\s*", " ", block.code).splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.skipif(sys.platform == "win32", reason="the pages use a Unix shell")
@pytest.mark.parametrize("page", having("sh"), ids=lambda page: page.name)
def test_the_commands_of_a_page_run(
    page: Path,
    folder: Path,
    environment: dict[str, str],
    server: EmbeddedServer,
    wait_until: Callable[..., object],
) -> None:
    shell = Shell(folder, environment, server, wait_until)
    with ExitStack() as stack:
        stack.callback(shell.kill)
        for block in blocks_of(page):
            if block.language == "output":
                for line in block.code.splitlines():
                    shell.wait_for(line)
            elif block.language == "sh":
                for command in commands_of(block):
                    if not is_known(command):
                        shell.run(command)
        shell.end()


def is_known(command: str) -> bool:
    """Check the names in a command that a test cannot run; return False for other commands."""
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        if not (ROOT / "Makefile").exists():
            pytest.skip("the Makefile is not beside these tests")
        verbs = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text("utf-8"), re.M)
        assert [word for word in words[1:2] if "=" not in word and word not in verbs] == []
        return True
    if words[0] != "pip" and words[:2] != ["pre-commit", "install"]:
        return False
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for word in words[2:]:
        found = re.fullmatch(r"(\.|faktory|faktory-worker|pre-commit)(?:\[([\w,]+)\])?", word)
        assert word.startswith("-") or found, command
        assert not found or not found[2] or set(found[2].split(",")) <= set(extras), command
    return True


def started_by(block: Block) -> list[list[str]]:
    """Return the commands in a unit file or image as words, without the folder of the first."""
    if block.language == "dockerfile":
        lists = re.findall(r"^CMD \[(.*)\]$", block.code, re.M)
        return [re.findall(r'"(.*?)"', words) for words in lists]
    begins = (
        "^ExecStart="
        if block.language == "ini"
        else r"(?:^|\s)(?=\S*\b(?:python|faktory-worker) \S)"
    )
    commands = re.findall(rf"{begins}(\S.*)$", block.code, re.M)
    return [[Path(first).name, *rest] for first, *rest in map(shlex.split, commands)]


@pytest.mark.parametrize(
    "page",
    sorted({*having("ini"), *having("dockerfile"), *having("text")}),
    ids=lambda page: page.name,
)
def test_the_commands_of_unit_files_and_images_exist(page: Path, folder: Path) -> None:
    for block in blocks_of(page):
        if block.language not in ("ini", "dockerfile", "text"):
            continue
        commands = started_by(block)
        named = re.search(
            r"^(ExecStart|CMD)|bin/(?:python|faktory)|faktory-worker -", block.code, re.M
        )
        assert commands or not named, f"line {block.line}: its command cannot be parsed"
        for name, *words in commands:
            if name == "faktory-worker" and words[0] in TOOLS:
                assert tools._parser().parse_args(words).tool == words[0]
            elif name == "faktory-worker":
                assert config.load(words, {}).require
            else:
                assert name == "python"
                if words[:2] == ["-m", "faktory"]:
                    assert tools._parser().parse_args(words[2:]).tool == words[2]
                    continue
                assert (folder / words[0]).exists(), f"line {block.line}: no {words[0]}"


@pytest.mark.parametrize("page", having("toml"), ids=lambda page: page.name)
def test_a_configuration_file_of_a_worker_loads(page: Path, folder: Path) -> None:
    for block in blocks_of(page):
        if block.language == "toml":
            path = folder / "this.toml"
            path.write_text(block.code)
            for table in re.findall(r"^\[(\w+)\]$", block.code, re.M):
                assert config.load(["-C", str(path), "-e", table], {}).require

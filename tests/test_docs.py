"""The pages and the README: every block of code is run, and what it is said to show is compared.

How a block is run is said by its language.

python    The blocks of a page are one program, in their order. `faktory` is imported, FAKTORY_URL
          names an embedded server. `# -> 3` at the end of a line is what the line has to give,
          `...` in it stands for anything.
sh        Each command, or none if it is `make` or `pip`: then verb, package and extra must exist.
          One that goes on, like a worker, does so until the page ends, and ends well by TERM.
output    What the commands before it have said, in any order and among other things.
toml      A file of `faktory-worker -C`, every table of it.
ini, dockerfile, text   What is started there exists: flags of `faktory-worker`, files of the page.
          Else they are only shown. There is no other language.

A block whose first line is the name of a file, `# jobs.py`, is that file and not part of the
program; a later block has to use it. An unmarked block counts as sh.
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
from pathlib import Path
from typing import NamedTuple

import pytest

import faktory
import faktory.testing
from faktory import Client
from faktory.cli import config
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
LANGUAGES = {"python", "sh", "output", "toml", "ini", "dockerfile", "text"}

GOES_ON = re.compile(
    r"((?:\w+=\S* )*)(faktory-worker|python -m faktory server|python \w*worker\.py)\b"
)
"""Commands that do not end by themselves, after their variables."""

SHOWN = re.compile(r"^(\s*)(\S.*?)\s+# -> (.*)$", re.M)
FILE = re.compile(r"# ([\w-]+\.(?:py|toml))\n")

CHECK = """
from doctest import ELLIPSIS, OutputChecker

def gives(value, line, said):
    assert OutputChecker().check_output(said + "\\n", repr(value) + "\\n", ELLIPSIS), (
        f"line {line} gives {value!r}, not {said}"
    )
"""


class Block(NamedTuple):
    """A block of code, and where it begins."""

    language: str
    code: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
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
    """The python blocks of a page as one file, each line where the page has it."""
    lines = ["import faktory, check_page"]
    for block in blocks:
        if block.language == "python" and not is_file(block):
            lines += [""] * (block.line - 1 - len(lines))
            code = SHOWN.sub(
                lambda found: f"{found[1]}check_page.gives(({found[2]}), LINE, {found[3]!r})",
                block.code,
            )
            lines += [
                line.replace("LINE", str(block.line + number))
                for number, line in enumerate(code.splitlines())
            ]
    return "\n".join(lines) + "\n"


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    """A server whose FETCH, which a worker that stops waits for, takes 0.1 s, not 2."""
    with EmbeddedServer(enterprise=True, timing=Timing(fetch_wait=0.1)) as server:
        yield server


@pytest.fixture
def environment(tmp_path: Path, server: EmbeddedServer) -> dict[str, str]:
    """What a reader has: the two commands, and a server."""
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
    """Where the page's reader works: with the files that the page has him write."""
    folder = tmp_path / "work"
    folder.mkdir()
    for block in blocks_of(page):
        if found := FILE.match(block.code):
            (folder / found[1]).write_text(block.code, encoding="utf-8")
        for needed in re.findall(r"^(?:import|from) (flask|fastapi)\b", block.code, re.M):
            pytest.importorskip(needed, reason=f"a recipe of this page needs {needed} (extra docs)")
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_of_a_kind_that_is_run_or_only_shown(page: Path) -> None:
    assert {block.language for block in blocks_of(page)} <= LANGUAGES
    assert page.read_text("utf-8").count("```") % 2 == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_file_that_a_page_shows_is_used_by_the_page(page: Path) -> None:
    blocks = blocks_of(page)
    for number, block in enumerate(blocks):
        if (found := FILE.match(block.code)) and block.language == "python":
            name = found[1].removesuffix(".py")
            later = "\n".join(other.code for other in blocks[number + 1 :])
            assert re.search(rf"\b{name}(\.py)?\b", later), f"{found[1]} is never run"


@pytest.mark.parametrize("name", OWN_TESTS)
def test_a_page_with_a_test_of_its_own_has_no_block_that_it_leaves_out(name: str) -> None:
    assert {block.language for block in blocks_of(ROOT / "docs" / name)} == {"python"}
    assert name in (ROOT / OWN_TESTS[name]).read_text()


def test_every_public_name_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    described = set(re.findall(r"^\.\. (?:auto|py:)\w+:: (?:\w+\.)*(\w+)", page, re.M))
    assert {*faktory.__all__, *faktory.proto.__all__, *faktory.testing.__all__} <= described


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.name)
def test_what_a_page_beside_the_docs_leads_to_is_there(page: Path) -> None:
    text = page.read_text("utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / link).exists(), link
    for path in re.findall(r"`((?:docs|examples|tests|benchmarks)/[\w/.-]*)[:`]", text):
        assert (ROOT / path).exists(), path


def test_the_architecture_names_every_module_in_its_room() -> None:
    tree = (ROOT / "ARCHITECTURE.md").read_text("utf-8").split("```")[1]
    first, *parts = re.split(r"^(?:  (\w+)/|\S+/) ", tree.partition("/\n")[2], flags=re.M)
    rooms = dict(zip(["", *parts[::2]], [first, *parts[1::2]], strict=True))
    package = Path(faktory.__file__).parent
    named = {
        package / room / name
        for room, text in rooms.items()
        if room is not None  # the folders beside the package
        for name in re.findall(r"\b[\w/]+\.py\b", text)
    }
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
        pytest.skip("this page forks, which this system cannot")
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
    """Runs the commands of a page, one after another, with the reader's variables."""

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
    def said(self) -> str:
        return self._output.read_text()

    def run(self, command: str) -> None:
        found = GOES_ON.match(command)
        if found is None:
            code = self._start(f"set -e; {command}").wait(30)
            assert code == 0, f"{command} ended with {code}\n{self.said}"
            return
        variables, name = found.groups()
        before, workers = len(self.said), self._workers()
        if name.endswith("server"):  # the reader's port may be taken here
            command = command.replace(name, f"{name} --bind 127.0.0.1:0")
        process = self._start(f"{variables}exec {command.removeprefix(variables)}")
        self._running.append((command, process))
        if name.endswith("server"):
            said = self._wait_until(lambda: re.search(r"FAKTORY_URL=(\S+)\n", self.said[before:]))
            assert isinstance(said, re.Match)
            self._environment["FAKTORY_URL"] = said[1]
        else:  # a TERM before it is ready would kill it
            self._wait_until(lambda: self._workers() > workers or self._somebody_ended())

    def wait_for(self, line: str) -> None:
        pattern = ".*".join(re.escape(part) for part in line.split("..."))
        self._wait_until(lambda: re.search(pattern, self.said) or self._somebody_ended())
        assert re.search(pattern, self.said), f"nothing like {line!r} in:\n{self.said}"

    def end(self) -> None:
        for command, process in reversed(self._running):
            process.terminate()
            code = process.wait(20)
            assert code == 0, f"{command} ended with {code}\n{self.said}"

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
        """How many workers there are; where that cannot be seen, how many connections."""
        url = self._environment["FAKTORY_URL"]
        if url == self._server.url:
            return len(self._server.workers)
        with Client(url) as client:
            return int(client.info()["server"]["connections"])

    def _somebody_ended(self) -> bool:
        return any(process.poll() is not None for _, process in self._running)

    def kill(self) -> None:
        for _, process in self._running:
            process.kill()
            process.wait()


def commands_of(block: Block) -> list[str]:
    lines = re.sub(r"\\\n\s*", " ", block.code).splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.skipif(sys.platform == "win32", reason="the shell of these pages is a Unix one")
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
    """Whether a command is one that a test cannot run: but what it names must exist."""
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
    """The commands that a block has others start, as words, without the folder of the first."""
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
def test_what_others_are_to_start_exists(page: Path, folder: Path) -> None:
    for block in blocks_of(page):
        if block.language not in ("ini", "dockerfile", "text"):
            continue
        commands = started_by(block)
        named = re.search(r"^(ExecStart|CMD)|bin/|faktory-worker -", block.code, re.M)
        assert commands or not named, f"line {block.line}: what it starts cannot be read"
        for name, *words in commands:
            if name == "faktory-worker":
                assert config.load(words, {}).require
            else:
                assert name == "python"
                assert (folder / words[0]).exists(), f"line {block.line}: no {words[0]}"


@pytest.mark.parametrize("page", having("toml"), ids=lambda page: page.name)
def test_a_file_of_a_worker_can_be_read(page: Path, folder: Path) -> None:
    for block in blocks_of(page):
        if block.language == "toml":
            path = folder / "this.toml"
            path.write_text(block.code)
            for table in re.findall(r"^\[(\w+)\]$", block.code, re.M):
                assert config.load(["-C", str(path), "-e", table], {}).require

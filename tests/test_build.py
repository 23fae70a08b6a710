"""Building the package: with a compiler, without one, and with each of the two variables.

Most tests build a copy with a tiny core instead of the real one: they test how a core is built, and
so a build takes a second. `make soak` builds the real one, and what is seldom built.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from zipfile import ZipFile

import pytest
from setuptools.errors import CompileError

from .support import FREE_THREADED

PROJECT = Path(__file__).parents[1]
SWITCHES = ("FAKTORY_NO_EXTENSIONS", "FAKTORY_REQUIRE_EXTENSIONS", "FAKTORY_IMPL", "CC", "CFLAGS")
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
CORE = f"faktory/_proto{SUFFIX}"
EXCHANGE = f"faktory/_exchange{SUFFIX}"
COMPILED = {CORE} if sys.platform == "win32" else {CORE, EXCHANGE}
NO_COMPILER = {"CC": "/bin/false"}
COMPILER = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
PURE = "py3-none-any.whl"

PAGES = {
    path.relative_to(PROJECT).as_posix()
    for folder in ("templates", "static")
    for path in (PROJECT / "faktory/server/web" / folder).iterdir()
}
"""What the pages of the embedded server need beside their modules."""

needs_compiler = pytest.mark.skipif(
    shutil.which(COMPILER) is None, reason=f"needs a C compiler, and there is no {COMPILER}"
)


class Copy:
    """A copy of the project, with the output of its last build."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = ""
        leave = shutil.ignore_patterns("__pycache__", ".*", "build", "dist", "*.egg-info", "*.so")
        shutil.copytree(PROJECT, folder, ignore=leave)

    def put_tiny_core(self) -> None:
        """Replace the core by one that compiles fast."""
        for part in (*self.folder.glob("faktory/*.h"), *self.folder.glob("faktory/*.pxd")):
            part.unlink()
        (self.folder / "faktory/_proto.pyx").write_text("def new_jid():\n    return 'f' * 24\n")
        (self.folder / "faktory/_exchange.pyx").write_text("class Exchange:\n    pass\n")

    def build(self, what: str, **environment: str) -> Path | None:
        """Build a `wheel`, `sdist` or `editable`; return its path, or None if that failed."""
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        code = f"from setuptools import build_meta; build_meta.build_{what}('out')"
        done = self.run([sys.executable, "-c", code], **{"CFLAGS": "-O0", **environment})
        if done.returncode:
            assert list(out.iterdir()) == []
            return None
        (made,) = out.iterdir()
        return made

    def run(self, command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in os.environ.items() if name not in SWITCHES}
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = done.stdout
        return done

    @property
    def notices(self) -> list[str]:
        return [line for line in self.output.splitlines() if "faktory-worker: " in line]


def load_setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("faktory_setup", PROJECT / "setup.py")
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    return setup


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Copy]:
    copy = Copy(tmp_path / "project")
    copy.put_tiny_core()
    yield copy
    if copy.output:
        print(copy.output)  # pytest shows it with a failure


def names(archive: Path) -> set[str]:
    with ZipFile(archive) as wheel:
        return set(wheel.namelist())


def assert_only_what_is_used(members: set[str]) -> None:
    assert {"faktory/py.typed", "faktory/_proto.pyi", "faktory/_proto_py.py"} <= members
    assert {name.split("/")[0].split("-")[0] for name in members} == {"faktory", "faktory_worker"}
    others = members - PAGES
    assert [name for name in others if name.endswith((".c", ".h", ".pyx", ".pxd", ".html"))] == []


@needs_compiler
def test_a_compiler_gives_a_wheel_for_this_platform(copy):
    wheel = copy.build("wheel")
    assert not wheel.name.endswith(PURE)
    assert_only_what_is_used(names(wheel))
    assert len(PAGES) > 10
    assert PAGES - set(names(wheel)) == set()
    assert {name for name in names(wheel) if name.endswith((".so", ".pyd"))} == COMPILED
    assert copy.notices == ["faktory-worker: the compiled core is built."]
    assert not (copy.folder / "faktory/_proto.c").exists()


def test_no_compiler_gives_the_pure_wheel_and_one_plain_notice(copy):
    # A file of an earlier build with a compiler.
    abi = "t" if FREE_THREADED else ""
    platform = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}{abi}"
    stale = copy.folder / f"build/lib.{platform}" / CORE
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"old")

    wheel = copy.build("wheel", **NO_COMPILER)

    assert wheel.name.endswith(PURE)
    assert_only_what_is_used(names(wheel))
    assert CORE not in names(wheel)
    assert not stale.exists()
    assert copy.notices == [
        "faktory-worker: the compiled core cannot be built (/bin/false failed with exit code 1): "
        "this is the pure Python package."
    ]
    assert "Traceback" not in copy.output


def test_with_no_extensions_no_compiler_is_called(copy):
    wheel = copy.build("wheel", FAKTORY_NO_EXTENSIONS="1", **NO_COMPILER)
    assert wheel.name.endswith(PURE)
    assert_only_what_is_used(names(wheel))
    assert CORE not in names(wheel)
    assert "/bin/false" not in copy.output
    assert copy.notices == [
        "faktory-worker: FAKTORY_NO_EXTENSIONS is set: this is the pure Python package."
    ]


def test_with_require_extensions_the_build_fails_and_says_why(copy):
    assert copy.build("wheel", FAKTORY_REQUIRE_EXTENSIONS="1", **NO_COMPILER) is None
    assert copy.notices == [
        "error: faktory-worker: the compiled core cannot be built (/bin/false failed with exit "
        "code 1), and FAKTORY_REQUIRE_EXTENSIONS is set."
    ]
    assert "Traceback" not in copy.output


@pytest.mark.soak
def test_with_both_variables_the_build_fails_and_says_why(copy):
    both = {"FAKTORY_NO_EXTENSIONS": "1", "FAKTORY_REQUIRE_EXTENSIONS": "1"}
    assert copy.build("wheel", **both) is None
    assert "are both set. Unset one of them." in copy.output


def test_a_core_with_a_cython_error_always_fails_the_build(copy):
    (copy.folder / "faktory/_proto.pyx").write_text("def new_jid(:\n")
    assert copy.build("wheel", **NO_COMPILER) is None
    assert copy.notices == [
        "error: faktory-worker: Cython cannot compile faktory/_proto.pyx: see above."
    ]
    assert "_proto.pyx:1:12: " in copy.output
    assert "Traceback" not in copy.output


@pytest.mark.soak
@pytest.mark.parametrize("environment", [NO_COMPILER, {"FAKTORY_NO_EXTENSIONS": "1"}])
def test_an_editable_build_without_the_core_removes_the_old_one(copy, environment):
    stale = [copy.folder / CORE, copy.folder / EXCHANGE]
    for each in stale:
        each.write_bytes(b"old")
    assert copy.build("editable", **environment) is not None
    assert not any(each.exists() for each in stale)


@pytest.mark.soak
@needs_compiler
def test_an_editable_build_puts_the_core_beside_its_source(copy):
    (copy.folder / CORE).write_bytes(b"old")
    assert copy.build("editable") is not None
    assert (copy.folder / CORE).stat().st_size > 1000
    assert not (copy.folder / "faktory/_proto.c").exists()


@pytest.mark.parametrize(
    ("value", "on"),
    [("", False), ("0", False), ("false", False), ("False", False), ("1", True), ("true", True)],
)
def test_a_switch_is_off_when_it_is_0_false_or_empty(monkeypatch, value, on):
    setup = load_setup()
    monkeypatch.setenv("FAKTORY_NO_EXTENSIONS", value)
    monkeypatch.delenv("FAKTORY_REQUIRE_EXTENSIONS", raising=False)
    assert (setup.extensions() == []) is on


def test_the_sdist_contains_everything_for_building_and_testing(copy):
    # Also if the core is switched off.
    sdist = copy.build("sdist", FAKTORY_NO_EXTENSIONS="1")
    with tarfile.open(sdist) as archive:
        members = {name.partition("/")[2] for name in archive.getnames()}
    needed = {
        *("pyproject.toml", "setup.py", "Makefile", "LICENSE", "README.md"),
        *("faktory/_proto.pyx", "faktory/_proto.pyi", "faktory/py.typed", "faktory/_proto_py.py"),
        *("faktory/_exchange.pyx", "faktory/_exchange.pyi", "faktory/_exchange_py.py"),
        *("tests/conftest.py", "tests/test_layers.py", "benchmarks/test_import.py"),
        *PAGES,
    }
    assert needed - members == set()
    assert [name for name in members if name.endswith((".so", ".pyd", ".pyc"))] == []
    assert [name for name in members if name.startswith("faktory/") and name.endswith(".c")] == []


@pytest.mark.soak
def test_a_missing_compiler_is_named_with_the_remedy(copy):
    assert copy.build("wheel", CC="no-such-compiler").name.endswith(PURE)
    assert copy.notices == [
        "faktory-worker: the compiled core cannot be built (no C compiler: no-such-compiler is "
        "missing; on Debian and Ubuntu: apt-get install gcc python3-dev): this is the pure Python "
        "package."
    ]


def test_missing_headers_are_named_with_the_remedy(monkeypatch):
    setup = load_setup()
    error = CompileError("command '/usr/bin/gcc' failed with exit code 1")
    error.__context__ = subprocess.CalledProcessError(1, ["/usr/bin/gcc"])
    monkeypatch.setattr(sysconfig, "get_path", lambda name: "/nowhere")
    assert setup.reason(error) == (
        "Python.h is missing; on Debian and Ubuntu: apt-get install python3-dev"
    )


@needs_compiler
@pytest.mark.soak
def test_the_sdist_with_the_real_core_installs_into_a_fresh_environment(tmp_path):
    copy = Copy(tmp_path / "project")
    sdist = copy.build("sdist")
    venv = tmp_path / "venv"
    python = str(venv / "bin/python")
    copy.run([sys.executable, "-m", "venv", str(venv)])

    installed = copy.run([python, "-m", "pip", "install", "-v", str(sdist)])

    assert installed.returncode == 0, installed.stdout
    assert "faktory-worker: the compiled core is built." in copy.output
    show = "from faktory.proto import implementation; print(implementation)"
    assert copy.run([python, "-I", "-c", show]).stdout == "cython\n"


@pytest.mark.soak
def test_without_a_compiler_the_sdist_installs_as_pure_python(tmp_path):
    copy = Copy(tmp_path / "project")
    sdist = copy.build("sdist")
    venv = tmp_path / "venv"
    python = str(venv / "bin/python")
    copy.run([sys.executable, "-m", "venv", str(venv)])

    installed = copy.run([python, "-m", "pip", "install", "-v", str(sdist)], **NO_COMPILER)

    assert installed.returncode == 0, installed.stdout
    assert "this is the pure Python package." in copy.output
    show = "from faktory.proto import implementation; print(implementation)"
    assert copy.run([python, "-I", "-c", show]).stdout == "python\n"

"""What make says before it fails, and when it builds the core again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.skipif(shutil.which("make") is None, reason="needs make"),
    pytest.mark.skipif(
        not (PROJECT / "setup.py").exists(), reason="the sources are not beside these tests"
    ),
]


def make(*words: str, cwd: Path = PROJECT, **environment: str) -> subprocess.CompletedProcess[str]:
    environ = {n: v for n, v in os.environ.items() if n not in ("MAKEFLAGS", "MAKELEVEL", "CC")}
    return subprocess.run(
        ["make", "--no-print-directory", *words],
        cwd=cwd,
        env=environ | environment,
        capture_output=True,
        text=True,
    )


def test_a_python_without_ensurepip_is_named_with_the_remedy_before_anything_is_made(tmp_path):
    python = tmp_path / "python3"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    venv = tmp_path / "venv"
    done = make("demo", f"PYTHON={python}", f"VENV={venv}")
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"{python} cannot create virtual environments: its modules venv and ensurepip are missing. "
        "On Debian and Ubuntu: apt-get install python3-venv, then make again\n"
    )
    assert not (venv / "bin").exists()


def test_a_compiler_that_is_installed_later_builds_the_core(tmp_path):
    venv, tools = tmp_path / "venv", tmp_path / "tools"
    tools.mkdir()
    venv.mkdir()
    stamp = venv / ".build"
    words = (f"VENV={venv}", f"{stamp}")
    assert make(*words).returncode == 0
    before = stamp.read_text()
    os.utime(stamp, (1, 1))
    make(*words)
    assert stamp.stat().st_mtime == 1  # nothing has changed, so nothing is built

    compiler = tools / "gcc"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    make(*words, PATH=f"{tools}:{os.environ['PATH']}")
    assert stamp.stat().st_mtime != 1
    assert str(compiler) in stamp.read_text()
    assert str(compiler) not in before


@pytest.mark.parametrize(("args", "said"), [("", True), ("-k producer", False)])
def test_make_test_says_how_long_it_takes_and_how_to_run_a_part(args, said):
    done = make("--dry-run", "test", f"ARGS={args}")
    assert done.returncode == 0, done.stderr
    assert ("about 5 minutes on two cores" in done.stdout) is said
    assert ("-n 2" in done.stdout) is said

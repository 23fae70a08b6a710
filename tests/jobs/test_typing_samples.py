"""Type checkers, run over typing_samples: `make check` has them both."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SAMPLES = str(HERE / "typing_samples")


@pytest.mark.parametrize(
    ("checker", "options"), [("mypy", ["--strict", SAMPLES]), ("pyright", ["--project", SAMPLES])]
)
def test_a_type_checker_accepts_the_samples(checker: str, options: list[str]) -> None:
    if find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed (make check has it)")
    checked = subprocess.run(
        [sys.executable, "-m", checker, *options], cwd=ROOT, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr

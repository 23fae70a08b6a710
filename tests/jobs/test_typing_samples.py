from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is not installed (make check has it)")
def test_the_parameters_of_a_job_are_seen_by_a_type_checker() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(HERE / "typing_samples")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr

"""The page on testing and the example project, run as their readers would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/testing.md").read_text(), re.M | re.S)


def run_pytest(folder: Path, *options: str) -> str:
    """Run the tests in a folder, apart from ours; return what pytest said."""
    where = ["-c", os.devnull, "--rootdir", str(folder), str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *where, *options],
        cwd=folder,
        env={name: text for name, text in os.environ.items() if name != "FAKTORY_URL"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_each_pattern_of_the_page_is_a_file_that_runs(tmp_path: Path) -> None:
    assert len(BLOCKS) == 6
    for number, block in enumerate(BLOCKS):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / f"test_{number}.py").write_text(block)
        said = run_pytest(folder)
        assert f"{block.count('def test_')} passed" in said


@pytest.mark.parametrize(
    "options",
    [["-p", "no:randomly"], [], ["-n", "4"]],
    ids=["in order", "in random order", "on four processes"],
)
def test_the_example_project_passes(options: list[str]) -> None:
    said = run_pytest(ROOT / "examples" / "testing", *options)
    assert "6 passed" in said

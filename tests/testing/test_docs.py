"""The page on testing and the example project, run as a reader would run them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import RunPytest

ROOT = Path(__file__).parent.parent.parent
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/testing.md").read_text(), re.M | re.S)


def name_of(block: str, number: int = 0) -> str:
    return "conftest.py" if block.startswith("# conftest.py\n") else f"test_{number}.py"


def test_each_pattern_of_the_page_is_a_file_that_runs(
    tmp_path: Path, run_pytest: RunPytest
) -> None:
    """Each in a folder of its own. Those without options of a session share one process."""
    assert len(BLOCKS) == 9
    others = tmp_path / "others"
    expected = 0
    for number, (before, block) in enumerate(zip(["", *BLOCKS], BLOCKS, strict=False)):
        if name_of(block) == "conftest.py":
            continue
        count = block.count("def test_")
        if name_of(before) == "conftest.py":
            folder = tmp_path / str(number)
            folder.mkdir()
            (folder / "conftest.py").write_text(before)
        else:
            folder = others / str(number)
            folder.mkdir(parents=True)
            expected += count
        (folder / name_of(block, number)).write_text(block)
        if folder.parent != others:
            assert f"{count} passed" in run_pytest(folder)
    assert f"{expected} passed" in run_pytest(others, "-p", "no:randomly")


def test_the_patterns_of_the_page_can_be_kept_in_one_project(
    tmp_path: Path, run_pytest: RunPytest
) -> None:
    for number, block in enumerate(BLOCKS):
        (tmp_path / name_of(block, number)).write_text(block)
    output = run_pytest(tmp_path, "-p", "no:randomly")
    assert f"{sum(block.count('def test_') for block in BLOCKS)} passed" in output


@pytest.mark.parametrize(
    "options",
    [["-p", "no:randomly"], [], ["-n", "2"]],
    ids=["in order", "in random order", "on two processes"],
)
def test_the_example_project_passes(options: list[str], run_pytest: RunPytest) -> None:
    output = run_pytest(ROOT / "examples" / "testing", *options)
    assert "6 passed" in output

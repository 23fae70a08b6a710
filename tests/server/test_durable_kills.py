"""kill -9 at random moments of mixed traffic: see `kills`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .kills import kill_again_and_again


def test_after_kills_the_file_has_what_was_answered(tmp_path: Path) -> None:
    assert kill_again_and_again(tmp_path, 3, "full", 1) > 20


@pytest.fixture(params=["disk", "tmpfs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "disk":
        yield tmp_path
        return
    if not Path("/dev/shm").is_dir():
        pytest.skip("needs a tmpfs on /dev/shm")
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("sync", ["full", "normal"])
def test_after_hundreds_of_kills_the_file_has_what_was_answered(
    folder: Path, sync: str, request: pytest.FixtureRequest
) -> None:
    answered = kill_again_and_again(folder, 250, sync, hash(str(folder)))
    line = f"250 kills, sync {sync}, {folder}: {answered} commands answered, none forgotten"
    request.node.user_properties.append(("measured", line))

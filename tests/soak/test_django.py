"""Django's own tests of its tasks, with this package's backend in the place of DummyBackend.

They come with Django's sources, which are downloaded. `contrib/django/dummy_in_memory.py` says what
is added to the backend for them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.soak

IN_MEMORY = Path(__file__).parents[1] / "contrib/django/dummy_in_memory.py"

BACKENDS = {
    "from django.tasks.backends.dummy import DummyBackend": (
        f"from {IN_MEMORY.stem} import DummyBackend"
    ),
    "django.tasks.backends.dummy.DummyBackend": f"{IN_MEMORY.stem}.DummyBackend",
}

# DummyBackend finds the results of its own thread again. Faktory keeps no results, so here
# get_result raises NotImplementedError, as supports_get_result = False has it.
READ_RESULTS = {
    "test_clear",
    "test_get_incorrect_result",
    "test_get_incorrect_result_async",
    "test_get_missing_result",
    "test_get_result",
    "test_get_result_async",
    "test_refresh_result",
    "test_refresh_result_async",
}


def sources(folder: Path) -> Path:
    """Download the sources of the installed Django; return where its tests are."""
    django = pytest.importorskip("django", reason="needs Django: pip install django")
    if django.VERSION < (6, 0):
        pytest.skip(
            f"Django {django.get_version()} has no tasks, and the sources of django-tasks no tests"
        )
    version = django.get_version()
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    done = subprocess.run(
        [*pip, "--dest", str(folder), f"django=={version}"], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"the sources of Django {version} cannot be downloaded: {done.stderr[-500:]}")
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz") / "tests"


def test_django_s_own_tests_pass_but_for_those_that_read_results(tmp_path: Path) -> None:
    tests = sources(tmp_path)
    for path in (tests / "tasks").glob("test_*.py"):
        text = path.read_text("utf-8")
        for its, ours in BACKENDS.items():
            text = text.replace(its, ours)
        path.write_text(text, "utf-8")
    (tests / IN_MEMORY.name).write_text(IN_MEMORY.read_text("utf-8"), "utf-8")
    done = subprocess.run(
        [sys.executable, "runtests.py", "--parallel", "1", "tasks"],
        cwd=tests,
        env={name: text for name, text in os.environ.items() if "FAKTORY_URL" not in name},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
    )
    ran = re.search(r"Ran (\d+) tests", done.stdout)
    assert ran is not None, done.stdout
    failed = re.findall(r"^(?:ERROR|FAIL): (\w+) \(([\w.]+)\)", done.stdout, re.M)
    assert {name for name, _ in failed} == READ_RESULTS, done.stdout
    assert done.stdout.count("NotImplementedError: This backend does not support") >= len(failed)
    assert int(ran[1]) - len(failed) >= 60

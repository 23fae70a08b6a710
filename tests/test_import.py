"""The modules that `import faktory` loads; every web application that pushes a job imports them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import faktory

COSTLY = {"asyncio", "hashlib", "logging.config", "sqlite3", "ssl"}

LOADED = """
import sys
sys.path.insert(0, sys.argv[1])
{}
print(*sys.modules)
"""


def loaded_by(statements: str) -> set[str]:
    """Return the modules that a fresh interpreter has loaded after `statements`.

    Without site (-S) and the environment (-I), because .pth files of other packages can import
    anything.
    """
    root = str(Path(faktory.__file__).parents[1])
    code = LOADED.format(statements)
    command = [sys.executable, "-I", "-S", "-c", code, root]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_costly():
    loaded = loaded_by("import faktory")
    assert "faktory" in loaded
    assert loaded & COSTLY == set()


def test_using_the_client_loads_nothing_for_tls_passwords_and_asyncio():
    loaded = loaded_by("import faktory; faktory.Client")
    assert "faktory.client" in loaded
    assert loaded & {"asyncio", "hashlib", "ssl"} == set()


@pytest.mark.skipif(faktory.implementation != "cython", reason="the other core needs json")
def test_declaring_jobs_loads_nothing_that_only_some_of_them_need():
    loaded = loaded_by("import faktory; faktory.Client; faktory.job(id)")
    assert "faktory.jobs.schedule" in loaded
    assert loaded & {*COSTLY, "importlib.util", "json", "msgspec"} == set()


@pytest.mark.parametrize("name", sorted(COSTLY))
def test_a_loaded_costly_module_is_detected(name):
    assert name in loaded_by(f"import faktory, {name}")


PUSH = """
import faktory, faktory.testing
@faktory.job
def work(a: {}, b: "dict[str, list[int]]" = None): pass
with faktory.testing.fake():
    work.perform_async(1, {{}})
    work.perform_bulk([(1,)])
    work.drain()
"""


@pytest.mark.parametrize("types", ["int", "'Anything'"])
def test_jobs_whose_arguments_are_json_do_not_load_msgspec(types):
    pytest.importorskip("msgspec")
    path = f"sys.path += {sys.path!r}\n"
    assert "msgspec" not in loaded_by(path + PUSH.format(types))
    with_uuid = path + "from uuid import UUID\n" + PUSH.format("UUID | int")
    assert "msgspec" in loaded_by(with_uuid)

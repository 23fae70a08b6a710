"""The modules that `import faktory` loads; every web application that pushes a job imports them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import faktory

COSTLY = {"asyncio", "hashlib", "logging.config", "sqlite3", "ssl"}

LOADED = """
import json, sys
sys.path.insert(0, sys.argv[1])
{}
print(json.dumps(sorted(sys.modules)))
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
    return set(json.loads(done.stdout))


def test_importing_the_package_loads_nothing_costly():
    loaded = loaded_by("import faktory")
    assert "faktory" in loaded
    assert loaded & COSTLY == set()


def test_using_the_client_loads_nothing_for_tls_passwords_and_asyncio():
    loaded = loaded_by("import faktory; faktory.Client")
    assert "faktory.client" in loaded
    assert loaded & {"asyncio", "hashlib", "ssl"} == set()


@pytest.mark.parametrize("name", sorted(COSTLY))
def test_a_loaded_costly_module_is_detected(name):
    assert name in loaded_by(f"import faktory, {name}")

"""Measure `import faktory`: fresh interpreters with the import, beside interpreters without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import faktory

from .conftest import IMPLEMENTATIONS

ROOT = str(Path(faktory.__file__).parents[1])
ROUNDS = 30

STATEMENTS = ("import faktory", "import faktory; faktory.Client", "import faktory; faktory.Worker")


def start(statement: str, implementation: str) -> dict[str, float]:
    """Run an interpreter without site (-S): its .pth files are not part of our cost."""
    code = f"import sys; sys.path.insert(0, {ROOT!r}); {statement}"
    environ = {**os.environ, "FAKTORY_IMPL": implementation}
    began = perf_counter()
    subprocess.run([sys.executable, "-S", "-c", code], env=environ, check=True)
    return {"ms": 1000 * (perf_counter() - began)}


def test_import(contest):
    ways = {"bare interpreter": lambda: start("", "python")}
    for statement in STATEMENTS:
        for name in IMPLEMENTATIONS:
            about = f"{statement.removeprefix('import faktory; ')}, {name}"
            ways[about] = lambda statement=statement, name=name: start(statement, name)
    contest("Start of an interpreter, and an import", ways, ROUNDS)

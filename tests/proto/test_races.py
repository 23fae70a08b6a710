"""Threads use the core at once: without a GIL nothing else keeps them apart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ..support import FREE_THREADED

PROGRAM = Path(__file__).parent / "races.py"


@pytest.mark.parametrize("operations", [40_000, pytest.param(10_000_000, marks=pytest.mark.soak)])
def test_eight_threads_use_the_core_at_once(
    proto: ModuleType, operations: int, request: pytest.FixtureRequest
) -> None:
    command = [sys.executable, str(PROGRAM), proto.__name__.rpartition(".")[2], str(operations)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout.split()[0]) >= operations
    request.node.user_properties.append(("measured", f"{proto.__name__}: {done.stdout.strip()}"))


@pytest.mark.skipif(not FREE_THREADED, reason="needs a free-threaded build of Python")
def test_the_core_leaves_the_gil_switched_off(proto: ModuleType) -> None:
    program = f"import sys, {proto.__name__}; print(sys._is_gil_enabled())"
    command = [sys.executable, "-W", "error", "-X", "gil=0", "-c", program]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "False\n"
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        program.replace(proto.__name__, "faktory.client.transport"),  # the exchange, too
    ]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "False\n"

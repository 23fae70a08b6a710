"""What `import faktory` costs: fresh interpreters with it, beside ones without.

They take turns, so that a change of the machine's speed meets all of them.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

import pytest

import faktory
from faktory.proto import implementation

ROOT = str(Path(faktory.__file__).parents[1])
ROUNDS = 30

STATEMENTS = {
    "bare interpreter": "",
    "import faktory": "import faktory",
    "faktory.Client": "import faktory; faktory.Client",
    "faktory.Worker": "import faktory; faktory.Worker",
}


def milliseconds(statement: str) -> float:
    """Run an interpreter without site (-S), whose .pth files are not our cost."""
    code = f"import sys; sys.path.insert(0, {ROOT!r}); {statement}"
    before = perf_counter()
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
    return 1000 * (perf_counter() - before)


@pytest.mark.benchmark(group="import")
def test_import(benchmark):
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for statement in STATEMENTS.values():  # the first import writes the bytecode
        milliseconds(statement)

    def one_turn() -> None:
        for name, statement in STATEMENTS.items():
            times[name].append(milliseconds(statement))

    benchmark.pedantic(one_turn, rounds=ROUNDS)
    bare = median(times["bare interpreter"])
    print(f"\n\nPython {platform.python_version()}, {implementation} core, n = {ROUNDS} each, ms")
    print(f"{'':18}{'median':>8}{'spread':>8}{'vs. bare':>10}")
    for name, taken in times.items():
        low, _, high = quantiles(taken, n=4)
        middle = median(taken)
        print(f"{name:18}{middle:8.2f}{high - low:8.2f}{middle - bare:+10.2f}")

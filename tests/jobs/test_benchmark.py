"""The benchmark of the jobs, one turn of it: so that it runs when somebody wants to know."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

import faktory
from faktory.client import outlet, transport

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "test_jobs.py"


class Once:
    """In the place of pytest-benchmark's fixture, when it is told not to measure."""

    disabled = True
    group = ""

    def pedantic(self, work: Callable[[], object], *, rounds: int) -> None:
        work()


def test_the_benchmark_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = runpy.run_path(str(BENCHMARK))
    monkeypatch.setattr(transport, "connect", lambda *_: benchmark["Memory"]())
    monkeypatch.setattr(outlet, "_settings", {})
    faktory.configure(url="tcp://memory:1")
    for name in ("test_one", "test_many"):
        benchmark[name](Once())
    faktory.configure()

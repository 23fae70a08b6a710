"""The benchmarks: correct tables, a README that shows the stored results, and runnable programs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from faktory import Client
from faktory.server import EmbeddedServer

ROOT = Path(__file__).parents[1]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Return a function that imports a module of the benchmarks."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: import_module(f"benchmarks.{name}")


class Benchmark:
    """A fake of pytest-benchmark's fixture that only runs the function."""

    group = ""

    def pedantic(self, work: Callable[[], object], *, rounds: int) -> None:
        for _ in range(rounds):
            work()


def turns(*values: float) -> Callable[[], dict[str, float]]:
    """Return a way that measures these values, one per round, after a first value to ignore."""
    remaining = iter((1e9, *values))
    return lambda: {"jobs/s": next(remaining)}


@pytest.fixture
def record(module: Callable[[str], ModuleType]) -> Any:
    ways = {"cython": turns(100, 200, 400), "other": turns(50, 100, 600)}
    return module("contest").hold(Benchmark(), "client", "Pushing", ways, rounds=3)


def test_ways_take_turns_and_the_first_round_is_not_counted(module):
    happened = []

    def way(name):
        return lambda: happened.append(name) or {"ns": 1.0}

    record = module("contest").hold(
        Benchmark(), "core", "t", {"a": way("a"), "b": way("b")}, rounds=2
    )
    assert happened == ["a", "b"] * 3
    assert record["rounds"] == 2


def test_a_ratio_is_the_median_of_the_rounds_not_a_quotient_of_medians(record):
    other = record["ways"]["other"]["jobs/s"]
    assert other["median"] == 100
    assert other["ratio"] == 0.5  # of 0.5, 0.5 and 1.5
    assert record["ways"]["cython"]["jobs/s"]["ratio"] == 1


def test_a_record_becomes_a_table_with_spread_and_ratio(record, module):
    assert module("contest").table(record).split("\n") == [
        "Pushing (n = 3)",
        "              jobs/s  spread   ratio",
        "cython           200     75%   1.00x",
        "other            100    275%   0.50x",
    ]


def test_a_record_of_one_round_has_no_spread(module):
    record = module("contest").hold(Benchmark(), "core", "t", {"a": turns(5)}, rounds=1)
    assert record["ways"]["a"]["jobs/s"] == {"median": 5, "low": 5, "high": 5, "ratio": 1}


@pytest.fixture
def results() -> Any:
    return json.loads((ROOT / "benchmarks/results.json").read_text("utf-8"))


@pytest.mark.parametrize(
    ("page", "write"), [("README.md", "readme"), ("benchmarks/README.md", "page")]
)
def test_the_pages_show_the_stored_results(module, results, page, write):
    text = (ROOT / page).read_text("utf-8")
    assert getattr(module("chart"), write)(text, results) == text


def test_each_kind_of_value_is_shown_and_faster_peers_are_bold(module, results):
    _, _, *lines = module("chart").kinds(results).split("\n")
    shown = {line.split("|")[1].strip(): line for line in lines}
    tasks = [each for each in results["contests"] if each["title"].startswith("Core: write ")]
    assert len(lines) == len(tasks) > 10
    for each in tasks:
        line = shown[each["title"].removeprefix("Core: write ")]
        ratio = each["ways"]["orjson"]["ns"]["ratio"]
        assert (f"**{ratio:.2f}x**" in line) == (ratio < 0.95)


def test_the_stored_tables_match_the_stored_results(module, results):
    kept = (ROOT / "benchmarks/results.txt").read_text("utf-8").rstrip("\n").split("\n\n")
    assert kept[1:] == [module("contest").table(record) for record in results["contests"]]


def test_faster_peers_are_bold_and_no_way_is_missing(module, results):
    chart = module("chart")
    lines = chart.table(results).split("\n")[2:]
    for row, line in zip(chart.ROWS, lines, strict=True):
        _, ways = chart.measured(results, row)
        for way, summary in ways.items():
            ratio = summary["ratio"]
            better = ratio > 1.05 if row.quantity == "jobs/s" else ratio < 0.95
            assert way in chart.OURS or f"{chart.name(way)} " in line
            assert (f"**{chart.name(way)} " in line) == (better and not chart.is_ours(way))


def test_the_stored_chart_matches_the_stored_results(module, results):
    chart = module("chart")
    drawn = (ROOT / "benchmarks/results.svg").read_text("utf-8")
    for row in chart.PANELS:
        _, ways = chart.measured(results, row)
        for way, summary in ways.items():
            middle = chart.bar(row.quantity, summary)[1]
            assert f">{chart.name(way)}</text>" in drawn
            assert f"> {chart.figure(middle)}</text>" in drawn
    assert results["when"][:10] in drawn


@pytest.fixture
def asyncio_results() -> Any:
    return json.loads((ROOT / "benchmarks/results-asyncio.json").read_text("utf-8"))


def test_the_page_about_asyncio_shows_its_stored_results(module, asyncio_results):
    text = (ROOT / "docs/asyncio.md").read_text("utf-8")
    assert module("chart_asyncio").page(text, asyncio_results) == text


def test_the_chart_of_asyncio_matches_its_stored_results(module, asyncio_results):
    chart = module("chart")
    drawn = (ROOT / "benchmarks/asyncio.svg").read_text("utf-8")
    for row in module("chart_asyncio").PANELS:
        _, ways = chart.measured(asyncio_results, row)
        for way, summary in ways.items():
            assert f">{way}</text>" in drawn
            assert f"> {chart.figure(chart.bar(row.quantity, summary)[1])}</text>" in drawn


@pytest.mark.soak
def test_the_core_takes_as_many_instructions_as_the_stored_ones(monkeypatch):
    """Within 3 %: more is to be found out, less to be stored: benchmarks/instructions.py --keep."""
    for name in ("faktory._proto", "orjson", "msgspec", "ujson", "hiredis"):
        pytest.importorskip(name, reason=f"{name} is not installed: extra bench")
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    instructions = import_module("instructions")
    kept = json.loads(instructions.KEPT.read_text("utf-8"))
    if kept["interpreter"] != instructions.interpreter():
        pytest.skip(f"stored for {kept['interpreter']}, this is {instructions.interpreter()}")
    counted = instructions.ours()
    assert counted.keys() == kept["instructions"].keys()
    differs = {
        name: f"{number:,} stored, {counted[name]:,} now"
        for name, number in kept["instructions"].items()
        if not 0.97 <= counted[name] / number <= 1.03
    }
    assert not differs


def test_faktory_provider_is_ignored():
    code = "import os; from benchmarks import conftest; print(os.environ['FAKTORY_PROVIDER'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "FAKTORY_PROVIDER": "PRODUCTION_URL"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "FAKTORY_URL\n", done.stderr


def test_results_without_a_contest_of_the_readme_are_rejected(module, results):
    with pytest.raises(SystemExit, match=r"Not in these results: Core.*make bench without ARGS"):
        module("chart").table({**results, "contests": []})


def test_the_charts_are_drawn_from_the_results(module, results, asyncio_results, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: extra bench")
    module("chart").draw(results, tmp_path / "chart.svg")
    about = module("chart_asyncio")
    module("chart").draw(asyncio_results, tmp_path / "asyncio.svg", about.PANELS, about.is_async)
    for name in ("chart.svg", "asyncio.svg"):
        assert "<svg" in (tmp_path / name).read_text("utf-8")


@pytest.mark.parametrize(
    ("program", "works"),
    [
        ("push_ours.py", "push bulk perform_bulk one_by_one together"),
        ("push_async.py asyncio", "push together to_thread pool_together"),
        ("push_bytes.py", "push bulk"),
        (
            "push_nowhere.py",
            "push perform_async by_keywords of_a_class perform_in set_first template perform_bulk",
        ),
    ],
)
def test_a_program_that_pushes_does_each_kind_of_work(program, works):
    """Each kind of work pushes 1000 jobs; a server has them all at the end."""
    with EmbeddedServer() as server:
        name, *words = program.split()
        orders = "".join(f"{work} 1000\n" for work in works.split())
        done = subprocess.run(
            [sys.executable, ROOT / "benchmarks/peers" / name, "bench", *words],
            input=orders,
            env={**os.environ, "FAKTORY_URL": server.url, "FAKTORY_PROVIDER": "FAKTORY_URL"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        took = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(took) == len(works.split())
        assert all(each["seconds"] > 0 and each["cpu"] >= 0 for each in took)
        with Client(server.url) as client:
            waiting = client.info()["faktory"]["queues"].get("bench", 0)
        assert waiting == (0 if program == "push_nowhere.py" else 1000 * len(took))

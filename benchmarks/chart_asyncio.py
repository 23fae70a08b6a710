"""Publish the results of `test_asyncio.py`: a chart, and the figures in docs/asyncio.md.

    make bench ARGS="-k asyncio" FAKTORY_URL=tcp://...
    python -m benchmarks.chart_asyncio build/bench/results.json

`make chart` does the second after a full run. Keeps the results as benchmarks/results-asyncio.json,
which may be of another run than the README's, draws benchmarks/asyncio.svg, and writes the part of
docs/asyncio.md between its two markers.
"""

from __future__ import annotations

import json

from .chart import HERE, Results, Row, between_markers, draw, load, measured
from .contest import figure, spread

PAGE = HERE.parent / "docs" / "asyncio.md"
KEPT = HERE / "results-asyncio.json"

QUANTITIES = ("jobs/s", "us CPU/job")
WORKS = {
    "push": "Pushing on an event loop",
    "run empty jobs, `-c 10`": "Async jobs: empty jobs, 10 at a time",
    "run empty jobs, `-c 100`": "Async jobs: empty jobs, 100 at a time",
    "run jobs that wait for 50 ms, `-c 10`": "Async jobs: jobs that wait for 50 ms, 10 at a time",
    "run jobs that wait for 50 ms, `-c 100`": "Async jobs: jobs that wait for 50 ms, 100 at a time",
}

_PUSH, _EMPTY, _, _, _WAITING = WORKS.values()
PANELS = (
    Row("push, jobs/s", _PUSH, "jobs/s"),
    Row("empty jobs, -c 10, jobs/s", _EMPTY, "jobs/s"),
    Row("50 ms jobs, -c 100, jobs/s", _WAITING, "jobs/s"),
    Row("push, jobs per s of CPU", _PUSH, "us CPU/job"),
    Row("empty jobs, jobs per s of CPU", _EMPTY, "us CPU/job"),
    Row("50 ms jobs, jobs per s of CPU", _WAITING, "us CPU/job"),
)

EXPLAINED = """\
`Client`: the blocking client, one push after the other. `AsyncClient`: the same awaited, one after
the other, or by 20 tasks that share its connection. `to_thread`: `asyncio.to_thread(client.push,
job)`, one after the other, or by 20 tasks over a `Pool`. A job that waits calls `time.sleep` in a
`def`, and awaits `asyncio.sleep` in an `async def`.

After ±: half the distance between the quartiles. In parentheses: the figure divided by that of the
first way, median of the rounds. CPU is that of the program that pushes, or of the worker; the
server shares the machine. `make bench ARGS="-k asyncio"` measures this, on the compiled core;
`benchmarks/README.md` says how."""


def is_async(way: str) -> bool:
    """Return whether a way awaits without a thread."""
    return way.lower().startswith("async")


def table(results: Results) -> str:
    """Return the page's table: a row per way, with the work in the first row of each."""
    lines = ["| Work | Way | jobs/s | us of CPU a job |", "|---|---|---|---|"]
    for about, contest in WORKS.items():
        columns = [measured(results, Row(about, contest, each))[1] for each in QUANTITIES]
        for number, way in enumerate(columns[0]):
            cells = [
                f"{figure(each[way]['median'])} ±{spread(each[way])} ({each[way]['ratio']:.2f}x)"
                for each in columns
            ]
            lines.append(f"| {'' if number else about} | {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page(text: str, results: Results) -> str:
    """Return the page's text with its figures replaced by these results."""
    versions = ", ".join(
        f"{name} {results['versions'][name]}"
        for name in ("faktory-worker", "uvloop", "Faktory")
        if name in results["versions"]
    )
    block = f"""
![Rates and CPU of the table as bars](../benchmarks/asyncio.svg)

{table(results)}

{EXPLAINED}

{results["machine"]}; {versions}.
"""
    return between_markers(text, block, "docs/asyncio.md")


def main() -> None:
    """Store the results of the given run, and update chart and page."""
    results = dict(load())
    results["contests"] = [each for each in results["contests"] if each["room"] == "asyncio"]
    text = page(PAGE.read_text("utf-8"), results)
    draw(results, HERE / "asyncio.svg", PANELS, is_async)
    PAGE.write_text(text, "utf-8")
    KEPT.write_text(json.dumps(results, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()

"""Publish the results of `test_scale.py`: a chart, and the figures in docs/scale.md.

    make bench ARGS="-k scale" FAKTORY_URL=tcp://...
    python -m benchmarks.chart_scale build/bench/results.json

`make chart` does the second after a full run. Keeps the results as benchmarks/results-scale.json,
which may be of another run than the README's, draws benchmarks/scale.svg, and writes the part of
docs/scale.md between its two markers.
"""

from __future__ import annotations

import json

from .chart import HERE, Results, Row, between_markers, draw, load, measured
from .contest import figure, spread

PAGE = HERE.parent / "docs" / "scale.md"
KEPT = HERE / "results-scale.json"

_THREADS, _SIZES, _QUEUES, _PROCESSES = WORKS = (
    "Scale: threads of one worker",
    "Scale: size of the argument, 10 threads",
    "Scale: queues of a FETCH, jobs in the last, 10 threads",
    "Scale: processes of 10 threads",
)
QUANTITIES = ("jobs/s", "us CPU/job", "MB")
PANELS = (
    Row("threads, jobs/s", _THREADS, "jobs/s"),
    Row("queues of a FETCH, jobs/s", _QUEUES, "jobs/s"),
    Row("processes of 10 threads, jobs/s", _PROCESSES, "jobs/s"),
    Row("threads, jobs per s of CPU", _THREADS, "us CPU/job"),
    Row("size of a job, jobs per s of CPU", _SIZES, "us CPU/job"),
    Row("processes, jobs per s of CPU", _PROCESSES, "us CPU/job"),
)


def table(results: Results) -> str:
    """Return the page's table: a row per way."""
    lines = [
        "| Worker | jobs/s | us of CPU a job | MB | us of CPU a push |",
        "|---|---|---|---|---|",
    ]
    for work in WORKS:
        measure = {
            quantity: measured(results, Row("", work, quantity))[1] for quantity in QUANTITIES
        }
        pushes = measured(results, Row("", work, "us CPU/push"))[1] if work == _SIZES else {}
        for way in measure["jobs/s"]:
            cells = [
                f"{figure(each[way]['median'])} ±{spread(each[way])} ({each[way]['ratio']:.2f}x)"
                for each in measure.values()
            ]
            cells.append(figure(pushes[way]["median"]) if way in pushes else "")
            lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page(text: str, results: Results) -> str:
    """Return the page's text with its figures replaced by these results."""
    names = ("faktory-worker", "Faktory")
    versions = ", ".join(f"{name} {results['versions'][name]}" for name in names)
    block = f"""
![Rates and CPU of the table as bars](../benchmarks/scale.svg)

{table(results)}

Empty jobs, at WARNING, 10 threads unless the row says otherwise. After ±: half the distance
between the quartiles. In parentheses: the figure divided by that of the first row of its kind,
median of the rounds. CPU is that of the worker's processes, MB their share of memory (PSS); the
server shares the machine. {results["when"][:10]}, {results["machine"]}; {versions}.
"""
    return between_markers(text, block, "docs/scale.md")


def main() -> None:
    """Store the results of the given run, and update chart and page."""
    results = dict(load())
    results["contests"] = [each for each in results["contests"] if each["room"] == "scale"]
    text = page(PAGE.read_text("utf-8"), results)
    draw(results, HERE / "scale.svg", PANELS, lambda _: True)
    PAGE.write_text(text, "utf-8")
    KEPT.write_text(json.dumps(results, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()

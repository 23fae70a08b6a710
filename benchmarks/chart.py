"""Publish the results of `make bench`: a chart, and the figures of two pages.

    python -m benchmarks.chart build/bench/results.json        (make chart)

Keeps the results as benchmarks/results.json and .txt, draws benchmarks/results.svg, and writes what
stands between the two markers of README.md and benchmarks/README.md: all figures are from one run,
and losses are included.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .contest import figure, spread

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
PAGE = HERE / "README.md"
MARKERS = ("<!-- measured: written by make chart -->", "<!-- end of measured -->")

OURS = ("cython", "python")
NAMES = {"cython": "compiled", "python": "pure", "prepared bytes": "bare socket"}

Results = Mapping[str, Any]


class Row(NamedTuple):
    """One quantity of a comparison; for clients and workers, the comparison on the real server."""

    about: str
    contest: str
    quantity: str


ROWS = (
    Row("encode a small job, ns", "Core: encode one, small", "ns"),
    Row("encode a job of 21 kB, ns", "Core: encode one, large", "ns"),
    Row("read a small job, ns", "Core: reply to dict, small", "ns"),
    Row("read a job of 21 kB, ns", "Core: reply to dict, large", "ns"),
    Row("push one by one, jobs/s", "Pushing one by one", "jobs/s"),
    Row("... CPU of a job, us", "Pushing one by one", "us CPU/job"),
    Row("push a thousand at once, jobs/s", "Pushing a thousand at once", "jobs/s"),
    Row("... CPU of a job, us", "Pushing a thousand at once", "us CPU/job"),
    Row("run empty jobs, 10 at a time, jobs/s", "Empty jobs, 10 at a time", "jobs/s"),
    Row("... CPU of a job, us", "Empty jobs, 10 at a time", "us CPU/job"),
)

PANELS = (
    Row("encode a small job, millions/s", "Core: encode one, small", "ns"),
    Row("push one by one, jobs/s", "Pushing one by one", "jobs/s"),
    Row("run empty jobs, jobs/s", "Empty jobs, 10 at a time", "jobs/s"),
    Row("read a small job, millions/s", "Core: reply to dict, small", "ns"),
    Row("push a thousand at once, jobs/s", "Pushing a thousand at once", "jobs/s"),
    Row("run empty jobs, jobs per s of CPU", "Empty jobs, 10 at a time", "us CPU/job"),
)


def measured(results: Results, row: Row) -> tuple[int, dict[str, Mapping[str, float]]]:
    """Return the number of rounds, and the summary of each way."""
    title = row.contest if row.quantity == "ns" else f"{row.contest}, real server"
    for each in results["contests"]:
        if each["title"] == title:
            return each["rounds"], {way: by[row.quantity] for way, by in each["ways"].items()}
    sys.exit(
        f"Not in these results: {title}. Make a full run: make bench without ARGS, "
        "on Linux, with the compiled core, and with FAKTORY_URL set to a real server."
    )


def name(way: str) -> str:
    """Return the published name of a way; the first part can be ours, as in "cython, INFO"."""
    first, comma, rest = way.partition(",")
    return f"{NAMES.get(first, first)}{comma}{rest}"


def is_ours(way: str) -> bool:
    """Return whether the way uses one of our implementations."""
    return way.startswith(OURS)


def beats_us(way: str, quantity: str, summary: Mapping[str, float]) -> bool:
    """Return whether a peer is better than we are by more than the noise of 5 percent."""
    ratio = summary["ratio"]
    return not is_ours(way) and (ratio > 1.05 if quantity == "jobs/s" else ratio < 0.95)


def table(results: Results) -> str:
    """Return the table of all rows, with better peers in bold."""
    lines = [
        "| | compiled | pure Python | others (ratio) |",
        "|---|---|---|---|",
    ]
    for row in ROWS:
        rounds, ways = measured(results, row)
        ours = [f"{figure(ways[way]['median'])} ±{spread(ways[way])}" for way in OURS]
        others = []
        for way, summary in ways.items():
            if way not in OURS:
                cell = f"{name(way)} {figure(summary['median'])} ({summary['ratio']:.2f}x)"
                others.append(f"**{cell}**" if beats_us(way, row.quantity, summary) else cell)
        lines.append(f"| {row.about} (n = {rounds}) | {' | '.join([*ours, ', '.join(others)])} |")
    return "\n".join(lines)


def kinds(results: Results) -> str:
    """Return the table of each kind of value, written and read, with better peers in bold."""
    lines = [
        "| | written, us | orjson | msgspec | read, us | orjson | msgspec |",
        "|---|---|---|---|---|---|---|",
    ]
    found: dict[str, dict[str, Any]] = {}
    for each in results["contests"]:
        task, _, kind = each["title"].removeprefix("Core: ").partition(" ")
        if task in ("write", "read"):
            found.setdefault(kind, {})[task] = each["ways"]
    for kind, tasks in found.items():
        cells = []
        for task in ("write", "read"):
            cells.append(figure(tasks[task]["cython"]["ns"]["median"] / 1000))
            for peer in ("orjson", "msgspec"):
                summary = tasks[task][peer]["ns"]
                cell = f"{summary['ratio']:.2f}x"
                cells.append(f"**{cell}**" if beats_us(peer, "ns", summary) else cell)
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def headline(results: Results) -> str:
    """Return the README's row of figures."""
    encode, push, bulk, work = (measured(results, ROWS[number])[1] for number in (0, 4, 6, 8))
    if "faktory 1.0.0" not in work:
        sys.exit("Not in these results: faktory 1.0.0. The log of make bench says why.")

    def beside(ways: Mapping[str, Mapping[str, float]], *peers: str) -> str:
        return ", ".join(f"{name(peer)} {ways[peer]['ratio']:.2f}x" for peer in peers)

    go = next((way for way in work if way.startswith("Go ")), None)
    workers = ("faktory 1.0.0", *([go] if go else []))
    cells = (
        f"{figure(encode['cython']['median'])} ns (orjson {encode['orjson']['ratio']:.2f}x)",
        f"{figure(push['cython']['median'])}/s ({beside(push, 'faktory 1.0.0', 'prepared bytes')})",
        f"{figure(bulk['cython']['median'])}/s ({beside(bulk, 'pyfaktory 0.2.13')})",
        f"{figure(work['cython']['median'])}/s ({beside(work, *workers)})",
    )
    return (
        "| Encode a job | Push one by one | Push in bulk | Run empty jobs, one process |\n"
        f"|---|---|---|---|\n| {' | '.join(cells)} |"
    )


def between_markers(text: str, block: str, page: str) -> str:
    """Return the text of a page with a block in the place of what stands between its markers."""
    before, first, rest = text.partition(MARKERS[0])
    _, last, after = rest.partition(MARKERS[1])
    if not (first and last):
        sys.exit(f"{page} lacks its markers: {MARKERS[0]} and {MARKERS[1]}")
    return f"{before}{first}{block}{last}{after}"


def load() -> Results:
    """Return the results of the run that the command line names."""
    source = Path(sys.argv[1])
    if not source.exists():
        sys.exit(f"{source} does not exist: run make bench first.")
    return json.loads(source.read_text("utf-8"))


def where(results: Results) -> str:
    """Return when and on what the results were measured."""
    return f"{results['when'][:10]}, {results['machine']}"


def readme(text: str, results: Results) -> str:
    """Return the README's text with its row of figures replaced by these results."""
    block = f"""
{headline(results)}

In parentheses: the figure of others, divided by ours. Client, worker and a real Faktory server
share two cores ({where(results)}).
All figures, how they are measured, where others are faster: [benchmarks/](benchmarks/README.md).
"""
    return between_markers(text, block, "README.md")


def page(text: str, results: Results) -> str:
    """Return the text of benchmarks/README.md with its tables replaced by these results."""
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    block = f"""
![The figures of the table as bars](results.svg)

{table(results)}

After ±: half the distance between the quartiles, in percent. In parentheses: the figure divided by
that of the compiled core, median of the rounds. In bold: more than 5 % better than that core.
Client, worker and server share the machine. Logging is off; INFO logs two lines per job.

A list of each kind of value, written as JSON and read, beside orjson and msgspec. Above 1, they
take longer:

{kinds(results)}

{where(results)}; {versions}.
"""
    return between_markers(text, block, "benchmarks/README.md")


def draw(
    results: Results,
    path: Path,
    panels: Sequence[Row] = PANELS,
    is_green: Callable[[str], bool] = is_ours,
) -> None:
    """Draw a chart of six panels; in each of them a longer bar is better."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update(
        {"svg.hashsalt": "faktory", "svg.fonttype": "none", "font.size": 8, "axes.titlesize": 9}
    )
    from matplotlib import pyplot

    figure_, axes = pyplot.subplots(2, 3, figsize=(12, 5.5), layout="constrained")
    for axis, row in zip(axes.flat, panels, strict=True):
        rounds, ways = measured(results, row)
        bars = [bar(row.quantity, summary) for summary in ways.values()]
        middles = [middle for _, middle, _ in bars]
        errors = [
            [middle - low for low, middle, _ in bars],
            [high - middle for _, middle, high in bars],
        ]
        colours = ["#1a7f5a" if is_green(way) else "#9aa5b1" for way in ways]
        axis.barh(
            [*map(name, ways)], middles, xerr=errors, color=colours, ecolor="#444444", capsize=2.5
        )
        for place, (_, middle, high) in enumerate(bars):
            text = f" {figure(middle)}"
            axis.annotate(text, (high, place), (3, 0), textcoords="offset points", va="center")
        axis.set_title(f"{row.about} (n = {rounds})", loc="left")
        axis.invert_yaxis()
        axis.margins(x=0.2)
        axis.set_xlim(left=0)
        axis.xaxis.set_visible(False)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.tick_params(left=False)
    figure_.supxlabel(
        f"Longer is better; lines span the quartiles. {where(results)}",
        fontsize=7,
    )
    pyplot.savefig(path, metadata={"Date": None})


def bar(quantity: str, summary: Mapping[str, float]) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile as a rate."""
    low, middle, high = summary["low"], summary["median"], summary["high"]
    if quantity == "jobs/s":
        return low, middle, high
    per = 1e3 if quantity == "ns" else 1e6  # to millions per second, or to jobs per second of CPU
    return per / high, per / middle, per / low


def main() -> None:
    """Store the results of the given run, and update the chart and both pages."""
    results = load()
    texts = {
        path: write(path.read_text("utf-8"), results)
        for path, write in ((README, readme), (PAGE, page))
    }
    draw(results, HERE / "results.svg")
    for path, text in texts.items():
        path.write_text(text, "utf-8")
    for suffix in (".json", ".txt"):
        shutil.copy(Path(sys.argv[1]).with_suffix(suffix), HERE / f"results{suffix}")


if __name__ == "__main__":
    main()

"""Publish the results of `make bench`: a chart, and the figures in the README.

    python -m benchmarks.chart build/bench/results.json        (make chart)

Keeps the results as benchmarks/results.json and .txt, draws benchmarks/results.svg, and writes the
part of README.md between its two markers. That part is generated only: all its figures are from one
run, and losses are included.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

from .contest import figure, spread

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
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
    """Return the README's table, with better peers in bold."""
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


def headline(results: Results) -> str:
    """Return the paragraph with the most important figures."""
    encode, push, bulk, work = (measured(results, ROWS[number])[1] for number in (0, 4, 6, 8))
    if "faktory 1.0.0" not in work:
        sys.exit("Not in these results: faktory 1.0.0. The log of make bench says why.")

    core = (
        f"Encoding the command for a small job takes {figure(encode['cython']['median'])} ns "
        f"(with orjson {encode['orjson']['ratio']:.1f} times as long, with json "
        f"{encode['json']['ratio']:.0f} times)."
    )
    worker = (
        f"One worker process runs {figure(work['cython']['median'])} empty jobs a second, "
        f"{figure(work['cython, INFO']['median'])} with two log lines per job; the package "
        f"`faktory` 1.0.0, on threads and without logging, "
        f"{figure(work['faktory 1.0.0']['median'])}."
    )
    client = (
        "One connection to a real server on the same machine pushes "
        f"{figure(push['cython']['median'])} jobs a second one by one and "
        f"{figure(bulk['cython']['median'])} in bulk; prepared bytes on a bare socket reach "
        f"{push['prepared bytes']['ratio']:.2f} and "
        f"{bulk['prepared bytes']['ratio']:.2f} times that."
    )
    return fill(f"- **Fast.** {core} {client} {worker}", 100, subsequent_indent="  ")


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


def readme(text: str, results: Results) -> str:
    """Return the README's text with its figures replaced by these results."""
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    block = f"""
{headline(results)}

![The figures of the table as bars](benchmarks/results.svg)

<details><summary>All figures, their spread, and where others are faster</summary>

{table(results)}

After ±: half the distance between the quartiles, in percent. In parentheses: the figure divided by
that of the compiled core, median of the rounds. In bold: more than 5 % better than that core.
Client, worker and server share the machine. Logging is off; INFO logs two lines per job.
{results["when"][:10]}, {results["machine"]}; {versions}.

</details>
"""
    return between_markers(text, block, "README.md")


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

    figure_, axes = pyplot.subplots(2, 3, figsize=(11, 5), layout="constrained")
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
            [*map(name, ways)], middles, xerr=errors, color=colours, ecolor="#444444", capsize=2
        )
        for place, (_, middle, high) in enumerate(bars):
            axis.text(high, place, f" {figure(middle)}", va="center")
        axis.set_title(f"{row.about} (n = {rounds})", loc="left")
        axis.invert_yaxis()
        axis.margins(x=0.2)
        axis.set_xlim(left=0)
        axis.xaxis.set_visible(False)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.tick_params(left=False)
    figure_.supxlabel(
        f"Longer is better; lines span the quartiles. {results['when'][:10]}, {results['machine']}",
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
    """Store the results of the given run, and update chart and README."""
    results = load()
    text = readme(README.read_text("utf-8"), results)
    draw(results, HERE / "results.svg")
    README.write_text(text, "utf-8")
    for suffix in (".json", ".txt"):
        shutil.copy(Path(sys.argv[1]).with_suffix(suffix), HERE / f"results{suffix}")


if __name__ == "__main__":
    main()

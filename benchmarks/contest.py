"""Run a contest: measure several ways of doing the same work in turns, and print a table.

The speed of a shared machine changes by the second. So every way has its turn in every round, and
ways are compared within a round: the ratio of two ways is the median of their rounds' ratios, each
way to the first one. Spread is half the distance between the quartiles.

The record of a contest is plain data, which goes to JSON as it is:

    {"room": "client", "title": "...", "rounds": 9, "ways": {way: {quantity: {
        "median": ..., "low": ..., "high": ...,     quartiles, in the quantity's own unit
        "ratio": ...}}}}                            to the first way
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median, quantiles
from typing import Any

Turn = Callable[[], Mapping[str, float]]
"""Do the work once and return the measured values: `{"jobs/s": 21_000.0}`."""

Record = dict[str, Any]


def hold(benchmark: Any, room: str, title: str, ways: Mapping[str, Turn], rounds: int) -> Record:
    """Measure the ways in turns, after one round that is not counted; return the record."""
    taken: dict[str, dict[str, list[float]]] = {}

    def one_round() -> None:
        for way, turn in ways.items():
            for quantity, value in turn().items():
                taken.setdefault(way, {}).setdefault(quantity, []).append(value)

    one_round()
    taken.clear()
    benchmark.group = room
    benchmark.pedantic(one_round, rounds=rounds)
    first = taken[next(iter(ways))]
    return {
        "room": room,
        "title": title,
        "rounds": len(next(iter(first.values()))),
        "ways": {
            way: {quantity: _summary(values, first[quantity]) for quantity, values in each.items()}
            for way, each in taken.items()
        },
    }


def _summary(values: list[float], first: list[float]) -> dict[str, float]:
    low, _, high = quantiles(values, n=4) if len(values) > 1 else values * 3
    ratio = median(mine / other for mine, other in zip(values, first, strict=True))
    return {"median": median(values), "low": low, "high": high, "ratio": ratio}


def table(record: Record) -> str:
    """Return the record as text: a row per way, three columns per quantity."""
    ways: dict[str, dict[str, dict[str, float]]] = record["ways"]
    width = max(map(len, ways))
    quantities = list(next(iter(ways.values())))
    head = "".join(f"{quantity:>14}{'spread':>8}{'ratio':>8}" for quantity in quantities)
    lines = [f"{record['title']} (n = {record['rounds']})", f"{'':{width}}{head}"]
    for way, measured in ways.items():
        cells = (
            f"{figure(each['median']):>14}{spread(each):>8}{each['ratio']:7.2f}x"
            for each in (measured[quantity] for quantity in quantities)
        )
        lines.append(f"{way:{width}}{''.join(cells)}")
    return "\n".join(lines)


def figure(value: float) -> str:
    """Format a number with three significant digits, or all digits before the point."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def spread(summary: Mapping[str, float]) -> str:
    """Return half the distance between the quartiles, in percent of the median."""
    return f"{50 * (summary['high'] - summary['low']) / summary['median']:.0f}%"

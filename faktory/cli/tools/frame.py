"""The lines that `top` shows of a reading: pure, of a given width and height.

Rule: every text is ASCII, what a server sent is escaped, so that a character takes one column.
"""

from __future__ import annotations

from textwrap import wrap
from typing import Final

from ...wire.validate import clip
from . import output, readings
from .backlog import LONG_WAIT
from .readings import Rates, Reading, Seen

MAX_QUEUES: Final = 50
"""Queues of a block of lines, unless they are named: there may be thousands."""

NUMBERS: Final = 6
"""Lines between the header and the queues."""

TWO_COLUMNS: Final = 61
"""Columns of a screen from which on the sets stand beside the counts."""

NARROW: Final = ("processed", "failed", "enqueued", "working", "retries", "dead")
"""What a narrower screen shows, in one column."""

Row = list[tuple[str, str]]
"""Pieces of a line, each a text and a meaning of `terminal.STYLES`, or ""."""


def frame(
    seen: Seen, title: str, width: int, height: int | None = None, hint: str = "", note: str = ""
) -> list[Row]:
    """Return what there is to show: `height` lines at most, each of `width` columns at most.

    `title` names the server, `hint` stands beside it; `note` says why the numbers are old.
    """
    lines = [_header(seen.latest, title, hint, width)]
    lines += [
        [(text, "error")]
        for text in wrap(_ascii(note), max(width, 10), max_lines=3, placeholder="...")
    ]
    rates = readings.rates(None if note else seen.before, seen.latest)
    lines += [[], *_numbers(seen.latest, rates, width), []]
    room = MAX_QUEUES + 2 if height is None else height - len(lines)
    if height is None and seen.latest.names:
        room = len(seen.latest.shown) + 2
    lines += _queues(seen, rates, width, room)
    return [_cut(line, width) for line in lines[:height]]


def room_for_queues(height: int) -> int:
    """Return how many queues fit into so many lines."""
    return max(1, height - NUMBERS - 4)


def plain(lines: list[Row]) -> str:
    """Return lines as text."""
    return "\n".join("".join(text for text, _ in line).rstrip() for line in lines)


def _header(reading: Reading, title: str, hint: str, width: int) -> Row:
    server = " ".join(_text(reading.of_server(name)) for name in ("description", "faktory_version"))
    up = output.number(reading.of_server("uptime"))
    age = "" if up is None else f", up {output.duration(up if up < 60 else up - up % 60)}"
    left = f"{server} at {_ascii(title)}{age}"
    gap = width - len(left) - len(hint)
    return [(left, "title"), (" " * gap + hint, "dim")] if gap > 1 else [(left, "title")]


def _numbers(reading: Reading, rates: Rates, width: int) -> list[Row]:
    state = reading.state
    workers = reading.of_faktory("tasks", "Workers", "size")
    waiting = sum(state.queues.values())
    memory = reading.of_server("used_memory_mb")  # 0 of the embedded server, which does not say
    idle = workers == 0 and waiting > 0
    sets = {name: state.sets.get(name, 0) for name in readings.SETS}
    failing = "error" if rates.failed else ""
    counted = output.counted(len(state.queues), "queue")
    left = (
        ("processed", _amount(reading.of_faktory("total_processed")), _rate(rates.processed), ""),
        ("failed", _amount(reading.of_faktory("total_failures")), _rate(rates.failed), failing),
        ("pushed", "", _rate(rates.pushed), ""),
        ("commands", _amount(reading.of_server("command_count")), _rate(rates.commands), ""),
        ("connections", _amount(reading.of_server("connections")), "", ""),
        ("memory", f"{_amount(memory)} MB" if memory else "-", "", ""),
    )
    right = (
        ("enqueued", f"{waiting:,}", f"in {counted}", ""),
        ("scheduled", f"{sets['scheduled']:,}", "", ""),
        ("working", f"{sets['working']:,}", "", ""),
        ("retries", f"{sets['retries']:,}", "", "warning" if sets["retries"] else ""),
        ("dead", f"{sets['dead']:,}", "", "error" if sets["dead"] else ""),
        (
            "workers",
            _amount(workers),
            "none is connected" if idle else "",
            "warning" if idle else "",
        ),
    )
    if width < TWO_COLUMNS:
        sets_below = ((name, count, "", style) for name, count, _, style in right)
        rows = {row[0]: row for row in (*left, *sets_below)}
        return [
            [(f"{name:<12}", "dim"), (f"{_fit(value, 13):>13}{rate:>12}", style)]
            for name, value, rate, style in map(rows.__getitem__, NARROW)
        ]
    return [
        [
            (f"{name:<12}", "dim"),
            (f"{_fit(value, 13):>13}{rate:>12}   ", style),
            (f"{other:<10}", "dim"),
            (f"{_fit(count, 11):>11}  {more}", other_style),
        ]
        for (name, value, rate, style), (other, count, more, other_style) in zip(
            left, right, strict=True
        )
    ]


def _queues(seen: Seen, rates: Rates, width: int, room: int) -> list[Row]:
    """Return the table of queues, of so many lines at most."""
    reading = seen.latest
    sizes = reading.sizes
    if not sizes:
        return [[("The server has no queues.", "dim")]]
    if room < 2:
        return []
    count = len(sizes) if len(sizes) < room else room - 2
    shown = reading.shown[:count]
    if len(shown) < count:  # there is more room than when they were read
        shown = readings.largest(sizes, count)
    names = [_ascii(name) for name in shown]
    column = max(20, min(max(map(len, names), default=0), width - 42))
    cells = (f"{'QUEUE':<{column}}", f"{'JOBS':>12}", f"{'CHANGE':>12}", f"{'OLDEST WAITS':>16}")
    lines: list[Row] = [_whole([(cell, "dim") for cell in cells], width)]
    for name, label in zip(shown, names, strict=True):
        size, wait = sizes[name], reading.latencies.get(name)
        old = "warning" if wait is not None and wait >= LONG_WAIT and size else ""
        change = _change(seen.before, name, size, rates.seconds)
        style = "" if size else "dim"
        row = [
            (f"{_fit(label, column):<{column}}", ""),
            (f"{size:>12,}", style),
            (f"{change:>12}", style),
            (f"{_wait(size, wait):>16}", old or style),
        ]
        lines.append(_whole(row, width))
    if len(sizes) > len(shown):
        rest = sum(sizes.values()) - sum(sizes[name] for name in shown)
        hidden = output.counted(len(sizes) - len(shown), "more queue")
        lines.append([(f"and {hidden} with {output.jobs(rest)}", "dim")])
    return lines


def _change(before: Reading | None, name: str, size: int, seconds: float) -> str:
    if before is None or not seconds:
        return ""
    change = (size - before.state.queues.get(name, 0)) / seconds
    return f"{'-' if change < 0 else '+'}{_rate(abs(change))}" if change else ""


def _wait(size: int, seconds: float | None) -> str:
    if not size:
        return "-"
    return "?" if seconds is None else output.duration(max(seconds, 0.0))


def _rate(rate: float | None) -> str:
    if rate is None:
        return "-"
    return f"{rate:,.0f}/s" if rate >= 99.95 or not rate else f"{rate:.1f}/s"


def _amount(value: object) -> str:
    return "?" if value is None else _ascii(output.amount(value))


def _text(value: object) -> str:
    return "?" if value is None else _ascii(clip(str(value), 40))


def _ascii(text: str) -> str:
    return output.escape(text).encode("ascii", "backslashreplace").decode()


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _whole(cells: Row, width: int) -> Row:
    """Return the first cells of a line, as many as a screen shows whole; one at least."""
    while len(cells) > 1 and sum(len(text) for text, _ in cells) > width:
        cells = cells[:-1]
    return cells


def _cut(line: Row, width: int) -> Row:
    """Return a line without what is beyond the last column."""
    cut: Row = []
    for text, style in line:
        cut.append((text[: max(width, 0)], style))
        width -= len(text)
    return cut

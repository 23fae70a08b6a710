"""Write tables, JSON and progress, and ask before something that cannot be undone.

Rules: standard output has the result only; questions and progress go to standard error. The text
is the same with and without a terminal, except for progress. What a server sent may hold characters
that control a terminal: text goes through `escape`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic

from ...wire.validate import brief
from ..exits import Exit, ExitError

Advance = Callable[[str, float | None], None]
"""Called with a text and the part that is done, from 0 to 1, or None if that is not known."""


def show_json(value: object) -> None:
    """Print one JSON value, on one line."""
    print(json.dumps(value))


def show(text: str) -> None:
    """Print a text, each line escaped."""
    print("\n".join(map(escape, text.split("\n"))))


def escape(text: object) -> str:
    """Return text whose control characters, and others that cannot be shown, are escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(text)
    )


def number(value: object) -> float | None:
    """Return a number that a server sent, None if it is none or absurdly large."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15:
        return value
    return None


def amount(value: object) -> str:
    """Return a number that a server sent with its thousands apart, anything else as it is."""
    return brief(value) if (found := number(value)) is None else f"{found:,}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows below a header, the first column aligned to the left, the others to the right."""
    lines = [tuple(header), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        ).rstrip()
        for line in lines
    )


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: 2 d 3 h, 4 min 5 s, 0.6 s."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    left = round(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        many, left = divmod(left, length)
        if many or parts:
            parts.append(f"{many} {unit}" if many else "")
    return " ".join(part for part in parts[:2] if part)


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: 1 queue, 1,234 queues."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def jobs(count: int) -> str:
    """Return a count of jobs: 1 job, 1,234 jobs."""
    return counted(count, "job")


def confirm(question: str, yes: bool) -> None:
    """Ask on the terminal, unless `yes`; raise ExitError (DECLINED) if the answer is not yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ExitError(
            Exit.DECLINED,
            f"{question} Without a terminal there is no answer, so nothing was changed; "
            "--yes goes on without asking.",
        )
    print(f"{escape(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ExitError(Exit.DECLINED, "nothing was changed.")


@contextmanager
def progress(log_interval: float = 5.0) -> Iterator[Advance]:
    """Show the progress of a long task: a bar if rich is installed, else a line that changes.

    Without a terminal write a line every `log_interval` seconds.
    """
    if not sys.stderr.isatty():
        yield _log_lines(log_interval)
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        try:
            yield _one_line
        finally:
            print(file=sys.stderr)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None)

        def advance(text: str, part: float | None) -> None:
            total = None if part is None else 1.0
            bar.update(task, description=text, completed=part or 0.0, total=total)

        yield advance


def _log_lines(interval: float) -> Advance:
    last = monotonic()

    def advance(text: str, part: float | None) -> None:
        nonlocal last
        if monotonic() - last >= interval:
            last = monotonic()
            print(text + _percent(part), file=sys.stderr, flush=True)

    return advance


def _one_line(text: str, part: float | None) -> None:
    print(f"\r{text}{_percent(part):8}", end="", file=sys.stderr, flush=True)


def _percent(part: float | None) -> str:
    return "" if part is None else f", {part:.0%}"

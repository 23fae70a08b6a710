"""Write tables, JSON and progress, and ask before something that cannot be undone.

Rules: standard output has the result only; questions and progress go to standard error. The text
is the same with and without a terminal, except for progress and colour. What a server sent may hold
characters that control a terminal: text goes through `escape`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import inf
from time import monotonic
from typing import TextIO

from ...wire.amounts import counted as counted
from ...wire.validate import brief
from .. import terminal
from ..exits import Exit, ExitError
from ..terminal import duration as duration

Advance = Callable[[int, float | None], None]
"""Called with how many jobs are done, and the part that is, from 0 to 1, or None if unknown."""

REDRAW_INTERVAL = 0.25
"""Seconds between two times that a line of progress is drawn."""


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


def is_live() -> bool:
    """Return whether progress is shown: on a terminal where a line can be redrawn."""
    return terminal.is_live(sys.stderr)


def paint(text: str, meaning: str) -> str:
    """Return text for standard output in the colour of a meaning, as it is without colour."""
    return terminal.painted(text, meaning, sys.stdout)


@contextmanager
def progress(doing: str) -> Iterator[Advance]:
    """Show on a terminal, in one line that is redrawn in place, how many jobs are done.

    It is gone at the end. `doing` is the first word of it, as "pushing".
    """
    if not is_live():
        yield lambda count, part: None  # noqa: ARG005
        return
    line = _ProgressLine(doing, sys.stderr)
    try:
        yield line.advance
    finally:
        line.close()


class _ProgressLine:
    """One line: jobs so far, how many a second, the share, and how long the rest will take."""

    def __init__(self, doing: str, stream: TextIO, clock: Callable[[], float] = monotonic) -> None:
        self._doing = doing
        self._stream = stream
        self._clock = clock
        self._began = clock()
        self._drawn_at = -inf
        self._is_open = True

    def advance(self, count: int, part: float | None) -> None:
        """Draw the line, a few times a second at most."""
        now = self._clock()
        if now - self._drawn_at < REDRAW_INTERVAL or not self._is_open:
            return
        self._drawn_at = now
        text = self._text(count, part, now - self._began)
        self._write(terminal.fit(text, terminal.columns(self._stream) - 1))

    def _text(self, count: int, part: float | None, seconds: float) -> str:
        parts = [f"{self._doing}: {jobs(count)}"]
        if seconds > 0:
            parts.append(f"{count / seconds:,.0f} a second")
        if part is not None:
            part = min(part, 1.0)  # of a file that grows
            parts.append(f"{part:.0%}")
        if part and seconds >= 1:
            parts.append(f"{duration(seconds / part * (1 - part))} left")
        return ", ".join(parts)

    def close(self) -> None:
        """Erase the line."""
        self._is_open = False
        if self._drawn_at >= self._began:
            self._write("")

    def _write(self, text: str) -> None:
        with suppress(OSError):
            print(f"\r{text}\x1b[K", end="", file=self._stream, flush=True)

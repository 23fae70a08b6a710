"""The log on a terminal: lines that are painted by what they mean, and how things stand below them.

Rules: what a line says is what it says as text, but for the date, the thread and the unit of a
duration. One word of a line has a colour: how a job ended, or the level.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import localtime, strftime
from typing import TYPE_CHECKING, Final

from ...jobs import registry
from ...wire.log import cut, escape_lines
from ...worker import counts
from .. import terminal
from ..terminal import paint
from .formats import MAX_TEXT, TextFormatter, indented, more_lines

if TYPE_CHECKING:
    from ...worker import Worker
    from .writer import Writer

MAX_NAME: Final = 24
"""Columns that names of job types are aligned in; a longer one takes what it needs."""

_EVENTS: Final = {
    "start": "dim",
    "done": "good",
    "failed": "error",
    "exhausted": "error",
    "retried": "warning",
    "discarded": "warning",
}
"""The meaning of what became of a job."""

_LEVELS: Final = ((logging.ERROR, "error"), (logging.WARNING, "warning"), (logging.INFO, ""))

_DURATION: Final = re.compile(r"(?<= in )\d+\.\d{3} s")
"""As the lines of jobs have it."""

_WORD: Final = re.compile(r"\S*")

_STATES: Final = {
    "outage": "no connection",
    "starting": "connecting",
    "refused": "FETCH is refused",
}


class LiveFormatter(TextFormatter):
    """Writes time, job type and jid in columns, and the message; shows `pid` if there are many."""

    def __init__(self, many: bool) -> None:
        super().__init__(many)
        self._name_width = 0
        self._now = (-1, "")
        self._day = ""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback comes after it."""
        jobtype, jid = getattr(record, "jobtype", ""), getattr(record, "jid", "")
        message = record.getMessage()
        if jid and not getattr(record, "job", ""):  # it names the job itself
            name, _, rest = message.partition(f" {jid} ")
            if rest and _names(name, jobtype):
                jobtype, message = name, rest
            else:
                jid = ""
        head = self._time(int(record.created))
        if self._many:
            head += paint(f" {record.process}", "dim")
        meaning = self._meaning(record) if jid else ""
        if jid:
            head += f" {self._name(_escaped(jobtype))} {paint(_escaped(jid), 'dim')}"
        if meaning:
            message = self._of_job(record, message, meaning)
        else:
            message = self._of_level(record, _escaped(message))
        line = f"{head} {message}"
        for more in more_lines(record):
            line += "\n" + escape_lines(cut(more, MAX_TEXT))
        return line

    def _meaning(self, record: logging.LogRecord) -> str:
        return _EVENTS.get(str(getattr(record, "event", "")), "")

    def _of_job(self, record: logging.LogRecord, message: str, meaning: str) -> str:
        seconds = getattr(record, "seconds", None)
        if isinstance(seconds, int | float):
            message = _DURATION.sub(terminal.short_duration(seconds), message, count=1)
        message = _escaped(message)
        end = _WORD.match(message).end()  # type: ignore[union-attr]
        return paint(message[:end], meaning) + message[end:]

    def _of_level(self, record: logging.LogRecord, message: str) -> str:
        level = record.levelno or 0
        meaning = next((name for least, name in _LEVELS if level >= least), "dim")
        if meaning == "dim":
            return paint(f"{record.levelname} {message}", meaning)
        return f"{paint(record.levelname, meaning)} {message}" if meaning else message

    def _name(self, name: str) -> str:
        width = terminal.width(name)
        self._name_width = max(self._name_width, min(width, MAX_NAME))
        return name + " " * (self._name_width - width)

    def align(self, names: Iterable[str]) -> None:
        """Make room for the names of job types that are known."""
        for name in names:
            self._name(_escaped(name))

    def _time(self, second: int) -> str:
        known, shown = self._now
        if known != second:
            day, shown = strftime("%Y-%m-%d %H:%M:%S", localtime(second)).split(" ")
            shown = paint(shown, "dim")
            if self._day and day != self._day:
                # The first line of a day says which: a worker may be left alone over night.
                self._day = day
                self._now = second, shown
                return f"{paint(day, 'dim')}\n{shown}"
            self._day = day
            self._now = second, shown
        return shown


def _names(name: str, jobtype: str) -> bool:
    """Return whether a line names a job type so, which is cut where it is long."""
    return name == jobtype or (name.endswith("...") and jobtype.startswith(name[:-3]))


def _escaped(text: str) -> str:
    if text.isprintable() and len(text) <= MAX_TEXT:
        return text
    return indented(escape_lines(cut(text, MAX_TEXT)))


class _Status:
    """How a worker is: what runs, what is done, what failed."""

    def __init__(self, worker: Worker, writer: Writer, counted: counts.Counts) -> None:
        self._worker = worker
        self._writer = writer
        self._counted = counted

    def __call__(self) -> bytes:
        worker = self._worker
        tallies = [each.tally for each in worker._manager.processors if each.tally is not None]
        ended = self._counted.ended(tallies)
        parts = [
            (f"{worker.busy} running", ""),
            (f"{ended['done']:,} done", "good" if ended["done"] else "dim"),
            (f"{ended['failed'] + ended['exhausted']:,} failed", "error"),
        ]
        if not ended["failed"] + ended["exhausted"]:
            parts[-1] = ("0 failed", "dim")
        parts += [
            (f"{ended[name]:,} {name}", "warning")
            for name in ("retried", "discarded")
            if ended[name]
        ]
        if state := self._state():
            parts.append((state, "warning"))
        return _line(parts, terminal.columns(self._writer.descriptor) - 1).encode(
            self._writer.encoding, "backslashreplace"
        )

    def _state(self) -> str:
        worker = self._worker
        if worker.is_disconnecting:
            return "stopping"
        if worker.is_quiet:
            return "quiet"
        return _STATES.get(worker._manager.outage.state(0.0), "")


def _line(parts: list[tuple[str, str]], columns: int) -> str:
    """Return texts beside each other, painted, and cut where there are too few columns."""
    line = ""
    for number, (text, meaning) in enumerate(parts):
        gap = "   " if number else ""
        if columns <= len(gap):
            break
        text = terminal.fit(text, columns - len(gap))
        columns -= len(gap) + terminal.width(text)
        line += gap + (paint(text, meaning) if meaning else text)
    return line


@contextmanager
def shown(worker: Worker, writer: Writer | None) -> Iterator[None]:
    """Show how a worker is below the log within a `with` block; without a writer only align it."""
    for handler in logging.root.handlers:
        if isinstance(handler.formatter, LiveFormatter):
            handler.formatter.align([*registry.names(), *worker._tasks])
    if writer is None:
        yield
        return
    line = writer.use_status_line()
    line.has_keys = lambda: worker.is_quiet or worker.is_disconnecting
    line.size = lambda: terminal.size(writer.descriptor)
    line.show(_Status(worker, writer, counts.enable()))  # drawn with the first line
    try:
        yield
    finally:
        line.show(None)
        writer.redraw()

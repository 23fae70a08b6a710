"""Colour and lines that are redrawn: where they are, where not, and what they look like."""

from __future__ import annotations

import io
import logging
import re
import sys
import time
from typing import Any

import pytest

from faktory.cli import terminal
from faktory.cli.worker.live import LiveFormatter, _line
from faktory.wire.validate import clip

pytest.importorskip("rich")


class Stream(io.StringIO):
    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


XTERM = {"TERM": "xterm-256color"}


@pytest.mark.parametrize(
    ("environ", "live", "colour", "in_a_pipe"),
    [
        (XTERM, True, True, False),
        ({}, False, False, False),
        ({"TERM": "dumb"}, False, False, False),
        ({**XTERM, "NO_COLOR": "1"}, False, False, False),
        ({**XTERM, "NO_COLOR": ""}, True, True, False),
        ({**XTERM, "CLICOLOR": "0"}, False, False, False),
        ({**XTERM, "FORCE_COLOR": "1"}, True, True, True),
        ({"FORCE_COLOR": "1"}, False, True, True),
        ({**XTERM, "CLICOLOR_FORCE": "1"}, True, True, True),
        ({**XTERM, "CLICOLOR_FORCE": "0", "FORCE_COLOR": ""}, True, True, False),
        ({**XTERM, "FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False, False),
    ],
)
def test_variables_decide_as_elsewhere(
    environ: dict[str, str], live: bool, colour: bool, in_a_pipe: bool
) -> None:
    assert terminal.is_live(Stream(True), environ) is live
    assert terminal.has_colour(Stream(True), environ) is colour
    assert terminal.has_colour(Stream(False), environ) is in_a_pipe
    assert not terminal.is_live(Stream(False), environ)


def test_plain_is_stronger_than_all_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "is_plain", True)
    assert not terminal.is_live(Stream(True), XTERM)
    assert not terminal.has_colour(Stream(True), {**XTERM, "FORCE_COLOR": "1"})


def test_without_rich_there_is_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "has_rich", lambda: False)
    assert not terminal.has_colour(Stream(True), XTERM)


def test_a_stream_that_is_closed_or_none_is_not_a_terminal() -> None:
    closed = Stream(True)
    closed.close()
    assert not terminal.is_live(None, XTERM)
    assert not terminal.is_live(object(), XTERM)
    assert not terminal.is_live(io.TextIOWrapper(io.BytesIO()), XTERM)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 ms"),
        (0.0004, "0.4 ms"),
        (0.00996, "10 ms"),
        (0.012, "12 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (3.44, "3.4 s"),
        (59.96, "1 min"),
        (125, "2 min 5 s"),
        (7290, "2 h 1 min"),
    ],
)
def test_durations_are_in_peoples_units(seconds: float, text: str) -> None:
    assert terminal.short_duration(seconds) == text


def test_wide_characters_take_two_columns() -> None:
    assert terminal.width("日本 a") == 6
    assert terminal.fit("日本語", 5) == "日本"
    assert terminal.fit("日本語", 6) == "日本語"
    assert terminal.fit("abcdef", 3) == "abc"


def test_the_status_is_cut_where_there_are_too_few_columns() -> None:
    parts = [("2 running", ""), ("1,234 done", ""), ("日本語", "")]
    assert _line(parts, 40) == "2 running   1,234 done   日本語"
    assert _line(parts, 28) == "2 running   1,234 done   日"
    assert [len(_line(parts, columns)) for columns in (25, 24, 15, 9, 3)] == [22, 22, 15, 9, 3]


# Lines of the log


def record(message: str, level: int = logging.INFO, **fields: Any) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {
            "msg": message,
            "args": (),
            "levelno": level,
            "levelname": logging.getLevelName(level),
            "created": time.mktime((2026, 1, 2, 3, 4, 5, 0, 0, -1)),
            "name": "faktory.worker.job",
            "job": "",
            "jid": "",
            "jobtype": "",
        }
    )
    vars(made).update(fields)
    return made


def of_job(rest: str, event: str, jobtype: str = "resize", **fields: Any) -> logging.LogRecord:
    named = {"jid": "abcdefgh", "jobtype": jobtype, "event": event}
    return record(f"{jobtype} abcdefgh {rest}", **{**named, **fields})


def marked(text: str) -> str:
    """Return a line with its colours as names."""
    names = {"": "/", "0": "/", "2": "dim", "32": "green", "33": "yellow", "1;31": "red"}
    return re.sub(r"\x1b\[([0-9;]*)m", lambda found: f"<{names[found[1]]}>", text)


@pytest.mark.parametrize(
    ("rest", "event", "seconds", "shown"),
    [
        ("start", "start", None, "<dim>start</>"),
        ("done in 0.012 s", "done", 0.0123, "<green>done</> in 12 ms"),
        (
            "fail in 125.001 s: ValueError: x",
            "failed",
            125.0,
            "<red>fail</> in 2 min 5 s: ValueError: x",
        ),
        ("again at 12:34:56", "retried", None, "<yellow>again</> at 12:34:56"),
        ("done in 0.012 s: in 0.555 s", "done", 0.0123, "<green>done</> in 12 ms: in 0.555 s"),
    ],
)
def test_how_a_job_ended_has_a_colour(
    rest: str, event: str, seconds: float | None, shown: str
) -> None:
    fields = {} if seconds is None else {"seconds": seconds}
    line = LiveFormatter(False).format(of_job(rest, event, **fields))
    assert marked(line) == f"<dim>03:04:05</> resize <dim>abcdefgh</> {shown}"


def test_a_long_name_is_cut_and_its_line_has_colours_all_the_same() -> None:
    made = of_job("done in 0.012 s", "done", "x" * 200, seconds=0.0123)
    made.msg = str(made.msg).replace("x" * 200, clip("x" * 200))
    line = marked(LiveFormatter(False).format(made))
    assert line.endswith("x... <dim>abcdefgh</> <green>done</> in 12 ms")
    assert len(line) < 200


def test_names_of_jobs_are_aligned() -> None:
    format = LiveFormatter(False).format
    lines = [
        format(of_job("start", "start", jobtype=jobtype))
        for jobtype in ("resize", "send_mail", "ok", "日本", "x" * 40, "ok")
    ]
    places = [terminal.width(marked(line).partition("<dim>abcdefgh")[0]) for line in lines]
    assert places[1:4] == [places[1]] * 3
    assert places[5] - places[3] == 24 - len("send_mail")
    assert places[0] < places[1]
    assert places[4] == places[5] + 16


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        (logging.DEBUG, "<dim>DEBUG text</>"),
        (logging.INFO, "text"),
        (logging.WARNING, "<yellow>WARNING</> text"),
        (logging.ERROR, "<red>ERROR</> text"),
        (logging.CRITICAL, "<red>CRITICAL</> text"),
    ],
)
def test_a_level_has_a_colour(level: int, shown: str) -> None:
    line = LiveFormatter(False).format(record("text", level))
    assert marked(line) == f"<dim>03:04:05</> {shown}"


def test_what_a_job_logs_stands_in_the_same_columns() -> None:
    fields = {"jid": "abcdefgh", "jobtype": "resize", "job": "resize abcdefgh ", "name": "app"}
    line = LiveFormatter(False).format(record("careful", logging.WARNING, **fields))
    assert marked(line) == ("<dim>03:04:05</> resize <dim>abcdefgh</> <yellow>WARNING</> careful")


def test_one_of_several_processes_is_named() -> None:
    line = LiveFormatter(True).format(record("text", process=123))
    assert marked(line) == "<dim>03:04:05</><dim> 123</> text"


def test_a_new_day_is_named() -> None:
    format = LiveFormatter(False).format
    first, second = record("one"), record("two")
    second.created += 86_400
    assert "\n" not in format(first)
    assert marked(format(second)) == "<dim>2026-01-03</>\n<dim>03:04:05</> two"
    assert "\n" not in format(second)


def test_text_cannot_paint_or_forge_lines() -> None:
    format = LiveFormatter(False).format
    for line in (
        format(record("a\x1b[31m\nb")),
        format(of_job("fail in 0.001 s: a\x1b[31m\nb", "failed", seconds=0.001)),
        format(of_job("start\x1b[31m\nb", "start", jobtype="odd\x1b[31m")),
    ):
        assert "\\x1b[31m" in line
        assert "\x1b[31m" not in line
        assert "\n    b" in line


def test_a_traceback_stays_as_it_is() -> None:
    try:
        raise ValueError("a\x1b[2Jb")
    except ValueError:
        made = of_job("fail in 0.001 s", "failed", seconds=0.001, exc_info=sys.exc_info())
    lines = LiveFormatter(False).format(made).split("\n")
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: a\\x1b[2Jb"

from __future__ import annotations

import io
import re
import sys

import pytest

from faktory.cli.exits import Exit, ExitError
from faktory.cli.tools import output


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_table_aligns_names_to_the_left_and_numbers_to_the_right():
    rows = [("default", "5", "-"), ("a", "1,000", "2 h")]
    assert output.table(("queue", "jobs", "waits"), rows) == (
        "queue     jobs  waits\ndefault      5      -\na        1,000    2 h"
    )


def test_a_table_without_rows_is_its_header():
    assert output.table(("queue", "jobs"), []) == "queue  jobs"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.55, "0.6 s"),
        (9.96, "10.0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3605, "1 h"),
        (7290, "2 h 1 min"),
        (86_400 * 2 + 3600 * 3 + 59, "2 d 3 h"),
    ],
)
def test_a_duration_shows_its_two_largest_units(seconds, text):
    assert output.duration(seconds) == text


def test_a_count_of_jobs_has_the_right_plural():
    assert [output.jobs(0), output.jobs(1), output.jobs(1234)] == ["0 jobs", "1 job", "1,234 jobs"]


@pytest.mark.parametrize("answer", ["y\n", "Yes\n", " YES \n"])
def test_confirm_accepts_a_yes(answer, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    output.confirm("Delete all?", yes=False)
    assert capsys.readouterr() == ("", "Delete all? [y/N] ")


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "yesterday\n"])
def test_confirm_declines_everything_else(answer, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    with pytest.raises(ExitError, match="nothing was changed") as end:
        output.confirm("Delete all?", yes=False)
    assert end.value.code == Exit.DECLINED


def test_confirm_without_a_terminal_ignores_a_yes_on_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(ExitError, match=r"^Delete all\? .*nothing was changed; --yes"):
        output.confirm("Delete all?", yes=False)
    output.confirm("Delete all?", yes=True)


def test_progress_without_a_terminal_is_nothing(capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    with output.progress("pushing") as advance:
        advance(1, 0.5)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_progress_is_nothing_where_nobody_wants_it(monkeypatch, name, value):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with output.progress("pushing") as advance:
        advance(1, 0.5)
    assert sys.stderr.getvalue() == ""


def test_progress_on_a_terminal_is_one_line_that_is_gone_at_the_end(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with output.progress("pushing") as advance:
        advance(1, None)
    advance(2, None)  # too late
    shown = sys.stderr.getvalue()
    assert re.fullmatch(r"\rpushing: 1 job, [\d,]+ a second\x1b\[K\r\x1b\[K", shown)


def test_progress_has_rate_share_and_what_remains():
    times = iter([0.0, 2.0, 2.1, 100.0, 101.0])
    stream = Terminal()
    line = output._ProgressLine("pushing", stream, lambda: next(times))
    line.advance(57_000, 0.25)
    line.advance(60_000, 0.26)  # too soon
    line.advance(2_000_000, 0.5)
    line.advance(2_020_000, 1.2)  # of a file that has grown
    assert stream.getvalue().replace("\x1b[K", "").split("\r")[1:] == [
        "pushing: 57,000 jobs, 28,500 a second, 25%, 6.0 s left",
        "pushing: 2,000,000 jobs, 20,000 a second, 50%, 1 min 40 s left",
        "pushing: 2,020,000 jobs, 20,000 a second, 100%, 0.0 s left",
    ]

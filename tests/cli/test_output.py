from __future__ import annotations

import io
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


def test_progress_without_a_terminal_is_a_line_per_interval(capsys):
    with output.progress() as advance:
        advance("pushed 1 job", 0.5)
    assert capsys.readouterr().err == ""  # the task is too short for a line
    with output.progress(log_interval=0) as advance:
        advance("pushed 1 job", 0.5)
        advance("pushed 2 jobs", None)
    assert capsys.readouterr() == ("", "pushed 1 job, 50%\npushed 2 jobs\n")


def test_progress_on_a_terminal_without_rich_is_one_line_that_changes(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with output.progress() as advance:
        advance("pushed 1 job", 0.5)
        advance("pushed 2 jobs", 1.0)
    shown = sys.stderr.getvalue()
    assert shown == "\rpushed 1 job, 50%   \rpushed 2 jobs, 100%  \n"


def test_progress_on_a_terminal_with_rich_is_a_bar(monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with output.progress() as advance:
        advance("pushed 1 job", 0.5)
        advance("pushed 2 jobs", 1.0)
    shown = sys.stderr.getvalue()
    assert "pushed 2 jobs" in shown
    assert "━━━━" in shown

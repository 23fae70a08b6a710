"""The line below the log: it is drawn below all that is written, and takes nothing of it away."""

from __future__ import annotations

import os
import random

import pytest

from faktory.cli.worker import status_line as module
from faktory.cli.worker.status_line import StatusLine
from faktory.cli.worker.writer import Text, Writer

from .emulator import Emulator
from .support import WaitUntil


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each line drawn as it is now."""
    monkeypatch.setattr(module, "DRAW_INTERVAL", 0.0)


@pytest.fixture
def status_line() -> StatusLine:
    """One whose status is what a test puts into `text`."""
    status_line = StatusLine()
    status_line.show(lambda: b"2 running")
    return status_line


def shown(*pieces: bytes, columns: int = 80, rows: int = 24) -> list[str]:
    """Return the lines of a terminal, without empty ones at the end."""
    terminal = Emulator(columns, rows)
    for piece in pieces:
        terminal.feed(piece.decode())
    lines = terminal.lines
    while lines and not lines[-1]:
        lines.pop()
    return lines


def test_lines_stand_above_the_status(status_line: StatusLine) -> None:
    written = [
        status_line.compose(b"one\n", False, True),
        status_line.compose(b"two\nthree\n", False, True),
    ]
    assert shown(*written) == ["one", "two", "three", "", "2 running"]


def test_a_screen_scrolls_and_loses_no_line(status_line: StatusLine) -> None:
    lines = [f"line {number}" for number in range(100)]
    written = [status_line.compose(f"{line}\n".encode(), False, True) for line in lines]
    assert shown(*written, rows=5) == [*lines, "", "2 running"]


def test_nothing_is_written_where_nothing_has_changed(status_line: StatusLine) -> None:
    assert status_line.compose(b"", False, False) != b""
    assert status_line.compose(b"", False, False) == b""
    status_line.show(lambda: b"3 running")
    assert shown(status_line.compose(b"", False, False)) == ["", "3 running"]


def test_it_is_made_a_few_times_a_second_at_most(
    status_line: StatusLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DRAW_INTERVAL", 60.0)
    made: list[int] = []
    status_line.show(lambda: b"%d" % (made.append(1) or len(made)))
    written = [status_line.compose(b"line\n", False, True) for _ in range(5)]
    assert shown(*written) == [*["line"] * 5, "", "1"]
    assert len(made) == 1


def test_the_status_is_gone_when_it_is_not_shown_any_more(status_line: StatusLine) -> None:
    drawn = status_line.compose(b"one\n", False, True)
    status_line.show(None)
    assert shown(drawn, status_line.compose(b"", False, False)) == ["one"]
    assert status_line.compose(b"two\n", False, True) == b"two\n"


def test_what_another_process_has_written_stays(status_line: StatusLine) -> None:
    drawn = status_line.compose(b"one\n", False, True)
    again = status_line.compose(b"two\n", False, True)
    assert shown(drawn, b"of a subprocess\n", again) == [
        "one",
        "of a subprocess",
        "two",
        "",
        "2 running",
    ]


def test_a_line_that_is_not_complete_stays_above_the_status(status_line: StatusLine) -> None:
    drawn = status_line.compose(b"one\nPassword: ", False, True)
    assert shown(drawn) == ["one", "Password:", "2 running"]
    assert shown(drawn, status_line.compose(b"abc\n", False, False)) == [
        "one",
        "Password: abc",
        "",
        "2 running",
    ]


@pytest.mark.parametrize("rows", [2, 3, 24])
def test_an_incomplete_line_at_the_bottom_stays_too(status_line: StatusLine, rows: int) -> None:
    written = [status_line.compose(b"%d\n" % number, False, True) for number in range(5)]
    written += [
        status_line.compose(b"50%", False, False),
        status_line.compose(b"\r70%", False, False),
    ]
    assert shown(*written, rows=rows) == [*"01234", "70%", "2 running"]


def test_the_key_that_stops_is_erased(status_line: StatusLine) -> None:
    drawn = status_line.compose(b"one\n", False, True)
    status_line.has_keys = lambda: True
    assert shown(drawn, b"^C", status_line.compose(b"two\n", False, True))[:2] == ["one", "two"]


def test_a_status_that_raises_is_left_out(status_line: StatusLine) -> None:
    def broken() -> bytes:
        raise RuntimeError

    status_line.show(broken)
    assert status_line.compose(b"one\n", False, True) == b"one\n"


def test_in_a_burst_lines_come_without_a_status_between_them(
    status_line: StatusLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DRAW_INTERVAL", 60.0)
    status_line.compose(b"one\n", False, True)
    assert status_line.compose(b"two\n", True, True) == b"\x1b[Jtwo\n"
    assert shown(status_line.compose(b"three\n", False, True)) == ["three", "", "2 running"]


def test_other_processes_erase_the_status_of_this_one(status_line: StatusLine) -> None:
    drawn = status_line.compose(b"one\n", False, True)
    child = StatusLine()
    child.reset_after_fork()
    assert shown(drawn, child.compose(b"of a child\n", False, True)) == ["one", "of a child"]


# With the writer


def test_a_line_of_the_log_begins_a_line_whatever_was_printed(
    pair: tuple[Writer, int],
) -> None:
    writer, reader = pair
    writer.put(Text(b"50%"))
    writer.put("a line")
    writer.put(Text(b"\r70%"))
    writer.put(Text(b", and 80%\n"))
    writer.put("another", wait=True)
    assert os.read(reader, 1000) == b"50%\na line\n\r70%, and 80%\nanother\n"


def test_a_long_text_without_a_line_end_is_written(
    pair: tuple[Writer, int], wait_until: WaitUntil
) -> None:
    writer, reader = pair
    writer.put(Text(b"x" * 100_000))
    got = bytearray()
    while len(got) < 100_000:
        got += os.read(reader, 65536)
    assert got == b"x" * 100_000


def test_the_status_changes_without_a_line(
    pair: tuple[Writer, int], monkeypatch: pytest.MonkeyPatch, wait_until: WaitUntil
) -> None:
    monkeypatch.setattr(module, "CHECK_INTERVAL", 0.01)
    writer, reader = pair
    numbers = [0]
    writer.use_status_line().show(lambda: b"%d done" % numbers[0])
    writer.redraw()
    terminal = Emulator()

    def shows(text: str) -> bool:
        terminal.feed(os.read(reader, 65536).decode())
        return text in terminal.lines

    assert shows("0 done")
    writer.put("one", wait=True)
    numbers[0] = 1
    wait_until(lambda: shows("1 done"))
    writer.close()
    wait_until(lambda: not shows("1 done"))
    assert terminal.lines[0] == "one"


def test_any_mixture_of_lines_and_texts_is_whole(
    pair: tuple[Writer, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.001)
    writer, reader = pair
    writer.use_status_line().show(lambda: b"2 running")
    writer.redraw()
    source = random.Random(7)
    expected: list[str] = []
    for number in range(300):
        line = f"line {number} " + "x" * source.randrange(1, 60)
        if source.random() < 0.5:
            writer.put(line)
        else:
            writer.put(Text(line[:5].encode()))
            writer.put(Text(f"{line[5:]}\n".encode()))
        expected.append(line)
    writer.close()
    writer.flush(10)
    os.set_blocking(reader, False)
    terminal = Emulator()
    terminal.feed(os.read(reader, 1 << 20).decode())
    assert [line for line in terminal.lines if line] == expected


def test_a_terminal_of_another_size_has_the_line_drawn_again() -> None:
    sizes = [(80, 24), (80, 24), (80, 20), (80, 20)]
    line = StatusLine()
    line.show(lambda: b"2 running")
    line.size = lambda: sizes.pop(0)
    first = [line.compose(b"one\n", False, True), line.compose(b"", False, False)]
    assert line.compose(b"", False, False) == b""
    again = line.compose(b"", False, False)
    assert shown(*first, again, again) == ["one", "", "2 running"]
    assert line.compose(b"", False, False) == b""

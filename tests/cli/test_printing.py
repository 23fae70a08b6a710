"""What programs print under a worker whose log is text: whole lines, and nothing of it is lost."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from faktory.cli.exits import Exit
from faktory.cli.worker import logs
from faktory.cli.worker.printing import MAX_UNFINISHED, TextStream
from faktory.cli.worker.writer import Writer
from faktory.server import EmbeddedServer

from .support import WORKER, WaitUntil, push, reports


class Pieces(io.StringIO):
    """A stream that keeps each piece written."""

    encoding = "ascii"
    errors = "strict"

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return super().write(text)


@pytest.fixture
def original() -> Pieces:
    return Pieces()


@pytest.fixture
def stream(original: Pieces) -> TextStream:
    return TextStream(original, None)


def test_print_writes_a_line_in_one_piece(stream: TextStream, original: Pieces) -> None:
    print("one", 2, file=stream)
    print("three\nfour", file=stream)
    assert original.pieces == ["one 2\n", "three\n", "four\n"]


def test_a_line_of_two_threads_is_not_mixed(stream: TextStream, original: Pieces) -> None:
    print("begun", end=" ", file=stream)
    other = threading.Thread(target=lambda: print("other", file=stream))
    other.start()
    other.join()
    print("ended", file=stream)
    assert original.pieces == ["other\n", "begun ended\n"]


def test_a_prompt_is_there_when_it_is_flushed(stream: TextStream, original: Pieces) -> None:
    print("Go on? ", end="", file=stream)
    assert original.pieces == []
    stream.flush()
    stream.flush()
    assert original.pieces == ["Go on? "]


def test_a_progress_bar_is_shown_at_once(stream: TextStream, original: Pieces) -> None:
    stream.write("\r 10%")
    stream.write("\r 20%")
    assert original.pieces == ["\r 10%", "\r 20%"]


def test_a_long_line_does_not_wait_for_its_end(stream: TextStream, original: Pieces) -> None:
    stream.write("x" * MAX_UNFINISHED)
    assert original.pieces == []
    stream.write("x")
    stream.write("y\n")
    assert original.pieces == ["x" * (MAX_UNFINISHED + 1), "y\n"]


def test_at_the_end_the_rest_of_every_thread_is_written(
    stream: TextStream, original: Pieces
) -> None:
    thread = threading.Thread(target=lambda: stream.write("of a thread"))
    thread.start()
    thread.join()
    stream.end()
    stream.flush()
    assert original.pieces == ["of a thread"]


def test_what_else_a_stream_has_is_the_originals(stream: TextStream, original: Pieces) -> None:
    assert (stream.encoding, stream.errors, stream.isatty()) == ("ascii", "strict", False)
    stream.writelines(["one\n", "two\n"])
    assert original.getvalue() == "one\ntwo\n"
    with pytest.raises(TypeError, match="write\\(\\) argument must be str, not bytes"):
        stream.write(b"bytes")  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        _ = stream.nothing
    original.close()
    assert stream.closed
    with pytest.raises(ValueError, match="closed file"):
        stream.write("text")


def test_a_stream_that_is_closed_loses_nothing(stream: TextStream, original: Pieces) -> None:
    with stream as entered:
        print("begun", end="", file=entered)
    assert (original.pieces, original.closed) == (["begun"], True)
    stream.close()


def test_text_stands_between_the_lines_of_the_log(
    pair: tuple[Writer, int], original: Pieces
) -> None:
    writer, reader = pair
    stream = TextStream(original, writer)
    writer.put("one")
    print("begun", end="", file=stream, flush=True)
    writer.put("two")
    print(" ended", file=stream)
    writer.put("three")
    stream.flush()
    assert os.read(reader, 1000) == b"one\nbegun\ntwo\n ended\nthree\n"
    assert original.pieces == []


def test_what_the_encoding_lacks_is_escaped(pair: tuple[Writer, int], original: Pieces) -> None:
    writer, reader = pair
    print("Привет \udc80", file=TextStream(original, writer, waits=True))
    text = "".join(f"\\u{ord(letter):04x}" for letter in "Привет")
    assert os.read(reader, 1000).decode() == f"{text} \\udc80\n"


def test_a_child_does_not_write_what_its_parent_has_begun(
    stream: TextStream, original: Pieces
) -> None:
    stream.write("begun")
    pid = os.fork()
    if not pid:
        stream.end()
        stream.flush()
        os._exit(len(original.pieces))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


RUSSIAN = """
import sys
import faktory

@faktory.job(name="отчёт")
def report():
    print("готово")
    print("ошибка", file=sys.stderr)
    raise ValueError("нет")
"""


@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "cp1252"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"LC_ALL": "POSIX"},
        {"PYTHONIOENCODING": "utf-16"},
    ],
    ids=lambda env: "-".join(env.values()),
)
def test_no_encoding_fails_a_job_or_loses_a_line(
    server: EmbeddedServer, folder: Path, wait_until: WaitUntil, env: dict[str, str]
) -> None:
    (folder / "russian.py").write_text(RUSSIAN, "utf-8")
    jid = push(server, "отчёт", retry=0)
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUTF8"}
    with open(folder / "both", "wb") as both:
        process = subprocess.Popen(
            [sys.executable, "-m", WORKER, "-r", "russian", "-c", "1"],
            cwd=folder,
            env={**kept, "FAKTORY_URL": server.url, **env},
            stdout=both,
            stderr=both,
        )
    try:
        wait_until(lambda: reports(server, jid), 20)
    finally:
        process.terminate()
        assert process.wait(20) == Exit.STOPPED
    written = (folder / "both").read_bytes()
    for text in ("отчёт", "готово", "ошибка", "ValueError: нет"):
        escaped = text.encode("ascii", "backslashreplace")
        assert text.encode() in written or escaped in written or text.encode("utf-16-le") in written
    assert b"UnicodeEncodeError" not in written


UNFINISHED = """
import faktory

@faktory.job
def first():
    print("of the first", end="")

@faktory.job
def second():
    print("of the second", end="")
    raise ValueError("no")
"""


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_what_a_job_prints_last_stands_before_the_line_of_its_end(
    server: EmbeddedServer, folder: Path, wait_until: WaitUntil, log_format: str
) -> None:
    (folder / "unfinished.py").write_text(UNFINISHED)
    jids = [push(server, "first"), push(server, "second", retry=0)]
    with open(folder / "both", "wb") as both:
        process = subprocess.Popen(
            [sys.executable, "-m", WORKER, "-r", "unfinished", "-c1", "--log-format", log_format],
            cwd=folder,
            env={**os.environ, "FAKTORY_URL": server.url},
            stdout=both,
            stderr=both,
        )
    try:
        wait_until(lambda: all(reports(server, jid) for jid in jids), 20)
    finally:
        process.terminate()
        assert process.wait(20) == Exit.STOPPED
    lines = (folder / "both").read_text().splitlines()
    shown = ("of the first", "done in", "of the second", "fail in")
    found = [text for line in lines for text in shown if text in line]
    assert found == list(shown)
    assert all("start" not in line and " in 0" not in line for line in lines if "of the" in line)


def test_an_object_holds_what_a_thread_has_printed_that_is_gone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    lines = logs.JsonStream("stdout", logging.INFO, logs.JsonHandler(1), sys.__stdout__)
    thread = threading.Thread(target=lambda: lines.write("of a thread"))
    thread.start()
    thread.join()
    lines.end()
    lines.flush()
    assert json.loads(capfd.readouterr().out)["message"] == "of a thread"

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faktory.cli.exits import Exit
from faktory.cli.worker import logs
from faktory.server import EmbeddedServer
from faktory.worker.backends.base import make_remote_error

from .support import WORKER, Run, WaitUntil, push

LOUD = """
import json
import logging
import sys
import threading
import traceback
import warnings

import faktory

log = logging.getLogger("app")
print("imported")

@faktory.job
def loud():
    log.info("hello %s", "you", extra={"size": 3, "odd": {1, }, "nan": float("nan")})
    print("printed\\nin two", "lines")
    print("no line yet", end="", flush=True)
    print(json.dumps({"mine": 1}), file=sys.stderr)
    warnings.warn("careful")
    sys.stdout.write("\\n")
    thread = threading.Thread(target=lambda: 1 / 0, name="mine")
    thread.start()
    thread.join()

@faktory.job
def fails():
    raise ValueError("a\\nb")

@faktory.job
def long(letter):
    for _ in range(20):
        log.info(letter * 20_000)
"""


@pytest.fixture(autouse=True)
def program(folder: Path) -> None:
    (folder / "loud.py").write_text(LOUD)


def objects(text: str) -> list[dict[str, Any]]:
    """Return the objects of all lines; fail if a line is not an object."""
    found = [json.loads(line) for line in text.splitlines()]
    assert all(isinstance(each, dict) for each in found)
    return found


def test_every_line_is_an_object_with_its_job(
    server: EmbeddedServer, run: Run, wait_until: WaitUntil
) -> None:
    worker = run(WORKER, "-r", "loud", "--log-format", "json", "-c", "1", url=server.url)
    loud, fails = push(server, "loud"), push(server, "fails")
    wait_until(lambda: server.processed == 2)
    worker.send(signal.SIGTERM)
    assert worker.wait() == Exit.STOPPED
    said, printed = objects(worker.said), objects(worker.printed)

    begins = said[0]
    assert begins["message"].startswith("connected to Faktory 1.10.0 at 127.0.0.1:")
    assert set(begins) == {"time", "level", "logger", "message", "process", "thread", "event"}
    assert begins["process"] == worker.process.pid

    (hello,) = [each for each in said if each.get("logger") == "app"]
    assert hello["message"] == "hello you"
    assert (hello["jid"], hello["jobtype"]) == (loud, "loud")
    assert (hello["size"], hello["odd"], hello["nan"]) == ("3", "{1}", "nan")

    assert {"mine": 1} in said
    (warning,) = [each for each in said if each.get("logger") == "py.warnings"]
    assert "UserWarning: careful" in warning["message"]
    assert warning["jid"] == loud
    (uncaught,) = [each for each in said if "thread mine ended" in each.get("message", "")]
    assert "ZeroDivisionError" in uncaught["exception"]

    (failed,) = [each for each in said if f"fails {fails} fail in" in each.get("message", "")]
    assert "ValueError: a\nb" in failed["exception"]
    assert (failed["jid"], failed["jobtype"]) == (fails, "fails")

    assert [each["message"] for each in printed] == [
        "imported",
        "printed",
        "in two lines",
        "no line yet",
    ]
    assert all(each["logger"] == "stdout" for each in printed)
    assert "jid" not in printed[0]
    assert printed[1]["jid"] == loud


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--nonsense"], Exit.USAGE, "unrecognized arguments: --nonsense"),
        (["-c", "0"], Exit.USAGE, "argument -c/--concurrency: '0' is not a whole number"),
        ([], Exit.USAGE, "no module is named that defines the jobs"),
        (["-C", "gone.toml"], Exit.USAGE, "-C gone.toml: cannot be read"),
        (["-r", "gone"], Exit.MISSING, "-r gone: cannot be imported: No module named 'gone'"),
        (["-r", "broken"], Exit.IMPORT, "-r broken: cannot be imported: ZeroDivisionError: "),
    ],
)
def test_an_error_is_one_object(
    run: Run, folder: Path, flags: list[str], code: Exit, message: str
) -> None:
    (folder / "broken.py").write_text("1 / 0")
    worker = run(WORKER, "--log-format=json", *flags)
    assert worker.wait() == code
    (error,) = objects(worker.said)
    assert error["message"].startswith(message)
    assert error["level"] == "ERROR"
    assert ("exception" in error) == (code is Exit.IMPORT)
    if code is Exit.IMPORT:
        assert error["exception"].splitlines()[1].strip().startswith("File")
        assert "broken.py" in error["exception"].splitlines()[1]


def test_objects_of_a_supervisor_and_its_workers_are_not_interleaved(
    server: EmbeddedServer, run: Run, wait_until: WaitUntil
) -> None:
    flags = ["-r", "loud", "--log-format", "json", "--processes", "3"]
    parent = run(WORKER, *flags, url=server.url)
    wait_until(lambda: len(server.workers) == 3)  # else two may run all jobs before the third
    for letter in "abcdefghij":
        push(server, "long", letter)
    wait_until(lambda: server.processed == 10)
    parent.send(signal.SIGTERM)
    assert parent.wait() == Exit.STOPPED
    said = objects(parent.said)
    assert sum(len(each["message"]) == 20_000 for each in said) == 200
    assert len({each["process"] for each in said}) == 4
    assert [each["message"] for each in said if each["logger"] == "faktory.parent"]


def test_a_supervisor_that_gives_up_writes_objects_too(
    server: EmbeddedServer, run: Run, folder: Path
) -> None:
    (folder / "broken.py").write_text("1 / 0")
    (folder / "quick.py").write_text(
        "import sys\nfrom functools import partial\nfrom faktory.cli.worker import processes\n"
        "from faktory.cli.worker.main import main\n"
        "processes.WorkerSupervisor = partial(\n"
        "    processes.WorkerSupervisor, backoff=lambda *_: 0.01\n"
        ")\nsys.exit(main())\n"
    )
    parent = run("quick", "-r", "broken", "--log-format", "json", "--processes", "1")
    assert parent.wait() == Exit.GAVE_UP
    assert objects(parent.said)[-1]["message"].startswith("gave up: workers could not begin")


def test_a_program_can_use_jid_and_jobtype_in_a_format_of_its_own(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    (folder / "own.py").write_text(
        "from loud import *\n"
        "handler = logging.StreamHandler(sys.stdout)\n"
        "handler.setFormatter(logging.Formatter('[%(jid)s|%(jobtype)s] %(message)s'))\n"
        "log.addHandler(handler)\n"
        "log.warning('outside')\n"
    )
    worker = run(WORKER, "-r", "own", url=server.url)
    jid = push(server, "loud")
    wait_until(lambda: f"[{jid}|loud] hello you\n" in worker.printed)
    assert "[|] outside\n" in worker.printed
    wait_until(lambda: f"loud {jid} hello you" in worker.said)


# Formatters and streams


def record(message: str = "text", **more: Any) -> logging.LogRecord:
    made = logging.makeLogRecord({"msg": message, "levelname": "INFO", "name": "app"})
    vars(made).update(more)
    return made


def test_a_record_is_one_line_with_any_value() -> None:
    itself: list[object] = []
    itself.append(itself)
    for odd in (itself, {(1, 2): 3}, "\n\u2028\ud800", float("inf"), object()):
        line = logs.format_json(record("a\nb", odd=odd))
        assert line.isascii()
        assert "\n" not in line
        assert json.loads(line)["message"] == "a\nb"


@pytest.mark.parametrize("many", [False, True])
def test_a_line_of_text_is_the_same_as_by_a_template(many: bool) -> None:
    process = "%(process)d " if many else ""
    head = f"%(asctime)s %(levelname)s {process}%(threadName)s "
    template = logging.Formatter(f"{head}%(job)s%(message)s", defaults={"job": ""})
    ours = logs.TextFormatter(many)  # with a record of its own: a formatter stores text in it
    try:
        raise ValueError("wrong")
    except ValueError:
        about = sys.exc_info()
    now = int(time.time()) + 0.042
    for created, more in (
        (now, {}),
        (now, {"job": "work 12345678 ", "exc_info": about}),
        (now + 0.999, {"args": ("x",), "msg": "of %s", "stack_info": "a\nb"}),
        (now + 60, {"exc_info": about}),
        (now - 60, {}),
    ):
        fields = {"created": created, "msecs": float(int(created % 1 * 1000)), **more}
        assert ours.format(record(**fields)) == template.format(record(**fields))


def test_extra_values_do_not_replace_our_own() -> None:
    said = json.loads(logs.format_json(record(level="mine", time="mine", other="mine")))
    assert said["level"] == "INFO"
    assert said["time"].endswith("Z")
    assert said["other"] == "mine"


def test_a_stream_leaves_objects_and_bytes_as_they_are(capfd: pytest.CaptureFixture[str]) -> None:
    lines = logs.JsonStream("stdout", logging.INFO, logs.JsonHandler(1), sys.__stdout__)
    assert lines.write('{"a": 1}\n{"b"\n\n  \nbegun') == len('{"a": 1}\n{"b"\n\n  \nbegun')
    assert lines.writable()
    assert not lines.isatty()
    assert lines.fileno() == 1
    os.write(1, b"")
    lines.flush()
    lines.flush()
    first, second, third = (json.loads(line) for line in capfd.readouterr().out.splitlines())
    assert first == {"a": 1}
    assert second["message"] == '{"b"'
    assert third["message"] == "begun"


def traceback_of(error: BaseException) -> str:
    try:
        raise error
    except BaseException:
        return logs.TextFormatter(False).format(record(exc_info=sys.exc_info()))


FAKE = "2026-01-02 03:04:05,678 INFO MainThread forged"


def test_the_lines_of_a_message_after_the_first_are_indented_and_controls_escaped() -> None:
    text = logs.TextFormatter(False)
    made = record(f"one\ttwo\n{FAKE}\n  three\r\x1b[1m\u2028", threadName="a\x1bb")
    first, second, third = text.format(made).split("\n")
    assert first.endswith("INFO a\\x1bb one\ttwo")
    assert second == f"    {FAKE}"
    assert third == "  three\\r\\x1b[1m\\u2028"


def test_the_text_of_an_exception_is_one_line_of_its_traceback() -> None:
    cause = KeyError("inner")
    error = ValueError(f"a\n{FAKE}\x1b")
    error.__cause__ = ExceptionGroup(f"g\n{FAKE}", [OSError(f"in\n{FAKE}"), cause])
    error.add_note(f"note\n{FAKE}")
    lines = traceback_of(error).split("\n")
    assert f"ValueError: a\\n{FAKE}\\x1b" in lines
    assert f"    | OSError: in\\n{FAKE}" in lines
    assert lines[-2:] == ["note", f"    {FAKE}"]
    assert not any(line.startswith("2026") for line in lines[1:])


def test_the_traceback_of_another_process_keeps_its_lines() -> None:
    report = ("ValueError", "wrong", [])
    remote = make_remote_error(report, None, f"Traceback:\n  File x\n{FAKE}\n")
    lines = traceback_of(remote).split("\n")
    assert ["    Traceback:", "  File x", f"    {FAKE}"] == lines[3:6]
    assert f"{logs.__name__.partition('.')[0]}" in lines[-1]
    assert lines[-1].endswith("ValueError: wrong")


def test_a_long_message_and_a_long_traceback_are_cut_in_the_middle() -> None:
    text = logs.TextFormatter(False).format(record("a" * 5_000_000 + "z"))
    assert len(text) < logs.MAX_TEXT + 200
    assert text.endswith("az")
    text = traceback_of(ValueError("x" * 5_000_000))
    assert len(text) < 2 * logs.MAX_TEXT + 200
    assert "Traceback (most recent call last)" in text


def test_an_object_is_cut_by_its_values() -> None:
    for fields in (
        {"message": "x" * 5_000_000},
        {"message": "\U0001f389" * 100_000},
        {"big": "x" * 5_000_000},
        {"big": ["x" * 100] * 50_000},
        {f"key{number}": "x" * 1000 for number in range(1000)},
        {"message": "%s", "args": ("x" * 5_000_000,)},
    ):
        line = logs.format_json(record(**fields))
        assert len(line) <= logs.MAX_LINE
        assert json.loads(line)["level"] == "INFO"
    said = json.loads(logs.format_json(record("x" * 40_000)))
    assert "[... 7232 characters ...]" in said["message"]


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@pytest.mark.parametrize("make", [logs.JsonHandler, logs.LineHandler])
def test_a_record_that_cannot_be_written_is_reported(
    make: Callable[[int], logging.Handler], capfd: pytest.CaptureFixture[str]
) -> None:
    handler = make(2)
    handler.handle(record("%d", args=("text",), pathname="app.py", lineno=7))
    handler.handle(record("%s", args=(Unprintable(),)))
    handler.handle(record(Unprintable()))  # type: ignore[arg-type]
    handler.handle(record("fine", odd=Unprintable()))
    handler.flush()
    first, *_, last = capfd.readouterr().err.splitlines()
    assert "a record cannot be written: TypeError: %d format" in first
    assert "of app.py:7" in first
    assert "RuntimeError" in last or "fine" in last


def test_a_stream_of_json_raises_nothing_of_the_programs_log(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise KeyError

    monkeypatch.setattr(logging, "_logRecordFactory", broken)
    lines = logs.JsonStream("stdout", logging.INFO, logs.JsonHandler(1), sys.__stdout__)
    print("printed", file=lines)
    print("{" * 100_000, file=lines)
    print('{"a":' * 20_000, file=lines, flush=True)
    lines.write("x" * 1_000_000)
    print("y", file=lines, flush=True)
    said = [json.loads(line)["message"] for line in capfd.readouterr().out.splitlines()]
    assert said[0] == "printed"
    assert said[3].startswith("xxx")
    assert said[3].endswith("xxxy")


def test_one_file_has_one_writer() -> None:
    # Or lines of both streams would mix.
    code = (
        "import os; from faktory.cli.worker import logs;"
        "assert logs.writer_of(1) is not logs.writer_of(2);"
        "os.dup2(1, 2); assert logs.writer_of(1) is logs.writer_of(2)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

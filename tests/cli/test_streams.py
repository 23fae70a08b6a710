from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from faktory.cli import streams
from faktory.cli.exits import Exit
from faktory.cli.worker.main import main
from faktory.server import EmbeddedServer

from ..support import half
from .support import call, run_shell


def run(server: EmbeddedServer, redirect: str, *command: str) -> tuple[int, str]:
    """Run a tool with its streams as a shell would have them; return code and what is shown."""
    reader, descriptor = os.pipe()
    python = [sys.executable, "-m", "faktory", *command]
    process = run_shell(f'exec "$@" {redirect}', python, Path.cwd(), server.url, descriptor)
    os.close(descriptor)
    with os.fdopen(reader, "rb") as shown:
        text = shown.read().decode()
    return process.wait(15), text


@pytest.mark.parametrize("redirect", [">&-", "2>&-", "<&-", ">&- 2>&-", ">&- 2>&- <&-"])
def test_a_tool_without_its_streams_does_what_it_should(
    server: EmbeddedServer, redirect: str
) -> None:
    code, text = run(server, redirect, "push", "resize", "cat.png")
    assert code == Exit.DONE
    assert len(text.split()) == (">&-" not in redirect.split())
    assert len(server.queues["default"]) == 1
    assert {verb for verb, _ in server.commands} <= {"HELLO", "PUSH", "END"}


@pytest.mark.parametrize("redirect", ["", "2>&-", "2>/dev/full", ">&- 2>&-"])
def test_an_error_has_its_exit_code_though_it_cannot_be_shown(
    server: EmbeddedServer, redirect: str
) -> None:
    assert run(server, redirect, "push", "resize", "--retry", "x")[0] == Exit.USAGE
    assert run(server, redirect, "--url", "x")[0] == Exit.USAGE
    assert run(server, redirect, "push", "resize", "-q", "a b")[0] == Exit.USAGE


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_job_that_was_pushed_is_a_success_though_nobody_reads_that(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, unbuffered: str
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "faktory", "push", "resize", "--url", server.url]
    with subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        assert process.communicate()[1] == b""
    assert process.returncode == Exit.DONE
    assert len(server.queues["default"]) == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_cannot_be_written_is_an_error_in_one_line(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, unbuffered: str
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    code, text = run(server, ">/dev/full", "push", "resize")
    assert code == Exit.FAILED
    assert text == (
        "python -m faktory push: done, but its output cannot be written: No space left on device\n"
    )
    assert len(server.queues["default"]) == 1
    assert run(server, ">/dev/full 2>/dev/full", "push", "resize")[0] == Exit.FAILED


@half(redirect=["2>&-", "2>/dev/full", ">&- 2>&- <&-"], log_format=["text", "json"])
def test_a_worker_that_cannot_begin_has_its_exit_code_though_nothing_can_be_shown(
    redirect: str, log_format: str, server: EmbeddedServer
) -> None:
    command = [sys.executable, "-m", "faktory.cli.worker", f"--log-format={log_format}", "-r"]
    for module, code in (("gone", Exit.MISSING), ("json", Exit.USAGE)):
        script = f'exec "$@" {redirect}'
        process = run_shell(script, [*command, module], Path.cwd(), server.url, 2)
        assert process.wait(15) == code


CHECK = """
import os
import sys
from faktory.cli import streams

streams.open_missing()
null = os.stat(os.devnull).st_rdev
missing = [number for number in (0, 1, 2) if os.fstat(number).st_rdev == null]
assert missing == [int(number) for number in sys.argv[1:]], missing
assert all(os.get_inheritable(number) for number in (0, 1, 2))
assert os.open(os.devnull, os.O_RDONLY) > 2
for name in ("stdin", "stdout", "stderr"):
    assert getattr(sys, name) is getattr(sys, f"__{name}__") is not None
print("shown", flush=True)
print("shown", file=sys.stderr, flush=True)
if 0 in missing:
    assert sys.stdin.read() == ""
"""


@pytest.mark.parametrize("missing", ["", "0", "1", "2", "01", "02", "12", "012"])
def test_dev_null_takes_the_place_of_each_stream_that_is_missing(missing: str) -> None:
    closed = "".join(f" {number}>&-" for number in missing)
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", CHECK, *missing],
        stdin=subprocess.PIPE,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert bool(done.stdout) == ("1" not in missing)
    assert bool(done.stderr) == ("2" not in missing)


def test_what_is_left_in_a_stream_that_nobody_reads_is_given_up() -> None:
    reader, descriptor = os.pipe()
    os.set_blocking(descriptor, False)
    try:
        while True:
            os.write(descriptor, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(descriptor, True)
    stream = open(descriptor, "w")  # noqa: SIM115  it is closed when its reader is gone
    stream.write("left")
    assert not streams.flush(stream, timeout=0.1)
    os.close(reader)  # or the thread would wait for ever
    assert streams.flush(stream, timeout=20)
    stream.close()


def test_what_is_left_in_a_stream_that_cannot_be_written_is_discarded() -> None:
    with open("/dev/full", "w") as stream:
        stream.write("left")
        assert streams.flush(stream, io.StringIO(), None)


def test_a_program_that_calls_main_keeps_its_streams() -> None:
    before = sys.stdin, sys.stdout, sys.stderr
    assert call("--nonsense", main=main).code == Exit.USAGE
    assert (sys.stdin, sys.stdout, sys.stderr) == before

"""Start the commands, as processes or inside this one, and read their output.

A process costs a tenth of a second and more: tools run inside this process unless a test is about
the process itself, its imports or its environment.
"""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryFile
from threading import Thread
from typing import IO, Any, NamedTuple
from unittest.mock import patch

from faktory import Client
from faktory.cli.tools.main import main as tools_main
from faktory.server import EmbeddedServer

WORKER = "faktory.cli.worker"

WATCH = ("--watch", "0.5")
"""For `doctor` to take less time."""


class Process:
    """A command that runs, and what it has written so far."""

    def __init__(self, command: list[str], cwd: Path, url: str | None) -> None:
        env = {**_environment(url, {}), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=cwd,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._readers = [
            Thread(target=lines.extend, args=(stream,), daemon=True)
            for stream, lines in (
                (self.process.stdout, self.stdout),
                (self.process.stderr, self.stderr),
            )
        ]
        for reader in self._readers:
            reader.start()

    @property
    def said(self) -> str:
        """Its standard error up to now."""
        return "".join(self.stderr)

    @property
    def printed(self) -> str:
        """Its standard output up to now."""
        return "".join(self.stdout)

    @property
    def silent(self) -> bool:
        """Whether it has ended, and every process that it started with the same output."""
        return not any(reader.is_alive() for reader in self._readers)

    def send(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self, timeout: float = 15) -> int:
        """Return its exit code once it has ended."""
        code = self.process.wait(timeout)
        for reader in self._readers:
            reader.join(5)
        return code

    def end(self) -> bool:
        """End it and the processes that it started; return whether none is left."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.wait()
        for reader, stream in zip(
            self._readers, (self.process.stdout, self.process.stderr), strict=True
        ):
            assert stream is not None
            if not reader.is_alive():  # else closing would wait for it
                stream.close()
        return self.silent


def run_shell(
    script: str, command: list[str], cwd: Path, url: str | None, descriptor: int
) -> subprocess.Popen[bytes]:
    """Start a script of the shell with a command as its "$@"; its outputs are `descriptor`."""
    return subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", *command],
        cwd=cwd,
        env=_environment(url, {"PYTHONUNBUFFERED": ""}),
        stdout=descriptor,
        stderr=descriptor,
        start_new_session=True,
    )


Run = Callable[..., Process]
WaitUntil = Callable[..., object]


def push(server: EmbeddedServer, jobtype: str, *args: object, **fields: object) -> str:
    """Push a job and return its jid."""
    with Client(server.url) as client:
        return client.push({"jobtype": jobtype, "args": list(args), **fields})


def reports(server: EmbeddedServer, jid: str) -> list[str]:
    """Return the commands, ACK or FAIL, that reported a job."""
    return [verb for verb, text in server.commands if verb in ("ACK", "FAIL") and jid in text]


def pids(supervisor: Process) -> list[int]:
    """Return the workers that it has started up to now."""
    return [
        int(pid) for pid in re.findall(r"worker \d+ \(process (\d+)\) started", supervisor.said)
    ]


def ready(supervisor: Process) -> int:
    """Return how many of them were ready; it has to run with -v."""
    return len(re.findall(r"worker \d+ \(process \d+\) is ready", supervisor.said))


def alive(pid: int) -> bool:
    """Return whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Done(NamedTuple):
    """The result of a command."""

    code: int
    stdout: str
    stderr: str


Load = Callable[..., Done]


def call(
    *command: str,
    main: Callable[[list[str]], int] = tools_main,
    url: str | None = None,
    cwd: Path | None = None,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
) -> Done:
    """Run `python -m faktory COMMAND`, or another `main`, inside this process."""
    out, error = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    with TemporaryFile("w+") as source:
        source.write(stdin)
        source.seek(0)
        code = _call(main, command, (source, out, error), _environment(url, env), cwd)
    out.flush()
    error.flush()
    return Done(code, out.buffer.getvalue().decode(), error.buffer.getvalue().decode())


def call_on_terminal(
    *command: str,
    url: str | None = None,
    cwd: Path | None = None,
    typed: str = "",
    env: Mapping[str, str] | None = None,
) -> Done:
    """Run it inside this process, with a terminal of 200 columns as its three streams.

    `typed` shows up in the output, too; both outputs are one.
    """
    with _terminal(typed) as (descriptor, shown), ExitStack() as stack:
        streams = tuple(
            stack.enter_context(open(descriptor, mode, buffering=1, closefd=False))
            for mode in "rww"
        )
        code = _call(tools_main, command, streams, _environment(url, env, terminal=True), cwd)
    return Done(code, shown.decode().replace("\r\n", "\n"), "")


def _call(
    main: Callable[[list[str]], int],
    command: tuple[str, ...],
    streams: tuple[IO[str], ...],
    env: Mapping[str, str],
    cwd: Path | None,
) -> int:
    stdin, stdout, stderr = streams
    factory = logging.getLogRecordFactory()
    with ExitStack() as stack:
        stack.callback(logging.setLogRecordFactory, factory)
        stack.enter_context(patch.dict(os.environ, env, clear=True))
        stack.enter_context(patch.object(sys, "stdin", stdin))
        stack.enter_context(redirect_stdout(stdout))
        stack.enter_context(redirect_stderr(stderr))
        if cwd is not None:
            stack.enter_context(chdir(cwd))
        try:
            return int(main(list(command)))
        except SystemExit as error:  # of argparse
            return int(error.code or 0)


def run(
    *command: str,
    url: str | None = None,
    cwd: Path | None = None,
    stdin: str | bytes = b"",
    env: Mapping[str, str] | None = None,
    site: bool = True,
) -> Done:
    """Run `python -m faktory COMMAND` as a process; `site`: with the installed packages."""
    done = subprocess.run(
        [sys.executable, *(["-S"] * (not site)), "-m", "faktory", *command],
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        cwd=cwd,
        env=_environment(url, env),
        timeout=30,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def run_on_terminal(
    *command: str,
    url: str | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Done:
    """Run it as a process with a terminal of 200 columns as its three streams."""
    with _terminal() as (descriptor, shown):
        done = subprocess.run(
            [sys.executable, "-m", "faktory", *command],
            stdin=descriptor,
            stdout=descriptor,
            stderr=descriptor,
            cwd=cwd,
            env=_environment(url, env, terminal=True),
            timeout=30,
        )
    return Done(done.returncode, shown.decode().replace("\r\n", "\n"), "")


@contextmanager
def _terminal(typed: str = "") -> Iterator[tuple[int, bytearray]]:
    """Yield a terminal's descriptor and its output, which is complete after the block."""
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        try:
            while piece := os.read(ours, 65536):
                shown.extend(piece)
        except OSError:  # the other end is closed
            return

    reader = Thread(target=read)
    reader.start()
    os.write(ours, typed.encode())
    try:
        yield theirs, shown
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)


def _environment(
    url: str | None, env: Mapping[str, str] | None, terminal: bool = False
) -> dict[str, str]:
    names = ("FAKTORY_URL", "FAKTORY_PROVIDER")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    given = {} if url is None else {"FAKTORY_URL": url}
    # With NO_COLOR="" in `env` there are colours, and lines that are redrawn.
    shown = {"COLUMNS": "200", "TERM": "xterm", "NO_COLOR": "1"} if terminal else {}
    return {**kept, **given, **shown, **(env or {})}


def examine(
    *flags: str, start: Callable[..., Done] = call, **options: Any
) -> tuple[int, dict[str, dict[str, str]], str]:
    """Run doctor; return its exit code, its results by check, and its standard error.

    Each warning and error must have a remedy.
    """
    done = start("doctor", *WATCH, *flags, "--json", **options)
    results = {result["check"]: result for result in json.loads(done.stdout)}
    assert all(
        bool(result["remedy"]) or result["level"] in ("ok", "note") for result in results.values()
    )
    return done.code, results, done.stderr


def parts(result: dict[str, str]) -> tuple[str, str, str]:
    """Return a result's level, text and remedy."""
    return result["level"], result["text"], result["remedy"]

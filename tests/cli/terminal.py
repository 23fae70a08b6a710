"""A tool as a process, with a terminal and without."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

QUICK = ("--watch", "0.2")
"""For doctor not to take long."""


class Done(NamedTuple):
    """What a tool left behind."""

    code: int
    stdout: str
    stderr: str


def run(
    *command: str,
    url: str | None = None,
    cwd: Path | None = None,
    stdin: str | bytes = b"",
    env: Mapping[str, str] | None = None,
    site: bool = True,
) -> Done:
    """Run `python -m faktory COMMAND` without a terminal; `site`: with what is installed."""
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
    typed: str = "",
    env: Mapping[str, str] | None = None,
) -> Done:
    """Run it with a terminal of 200 columns for all that it reads and writes.

    What is `typed` shows up in the output, too; both outputs are one.
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "faktory", *command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=cwd,
        env={**_environment(url, env), "COLUMNS": "200", "TERM": "xterm"},
    )
    os.close(theirs)
    os.write(ours, typed.encode())
    shown = bytearray()
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    return Done(process.wait(30), shown.decode().replace("\r\n", "\n"), "")


def _environment(url: str | None, env: Mapping[str, str] | None) -> dict[str, str]:
    names = ("FAKTORY_URL", "FAKTORY_PROVIDER")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    if url is not None:
        kept["FAKTORY_URL"] = url
    return {**kept, **(env or {})}


def examine(*flags: str, **options: Any) -> tuple[int, dict[str, dict[str, str]], str]:
    """Run doctor; return its exit code, its findings by what was looked at, and what else it said.

    A warning or an error without a remedy does not get through here.
    """
    done = run("doctor", *QUICK, *flags, "--json", **options)
    found = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert all(
        bool(finding["remedy"]) or finding["level"] in ("ok", "note") for finding in found.values()
    )
    return done.code, found, done.stderr


def told(finding: dict[str, str]) -> tuple[str, str, str]:
    """Return a finding's level, text and remedy."""
    return finding["level"], finding["text"], finding["remedy"]

"""`python -m faktory doctor`: what is wrong with a setup, and what to do about it.

Rules: it changes nothing on the server and takes no job from it. Everything that can be looked at
is, whatever was wrong before; the first error decides the exit code.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence

from ..exits import Exit
from . import backlog, checks, output
from .checks import Finding


def run(options: argparse.Namespace) -> int:
    """Look at everything, and tell it as it is found."""
    findings = []
    for finding in _examine(options):
        findings.append(finding)
        if not options.json:
            _show(finding)
    if options.json:
        names = ("level", "check", "text", "remedy")
        output.show_json([{name: getattr(found, name) for name in names} for found in findings])
    else:
        levels = [finding.level for finding in findings]
        print(f"\n{_count(levels, 'error')}, {_count(levels, 'warning')}")
    return next((found.code for found in findings if found.level == "error"), Exit.DONE)


def _count(levels: Sequence[str], level: str) -> str:
    many = levels.count(level)
    return f"{many or 'no'} {level}{'' if many == 1 else 's'}"


def _show(finding: Finding) -> None:
    lines = [f"{finding.level:8} {finding.check:10} {finding.text}"]
    if finding.remedy:
        lines.append(f"{'':19} -> {finding.remedy}")
    if sys.stdout.isatty():
        width = max(60, shutil.get_terminal_size().columns)
        lines = [textwrap.fill(line, width, subsequent_indent=" " * 20) for line in lines]
    print("\n".join(lines), flush=True)


def _examine(options: argparse.Namespace) -> Iterator[Finding]:
    core = checks.core()
    yield core
    yield checks.packages()
    if core.level == "error":
        return  # without it nothing can be said to a server, and no job be declared
    yield from checks.program(options.require)
    address, found = checks.address(options.url)
    yield found
    if address is None:
        return
    client, found = checks.reach(address)
    yield found
    if client is None:
        return
    with client:
        yield checks.tls(address)
        yield checks.password(address)
        asked_at = time.time()
        info = client.info()
        middle = (asked_at + time.time()) / 2
        yield checks.version(info)
        yield checks.clock(info, middle)
        yield backlog.queues(client, options.watch)
        yield backlog.jobtypes(info["faktory"]["queues"], options.require)

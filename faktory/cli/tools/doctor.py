"""`faktory-worker doctor`: find what is wrong with a setup, and how to fix it.

Rules: it changes nothing on the server and takes no job from it. An error does not keep the later
checks from running, unless they need what is missing; the first error decides the exit code.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence

from ...exceptions import FaktoryError
from ..exits import Exit, ExitError
from . import admin, backlog, checks, output
from .checks import Result

REMEDY = "Is it a Faktory server? See all that it answers: faktory-worker info --json"


COLOURS = {"ok": "good", "note": "note", "warning": "warning", "error": "error"}


def run(options: argparse.Namespace) -> int:
    """Run all checks and show each result as soon as it is known."""
    results = []
    for result in _checked(options):
        results.append(result)
        if not options.json:
            _show(result)
    if options.json:
        names = ("level", "check", "text", "remedy")
        output.show_json([{name: getattr(result, name) for name in names} for result in results])
    else:
        levels = [result.level for result in results]
        print(f"\n{_count(levels, 'error')}, {_count(levels, 'warning')}")
    return next((result.code for result in results if result.level == "error"), Exit.DONE)


def _count(levels: Sequence[str], level: str) -> str:
    many = levels.count(level)
    text = f"{many or 'no'} {level}{'' if many == 1 else 's'}"
    return output.paint(text, COLOURS[level] if many else "good")


def _show(result: Result) -> None:
    lines = [f"{result.level:8} {result.check:10} {output.escape(result.text)}"]
    if result.remedy:
        lines.append(f"{'':19} -> {output.escape(result.remedy)}")
    if sys.stdout.isatty():
        width = max(60, shutil.get_terminal_size().columns)
        lines = [textwrap.fill(line, width, subsequent_indent=" " * 20) for line in lines]
    text = "\n".join(map(output.escape, "\n".join(lines).split("\n")))
    level, rest = text[: len(result.level)], text[len(result.level) :]
    print(output.paint(level, COLOURS[result.level]) + rest)


def _checked(options: argparse.Namespace) -> Iterator[Result]:
    try:
        yield from _check(options)
    except FaktoryError as error:  # the server is gone, or its answers make no sense
        yield checks.error_result("server", error, REMEDY, Exit.FAILED)


def _check(options: argparse.Namespace) -> Iterator[Result]:
    core = checks.core()
    yield core
    yield checks.packages()
    if core.level == "error":
        return  # both the client and the program's jobs need it
    yield from checks.program(options.require)
    address, result = checks.address(options.url)
    yield result
    if address is None:
        return
    client, result = checks.reach(address)
    yield result
    if client is None:
        return
    with client:
        yield checks.tls(address)
        yield checks.password(address)
        asked_at = time.time()
        try:
            info = client.info()
        except FaktoryError as error:
            yield checks.error_result("info", error, REMEDY, Exit.FAILED)
            return
        middle = (asked_at + time.time()) / 2
        yield checks.version(info)
        yield checks.clock(info, middle)
        try:
            sizes = admin.read_state(info).queues
        except ExitError as odd:
            yield checks.error_result("info", odd, REMEDY, odd.code)
            return
        counts = backlog.read_counts(info)
        yield backlog.queues(client, sizes, options.watch, counts)
        yield from backlog.reservations(counts)
        yield backlog.jobtypes(sizes, options.require)

"""`faktory-worker push`: push one job from the command line, or many from a file.

Rules: a line that is not a valid job is reported by its number, and the others are pushed all the
same. So are the numbers of lines that were not pushed, or may not have been, so that the user can
push them again.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import stat
import sys
import time
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from ...exceptions import FaktoryBulkError, FaktoryError
from ...wire.validate import clip
from ..exits import Exit, ExitError, UsageError
from . import output
from .arguments import add_json, seconds

if TYPE_CHECKING:
    from ...client import Client

CHUNK = 1000
"""Jobs sent at a time: the server gives itself 5 s for a PUSHB (`server/commands.go: pushBulk`)."""

FIELDS = ("queue", "jid", "retry", "backtrace", "reserve_for", "at", "custom")
"""The options that are also fields of a job."""


def add_tool(tool: Any) -> None:
    """Add it to the parser."""
    add = tool(
        "push",
        run,
        "Prints the job's jid. TYPE and its ARGs stand together, other flags before or after them.",
        ("""resize cat.png 200 '{"crop": true}' -q images""", "text, a number, an object"),
        ("report --in 3600", "in an hour"),
        ("-f jobs.jsonl", "one job a line"),
    )
    add("jobtype", metavar="TYPE", nargs="?", help="the job's type")
    add(
        "args",
        metavar="ARG",
        nargs="*",
        help='its arguments: JSON if they are valid JSON (200, true, "200" with its quotes), else '
        "text",
    )
    add(
        "-f",
        "--file",
        metavar="FILE",
        help='push the jobs in this file, "-" for standard input: one JSON object a line, with '
        "jobtype and args at least; invalid lines are reported, and the others pushed",
    )
    add("-q", "--queue", metavar="NAME", help='its queue (default: "default")')
    add(
        "--in",
        dest="delay",
        metavar="SECONDS",
        type=seconds,
        help="run it this much later",
    )
    add("--at", metavar="TIME", help="run it at this time; RFC 3339, like 2026-01-02T03:04:05Z")
    add("--retry", metavar="N", type=int, help="attempts after the first (default: 25)")
    add("--reserve-for", metavar="SECONDS", type=int, help="how long a run may take")
    add("--backtrace", metavar="N", type=int, help="lines of a failure's traceback to keep")
    add("--custom", metavar="JSON", help="an object with values of your own")
    add("--jid", help="its id (default: a random one)")
    add_json(add, "an object with jid; with -f, with pushed, and refused by line")


def run(options: argparse.Namespace) -> int:
    """Push the job, or the file of jobs, that the command line names."""
    given = {name: getattr(options, name) for name in FIELDS if getattr(options, name) is not None}
    if options.file is None:
        return _push_one(options, given)
    flags = [f"--{name.replace('_', '-')}" for name in given]
    flags += ["--in"] if options.delay is not None else []
    flags += [options.jobtype] if options.jobtype is not None else []
    if flags:
        raise UsageError(f"with -f each job has its own fields: leave out {', '.join(flags)}.")
    return _push_many(options)


def _push_one(options: argparse.Namespace, fields: dict[str, Any]) -> int:
    from ...client import Client

    if options.jobtype is None:
        raise UsageError("name the job type, or a file of jobs by -f.")
    if options.delay is not None:
        if "at" in fields:
            raise UsageError("--in and --at exclude each other: give one of them.")
        fields["at"] = time.time() + options.delay
    if "custom" in fields:
        fields["custom"] = _custom(fields["custom"])
    job = {"jobtype": options.jobtype, "args": [_value(text) for text in options.args], **fields}
    with Client(options.url) as client:
        jid = client.push(job)
    if options.json:
        output.show_json({"jid": jid})
    else:
        output.show(jid)
    return Exit.DONE


def _value(text: str) -> object:
    """Return the value of an argument that is valid JSON, else its text.

    UsageError for one that begins as an object, a list or a text of JSON does, and is none.
    """
    from ...proto import load_json

    try:
        return load_json(os.fsencode(text))
    except ValueError as error:
        begin = text.lstrip()[:1]
        if begin not in ("{", "[", '"'):
            return text
        as_text = shlex.quote(json.dumps(text, ensure_ascii=False))
        raise UsageError(
            f"{clip(text)} begins with {begin} and is not valid JSON: {error}. "
            f"To push it as text: {as_text}"
        ) from None


def _custom(text: str) -> dict[str, Any]:
    from ...proto import load_json

    try:
        value = load_json(os.fsencode(text))
    except ValueError as error:
        raise UsageError(f"--custom {text}: it must be a JSON object: {error}.") from None
    if not isinstance(value, dict):
        raise UsageError(f"--custom {text}: it must be a JSON object.")
    return value


class Tally:
    """The results of the lines so far."""

    def __init__(self) -> None:
        self.done = 0, 1
        """How many jobs are pushed, and the line to go on with: one value, so that an interrupt
        never finds one of them old."""
        self.refused: dict[int, str] = {}

    @property
    def pushed(self) -> int:
        """How many jobs are pushed."""
        return self.done[0]

    def refuse(self, number: int, why: object) -> None:
        """Record that a line was not pushed, and why."""
        self.refused[number] = str(why)


class NumberedJob(NamedTuple):
    """A job, and the number of its line in the file."""

    number: int
    job: dict[str, Any]


def _push_many(options: argparse.Namespace) -> int:
    from ...client import Client

    tally = Tally()
    with _opened(options.file) as source, Client(options.url) as client:
        size = _size(source)
        try:
            with output.progress("pushing") as advance:
                _push_all(client, source, size, tally, advance)
        except KeyboardInterrupt:
            _show_refused(tally)
            raise ExitError(Exit.INTERRUPTED, _interrupted(tally, options.file)) from None
    if options.json:
        output.show_json({"pushed": tally.pushed, "refused": tally.refused})
    else:
        print(f"pushed {output.jobs(tally.pushed)}")
    _show_refused(tally)
    return Exit.FAILED if tally.refused else Exit.DONE


def _show_refused(tally: Tally) -> None:
    for number, why in tally.refused.items():
        print(f"line {number} is not pushed: {output.escape(why)}", file=sys.stderr)


def _interrupted(tally: Tally, file: str) -> str:
    """Say what is pushed, and how to go on."""
    pushed, line = tally.done
    are = "is" if pushed == 1 else "are"
    text = (
        f"interrupted; {output.jobs(pushed)} {are} pushed, and perhaps some of the next {CHUNK:,}."
    )
    if file == "-":
        return f"{text} Go on with line {line}."
    rest = f"tail -n +{line} {shlex.quote(file)} | faktory-worker push -f -"
    return f"{text} Go on with line {line}: {rest}"


def _push_all(
    client: Client, source: IO[bytes], size: int | None, tally: Tally, advance: output.Advance
) -> None:
    read = 0

    def counted() -> Iterator[bytes]:
        nonlocal read
        for line in source:
            read += len(line)
            yield line

    lines = _jobs(counted(), tally)
    while chunk := list(islice(lines, CHUNK)):
        try:
            refused = client.push_bulk([line.job for line in chunk], CHUNK)
        except FaktoryBulkError as error:
            raise _broken(error, chunk, tally) from error
        for line in chunk:
            if (why := refused.get(line.job["jid"])) is not None:
                tally.refuse(line.number, why)
        pushed = tally.pushed + sum(line.job["jid"] not in refused for line in chunk)
        tally.done = pushed, chunk[-1].number + 1
        advance(pushed, read / size if size else None)


def _jobs(source: Iterable[bytes], tally: Tally) -> Iterator[NumberedJob]:
    """Yield the job of each line; record a line that is not a valid job as refused."""
    from ...proto import load_json
    from ...wire.payload import prepare

    for number, text in enumerate(source, 1):
        if number == 1:
            text = text.removeprefix(BOM_UTF8)
        if not text.strip():
            continue
        try:
            yield NumberedJob(number, prepare(load_json(text)))
        except (FaktoryError, ValueError) as error:
            tally.refuse(number, error)


def _broken(error: FaktoryBulkError, chunk: list[NumberedJob], tally: Tally) -> ExitError:
    """Make the error that says which lines were pushed before the connection broke."""
    first, last = chunk[0].number, chunk[-1].number
    state = "may or may not be" if error.unknown else "are not"
    refused = f" Of those before, not pushed: lines {_listed(tally.refused)}." * bool(tally.refused)
    return ExitError(
        Exit.FAILED if error.unknown else Exit.UNREACHABLE,
        f"the connection broke after {output.jobs(tally.pushed)}: lines {first} to {last} {state} "
        f"pushed, nothing after them is.{refused} ({error.__cause__})",
    )


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


@contextmanager
def _opened(name: str) -> Iterator[IO[bytes]]:
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        source = open(name, "rb")  # noqa: SIM115
    except OSError as error:
        raise UsageError(f"-f {name}: {error.strerror}.") from None
    with source:
        yield source


def _size(source: IO[bytes]) -> int | None:
    """Return the size of a regular file, None for anything else."""
    status = os.fstat(source.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None

"""The tools of `faktory-worker`: parse the command line and run one.

Rules: every error is one message on standard error and an exit code of `exits`. Nothing here
imports the core, so that a core that does not load is reported like any other error.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from ... import __version__
from ...exceptions import (
    FaktoryAuthenticationError,
    FaktoryConnectionError,
    FaktoryError,
    FaktoryOutcomeUnknown,
    FaktoryPayloadError,
)
from .. import loading, streams, terminal
from ..exits import Exit, ExitError
from ..names import GROUPS, TOOLS, WORKER, WORKER_SUMMARY
from ..parser import Parser, add_completion, columns, examples
from . import admin, doctor, health, output, periodic, push, server, top
from .arguments import add_json, seconds

_ABOUT: Final = """\
The worker of the Faktory job server, and tools around it.

The server is the one in FAKTORY_URL: tcp://:password@host:port, or tcp+tls:// for TLS. \
FAKTORY_PROVIDER may name another variable that holds the address. Without either it is \
tcp://localhost:7419. Where the program names it, by faktory.configure, load the program: \
-r app.jobs, as for the worker."""

EXIT_CODES: Final = {
    Exit.DONE: "done",
    Exit.FAILED: "the server refused, or something else went wrong; doctor: an error was found",
    Exit.USAGE: "wrong usage: an invalid flag, variable or address",
    Exit.IMPORT: "a module of -r exists and cannot be imported",
    Exit.REFUSED: "the server refuses the password",
    Exit.MISSING: "-r names a module, a file or a folder that does not exist",
    Exit.UNREACHABLE: "no connection to the server, or it broke",
    Exit.DECLINED: "not confirmed, so nothing was changed",
    Exit.INTERRUPTED: "interrupted",
}

EXAMPLES: Final = (
    ("server", "a server in memory, to try things out"),
    ("worker -r app.jobs", "run the jobs of a program"),
    ("push resize cat.png 200 -q images", "push a job, and print its jid"),
    ("queues", "which queues there are, and how full"),
    ("doctor -r app.jobs", "what is wrong with this setup"),
)


SERVER: Final = "the server"  # the group of the arguments of all tools that talk to one

_CHANGING: Final = frozenset(("push", "pause", "resume", "remove", "mutate", "flush", "server"))
"""Tools that are done when the server has answered: with another exit code a script would repeat
them. And the server, which has served whether or not anybody reads its last line."""


def main(argv: Sequence[str] | None = None, prog: str = "python -m faktory") -> int:
    """Run a tool; return its exit code. `prog` is what the user has typed for this program."""
    streams.open_missing()
    streams.show_all_characters()
    before = sys.stdout
    sys.stdout = written = streams.Output(before)
    try:
        return _run(argv, prog, written)
    finally:
        sys.stdout = before
        streams.flush(sys.stdout, sys.stderr, timeout=None)


def _run(argv: Sequence[str] | None, prog: str, written: streams.Output) -> int:
    options = _parse(argv, prog)
    name = f"{prog} {options.tool}"
    terminal.is_plain = getattr(options, "plain", False)
    if options.run is not doctor.run:
        try:
            from ... import proto  # noqa: F401
        except ImportError as error:  # FAKTORY_IMPL asks for a core that was not built
            return _show_error(name, error, Exit.USAGE)
    try:
        required = getattr(options, "require", None)
        if required and options.run is not doctor.run:  # which checks that itself
            loading.load(required)
        code: int = options.run(options)
        return _check_written(written, name, options.tool, code)
    except ExitError as error:
        return _show_error(name, error, error.code)
    except (FaktoryError, OSError, ValueError) as error:
        text = str(error)
        if getattr(error, "errno", None) == errno.EADDRINUSE and hasattr(options, "bind"):
            text = f"--bind {options.bind}: another program listens there: "
            text += f"{os.strerror(errno.EADDRINUSE)}. --bind 127.0.0.1:0 takes a free port."
        return _show_error(name, text, _code(error))
    except KeyboardInterrupt:
        return _show_error(name, "interrupted", Exit.INTERRUPTED)


def _code(error: Exception) -> Exit:
    if isinstance(error, FaktoryPayloadError):
        return Exit.USAGE
    if isinstance(error, FaktoryAuthenticationError):
        return Exit.REFUSED
    if isinstance(error, FaktoryConnectionError):
        unknown = isinstance(error, FaktoryOutcomeUnknown)
        return Exit.FAILED if unknown else Exit.UNREACHABLE
    return Exit.FAILED if isinstance(error, (FaktoryError, OSError)) else Exit.USAGE


def _check_written(written: streams.Output, name: str, tool: str, code: int) -> int:
    """Return the exit code of a tool that has done what it should, and perhaps could not say so."""
    written.flush()
    if written.error is None:
        return code
    if isinstance(written.error, BrokenPipeError):  # the reader has closed it
        return code if tool in _CHANGING else Exit.FAILED
    what = f"done, but its output cannot be written: {written.error.strerror}"
    return _show_error(name, what, Exit.FAILED)


def _show_error(name: str, message: object, code: Exit) -> int:
    lines = str(message).split("\n")
    try:
        text = "\n".join(map(output.escape, lines))
        shown = terminal.painted(f"{name}:", "error", sys.stderr)
        print(shown, text, file=sys.stderr, flush=True)
    except OSError:
        streams.discard(sys.stderr)
    return code


def _parse(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    """Return the options; what is left over is an error of the tool's own parser."""
    options, rest = _parser(prog).parse_known_args(argv)
    if rest:
        options.parser.refuse(rest)
    return options


def _parser(prog: str = "python -m faktory") -> Parser:
    tools = "\n\n".join(f"{title}:\n{columns(tools.items())}" for title, tools in GROUPS.items())
    codes = columns(((str(int(code)), text) for code, text in EXIT_CODES.items()), 7)
    parser = Parser(
        prog=prog,
        usage=f"{prog} TOOL [flags]",
        description=_ABOUT,
        epilog=f"the worker:\n{columns([(WORKER, WORKER_SUMMARY)])}\n\n{tools}\n\n"
        f"  {prog} TOOL --help explains each.\n\nexit codes of the tools:\n{codes}\n\n"
        + examples((f"{prog} {command}", text) for command, text in EXAMPLES),
    )
    parser.add_argument(
        "-V", "--version", action="version", version=f"faktory-worker {__version__}"
    )
    add_completion(parser)
    hidden = argparse.SUPPRESS  # the list above has them in groups
    add_tools(parser.add_subparsers(dest="tool", required=True, metavar="TOOL", help=hidden), prog)
    return parser


def add_tools(tools: Any, prog: str) -> None:
    """Add a parser for each tool; what it returns has its `run` and its `parser`."""

    def bare(
        name: str, run: Callable[[argparse.Namespace], int], more: str, *uses: tuple[str, str]
    ) -> Any:
        """Add a tool; `uses` are its arguments in examples, each with what that does."""
        summary = TOOLS[name]
        added = tools.add_parser(
            name,
            prog=f"{prog} {name}",
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}. {more}".strip(),
            epilog=examples((f"{prog} {name} {use}".strip(), text) for use, text in uses),
        )
        added.set_defaults(run=run, parser=added)
        return added

    def tool(
        name: str, run: Callable[[argparse.Namespace], int], more: str, *uses: tuple[str, str]
    ) -> Any:
        """Add a tool that talks to a server; return the function that adds its arguments."""
        added = bare(name, run, more, *uses)
        group = added.add_argument_group(SERVER)
        group.add_argument(
            "--url",
            help="the server's address (default: that of faktory.configure, else the variable "
            "FAKTORY_URL, which keeps a password out of the list of processes)",
        )
        group.add_argument(
            "-r",
            "--require",
            metavar="MODULE",
            action="append",
            default=[],
            help="load this as faktory-worker does; may be repeated. Its faktory.configure counts",
        )
        return added.add_argument

    server.add_tools(bare)
    health.add_arguments(bare("health", health.run, health.ABOUT, *health.USES))
    _add_reading(tool)
    top.add_tool(tool)
    _add_periodic(tool, tools)
    _add_changing(tool)


def _add_reading(tool: Callable[..., Any]) -> None:
    add = tool(
        "doctor",
        doctor.run,
        "It changes nothing on the server and takes no job. It ends with 0 unless a check finds "
        "an error.",
        ("-r app.jobs", "check the server of a program, and its jobs"),
        ("--json", "for programs: a list of objects"),
    )
    add(
        "--watch",
        metavar="SECONDS",
        type=seconds,
        default=3.0,
        help="how long to watch queues whose jobs have waited for more than a minute (default: 3)",
    )
    add_json(add, "a list of objects with level, check, text and remedy")
    add = tool(
        "info",
        admin.info,
        "",
        ("", "version, memory, how many jobs"),
        ("--json --url tcp://localhost:7419", "all that a server at an address says"),
    )
    add_json(add, "the server's answer to INFO, unchanged")
    add = tool(
        "queues",
        admin.queues,
        "The server does not show whether a queue is paused.",
        ("", "all queues"),
        ("images mail --json", "two of them, for programs"),
    )
    add("names", metavar="QUEUE", nargs="*", help="only these queues (default: all)")
    add_json(add, "a list of objects with name, size and latency, in seconds")


def _add_periodic(tool: Callable[..., Any], tools: Any) -> None:
    add = tool(
        "periodic",
        periodic.run,
        "Without --run it needs no server, and goes by this machine's clock.",
        ("-r app.jobs --next 3", "the next three ticks of each schedule"),
        ("-r app.jobs --run", "push them, beside workers with --no-periodic"),
    )
    one = tools.choices["periodic"].add_mutually_exclusive_group().add_argument
    one("--list", action="store_true", help="each schedule and its next tick (the default)")
    one("--next", metavar="N", type=_count, help="the next N ticks of each schedule")
    one(
        "--run",
        dest="run_alone",
        action="store_true",
        help="push the ticks, as each faktory-worker does, and run no jobs; until TERM or Ctrl-C",
    )
    add(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="of --run: text, or json, every line an object (default: text)",
    )
    add("-v", "--verbose", action="store_true", help="of --run: log debug messages, too")
    add_json(add, "a list of objects with name, jobtype and at, ISO 8601 with the offset")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 100_000):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 100000")
    return int(text)


def _add_changing(tool: Callable[..., Any]) -> None:
    push.add_tool(tool)
    add = tool(
        "pause",
        admin.pause,
        "Jobs can still be pushed to them.",
        ("images mail", "two queues"),
        ("--all", "all that there are"),
    )
    _add_queues(add)
    add = tool(
        "resume",
        admin.resume,
        "",
        ("images", "one queue"),
        ("--all", "all that there are"),
    )
    _add_queues(add)
    add = tool(
        "remove",
        admin.remove,
        "It asks first.",
        ("images", "say how many jobs that are, and ask"),
        ("images --yes", "in a script, which cannot answer"),
    )
    _add_queues(add)
    _add_yes(add)
    add = tool(
        "mutate",
        admin.mutate,
        "It changes all jobs of the set, or those chosen by --jid, or by --jobtype and --matching. "
        "It asks first, except for requeue. The server does not say how many jobs it changed, so "
        "the sizes of the set before and after are shown.",
        ("requeue dead --jobtype resize", "dead jobs of a type run again"),
        ("kill retries --jid 0123456789abcdef", "a job is not tried again"),
        ("""discard scheduled --matching '*"cat.png"*'""", "delete what has a text in it"),
    )
    add(
        "operation",
        choices=("requeue", "kill", "discard", "clear"),
        help="requeue: run now; kill: move to the dead; discard: delete; clear: delete all",
    )
    add(
        "target",
        metavar="SET",
        choices=("retries", "scheduled", "dead"),
        help="retries, scheduled or dead",
    )
    add("--jobtype", metavar="TYPE", help="jobs of this type")
    add("--jid", action="append", help="the job with this id; may be repeated")
    add("--matching", metavar="GLOB", help='jobs whose stored JSON matches, as *"cat.png"*')
    add_json(add, "an object with target, before and after")
    _add_yes(add)
    add = tool(
        "flush",
        admin.flush,
        "It asks first.",
        ("", "say how many jobs that are, and ask"),
        ("--yes --url tcp://localhost:7419", "a server at an address, in a script"),
    )
    _add_yes(add)


def _add_queues(add: Callable[..., Any]) -> None:
    add("names", metavar="QUEUE", nargs="*", help="which queues")
    add("--all", action="store_true", help="all queues")


def _add_yes(add: Callable[..., Any]) -> None:
    add("-y", "--yes", action="store_true", help="do not ask; required without a terminal")

"""`python -m faktory`: what the command line may say, and which tool does it.

Rules: whatever ends a tool is one message on standard error and an exit code of `exits`. Nothing
here needs the core, so that one that does not load is told like any other fault.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ... import __version__
from ...exceptions import (
    FaktoryAuthenticationError,
    FaktoryConnectionError,
    FaktoryError,
    FaktoryOutcomeUnknown,
    FaktoryPayloadError,
)
from ..exits import Exit, ExitError
from . import admin, doctor, push, server

_EPILOG = """
the server:
  FAKTORY_URL names it, tcp://:password@host:port, or tcp+tls:// for TLS. FAKTORY_PROVIDER may
  name another variable that holds the address. Without either it is tcp://localhost:7419.

examples:
  python -m faktory server                              a server in memory, to try things with
  python -m faktory push resize cat.png 200 -q images   push a job, print its jid
  python -m faktory queues                              which queues there are, how full
  python -m faktory doctor -r app.jobs                  what is wrong with this setup

`python -m faktory TOOL --help` tells more of each. Jobs are run by another command: faktory-worker.

exit codes:
  0    done
  1    the server refused, or something else went wrong; doctor: an error was found
  2    wrong usage: a flag, a variable or an address that cannot be
  3    a module of -r is there and cannot be imported
  4    the server refuses the password
  7    what -r names is not there
  9    no connection to the server, or it broke
  10   not confirmed, so nothing was changed
  130  interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a tool; return its exit code."""
    options = _parser().parse_args(argv)
    if options.run is not doctor.run:
        try:
            from ... import proto  # noqa: F401
        except ImportError as error:  # FAKTORY_IMPL asks for what is not there
            return _complain(options.tool, error, Exit.USAGE)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except ExitError as error:
        return _complain(options.tool, error, error.code)
    except BrokenPipeError:  # whoever reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    except (FaktoryError, OSError, ValueError) as error:
        taken = getattr(error, "errno", None) == errno.EADDRINUSE
        remedy = ". --bind 127.0.0.1:0 takes a free port." if taken else ""
        return _complain(options.tool, f"{error}{remedy}", _code(error))
    except KeyboardInterrupt:
        return _complain(options.tool, "interrupted", Exit.INTERRUPTED)


def _code(error: Exception) -> Exit:
    if isinstance(error, FaktoryPayloadError):
        return Exit.USAGE
    if isinstance(error, FaktoryAuthenticationError):
        return Exit.REFUSED
    if isinstance(error, FaktoryConnectionError):
        unknown = isinstance(error, FaktoryOutcomeUnknown)
        return Exit.FAILED if unknown else Exit.UNREACHABLE
    return Exit.FAILED if isinstance(error, (FaktoryError, OSError)) else Exit.USAGE


def _complain(tool: str, fault: object, code: Exit) -> int:
    print(f"python -m faktory {tool}: {fault}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m faktory",
        description="Tools around the Faktory job server.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-V", "--version", action="version", version=f"faktory-worker {__version__}"
    )
    tools = parser.add_subparsers(dest="tool", required=True, metavar="TOOL", title="tools")

    def tool(
        name: str, run: Callable[[argparse.Namespace], int], summary: str, more: str, example: str
    ) -> Any:
        """Add a tool that speaks to a server; return what adds an argument to it."""
        added = tools.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}. {more}".strip(),
            epilog=f"example: python -m faktory {name}{example}",
        )
        added.add_argument(
            "--url",
            help="the server's address (default: the variable FAKTORY_URL, which keeps a password "
            "out of the list of processes)",
        )
        added.set_defaults(run=run)
        return added.add_argument

    server.add_tools(tools)
    _add_looking(tool)
    _add_changing(tool)
    return parser


def _add_looking(tool: Callable[..., Any]) -> None:
    add = tool(
        "doctor",
        doctor.run,
        "say what is wrong with a setup, and what to do about it",
        "It changes nothing on the server and takes no job. It ends with 0 unless one of its "
        "findings is an error.",
        " -r app.jobs",
    )
    add(
        "-r",
        "--require",
        metavar="MODULE",
        action="append",
        default=[],
        help="a module or a .py file that defines jobs, as faktory-worker takes it; may be "
        "repeated",
    )
    add(
        "--watch",
        metavar="SECONDS",
        type=_seconds,
        default=3.0,
        help="how long to watch queues whose jobs wait for more than a minute (default: 3)",
    )
    _add_json(add, "the findings")
    add = tool("info", admin.info, "show the server's state", "", " --json")
    _add_json(add, "what the server answered to INFO, unchanged")
    add = tool(
        "queues",
        admin.queues,
        "show queues: how many jobs wait in them, and the oldest for how long",
        "Whether a queue is paused, the server does not tell.",
        "",
    )
    add("names", metavar="QUEUE", nargs="*", help="these queues alone (default: all)")
    _add_json(add, "a list of objects with name, size and latency, in seconds")


def _add_changing(tool: Callable[..., Any]) -> None:
    _add_push(tool)
    add = tool(
        "pause",
        admin.pause,
        "let the server hand out no jobs of queues",
        "Jobs can still be pushed to them.",
        " images",
    )
    _add_queues(add)
    add = tool(
        "resume", admin.resume, "let the server hand out jobs of paused queues again", "", " images"
    )
    _add_queues(add)
    add = tool(
        "remove",
        admin.remove,
        "delete queues with the jobs that wait in them",
        "It asks first.",
        " images --yes",
    )
    _add_queues(add)
    _add_yes(add)
    add = tool(
        "mutate",
        admin.mutate,
        "change the jobs of a set: those that wait for a retry or for their time, or are dead",
        "All jobs of the set, unless chosen by --jid, or by --jobtype and --matching. It asks "
        "first, except for requeue. The server does not say how many jobs it changed: the sizes "
        "before and after are shown.",
        " requeue dead --jobtype resize",
    )
    add(
        "operation",
        choices=("requeue", "kill", "discard", "clear"),
        help="requeue: run now; kill: to the dead ones; discard: delete; clear: delete all",
    )
    add(
        "target",
        metavar="SET",
        choices=("retries", "scheduled", "dead"),
        help="retries, scheduled or dead",
    )
    add("--jobtype", metavar="TYPE", help="jobs of this type")
    add("--jid", action="append", help="the job with this id; may be repeated")
    add("--matching", metavar="GLOB", help='jobs whose stored JSON matches, *"cat.png"* say')
    _add_json(add, "an object with target, before and after")
    _add_yes(add)
    add = tool(
        "flush",
        admin.flush,
        "delete every job of the server, whatever queue or set it is in",
        "It asks first.",
        " --yes",
    )
    _add_yes(add)


def _add_push(tool: Callable[..., Any]) -> None:
    add = tool(
        "push",
        push.run,
        "push a job, or many from a file",
        "Prints the job's jid. TYPE and its ARGs stand together, other flags before or after them.",
        """ resize cat.png 200 '{"crop": true}' -q images""",
    )
    add("jobtype", metavar="TYPE", nargs="?", help="the job's type")
    add(
        "args",
        metavar="ARG",
        nargs="*",
        help='its arguments: JSON where they can be read as that (200, true, "200" with its '
        "quotes), else text as it stands",
    )
    add(
        "-f",
        "--file",
        metavar="FILE",
        help='push the jobs in this file, "-" for standard input: one JSON object a line, with '
        "jobtype and args at least; lines that cannot be pushed are told, and stop no other",
    )
    add("-q", "--queue", metavar="NAME", help='its queue (default: "default")')
    add("--in", dest="delay", metavar="SECONDS", type=_seconds, help="run it so much later")
    add("--at", metavar="TIME", help="run it then; RFC 3339, like 2026-01-02T03:04:05Z")
    add("--retry", metavar="N", type=int, help="attempts after the first (default: 25)")
    add("--reserve-for", metavar="SECONDS", type=int, help="how long a run may take")
    add("--backtrace", metavar="N", type=int, help="lines of the traceback to keep of a failure")
    add("--custom", metavar="JSON", help="values of your own, an object")
    add("--jid", help="its id (default: a random one)")
    _add_json(add, "an object with jid; with -f, with pushed and refused, line to reason")


def _add_queues(add: Callable[..., Any]) -> None:
    add("names", metavar="QUEUE", nargs="*", help="which queues")
    add("--all", action="store_true", help="all queues")


def _add_json(add: Callable[..., Any], what: str) -> None:
    add("--json", action="store_true", help=f"for programs: {what}")


def _add_yes(add: Callable[..., Any]) -> None:
    add("-y", "--yes", action="store_true", help="do not ask; needed where there is no terminal")


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, 0 or more")
    return number

"""The command line of `faktory-worker`: its parser and help, made of the table of flags.

Rules: an error is collected, not printed: the log's format, which decides how to write it, may be
in the file that another flag names.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NoReturn

from ... import __version__
from ..exits import Exit
from ..names import TOOLS, WORKER
from ..parser import Parser, add_completion, closest, columns, examples
from .flags import FILE, FLAGS, Flag
from .values import QUEUES, SWITCH, TEXTS, ValueType

MOST_SHOWN: Final = 5
"""The most arguments that an error shows; an unquoted * may have become all files of a folder."""

_QUEUE: Final = ("-q", "--queue")

_FIRST: Final = [flag for flag in FLAGS if flag.group is FILE or flag.name == "log-format"]
"""The flags that decide how an error in the others is logged."""

USAGE: Final = """\
faktory-worker -r MODULE [-q NAME[,WEIGHT][,limit=N]]... [flags]
       faktory-worker TOOL [flags]"""

ABOUT: Final = (
    "Run the jobs of a program: fetch them from a Faktory server (--url, faktory.configure, "
    "FAKTORY_URL, or tcp://localhost:7419) and execute them on threads."
)

SOURCES: Final = """\
Every flag is a variable, too, and a key of a TOML file: --max-jobs is FAKTORY_WORKER_MAX_JOBS and \
max-jobs. But --url is FAKTORY_URL, and not a key: a file gets committed. \
The command line goes before variables, these before the table of the file that -e names, that \
before its top. A list replaces a list, it does not add to it. The file is that of -C, else \
[tool.faktory-worker] of pyproject.toml in the current folder."""

SIGNALS: Final = {
    "TERM, INT": "stop: fetch no more, wait for running jobs (-t), then report the rest as "
    "failed; a second one does not wait",
    "QUIT": "the same, after TTIN",
    "HUP": "with --processes, --reload: replace one worker after the other; else as TERM",
    "TSTP": "quiet: fetch no more, and stay",
    "TTIN": "show where every thread stands, and with which job",
}

PASSED_ON: Final = "With --processes send them to the supervisor, which passes them on."

EXIT_CODES: Final = {
    Exit.STOPPED: "stopped, or ended by --burst, --max-jobs or --max-memory, every job answered",
    Exit.FAULT: "an error of faktory-worker itself: please report it",
    Exit.USAGE: "wrong usage: a flag, a variable, a key of the file, no jobs to run",
    Exit.IMPORT: "a module of -r raised an error when it was imported",
    Exit.REFUSED: "the server refuses the password",
    Exit.ABANDONED: "stopped, some jobs left running or unreported",
    Exit.CANNOT_START: "the system gives too few threads or open files for -c, or not the port "
    "of --health",
    Exit.MISSING: "-r names a module, a file or a folder that does not exist",
    Exit.GAVE_UP: "with --processes: a worker ended five times running before it was ready",
    Exit.INTERRUPTED: "by Ctrl-C, before there was a worker to stop",
}

EXAMPLES: Final = (
    ("faktory-worker -r app.jobs", "the queues of the jobs, 10 jobs at a time"),
    ("faktory-worker -r jobs.py -q critical -q default", "critical first, always"),
    ("faktory-worker -r app.jobs -q critical,3 -q bulk", "by weight; one without has 1"),
    (
        "faktory-worker -r app.jobs -q critical,5 -q '*'",
        "critical, and all others that the jobs declare",
    ),
    (
        "faktory-worker -r app.jobs -q default -q api,limit=2",
        "of api 2 jobs at a time at most",
    ),
    ("faktory-worker -r app.jobs --burst", "what waits now, and then end: for cron"),
    ("faktory-worker -r app --reload", "while you write app/*/jobs.py"),
    ("faktory-worker -r app.jobs --processes 4 -c 5", "4 processes, 20 jobs at a time"),
    ("faktory-worker -r app.jobs --health 7431", "with http://127.0.0.1:7431/readyz"),
    ("faktory-worker -C worker.toml -e production", "from a file, with its table [production]"),
    (
        "FAKTORY_URL=tcp://:password@host:7419 faktory-worker -r app.jobs",
        "for the server at an address",
    ),
    (
        'FAKTORY_WORKER_QUEUE="critical,3 bulk" faktory-worker -r app.jobs',
        "queues in a variable, with spaces between them",
    ),
)


class _Parser(Parser):
    """What it returns lacks the flags that are not on the command line."""

    def __init__(self) -> None:
        super().__init__(
            prog="faktory-worker",
            usage=USAGE,
            description=ABOUT,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
            add_help=False,
        )

    def format_help(self) -> str:
        """Return the help, whose end is made when it is asked for."""
        self.epilog = _epilog()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


class _ShowVersions(argparse.Action):
    """Imports the core only when it is asked for."""

    def __call__(self, *_: object) -> NoReturn:
        print(versions())
        sys.exit()


def versions() -> str:
    """Return the versions of this package and of Python, and which core is loaded, and why."""
    from ...proto import implementation, implementation_info

    python = ".".join(map(str, sys.version_info[:3]))
    reason = implementation_info()["reason"]
    return f"faktory-worker {__version__} on Python {python}, core: {implementation} ({reason})"


def make_parser() -> Parser:
    """Make the parser of all flags."""
    parser = _Parser()
    add_flags(parser)
    return parser


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add all flags of the worker, and those of the program."""
    _add_flags(parser, FLAGS)
    group = parser.add_argument_group("about this program")
    group.add_argument("-h", "--help", action="help", help="show this, and end")
    text = "show the versions and the core, and end"
    group.add_argument("-V", "--version", action=_ShowVersions, nargs=0, help=text)
    add_completion(group)


def _add_flags(parser: argparse.ArgumentParser, flags: Iterable[Flag]) -> None:
    groups: dict[str, Any] = {}
    for flag in flags:
        group = groups.get(flag.group) or parser.add_argument_group(flag.group)
        groups[flag.group] = group
        names = [name for name in (flag.short, f"--{flag.name}") if name]
        if flag.value_type is SWITCH:
            group.add_argument(*names, action="store_true", help=flag.help)
        elif flag.value_type in (TEXTS, QUEUES):
            group.add_argument(*names, metavar=flag.metavar, action="append", help=flag.help)
        else:
            read = _for_argparse(flag.value_type)
            group.add_argument(*names, metavar=flag.metavar, type=read, help=flag.help)


def _epilog() -> str:
    codes = [(f"{int(code):<4}{code.name}", text) for code, text in EXIT_CODES.items()]
    return "\n\n".join(
        (
            f"tools:\n{columns(TOOLS.items())}\n  faktory-worker TOOL --help explains each.",
            f"variables and file:\n  {SOURCES}",
            f"signals:\n{columns(SIGNALS.items())}\n  {PASSED_ON}",
            f"exit codes:\n{columns(codes, 20)}",
            examples(EXAMPLES),
        )
    )


def parse(argv: Sequence[str], errors: list[str]) -> dict[str, Any]:
    """Return the options on the command line; append to `errors` what is wrong with it.

    The flags that decide how an error is logged are taken out first, so they are known even if
    there is an error before them.
    """
    options = argparse.Namespace()
    rest = list(argv)
    first = _Parser()
    _add_flags(first, _FIRST)
    try:
        for parser in (first, make_parser()):
            _, rest = parser.parse_known_args(rest, options)
    except ValueError as error:
        errors.append(str(error))
    else:
        if rest:
            shown = " ".join(rest[:MOST_SHOWN]) + (" ..." if len(rest) > MOST_SHOWN else "")
            errors.append(f"unrecognized arguments: {shown}{_hint(rest[0], argv)}")
    return vars(options)


def _hint(argument: str, argv: Sequence[str]) -> str:
    if argument.startswith("-"):
        close = closest(argument.partition("=")[0], make_parser().flags())
        return f". Did you mean {close}?" if close else ""
    if any(argv[at - 2] in _QUEUE for at in range(2, len(argv)) if argv[at] == argument):
        return (
            f". Each queue has its own flag: -q {argument}. If it was -q *, which the shell "
            "replaces by the names of files, quote it: -q '*'"
        )
    tools = (*TOOLS, WORKER)
    if argument in tools:
        return f". The name of a tool comes first: faktory-worker {argument}"
    if argument == "help":
        return ". Did you mean --help?"
    is_path = "." in argument or os.sep in argument or os.path.exists(f"{argument}.py")
    close = "" if is_path or argument != argv[0] else closest(argument, tools)
    return f". Did you mean {close}?" if close else f". Does it define the jobs? -r {argument}"


def _for_argparse(value_type: ValueType) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return value_type.from_text(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read

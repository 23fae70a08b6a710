"""The flags of `faktory-worker`: one table for the command line, the variables and the file.

Rules: a flag is declared here and nowhere else, with what its value may be and what it is unless
somebody says so. Nothing here reads a file or the environment.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, Final, NamedTuple, NoReturn

from ... import __version__

PREFIX: Final = "FAKTORY_WORKER_"
"""What the name of every variable begins with."""


class Wrong(Exception):
    """What the user gave cannot be: the message says what, and what can."""


class Kind(NamedTuple):
    """What a value may be."""

    check: Callable[[object], Any]
    """Returns the value as we use it; raises ValueError that goes on from the value."""
    read: Callable[[str], object] = str
    """Makes of a text what `check` checks; what it cannot read it returns."""

    def of_text(self, text: str) -> Any:
        """Return the value that a text stands for; ValueError says why it stands for none."""
        return self._checked(self.read(text), text)

    def of_value(self, value: object) -> Any:
        """Return the value that one of a file stands for; ValueError as for a text."""
        return self._checked(value, value)

    def _checked(self, value: object, given: object) -> Any:
        try:
            return self.check(value)
        except ValueError as fault:
            raise ValueError(f"{given!r} {fault}") from None


def _number(value: object) -> int:
    if type(value) is int and value >= 1:
        return value
    raise ValueError("is no whole number of 1 or more")


def _seconds(value: object) -> float:
    if isinstance(value, (int, float)) and value is not True and 0 <= value < float("inf"):
        return float(value)
    raise ValueError("is no number of seconds, 0 or more")


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("is no text")


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return value
    raise ValueError("is neither a text nor a list of them")


def _queue(value: object) -> list[str]:
    if isinstance(value, dict):
        if all(type(weight) is int and weight > 0 for weight in value.values()):
            return [f"{name},{weight}" for name, weight in value.items()]
        raise ValueError("is no table of weights: each must be a whole number of 1 or more")
    return _texts(value)


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("is neither true nor false")


def _format(value: object) -> str:
    if value in ("text", "json"):
        return str(value)
    raise ValueError("is neither text nor json")


def _read_number(text: str) -> object:
    return int(text) if text.isascii() and text.isdigit() else text


def _read_seconds(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def _read_texts(text: str) -> object:
    try:
        return shlex.split(text)
    except ValueError:  # a quote that is not closed
        return None


_SWITCHES: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off", ""), False),
}


def _read_switch(text: str) -> object:
    return _SWITCHES.get(text.lower(), text)


NUMBER: Final = Kind(_number, _read_number)
SECONDS: Final = Kind(_seconds, _read_seconds)
TEXT: Final = Kind(_text)
TEXTS: Final = Kind(_texts, _read_texts)
QUEUES: Final = Kind(_queue, _read_texts)
SWITCH: Final = Kind(_switch, _read_switch)
FORMAT: Final = Kind(_format)


class Flag(NamedTuple):
    """One flag; its variable and its key of the file have its long name."""

    group: str
    short: str
    name: str
    metavar: str
    kind: Kind
    default: object
    help: str

    @property
    def variable(self) -> str:
        """The variable that says the same: FAKTORY_WORKER_MAX_JOBS."""
        return PREFIX + self.name.upper().replace("-", "_")

    @property
    def attribute(self) -> str:
        """Its name among the options: max_jobs."""
        return self.name.replace("-", "_")


JOBS, PROCESS, FILE, LOG = "what runs", "processes", "configuration", "what it says"

FLAGS: Final = (
    Flag(
        JOBS, "-r", "require", "MODULE", TEXTS, [],
        "a module or a .py file that defines jobs; with a dot at the end, app., every jobs.py and "
        "tasks.py below that package; may be repeated",
    ),
    Flag(
        JOBS, "-q", "queue", "NAME[,WEIGHT]", QUEUES, [],
        'a queue to fetch from, in this order, or by weight; may be repeated (default: "default")',
    ),
    Flag(
        JOBS, "-c", "concurrency", "N", NUMBER, 10,
        "how many jobs run at a time, each on a thread (default: 10)",
    ),
    Flag(
        JOBS, "-t", "timeout", "SECONDS", SECONDS, 25.0,
        "how long running jobs may go on after TERM (default: 25)",
    ),
    Flag(
        PROCESS, "", "processes", "N", NUMBER, None,
        "start N workers, each with -c threads, under a parent that restarts one that ends; "
        "Python runs one thread at a time, so this is how to use more than one core",
    ),
    Flag(
        PROCESS, "", "max-jobs", "N", NUMBER, None,
        "a worker ends after N jobs, when those that run have finished; with --processes another "
        "takes its place: for jobs that leak memory",
    ),
    Flag(
        PROCESS, "", "reload", "", SWITCH, False,
        "for development: begin anew when a .py file below this folder is saved; running jobs "
        "finish first (needs: pip install 'faktory-worker[reload]')",
    ),
    Flag(
        FILE, "-C", "config", "FILE", TEXT, None,
        "read what is not given here from this TOML file: its keys are the long flags",
    ),
    Flag(
        FILE, "-e", "env", "ENV", TEXT, None,
        "which table of the file goes over the keys at its top: production",
    ),
    Flag(
        LOG, "-l", "label", "LABEL", TEXTS, [],
        'shown beside this worker in the server\'s pages; may be repeated (default: "python")',
    ),
    Flag(
        LOG, "-g", "tag", "TAG", TEXT, "",
        "shown in the process's title, which needs the extra proctitle",
    ),
    Flag(
        LOG, "", "log-format", "FORMAT", FORMAT, "text",
        "text, or json: every line a JSON object (default: text)",
    ),
    Flag(LOG, "-v", "verbose", "", SWITCH, False, "log debug messages, too"),
)  # fmt: skip

OF_FILE: Final = {flag.name: flag for flag in FLAGS if flag.group is not FILE}
"""What a file may set."""

_EPILOG = """
examples:
  faktory-worker -r app.jobs                          the queue "default", 10 jobs at a time
  faktory-worker -r jobs.py -q critical -q default    critical first, always
  faktory-worker -r app.jobs -q critical,3 -q bulk,1  by weight
  faktory-worker -r app. --reload                     while you write app/*/jobs.py
  faktory-worker -r app.jobs --processes 4 -c 5       4 processes, 20 jobs at a time
  faktory-worker -C worker.toml -e production         from a file:
      require = ["app.jobs"]
      queue = { critical = 3, bulk = 1 }
      [production]
      processes = 4
      log-format = "json"
  FAKTORY_URL=tcp://:password@host:7419 faktory-worker -r app.jobs
  FAKTORY_WORKER_QUEUE="critical,3 bulk,1" FAKTORY_WORKER_PROCESSES=4 faktory-worker -r app.jobs

  Every flag has a variable: --max-jobs is FAKTORY_WORKER_MAX_JOBS. The command line goes before
  variables, these before the file. A list replaces a list, it does not add to it.

signals:
  TERM, INT   stop: fetch no more, wait for running jobs (-t), then report the rest as failed;
              a second one does not wait
  TSTP        quiet: fetch no more, and stay
  TTIN        show where every thread stands, and with which job
  With --processes send them to the parent, which passes them on.

exit codes:
  0 STOPPED       stopped, or ended by --max-jobs, every job answered
  1 FAULT         an error of faktory-worker itself: please report it
  2 USAGE         wrong usage: a flag, a variable, a key of the file, no jobs to run
  3 IMPORT        a module of -r raised an error when it was imported
  4 REFUSED       the server refuses the password
  5 ABANDONED     stopped, some jobs left running or unreported
  6 CANNOT_START  the system gives too few threads for -c
  7 MISSING       -r names a module or a file that is not there
  8 GAVE_UP       with --processes: a worker ended five times running before it was ready
  130 INTERRUPTED by Ctrl-C, before there was a worker to stop
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Wrong(message)


def parser() -> argparse.ArgumentParser:
    """Make the parser; what is not on the command line is not in what it returns."""
    made = _Parser(
        prog="faktory-worker",
        usage="faktory-worker -r MODULE [-r MODULE]... [-q NAME[,WEIGHT]]... [flags]",
        description="Run the jobs of a program: fetch them from a Faktory server "
        "(FAKTORY_URL, or tcp://localhost:7419) and execute them on threads.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    groups: dict[str, Any] = {}
    for flag in FLAGS:
        group = groups.get(flag.group) or made.add_argument_group(flag.group)
        groups[flag.group] = group
        names = [name for name in (flag.short, f"--{flag.name}") if name]
        if flag.kind is SWITCH:
            group.add_argument(*names, action="store_true", help=flag.help)
        elif flag.kind in (TEXTS, QUEUES):
            group.add_argument(*names, metavar=flag.metavar, action="append", help=flag.help)
        else:
            read = _for_argparse(flag.kind)
            group.add_argument(*names, metavar=flag.metavar, type=read, help=flag.help)
    made.add_argument("-V", "--version", action="version", version=f"faktory-worker {__version__}")
    return made


def parse(argv: Sequence[str] | None) -> dict[str, Any]:
    """Return what the command line says, by attribute; `Wrong` if it says what cannot be."""
    made = parser()
    options, unknown = made.parse_known_args(argv)
    if unknown:
        raise Wrong(f"unrecognized arguments: {' '.join(unknown)}{_meant(unknown[0])}")
    return vars(options)


def closest(name: str, known: Sequence[str]) -> str:
    """Return the known name that may have been meant, or ''."""
    begun = [each for each in known if each.startswith(name)]
    return next(iter(begun or get_close_matches(name, known, 1, cutoff=0.7)), "")


def _meant(argument: str) -> str:
    if not argument.startswith("-"):
        return f". Is it what defines the jobs? -r {argument}"
    close = closest(argument.partition("=")[0], [f"--{flag.name}" for flag in FLAGS])
    return f". Did you mean {close}?" if close else ""


def _for_argparse(kind: Kind) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return kind.of_text(text)
        except ValueError as fault:
            raise argparse.ArgumentTypeError(str(fault)) from None

    return read

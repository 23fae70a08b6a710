"""The flags of `faktory-worker`: one table for the command line, the variables and the file.

Rules: a flag is declared here and nowhere else, with the type of its value and its default. Nothing
here reads a file or the environment.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import Any, Final, NamedTuple, NoReturn

from ... import __version__
from ...proto import implementation, implementation_info
from .. import health_address

PREFIX: Final = "FAKTORY_WORKER_"
"""The beginning of every variable's name."""


class ValueType(NamedTuple):
    """The type of a flag's value: how to read it and what is valid."""

    check: Callable[[object], Any]
    """Returns the value as an option; raises ValueError with the end of a sentence about it."""
    parse: Callable[[str], object] = str
    """Turns a string into something for `check`; returns it unchanged if it cannot."""

    def from_text(self, text: str) -> Any:
        """Return the option that a string stands for, or raise ValueError with the reason."""
        return self._checked(self.parse(text), text)

    def from_value(self, value: object) -> Any:
        """Return the option that a value of TOML stands for, or raise ValueError."""
        return self._checked(value, value)

    def _checked(self, value: object, given: object) -> Any:
        try:
            return self.check(value)
        except ValueError as error:
            raise ValueError(f"{given!r} {error}") from None


def _number(value: object) -> int:
    if type(value) is int and value >= 1:
        return value
    raise ValueError("is not a whole number of 1 or more")


def _seconds(value: object) -> float:
    if isinstance(value, (int, float)) and value is not True and 0 <= value < float("inf"):
        return float(value)
    raise ValueError("is not a number of seconds, 0 or more")


def _limit(value: object) -> float:
    if isinstance(value, (int, float)) and value is not True and 0 < value < float("inf"):
        return float(value)
    raise ValueError("is not a number of seconds above 0; for no limit leave it out")


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("is not a string")


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return value
    raise ValueError("is neither a string nor a list of strings")


def _queues(value: object) -> list[str] | list[str | list[str]]:
    """Return queues as -q has them; a table in a list is a list of them."""
    if isinstance(value, dict):
        return _table(value)
    if not (isinstance(value, list) and any(isinstance(each, dict) for each in value)):
        return _texts(value)
    found: list[str | list[str]] = []
    for each in value:
        if isinstance(each, str):
            found.append(each)
        elif not isinstance(each, dict):
            raise ValueError("is neither a string nor a list of strings and tables")
        elif each:
            found.append(_table(each))
    return found


def _table(value: dict[str, Any]) -> list[str]:
    """Return the queues of a table as -q has them, with weights."""
    for name, share in value.items():
        given = share if isinstance(share, dict) else {"weight": share}
        numbers = all(type(number) is int and number > 0 for number in given.values())
        if not numbers or given.keys() - {"weight", "limit"}:
            raise ValueError(
                "is not a table of weights: each must be a whole number of 1 or more, or a table "
                "like { weight = 3, limit = 2 }"
            )
        if "," in name:
            raise ValueError(f"has the name {name!r}: no queue's name has a comma")
    return [f"{name},{_settings(share)}" for name, share in value.items()]


def _settings(share: int | dict[str, int]) -> str:
    if isinstance(share, int):
        return str(share)
    limit = f",limit={share['limit']}" if "limit" in share else ""
    return f"{share.get('weight', 1)}{limit}"


def _health(value: object) -> tuple[str, int]:
    if isinstance(value, str) or type(value) is int:
        return health_address.parse(str(value))
    raise ValueError("is neither a port nor an address")


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("is neither true nor false")


def _format(value: object) -> str:
    if value in ("text", "json"):
        return str(value)
    raise ValueError("is neither text nor json")


def _parse_number(text: str) -> object:
    return int(text) if text.isascii() and text.isdigit() else text


def _parse_seconds(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def _parse_texts(text: str) -> object:
    try:
        return shlex.split(text)
    except ValueError:  # a quote that is not closed
        return None


_SWITCHES: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off", ""), False),
}


def _parse_switch(text: str) -> object:
    return _SWITCHES.get(text.lower(), text)


NUMBER: Final = ValueType(_number, _parse_number)
SECONDS: Final = ValueType(_seconds, _parse_seconds)
LIMIT: Final = ValueType(_limit, _parse_seconds)
TEXT: Final = ValueType(_text)
TEXTS: Final = ValueType(_texts, _parse_texts)
QUEUES: Final = ValueType(_queues, _parse_texts)
SWITCH: Final = ValueType(_switch, _parse_switch)
FORMAT: Final = ValueType(_format)
HEALTH: Final = ValueType(_health)


class Flag(NamedTuple):
    """A flag; its variable and its key in the file have its long name."""

    group: str
    short: str
    name: str
    metavar: str
    value_type: ValueType
    default: object
    help: str

    @property
    def variable(self) -> str:
        """The variable of the same meaning: FAKTORY_WORKER_MAX_JOBS."""
        return PREFIX + self.name.upper().replace("-", "_")

    @property
    def attribute(self) -> str:
        """The option's name: max_jobs."""
        return self.name.replace("-", "_")


JOBS, PROCESS, FILE, LOG = "jobs", "processes", "configuration", "names and logs"

FLAGS: Final = (
    Flag(
        JOBS, "-r", "require", "MODULE", TEXTS, [],
        "what defines the jobs: a module, a package, with every jobs.py and tasks.py below it, a "
        ".py file, or a folder, as ., ./app or app/; may be repeated",
    ),
    Flag(
        JOBS, "-q", "queue", "NAME[,WEIGHT][,limit=N]", QUEUES, [],
        "a queue to fetch from, in this order, or by weight, with at most N of its jobs at a time; "
        "may be repeated; '*' stands for default and all that the jobs declare (default: '*')",
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
        JOBS, "", "time-limit", "SECONDS", LIMIT, None,
        "raise TimeLimitExceeded in a job after so long, if neither its declaration nor its push "
        "has a time_limit",
    ),
    Flag(
        JOBS, "", "burst", "", SWITCH, False,
        "end with 0 when the queues are empty and no job runs; jobs that are scheduled or wait for "
        "a retry do not count: for cron and CI",
    ),
    Flag(
        JOBS, "", "no-periodic", "", SWITCH, False,
        "do not push the periodic jobs that the program declares; without this each worker does",
    ),
    Flag(
        JOBS, "", "give-back", "", SWITCH, False,
        "jobs that are interrupted because the worker stops do not fail by that: they run again "
        "a few seconds later, and that uses up no attempt",
    ),
    Flag(
        JOBS, "", "loop-factory", "MODULE:NAME", TEXT, None,
        "what makes the event loop of async jobs: uvloop:new_event_loop (default: asyncio's)",
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
        PROCESS, "", "max-memory", "MIB", NUMBER, None,
        "the same after the job with which the process exceeds so many MiB of resident memory",
    ),
    Flag(
        PROCESS, "", "reload", "", SWITCH, False,
        "for development: restart when a .py file below this folder is saved; running jobs "
        "finish first (needs: pip install 'faktory-worker[reload]')",
    ),
    Flag(
        PROCESS, "", "health", "ADDRESS", HEALTH, None,
        "answer /livez, /readyz and /metrics by HTTP on this port of 127.0.0.1, or on host:port; "
        "with --processes for all workers; 0 takes a free port, which the log names",
    ),
    Flag(
        FILE, "-C", "config", "FILE", TEXT, None,
        "read the options that are not given here from this TOML file; its keys are the long flags",
    ),
    Flag(
        FILE, "-e", "env", "ENV", TEXT, None,
        "the table of the file that overrides the keys at its top: production",
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

FILE_KEYS: Final = {flag.name: flag for flag in FLAGS if flag.group is not FILE}
"""The flags that a file may set."""

_QUEUE: Final = ("-q", "--queue")

MOST_SHOWN: Final = 5
"""The most arguments that an error shows; an unquoted * may have become all files of a folder."""

_FIRST: Final = [flag for flag in FLAGS if flag.group is FILE or flag.name == "log-format"]
"""The flags that decide how an error in the others is logged."""

_EPILOG = """
examples:
  faktory-worker -r app.jobs                          the queues of the jobs, 10 jobs at a time
  faktory-worker -r jobs.py -q critical -q default    critical first, always
  faktory-worker -r app.jobs -q critical,3 -q bulk    by weight; one without has 1
  faktory-worker -r app.jobs -q critical,5 -q '*'     critical, and all others that jobs declare
  faktory-worker -r app.jobs -q default -q api,limit=2   2 jobs of api at a time at most
  faktory-worker -r app.jobs --burst                  what waits now, and then end: for cron
  faktory-worker -r app --reload                      while you write app/*/jobs.py
  faktory-worker -r app.jobs --processes 4 -c 5       4 processes, 20 jobs at a time
  faktory-worker -r app.jobs --health 7431            http://127.0.0.1:7431/readyz
  faktory-worker -C worker.toml -e production         from a file:
      require = ["app.jobs"]
      queue = { critical = 3, bulk = 1, api = { weight = 1, limit = 2 } }
      [production]
      processes = 4
      log-format = "json"
  FAKTORY_URL=tcp://:password@host:7419 faktory-worker -r app.jobs
  FAKTORY_WORKER_QUEUE="critical,3 bulk" FAKTORY_WORKER_PROCESSES=4 faktory-worker -r app.jobs

  Every flag has a variable: --max-jobs is FAKTORY_WORKER_MAX_JOBS. The command line goes before
  variables, these before the file. A list replaces a list, it does not add to it.

signals:
  TERM, INT   stop: fetch no more, wait for running jobs (-t), then report the rest as failed;
              a second one does not wait
  QUIT        the same, after TTIN
  HUP         with --processes, --reload: replace one worker after the other; else as TERM
  TSTP        quiet: fetch no more, and stay
  TTIN        show where every thread stands, and with which job
  With --processes send them to the parent, which passes them on.

exit codes:
  0 STOPPED       stopped, or ended by --burst, --max-jobs or --max-memory, every job answered
  1 FAULT         an error of faktory-worker itself: please report it
  2 USAGE         wrong usage: a flag, a variable, a key of the file, no jobs to run
  3 IMPORT        a module of -r raised an error when it was imported
  4 REFUSED       the server refuses the password
  5 ABANDONED     stopped, some jobs left running or unreported
  6 CANNOT_START  the system gives too few threads or open files for -c, or not the port of --health
  7 MISSING       -r names a module, a file or a folder that does not exist
  8 GAVE_UP       with --processes: a worker ended five times running before it was ready
  130 INTERRUPTED by Ctrl-C, before there was a worker to stop
"""


def versions() -> str:
    """Return the versions of this package and of Python, and which core is loaded, and why."""
    python = ".".join(map(str, sys.version_info[:3]))
    reason = implementation_info()["reason"]
    return f"faktory-worker {__version__} on Python {python}, core: {implementation} ({reason})"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def make_parser(flags: Iterable[Flag] = FLAGS, add_help: bool = True) -> argparse.ArgumentParser:
    """Make a parser; what it returns lacks the flags that are not on the command line."""
    parser = _Parser(
        prog="faktory-worker",
        usage="faktory-worker -r MODULE [-r MODULE]... [-q NAME[,WEIGHT][,limit=N]]... [flags]",
        description="Run the jobs of a program: fetch them from a Faktory server "
        "(faktory.configure, FAKTORY_URL, or tcp://localhost:7419) and execute them on threads.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=add_help,
    )
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
    if add_help:
        parser.add_argument("-V", "--version", action="version", version=versions())
    return parser


def parse(argv: Sequence[str], errors: list[str]) -> dict[str, Any]:
    """Return the options on the command line; append to `errors` what is wrong with it.

    The flags that decide how an error is logged are taken out first, so they are known even if
    there is an error before them.
    """
    options = argparse.Namespace()
    rest = list(argv)
    try:
        for parser in (make_parser(_FIRST, add_help=False), make_parser()):
            _, rest = parser.parse_known_args(rest, options)
    except ValueError as error:
        errors.append(str(error))
    else:
        if rest:
            shown = " ".join(rest[:MOST_SHOWN]) + (" ..." if len(rest) > MOST_SHOWN else "")
            errors.append(f"unrecognized arguments: {shown}{_hint(rest[0], argv)}")
    return vars(options)


def closest(name: str, known: Sequence[str]) -> str:
    """Return the known name that may have been meant, or ''."""
    longer = [each for each in known if each.startswith(name)]
    return next(iter(longer or get_close_matches(name, known, 1, cutoff=0.7)), "")


def _hint(argument: str, argv: Sequence[str]) -> str:
    if not argument.startswith("-"):
        if any(argv[at - 2] in _QUEUE for at in range(2, len(argv)) if argv[at] == argument):
            return (
                f". Each queue has its own flag: -q {argument}. If it was -q *, which the shell "
                "replaces by the names of files, quote it: -q '*'"
            )
        return f". Does it define the jobs? -r {argument}"
    close = closest(argument.partition("=")[0], [f"--{flag.name}" for flag in FLAGS])
    return f". Did you mean {close}?" if close else ""


def _for_argparse(value_type: ValueType) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return value_type.from_text(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read

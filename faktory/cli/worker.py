"""`faktory-worker`: run the jobs of a program.

Rules: what is wrong with the command line, the environment or the program's own modules ends in
one readable message and its own exit code; the traceback of an import error is the user's, so
it is shown.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import sys
import traceback
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import Path

from .. import __version__
from ..exceptions import FaktoryAuthenticationError, FaktoryPayloadError
from ..jobs import registry
from ..proto import implementation, implementation_info
from ..worker import Worker
from ..worker.logs import JobFilter
from ..worker.worker import CannotStart
from . import conflict, title


class Exit(IntEnum):
    """What the exit code says."""

    STOPPED = 0  # after TERM, INT or the server's terminate, with every job answered
    USAGE = 2  # a flag, a variable or an address that cannot be; no jobs to run
    IMPORT = 3  # a module of -r that cannot be imported
    REFUSED = 4  # the server refuses the password
    LEFT_BEHIND = 5  # stopped, with jobs that did not end in time, or reports not delivered
    CANNOT_START = 6  # the system gives too few threads for -c


_EPILOG = """
examples:
  faktory-worker -r app.jobs                          the queue "default", 10 jobs at a time
  faktory-worker -r jobs.py -q critical -q default    critical first, always
  faktory-worker -r app.jobs -q critical,3 -q bulk,1  by weight
  FAKTORY_URL=tcp://:password@host:7419 faktory-worker -r app.jobs

signals:
  TERM, INT   stop: fetch no more, wait for running jobs (-t), then report the rest as failed;
              a second one does not wait
  TSTP        quiet: fetch no more, and stay
  TTIN        show where every thread stands, and with which job

exit codes:
  0 stopped, every job answered
  2 wrong usage
  3 a module cannot be imported
  4 the server refuses the password
  5 stopped, some jobs left running or unreported
  6 the system gives too few threads for -c
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_args(argv)
    conflict.warn()
    handler = logging.StreamHandler()
    handler.addFilter(JobFilter())
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(threadName)s %(job)s%(message)s",
        handlers=[handler],
    )
    if not _load(options.require):
        return Exit.IMPORT
    try:
        worker = Worker(
            queues=_queues(options.queue),
            concurrency=options.concurrency,
            disconnect_wait=options.timeout,
            labels=options.label or ["python"],
        )
    except (ValueError, FaktoryPayloadError) as error:
        return _complain(Exit.USAGE, error)
    if not registry.names():
        return _complain(
            Exit.USAGE,
            "no job type is registered, so every job would fail. "
            "Name the module that defines jobs: -r app.jobs",
        )
    log = logging.getLogger("faktory.worker")
    log.info(
        "faktory-worker %s on Python %s, core: %s (%s), server: %s, concurrency: %d",
        __version__,
        ".".join(map(str, sys.version_info[:3])),
        implementation,
        implementation_info()["reason"],
        worker.faktory,
        worker.concurrency,
    )
    try:
        with title.shown(worker, options.tag):
            worker.run()
    except FaktoryAuthenticationError as error:
        return _complain(Exit.REFUSED, error)
    except CannotStart as error:
        return _complain(Exit.CANNOT_START, f"-c {worker.concurrency}: {error}")
    if worker.left_behind:
        log.warning(
            "stopped, some jobs left running or unreported, on: %s", ", ".join(worker.left_behind)
        )
        return Exit.LEFT_BEHIND
    log.info("stopped, every job answered")
    return Exit.STOPPED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="faktory-worker",
        description="Run the jobs of a program: fetch them from a Faktory server "
        "(FAKTORY_URL, or tcp://localhost:7419) and execute them on threads.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "-r",
        "--require",
        metavar="MODULE",
        action="append",
        default=[],
        help="a module or a .py file that defines jobs; may be repeated",
    )
    add(
        "-q",
        "--queue",
        metavar="NAME[,WEIGHT]",
        action="append",
        default=[],
        help="a queue to fetch from, in this order, or by weight; may be repeated "
        '(default: "default")',
    )
    add(
        "-c",
        "--concurrency",
        metavar="N",
        type=_positive,
        default=10,
        help="how many jobs run at a time (default: 10)",
    )
    add(
        "-t",
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=25.0,
        help="how long running jobs may go on after TERM (default: 25)",
    )
    add(
        "-l",
        "--label",
        metavar="LABEL",
        action="append",
        default=[],
        help='shown beside this worker in the server\'s pages; may be repeated (default: "python")',
    )
    add(
        "-g",
        "--tag",
        metavar="TAG",
        default="",
        help="shown in the process's title, which needs the extra proctitle",
    )
    add("-v", "--verbose", action="store_true", help="log debug messages, too")
    add("-V", "--version", action="version", version=f"faktory-worker {__version__}")
    return parser


def _positive(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return number


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, 0 or more")
    return number


def _queues(flags: Sequence[str]) -> Sequence[str] | Mapping[str, int]:
    """Make what `Worker` takes of the -q flags: all with a weight, or none."""
    weights: dict[str, int] = {}
    for flag in flags:
        name, comma, weight = flag.partition(",")
        if comma and not (weight.isascii() and weight.isdigit() and int(weight) > 0):
            raise ValueError(f"-q {flag}: the weight {weight!r} is no whole number of 1 or more.")
        given = int(weight) if comma else 0
        if weights.setdefault(name, given) != given:
            raise ValueError(f"-q {name} is given twice, with different weights: give it once.")
    if not weights:
        return ["default"]
    if not any(weights.values()):
        return list(weights)
    if not all(weights.values()):
        bare = next(name for name, weight in weights.items() if not weight)
        raise ValueError(f"-q {bare} has no weight and others have one: give all one, or none.")
    return weights


def _load(names: Sequence[str]) -> bool:
    """Import the modules of -r; tell whether that went well."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    for name in names:
        try:
            if name.endswith(".py"):
                _import_file(Path(name))
            else:
                importlib.import_module(name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            ours = isinstance(error, _Unfit) or _is_missing(name, error)
            if not ours:
                traceback.print_exc()
            fault = str(error) if ours else repr(error)
            _complain(Exit.IMPORT, f"-r {name}: cannot be imported: {fault}")
            return False
    return True


def _is_missing(name: str, error: BaseException) -> bool:
    """Tell whether what -r names is not there, rather than something that it needs."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{name}.".startswith(f"{error.name}.")
    return False


class _Unfit(Exception):
    """-r names a file that is not there, or that cannot have the module name it would have."""


def _import_file(path: Path) -> None:
    name = path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise _Unfit(f"there is no file {path}")
    taken = sys.modules.get(name)
    if taken is not None or name in sys.stdlib_module_names:
        origin = getattr(taken, "__file__", None)
        if origin is not None and path.resolve() == Path(origin).resolve():
            return
        raise _Unfit(
            f"the module name {name} is taken, by {origin or 'a module of Python'}. "
            "Rename the file, or name it as part of a package: -r package.module"
        )
    sys.path.insert(0, str(path.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def _complain(code: Exit, fault: object) -> int:
    print(f"faktory-worker: {fault}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

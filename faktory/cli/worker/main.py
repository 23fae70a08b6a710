"""`faktory-worker`: run the jobs of a program.

Rules: what is wrong with the command line, the environment, the file or the program's own modules
ends in one readable message and its own exit code; the traceback of an import error is the
user's, so it is shown, from his first line on. A parent never imports what is the user's: each
worker does, so that a new one has the new code, and a module that starts threads harms no fork.
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from threading import Thread
from time import sleep
from typing import NoReturn

from ... import __version__
from ...exceptions import FaktoryAuthenticationError, FaktoryPayloadError
from ...jobs import registry
from ...proto import implementation, implementation_info
from ...worker import Worker
from ...worker.crew import CannotStart
from .. import conflict, loading
from ..exits import Exit, ExitError
from . import config, logs, title
from .flags import Wrong
from .logs import complain

__all__ = ["Exit", "main"]

PATIENCE = 1.0
"""Seconds that the program's own functions at exit have if jobs go on."""

log = logging.getLogger("faktory.worker")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code.

    As a command, without `argv`, it leaves the process itself where jobs were left behind: Python
    would wait for what they have started.
    """
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
    except ExitError as error:
        complain(error, error.__cause__)
        code = error.code
    except KeyboardInterrupt:
        complain("interrupted")
        code = Exit.INTERRUPTED
    except Exception as error:
        complain(f"{error!r}: this is an error of faktory-worker itself, please report it", error)
        code = Exit.FAULT
    if code == Exit.ABANDONED and argv is None:
        _leave(code)
    return code


def _leave(code: int) -> NoReturn:
    """End the process within PATIENCE, whatever its other threads do."""

    def at_once() -> None:
        sleep(PATIENCE)
        os._exit(code)

    try:
        Thread(target=at_once, daemon=True).start()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _run(argv: Sequence[str]) -> Exit:
    try:
        options = config.load(argv, os.environ)
    except Wrong as wrong:
        logs.start(config.log_format(argv, os.environ))
        stop = "" if str(wrong).endswith("?") else "."
        return _refuse(Exit.USAGE, f"{wrong}{stop} See faktory-worker --help")
    has_parent = options.processes is not None or options.reload
    logs.start(options.log_format)
    logs.configure(options.verbose, many=has_parent)
    for warning in filter(None, (conflict.find(), *options.beware)):
        complain(warning, level=logging.WARNING)
    if not has_parent:
        return _work(options, None)
    if (code := _check(options)) is not None:
        return code
    outcome = _be_parent(options)
    return outcome if isinstance(outcome, Exit) else _work(options, outcome)


def _check(options: Namespace) -> Exit | None:
    """Say what would be wrong in each of the workers, once."""
    from . import reload

    if not hasattr(os, "fork"):
        return _refuse(
            Exit.USAGE,
            "--processes and --reload need a system that can fork, which this is not: "
            "start several faktory-worker instead",
        )
    if options.reload and not reload.available():
        return _refuse(
            Exit.USAGE, "--reload needs watchfiles: pip install 'faktory-worker[reload]'"
        )
    if not options.require:
        return _refuse_without_jobs()
    try:
        worker = _make(options)
    except (ValueError, FaktoryPayloadError) as error:
        return _refuse(Exit.USAGE, error)
    count = options.processes or 1
    reloads = ", anew whenever a file is saved" if options.reload else ""
    _introduce(worker, f", {count} worker{'s' if count > 1 else ''}{reloads}")
    return None


def _be_parent(options: Namespace) -> Exit | socket.socket:
    """Return when all workers have ended; in each of them, at its beginning, with its channel."""
    from ..parent import Parent
    from . import reload

    count = options.processes or 1
    logs.share()
    with ExitStack() as stack:
        changes = None
        if options.reload:
            changes = stack.enter_context(reload.watched(options.require))
        title.show_parent(options.tag, count)
        outcome = Parent(count, options.timeout, changes).run()
    if outcome is Exit.STOPPED:
        log.info("stopped, every job answered")
    elif outcome is Exit.ABANDONED:
        log.warning("stopped, some jobs left running or unreported")
    elif outcome is Exit.GAVE_UP:
        complain("gave up: workers could not begin, and have said above why")
    return outcome


def _work(options: Namespace, channel: socket.socket | None) -> Exit:
    """Be a worker, on one's own or at the other end of a parent's channel."""
    loading.load(options.require)
    try:
        worker = _make(options)
    except (ValueError, FaktoryPayloadError) as error:
        return _refuse(Exit.USAGE, error)
    if not registry.names():
        return _refuse_without_jobs()
    quota = None
    if channel is not None or options.max_jobs is not None:
        from ..retire import Quota, attach

        if options.max_jobs is not None:
            quota = Quota(worker, options.max_jobs)
        if channel is not None:
            attach(worker, channel)
    _introduce(worker, "")
    try:
        with title.shown(worker, options.tag):
            worker.run()
    except FaktoryAuthenticationError as error:
        return _refuse(Exit.REFUSED, error)
    except CannotStart as error:
        return _refuse(Exit.CANNOT_START, f"-c {worker.concurrency}: {error}")
    if worker.abandoned:
        log.warning(
            "stopped, some jobs left running or unreported, on: %s", ", ".join(worker.abandoned)
        )
        return Exit.ABANDONED
    after = f" after {options.max_jobs} jobs (--max-jobs)" if quota and quota.is_used_up else ""
    log.info("stopped%s, every job answered", after)
    return Exit.STOPPED


def _make(options: Namespace) -> Worker:
    return Worker(
        queues=_queues(options.queue),
        concurrency=options.concurrency,
        disconnect_wait=options.timeout,
        labels=options.label or ["python"],
    )


def _introduce(worker: Worker, more: str) -> None:
    log.info(
        "faktory-worker %s on Python %s, core: %s (%s), server: %s, concurrency: %d%s",
        __version__,
        ".".join(map(str, sys.version_info[:3])),
        implementation,
        implementation_info()["reason"],
        worker.faktory,
        worker.concurrency,
        more,
    )


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


def _refuse_without_jobs() -> Exit:
    return _refuse(
        Exit.USAGE,
        "no job type is registered, so every job would fail. "
        "Name the module that defines jobs: -r app.jobs",
    )


def _refuse(code: Exit, fault: object) -> Exit:
    complain(fault)
    return code

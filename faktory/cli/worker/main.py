"""`faktory-worker`: run the jobs of a program.

Rules: an error in the options or in the program's own modules ends the command with one readable
message and an exit code of its own; only an import error has a traceback, from the user's first
line on. A supervisor never imports the program: each worker does, so that a restarted worker has
the new code, and a module that starts threads does not make the fork unsafe.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any, Final

from ...client.defaults import configure
from ...exceptions import FaktoryAuthenticationError, FaktoryPayloadError
from ...jobs import registry
from ...wire.address import find_url
from ...wire.amounts import counted
from ...wire.log import Log
from ...worker import Worker
from ...worker.manager import CannotStart
from ...worker.signals import handled, noticed
from ...worker.texts import is_terminal, listed
from .. import conflict, hints, loading, streams, terminal
from ..exits import Exit, ExitError, UsageError
from . import config, live, logs, queues, title
from .command_line import versions
from .ending import STOP_SIGNALS, EarlySignals, end, unblock
from .logs import show_error

SPARE_FILES: Final = 6
"""Open files that a worker needs beside those of its processors: the heartbeat, the scheduler of
periodic jobs, imports, a log."""

MOST_NAMED: Final = 10
"""The most job types that the log names at the start."""

MORE_FILES: Final = "raise the limit (ulimit -n, LimitNOFILE=), or use a lower number"

NO_MODULE: Final = (
    "no module is named that defines the jobs: faktory-worker -r app.jobs. The tools are doctor, "
    "server, push, queues and others, as in faktory-worker doctor: see faktory-worker --help"
)

log = Log(logging.getLogger("faktory.worker"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code.

    Without `argv`, as a command, end the process here if something is left that Python would wait
    for.
    """
    early = EarlySignals()
    with handled(early.handlers, early.unless_used):
        if argv is None:
            unblock()
        given = sys.argv[1:] if argv is None else argv
        served = ExitStack()
        code, until = early.run(lambda: _run_command(given, early, served))
        if argv is None:
            return end(code, until)
        served.close()
        logs.close()
        return code


def _run_command(argv: Sequence[str], early: EarlySignals, served: ExitStack) -> tuple[int, float]:
    """Return the exit code, and until when the process waits for what is left.

    `served` gets what goes on until the process ends.
    A KeyboardInterrupt or a signal before there is a worker passes through.
    """
    streams.open_missing()
    try:
        return _run(argv, early, served)
    except ExitError as error:
        show_error(error, error.__cause__)
        code = error.code
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            show_error(f"{error.strerror}: {MORE_FILES}")
            code = Exit.CANNOT_START
        else:
            text = f"{error!r}: this is an error of faktory-worker itself, please report it"
            show_error(text, error)
            code = Exit.FAULT
    return code, 0.0


def _run(argv: Sequence[str], early: EarlySignals, served: ExitStack) -> tuple[Exit, float]:
    try:
        options = config.load(argv, os.environ)
    except config.ConfigError as error:
        logs.configure(error.log_format)
        stop = "" if str(error).endswith("?") else "."
        raise UsageError(f"{error}{stop} See faktory-worker --help") from None
    supervised = options.processes is not None or options.reload
    terminal.is_plain = options.plain
    logs.configure(options.log_format, getattr(logging, options.log_level), many=supervised)
    for warning in filter(None, (conflict.find(), *options.warnings)):
        show_error(warning, level=logging.WARNING)

    attach = None
    if options.burst and options.reload:
        raise UsageError(
            "--burst ends when the queues are empty, and --reload goes on for ever: leave one out"
        )
    if options.url is not None:
        _use_server(options.url)
    if supervised:
        _check_supervisor(options)
        outcome = _supervise(options, early)
        if isinstance(outcome, Exit):
            return outcome, 0.0
        attach = outcome  # this process is a worker now
        logs.run_in_background()
    else:
        _check_files("-c", options.concurrency)
        if options.health is not None:
            from . import health

            served.callback(health.start(options).close)

    try:
        with (
            noticed() if attach is None else nullcontext()
        ):  # a TERM ends a supervised one as usual
            loaded = loading.load(options.require)
            if options.url is not None:
                _use_server(options.url)  # also where the program configures another
    finally:
        early.check()  # an import may have caught what a signal raised, or made another error of it
    declared = registry.fetched_queues()
    worker = _make_worker(options, declared, loading.find_loop_factory(options.loop_factory))
    if not registry.names():
        raise UsageError(". ".join(hints.no_jobs(loaded)) if loaded else NO_MODULE)
    if attach is not None:
        attach(worker)
    return _work(worker, options, early)


def _use_server(url: str) -> None:
    """Use the server of --url here, in what the program pushes, and in what its jobs start."""
    try:
        configure(url=url)
    except ValueError as error:
        raise UsageError(f"--url: {error}") from None
    os.environ["FAKTORY_URL"] = url
    os.environ.pop("FAKTORY_PROVIDER", None)


def _check_files(flag: str, number: int) -> None:
    """Raise if the system gives too few open files for a flag: each of its number needs one."""
    needed = number + SPARE_FILES
    found: list[int] = []
    try:
        found.extend(os.dup(2) for _ in range(needed))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            text = f"{flag} {number} needs {needed} open files, and the system gives {len(found)}"
            raise ExitError(Exit.CANNOT_START, f"{text}: {MORE_FILES}") from None
    finally:
        for descriptor in found:
            os.close(descriptor)


def _check_supervisor(options: Namespace) -> None:
    """Raise once what would be wrong in each of the workers."""
    from . import reload

    if not hasattr(os, "fork"):
        raise UsageError(
            "--processes and --reload need a system that can fork, and this one cannot: "
            "start several faktory-worker instead"
        )
    if options.reload and not reload.available():
        raise UsageError("--reload needs watchfiles: pip install 'faktory-worker[reload]'")
    if not options.require:
        raise UsageError(NO_MODULE)
    worker = _make_worker(options, ())
    count = options.processes or 1
    _check_files("--processes", count)
    _check_files("-c", options.concurrency)
    _log_versions(worker)
    reloads = ", restarted when a file is saved" if options.reload else ""
    hint = f"; Ctrl-C stops {'it' if count == 1 else 'them'}" if is_terminal(sys.stderr) else ""
    text = f"starts %s{', each' if count > 1 else ''} for %s at a time%s%s"
    jobs = counted(worker.concurrency, "job")
    log.info(text, counted(count, "worker"), jobs, reloads, hint)


def _supervise(options: Namespace, early: EarlySignals) -> Exit | Callable[[Worker], None]:
    """Return when all workers have ended; in each of them, at once, what attaches it."""
    from . import reload
    from .processes import WorkerSupervisor

    count = options.processes or 1
    with ExitStack() as stack:
        changes = None
        if options.reload:
            changes = stack.enter_context(reload.watched(options.require))
        server = None
        if options.health is not None:
            from . import health

            server = health.listen(options, count)
            stack.callback(server.close)
        title.show_supervisor(options.tag, count)
        supervisor = WorkerSupervisor(
            count,
            options.concurrency,
            options.timeout,
            find_url(os.environ),
            changes,
            load=partial(loading.load, options.require),
            burst=options.burst,
            health=server,
        )
        early.is_over = lambda: supervisor.has_begun
        if early.quiet:
            supervisor.on_signal(signal.SIGTSTP)
        if (attach := supervisor.start()) is not None:
            early.quiet = False
            return attach
    outcome = supervisor.code
    if outcome is Exit.STOPPED:
        log.info("stopped, every job answered", event="stop")
    elif outcome is Exit.ABANDONED:
        log.warning("stopped, some jobs left running or unreported", event="stop")
    elif outcome is Exit.GAVE_UP:
        raise ExitError(outcome, "gave up: workers could not begin; their errors are above")
    return outcome


def _work(worker: Worker, options: Namespace, early: EarlySignals) -> tuple[Exit, float]:
    """Run a worker until it stops; return the exit code, and when its grace period is over."""
    quota = None
    if options.max_jobs is not None or options.max_memory is not None:
        from .supervised import Quota

        quota = Quota(worker, options.max_jobs, options.max_memory)

    def on_stuck() -> None:
        os._exit(end(_outcome(worker, ""), 0.0))

    worker._calls.on_stuck = on_stuck
    early.is_over = lambda: True
    with handled(dict.fromkeys(STOP_SIGNALS, worker.stop), {"SIGHUP": worker.stop}):
        early.check()
        if early.quiet:
            worker.quiet()
        if worker._number is None:
            _log_versions(worker)
        worker._introduce = partial(_introduce, worker, options)
        # Not for one of several: each would draw it.
        writer = logs.live_writer() if (options.processes or 1) == 1 else None
        try:
            with title.shown(worker, options.tag), live.shown(worker, writer):
                worker.run()
        except FaktoryAuthenticationError as error:
            raise ExitError(Exit.REFUSED, error) from None
        except CannotStart as error:
            raise ExitError(Exit.CANNOT_START, f"-c {worker.concurrency}: {error}") from None
        after = quota.reason if quota is not None else ""
        if worker.is_drained:
            after = " with no job left (--burst)"
        return _outcome(worker, after), worker.grace_ends


def _outcome(worker: Worker, after: str) -> Exit:
    if worker.abandoned:
        text = "stopped, some jobs left running or unreported, on: %s"
        log.warning(text, ", ".join(worker.abandoned), event="stop")
        return Exit.ABANDONED
    log.info("stopped%s, every job answered", after, event="stop")
    return Exit.STOPPED


def _make_worker(options: Namespace, declared: Collection[str], loop_factory: Any = None) -> Worker:
    try:
        return Worker(
            queues=queues.choose(options.queue, declared),
            concurrency=options.concurrency,
            disconnect_wait=options.timeout,
            labels=options.label or ["python"],
            burst=options.burst,
            time_limit=options.time_limit,
            give_back=options.give_back,
            loop_factory=loop_factory,
            periodic=not options.no_periodic,
        )
    except (ValueError, FaktoryPayloadError) as error:
        raise UsageError(error) from None


def _log_versions(worker: Worker) -> None:
    """Log what `-V` shows, and the labels."""
    log.debug("%s, labels: %s", versions(), ", ".join(worker.labels))


def _introduce(worker: Worker, options: Namespace) -> None:
    """Log what a worker runs; of several workers only the first one does, they run the same."""
    is_first = worker._number in (None, 1)
    level = logging.INFO if is_first else logging.DEBUG
    log.log(level, "Queues: %s (%s)", worker._queues, options.queue_source)
    hint = worker._number is None and is_terminal(sys.stderr)
    names = registry.names()
    log.log(
        level,
        "runs %s, %s at a time: %s%s",
        counted(len(names), "job type"),
        counted(worker.concurrency, "job"),
        listed(names, MOST_NAMED),
        "; Ctrl-C stops it" if hint else "",
    )
    if warning := queues.left_out(options.queue, registry.fetched_queues()):
        log.log(logging.WARNING if is_first else logging.DEBUG, "%s", warning)

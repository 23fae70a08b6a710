"""`faktory-worker periodic`: show the schedules of a program, or push their ticks.

Rules: what is shown needs no server, and goes by the local clock.
"""

from __future__ import annotations

import argparse
import logging
import signal
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..exits import Exit, ExitError
from . import output

if TYPE_CHECKING:
    from ...jobs.ticks import Schedule


def run(options: argparse.Namespace) -> int:
    """Show or run the schedules that the program declares."""
    from ...jobs.ticks import schedules

    declared = schedules()
    if not declared:
        where = "the modules of -r declare" if options.require else "no module is named by -r, so"
        raise ExitError(
            Exit.USAGE,
            f"{where} no schedule: load the program that calls faktory.periodic, -r app.jobs.",
        )
    if options.run_alone:
        return _push(options, declared)
    count = 1 if options.next is None else options.next
    rows = [row for each in declared for row in _rows(each, count)]
    if options.json:
        output.show_json(rows)
    else:
        names = ("name", "jobtype", "at") if options.next is not None else (*_COLUMNS, "at")
        output.show(output.table([name.upper() for name in names], _cells(declared, rows, names)))
    return Exit.DONE


_COLUMNS = ("name", "jobtype", "when")


def _rows(schedule: Schedule, count: int) -> list[dict[str, Any]]:
    ticks = islice(schedule.ticks(datetime.now(UTC)), count)
    return [
        {"name": schedule.name, "jobtype": schedule.jobtype, "at": tick.isoformat()}
        for tick in ticks
    ]


def _cells(
    declared: list[Schedule], rows: list[dict[str, Any]], names: tuple[str, ...]
) -> list[list[str]]:
    when = {each.name: each.when for each in declared}
    return [[str({**row, "when": when[row["name"]]}[name]) for name in names] for row in rows]


def _push(options: argparse.Namespace, declared: list[Schedule]) -> int:
    """Run the scheduler alone, until TERM or INT."""
    from ...client import Client
    from ...worker.scheduler import Scheduler
    from ..worker import logs

    logs.configure(options.log_format, logging.DEBUG if options.verbose else logging.INFO)
    scheduler = Scheduler(Client(options.url), declared, logging.getLogger("faktory.worker"))
    with suppress(_Stopped):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop)
        scheduler.start()
        scheduler.join()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    scheduler.stop()
    if scheduler.error is not None:
        raise scheduler.error
    return Exit.DONE


class _Stopped(BaseException):
    """Raised in the main thread by a signal."""


def _stop(number: int, frame: object) -> None:  # noqa: ARG001
    raise _Stopped

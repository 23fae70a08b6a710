"""Log records with the job that they were made in, and the lines that a processor logs of jobs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..jobs.context import current_job
from ..wire.log import clean, enabled


class JobFilter(logging.Filter):
    """Gives every record `jid` and `jobtype`, empty outside a job; added to a handler.

    Control characters in them are escaped, since a program's own format may be text.

    `job` is both and a space, for the beginning of a line; it is empty for this package's own
    records, whose messages name the job.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        try:
            job = current_job()
        except RuntimeError:
            record.jid = record.jobtype = record.job = ""
            return True
        jid, jobtype = clean(job.jid), clean(job.jobtype)
        record.jid, record.jobtype = jid, jobtype
        own = record.name.startswith("faktory.") and not record.name.startswith("faktory.job.")
        record.job = "" if own else f"{jobtype} {jid} "
        return True


def mark_records() -> None:
    """Give `jid`, `jobtype` and `job` to every record that this process makes from now on.

    Whichever handler it goes to, so that a program's own formatters may name them.
    """
    make = logging.getLogRecordFactory()
    if isinstance(make, _Marking):
        return
    logging.setLogRecordFactory(_Marking(make))


class _Marking:
    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make
        self._mark = JobFilter().filter

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._make(*args, **kwargs)
        self._mark(record)
        return record


class JobLog:
    """Writes the lines of jobs; what a filter or handler of the program raises loses no job."""

    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger

    def log(self, level: int, text: str, *args: object, exc_info: Any = None) -> None:
        """Write a line."""
        with suppress(BaseException):
            log = self.logger
            if log.disabled:
                enabled(log)
            if log.isEnabledFor(level):
                # As `Logger.log` does it, without its search for the caller: that is this line.
                line = sys._getframe().f_lineno
                args = tuple(map(clean, args))
                name = "log"
                record = log.makeRecord(log.name, level, __file__, line, text, args, exc_info, name)
                try:
                    log.handle(record)
                except BaseException:
                    if exc_info is None:
                        raise
                    # It was raised by the error's own methods: once more, without its traceback.
                    record.exc_info = None
                    log.handle(record)

"""Log records with the job that they were made in, and the lines that a processor logs of jobs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from types import FunctionType
from typing import Any, Final, Protocol

from ..jobs.context import JobContext, current_job
from ..wire.log import clean, enabled
from .texts import fields_of


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
        record.job = "" if is_own(record.name) else f"{jobtype} {jid} "
        return True


@lru_cache(maxsize=256)
def is_own(logger: str) -> bool:
    """Return whether this package writes to the logger of that name: its messages name the job."""
    return logger.startswith("faktory.") and not logger.startswith("faktory.job.")


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
        self.is_plain = make is logging.LogRecord
        """Whether it only adds the job to Python's own records."""

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._make(*args, **kwargs)
        self._mark(record)
        return record


class LineWriter(Protocol):
    """A handler that can write the line of a job without a record."""

    def write_job(
        self, logger: str, message: str, job: JobContext, event: str, seconds: float | None
    ) -> bool:
        """Write the line that a record of level INFO would give, from this thread and now.

        `event` and `seconds` are attributes of that record, see `texts.fields_of`. Returns False,
        and has written nothing, if that takes a record: for a filter, say.
        """


def _methods() -> tuple[object, ...]:
    """Return what a record passes through, which other packages replace in the class."""
    kind = logging.Logger
    return kind.makeRecord, kind.handle, kind.callHandlers


def _own_file(function: object) -> str | None:
    return function.__code__.co_filename if type(function) is FunctionType else None


_PLAIN: Final = _methods() if {*map(_own_file, _methods())} == {logging.__file__} else None
"""Those methods, if they are Python's own."""


def line_writer(log: logging.Logger) -> LineWriter | None:
    """Return the handler that writes all records of a logger, if only it would see them.

    Not where the program, or a package that watches it, has added, wrapped or replaced something.
    """
    factory = logging.getLogRecordFactory()
    if type(factory) is not _Marking or not factory.is_plain:
        return None
    kind = logging.Logger
    if (kind.makeRecord, kind.handle, kind.callHandlers) != _PLAIN:  # `_methods`, without a call
        return None
    if log.filters or type(log) is not logging.Logger:
        return None
    if not (logging.logThreads and logging.logProcesses):
        return None
    only = None
    each: logging.Logger | None = log
    while each is not None:
        if handlers := each.handlers:
            if only is not None or len(handlers) > 1:
                return None
            only = handlers[0]
        each = each.parent if each.propagate else None
    return only if hasattr(only, "write_job") else None


class JobLog:
    """Writes the lines of jobs; what a filter or handler of the program raises loses no job."""

    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger

    def info(
        self,
        event: str,
        text: str,
        job: JobContext,
        *args: object,
        seconds: float | None = None,
    ) -> None:
        """Write a line of level INFO that begins with the job; `event` is what has happened to it.

        Each job has two of them: a record would be most of a line's cost.
        """
        log = self.logger
        try:
            if log.disabled:
                enabled(log)
            if not log.isEnabledFor(logging.INFO):
                return
            writer = line_writer(log)
            if writer is not None and writer.write_job(
                log.name, text % (job, *args), job, event, seconds
            ):
                return
        except BaseException:  # as a record it is written in any case
            pass
        self.log(logging.INFO, event, text, job, *args, seconds=seconds)

    def log(
        self,
        level: int,
        event: str,
        text: str,
        job: JobContext,
        *args: object,
        seconds: float | None = None,
        exc_info: Any = None,
    ) -> None:
        """Write a line that begins with the job."""
        with suppress(BaseException):
            log = self.logger
            if log.disabled:
                enabled(log)
            if log.isEnabledFor(level):
                # As `Logger.log` does it, without its search for the caller: that is this line.
                line = sys._getframe().f_lineno
                quoted = tuple(map(clean, (job, *args)))
                make = partial(
                    log.makeRecord, log.name, level, __file__, line, text, quoted, exc_info, "log"
                )
                try:
                    record = make(extra=fields_of(job, event, seconds))
                except KeyError:  # the program's factory has attributes of such names
                    record = make()
                try:
                    log.handle(record)
                except BaseException:
                    if exc_info is None:
                        raise
                    # It was raised by the error's own methods: once more, without its traceback.
                    record.exc_info = None
                    log.handle(record)

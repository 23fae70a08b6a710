"""Log records with the job that they were made in."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..jobs.context import current_job
from ..wire.log import clean


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

"""Log records that know the job that they were made in."""

from __future__ import annotations

import logging

from ..jobs.context import current_job


class JobFilter(logging.Filter):
    """Gives every record `jid` and `jobtype`, empty outside a job; added to a handler.

    `job` is both and a space, for the beginning of a line, where the message does not name the job
    itself, as this package's own do.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        try:
            job = current_job()
        except RuntimeError:
            record.jid = record.jobtype = record.job = ""
            return True
        record.jid, record.jobtype = job.jid, job.jobtype
        own = record.name.startswith("faktory.") and not record.name.startswith("faktory.job.")
        record.job = "" if own else f"{job} "
        return True

"""The log's lines about runs that failed, and jobs that were killed: one each, of level INFO."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from ..wire.amounts import in_one_unit
from ..wire.log import Log
from ..wire.validate import clip
from .go.time import SECOND

if TYPE_CHECKING:
    from .job import Failure, StoredJob

LOGGER: Final = "faktory.server.jobs"
"""The logger of these lines alone, so that a program can do with them what it likes."""

MAX_MESSAGE: Final = 300
"""Characters of an error's message that a line has."""

_log = Log(logging.getLogger(LOGGER))


def log_retry(job: StoredJob, failure: Failure, wait: int) -> None:
    """Log a run that failed, of a job that runs again in so many nanoseconds."""
    if _log.isEnabledFor(logging.INFO):
        _say(job, failure, f"runs again in {in_one_unit(wait / SECOND)}")


def log_dead(job: StoredJob, failure: Failure) -> None:
    """Log the last run of a job that is dead."""
    if _log.isEnabledFor(logging.INFO):
        _say(job, failure, "dead")


def log_dropped(job: StoredJob, failure: Failure) -> None:
    """Log the only run of a job that is not to be tried again, nor kept."""
    if _log.isEnabledFor(logging.INFO):
        _say(job, failure, "dropped (retry=0)")


def log_killed(job: StoredJob) -> None:
    """Log that a job is dead since somebody has killed it: its worker, say, or an administrator."""
    if _log.isEnabledFor(logging.INFO):
        _log.info("%s %s from %s: killed, dead", *_name(job))


def _name(job: StoredJob) -> tuple[str, str, str]:
    return clip(job.jobtype), clip(job.jid), clip(job.queue)


def _say(job: StoredJob, failure: Failure, then: str) -> None:
    message = failure.message.strip()
    _log.info(
        "%s %s from %s: attempt %s of %s failed, %s: %s",
        *_name(job),
        failure.retry_count + 1,
        max(job.retry, 0) + 1,
        then,
        f"{failure.errtype}: {clip(message, MAX_MESSAGE)}" if message else failure.errtype,
    )

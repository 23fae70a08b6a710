"""A FETCH whose answer did not come, or cannot be read: what becomes of the job in it, if any."""

from __future__ import annotations

from typing import Final

from ..client import Client
from ..exceptions import (
    FaktoryError,
    FaktoryOutcomeUnknown,
    FaktoryProtocolError,
    FaktoryTimeout,
)
from ..wire import commands, failure
from ..wire.log import Log
from ..wire.payload import INVALID_JOB
from ..wire.validate import clip

SKIPPED: Final = "If it was a job, it waits out its reservation (one with retry 0 is lost)"


def log_lost_fetch(error: FaktoryError | MemoryError, client: Client, log: Log) -> None:
    """Log that a FETCH was given up which the server may have answered with a job.

    A server that closes the connection has answered before, or stops. A job of which only the id
    could be read is failed.
    """
    cause = error.__cause__
    if isinstance(error, MemoryError):
        log.error("no memory is left to read the answer to FETCH. %s.", SKIPPED)
    elif not isinstance(error, FaktoryOutcomeUnknown) or cause is None:
        return
    elif isinstance(cause, FaktoryTimeout) or isinstance(cause.__cause__, OSError):
        log.warning(
            "FETCH was sent and not answered: if the server has given out a job, that job "
            "waits out its reservation, and runs again then (one with retry 0 is lost): %s",
            cause,
        )
    elif isinstance(cause, FaktoryProtocolError):
        text = clip(str(cause), 1000)
        if cause.jid is not None and _fail_at_once(client, cause.jid, text):
            log.error("the job %s fails, since it cannot be read: %s", cause.jid, text)
        else:
            log.error("the answer to FETCH cannot be read: %s. %s.", text, SKIPPED)


def _fail_at_once(client: Client, jid: str, fault: str) -> bool:
    """Fail a job of which only the id could be read; return False if that does not work."""
    try:
        report = failure.describe(None, INVALID_JOB, fault)
        (answer,) = client.exchange(commands.fail(jid, *report))
    except FaktoryError:
        return False
    return answer.error is None

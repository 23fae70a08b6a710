"""The exceptions of this package, split by who is at fault.

    FaktoryError(Exception)
      FaktoryPayloadError(TypeError, ValueError)       the caller: nothing was sent
      FaktoryConnectionError(ConnectionError)          the connection
        FaktoryHandshakeError                          the peer is not a supported Faktory server
        FaktoryAuthenticationError                     password wrong or missing
        FaktoryConnectionResetError(ConnectionResetError)
        FaktoryTimeout(TimeoutError)                   no reply in time; connection closed
        FaktoryOutcomeUnknown                          sent, not answered: it may have happened
      FaktoryProtocolError                             the peer sent invalid RESP; connection closed
      FaktoryServerError                               the server rejected it; connection fine
        FaktoryNotUnique
        FaktoryEnterpriseRequired
      FaktoryJSONError(ValueError)                     invalid JSON
      FaktoryBulkError                                 some jobs of a bulk push failed

    Shutdown(BaseException)            )
    TimeLimitExceeded(BaseException)   ) these control a running job
    Discard(Exception)                 )
    Retry(Exception)                   )

Each can be created from its message alone, so that all can be pickled. Data that a program decides
by is an attribute, never a part of the message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

__all__ = [
    "Discard",
    "FaktoryAuthenticationError",
    "FaktoryBulkError",
    "FaktoryConnectionError",
    "FaktoryConnectionResetError",
    "FaktoryEnterpriseRequired",
    "FaktoryError",
    "FaktoryHandshakeError",
    "FaktoryJSONError",
    "FaktoryNotUnique",
    "FaktoryOutcomeUnknown",
    "FaktoryPayloadError",
    "FaktoryProtocolError",
    "FaktoryServerError",
    "FaktoryTimeout",
    "Retry",
    "Shutdown",
    "TimeLimitExceeded",
]

MAX_DELAY: Final = 1_000_000_000
"""Seconds, some 31 years: the longest wait before a job's next attempt."""


class FaktoryError(Exception):
    """Base class of this package's errors."""

    _raised_by_job = False
    """A job raised it, in inline mode: no push broke and none was refused."""


class FaktoryPayloadError(FaktoryError, TypeError, ValueError):
    """A job or an argument cannot be sent as it is; nothing was sent.

    In a worker: an argument that was fetched is not of the type that the job's parameter has.
    """


class FaktoryConnectionError(FaktoryError, ConnectionError):
    """The connection to the server could not be opened, or broke."""


class FaktoryHandshakeError(FaktoryConnectionError):
    """The peer did not greet like a Faktory server, or only one side uses TLS."""


class FaktoryAuthenticationError(FaktoryConnectionError):
    """The server requires a password, and ours is wrong or missing."""


class FaktoryConnectionResetError(FaktoryConnectionError, ConnectionResetError):
    """The server closed the connection."""


class FaktoryTimeout(FaktoryConnectionError, TimeoutError):
    """There was no reply in time; the connection was closed, so a late reply is discarded.

    Also raised when no client of a pool is released in time, when a producer stays full, and when
    it does not finish in time.
    """


class FaktoryOutcomeUnknown(FaktoryConnectionError):
    """A command was sent but not answered: it may or may not have happened.

    `jids` are the ids of the affected jobs.
    """

    def __init__(self, message: str = "", jids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.jids = list(jids)


class FaktoryProtocolError(FaktoryError):
    """The peer sent bytes that are not a reply; the connection is closed.

    `jid` is the id of the job that was in a reply larger than the memory, if it could be read.
    """

    jid: str | None = None


class FaktoryServerError(FaktoryError):
    """The server rejected a command; the connection can still be used.

    Created from the reply's line without its `-`. `code` is the first word if that is a code
    (`ERR`, `NOTUNIQUE`), `message` is the rest.
    """

    def __init__(self, line: str = "") -> None:
        super().__init__(line)
        word, _, rest = line.partition(" ")
        coded = word.isascii() and word.isalnum() and word.isupper()
        self.code = word if coded else "ERR"
        self.message = rest if coded else line

    @staticmethod
    def of(line: str) -> FaktoryServerError:
        """Return the most specific error for an error reply (`server/connection.go: Error`).

        The message decides in one case only: the open-source server has no code for the commands
        that it lacks (`server/commands.go: track, batch`).
        """
        if line.startswith("NOTUNIQUE"):
            return FaktoryNotUnique(line)
        if line.endswith("only available in Faktory Enterprise"):
            return FaktoryEnterpriseRequired(line)
        return FaktoryServerError(line)


class FaktoryNotUnique(FaktoryServerError):
    """A job with the same type, arguments and queue already exists (`unique_for`)."""


class FaktoryEnterpriseRequired(FaktoryServerError):
    """A command or a job option requires Faktory Enterprise; such a job was not pushed."""


class FaktoryJSONError(FaktoryError, ValueError):
    """JSON that is invalid, nested too deep, or larger than the memory.

    If it was in a well-framed reply, that reply is consumed. `jid` is the id of the job that
    cannot be read, if it could be found all the same; `excerpt` is the beginning of the JSON.
    """

    def __init__(self, message: str = "", jid: str | None = None, excerpt: bytes = b"") -> None:
        super().__init__(message)
        self.jid = jid
        self.excerpt = excerpt


class FaktoryBulkError(FaktoryError):
    """Some jobs of a bulk push failed.

    `jids` are the queued jobs (of `perform_bulk` only; `push_bulk` does not store them, because it
    accepts any number), `refused` maps the jid of a rejected job to the reason, `unknown` are the
    jobs that were sent but not answered, `unsent` those that were not sent.
    """

    def __init__(
        self,
        message: str = "",
        jids: Sequence[str] = (),
        refused: Mapping[str, str] | None = None,
        unknown: Sequence[str] = (),
        unsent: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.jids = list(jids)
        self.refused = dict(refused or {})
        self.unknown = list(unknown)
        self.unsent = list(unsent)


class Shutdown(BaseException):
    """Raised in a job that is still running when the worker's grace period ends."""

    def __init__(self, message: str = "the worker stopped before the job was done") -> None:
        super().__init__(message)


class TimeLimitExceeded(BaseException):
    """Raised in a job that runs longer than its `time_limit`."""

    def __init__(self, message: str = "the job took longer than its time limit") -> None:
        super().__init__(message)


class Discard(Exception):
    """Raised by a job to end without a retry."""


class Retry(Exception):
    """Raised by a job to be run again, `after` so many seconds or a timedelta.

    Without `after` the job's `backoff` decides, or else the server. It uses up an attempt unless
    `count` is False. FaktoryPayloadError, where it is made, for any other `after`.
    """

    after: float | None = None
    """Seconds, or None."""

    count: bool = True
    """Whether it uses up an attempt."""

    def __init__(
        self,
        message: str = "the job asks to be run again",
        *,
        after: float | timedelta | None = None,
        count: bool = True,
    ) -> None:
        if isinstance(message, int | float | timedelta):
            raise FaktoryPayloadError(
                f"Retry({message!r}) has no reason: its first argument is text, and the wait goes "
                f'by keyword, like Retry("rate limited", after={message!r}).'
            )
        if not isinstance(count, bool):
            raise FaktoryPayloadError(
                f"count is {count!r}: it is True, or False for a run that uses up no attempt."
            )
        super().__init__(message)
        self.after = None if after is None else _delay(after)
        self.count = count

    def __repr__(self) -> str:
        """Show the message, and what else was asked for."""
        shown = [repr(argument) for argument in self.args]
        if self.after is not None:
            shown.append(f"after={self.after!r}".removesuffix(".0"))
        if not self.count:
            shown.append("count=False")
        return f"{type(self).__name__}({', '.join(shown)})"


def _delay(after: object) -> float:
    seconds = after.total_seconds() if isinstance(after, timedelta) else after
    if (
        isinstance(seconds, int | float)
        and not isinstance(seconds, bool)
        and 0 <= seconds <= MAX_DELAY
    ):
        return float(seconds)
    shown = repr(after)[:100]
    raise FaktoryPayloadError(
        f"after is {shown} ({type(after).__name__}): pass seconds, or a timedelta, from now on, "
        f"from 0 to {MAX_DELAY:,} seconds."
    )

"""Everything this package raises on purpose, split by who is at fault.

    FaktoryError(Exception)
      FaktoryPayloadError(TypeError, ValueError)       ours to fix: nothing was sent
      FaktoryConnectionError(ConnectionError)          the line
        FaktoryHandshakeError                          the peer is no Faktory server that we know
        FaktoryAuthenticationError                     password wrong or missing
        FaktoryConnectionResetError(ConnectionResetError)
        FaktoryTimeout(TimeoutError)                   no answer in time; connection dropped
        FaktoryOutcomeUnknown                          sent, no answer: it may have happened
      FaktoryProtocolError                             the peer sent no RESP; connection closed
      FaktoryServerError                               the server refused; connection fine
        FaktoryNotUnique
        FaktoryEnterpriseRequired
      FaktoryJSONError(ValueError)                     no JSON where JSON should be
      FaktoryBulkError                                 a bulk push of which some did not go through

    Shutdown(BaseException)            )
    TimeLimitExceeded(BaseException)   ) these steer a running job
    Discard(Exception)                 )

Each is made from its message alone, so that all survive pickle; what a program needs to decide
on is an attribute, never a piece of the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    "Shutdown",
    "TimeLimitExceeded",
]


class FaktoryError(Exception):
    """The base of every error of this package."""

    _raised_by_job = False
    """A job raised it, in inline mode: no push broke and none was refused."""


class FaktoryPayloadError(FaktoryError, TypeError, ValueError):
    """A job or an argument that cannot be sent as it is; nothing was sent."""


class FaktoryConnectionError(FaktoryError, ConnectionError):
    """The line to the server could not be had, or broke."""


class FaktoryHandshakeError(FaktoryConnectionError):
    """What answered does not greet as a Faktory server does, or does not speak TLS as we do."""


class FaktoryAuthenticationError(FaktoryConnectionError):
    """The server wants a password, and ours is wrong or missing."""


class FaktoryConnectionResetError(FaktoryConnectionError, ConnectionResetError):
    """The server closed the connection."""


class FaktoryTimeout(FaktoryConnectionError, TimeoutError):
    """No answer in time; the connection was dropped, its late answer is nobody's.

    Also: no client of a pool came back in time, or a producer found no room, or did not finish.
    """


class FaktoryOutcomeUnknown(FaktoryConnectionError):
    """A command was sent and not answered: it may or may not have happened.

    `jids` names the jobs concerned.
    """

    def __init__(self, message: str = "", jids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.jids = list(jids)


class FaktoryProtocolError(FaktoryError):
    """The peer sent bytes that are no reply of the protocol; the connection is closed."""


class FaktoryServerError(FaktoryError):
    """The server refused a command; the connection is fine.

    Made from the reply's line without its `-`. `code` is its first word where that is a code
    (`ERR`, `NOTUNIQUE`), `message` what follows it.
    """

    def __init__(self, line: str = "") -> None:
        super().__init__(line)
        word, _, rest = line.partition(" ")
        coded = word.isascii() and word.isalnum() and word.isupper()
        self.code = word if coded else "ERR"
        self.message = rest if coded else line

    @staticmethod
    def of(line: str) -> FaktoryServerError:
        """Make the most telling error for an error reply (`server/connection.go: Error`).

        The text decides in one case only: the open-source server gives no code of its own to
        the commands it lacks (`server/commands.go: track, batch`).
        """
        if line.startswith("NOTUNIQUE"):
            return FaktoryNotUnique(line)
        if line.endswith("only available in Faktory Enterprise"):
            return FaktoryEnterpriseRequired(line)
        return FaktoryServerError(line)


class FaktoryNotUnique(FaktoryServerError):
    """A job with the same type, arguments and queue is already there (`unique_for`)."""


class FaktoryEnterpriseRequired(FaktoryServerError):
    """A command exists in Faktory Enterprise only, or an option of a job that was not pushed."""


class FaktoryJSONError(FaktoryError, ValueError):
    """Bytes that should be JSON are not; a framed reply that held them is consumed."""


class FaktoryBulkError(FaktoryError):
    """Some jobs of a bulk push did not go through.

    `jids` are those that are queued (of `perform_bulk`; `push_bulk`, which may be given any
    number, keeps none), `refused` maps a jid to the reason, `unknown` were sent and never
    answered, `unsent` never left.
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
    """Raised in a job that outlives the worker's grace period."""

    def __init__(self, message: str = "the worker stopped before the job was done") -> None:
        super().__init__(message)


class TimeLimitExceeded(BaseException):
    """Raised in a job that outlives its `time_limit`."""

    def __init__(self, message: str = "the job took longer than its time limit") -> None:
        super().__init__(message)


class Discard(Exception):
    """Raised by a job to end itself without a retry."""

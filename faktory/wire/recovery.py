"""What to do when a line breaks: repeat, give up, or say that the outcome is unknown.

Pure decisions, no I/O: a transport reports how far it got, this module says what follows. A
command is sent again only if it says of itself that it may be, or if it never left whole: the
server acts on whole lines alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ..exceptions import (
    FaktoryError,
    FaktoryOutcomeUnknown,
    FaktoryServerError,
)
from .commands import Command
from .session import Answer

_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 15.0


class ConnectionBroken(Exception):
    """A line broke in the middle of an exchange.

    `answers` came before, `sent` bytes of what is not answered had left, `cause` is the error
    that users see where nothing better can be done.
    """

    def __init__(self, answers: Sequence[Answer], sent: int, cause: FaktoryError) -> None:
        super().__init__(str(cause))
        self.answers = list(answers)
        self.sent = sent
        self.cause = cause


def is_closing(reply: object) -> bool:
    """Tell whether a reply means that the server closes the line and ran nothing.

    It has no code of its own (`server/server.go: processLines`).
    """
    return isinstance(reply, FaktoryServerError) and reply.message.startswith(
        ("shutdown in progress", "too many connections")
    )


def count_sent(unanswered: Sequence[Command[Any]], sent: int) -> int:
    """Count the commands of which every byte left: the server may have acted on these."""
    for count, command in enumerate(unanswered):
        sent -= len(command.data)
        if sent < 0:
            return count
    return len(unanswered)


def may_resend(unanswered: Sequence[Command[Any]], sent: int, at_least_once: bool = False) -> bool:
    """Tell whether all that was not answered may go out again on a new line.

    `at_least_once` is the caller's choice to have a job queued twice rather than not know.
    """
    return all(
        command.idempotent or (at_least_once and command.may_duplicate)
        for command in unanswered[: count_sent(unanswered, sent)]
    )


def error_for(unanswered: Sequence[Command[Any]], sent: int, cause: FaktoryError) -> FaktoryError:
    """Return the error for an exchange that is given up."""
    gone = unanswered[: count_sent(unanswered, sent)]
    doubtful = [command for command in gone if not command.idempotent]
    if not doubtful:
        return cause
    jids = [jid for command in doubtful for jid in command.jids]
    names = " and ".join(dict.fromkeys(command.name for command in doubtful))
    of = f" of {jids[0]}" if len(jids) == 1 else f" of {len(jids)} jobs" if jids else ""
    unknown = FaktoryOutcomeUnknown(
        f"the line broke after {names}{of} was sent and before it was answered; "
        f"it may or may not have happened: {cause}",
        jids,
    )
    unknown.__cause__ = cause
    return unknown


def resolve_resent(answer: Answer) -> Answer:
    """Return the answer to a command that had left whole before: refused as done is done."""
    error, already_done = answer.error, answer.command.already_done
    if (
        already_done
        and isinstance(error, FaktoryServerError)
        and error.message.startswith(already_done)
    ):
        return Answer(answer.command, None, None)
    return answer


def backoff(attempt: int, random: float) -> float:
    """Return the seconds to wait before attempt 1, 2...: doubling from 0.5 to 15 s.

    `random` from 0 to 1 takes up to half of it away, so that many clients do not come back at
    the same moment.
    """
    longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(attempt - 1, 10))
    return longest * (1 - random / 2)

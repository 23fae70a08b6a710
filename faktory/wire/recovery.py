"""What follows when a connection breaks: send again, fail, or report the outcome as unknown.

Pure decisions, no I/O and no clock: a transport reports how much was sent and answered, this module
decides. A command is sent again only if it is idempotent, if the jobs that it schedules are not due
yet, or if a part of it was never sent, as the server acts on complete lines only.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from datetime import datetime
from math import inf
from typing import Any, Final, NamedTuple

from ..exceptions import (
    FaktoryConnectionError,
    FaktoryError,
    FaktoryOutcomeUnknown,
    FaktoryServerError,
)
from .commands import Command
from .session import Answer
from .validate import clip

REPEAT_MARGIN: Final = 1.0
"""Seconds that a job's time has to be ahead for its push to be sent again: once it has come, the
server queues the job a second time. It covers the way there, and clocks that differ a little."""


TOO_MANY: Final = "too many connections"
"""How the reply begins that ends a connection beyond the server's limit."""


class ConnectionBroken(Exception):
    """A connection broke in the middle of an exchange.

    `answers` were received before, `sent` bytes of the commands without an answer were sent,
    `cause` is the error for the user if the exchange fails.
    """

    def __init__(self, answers: Sequence[Answer], sent: int, cause: FaktoryError) -> None:
        super().__init__(str(cause))
        self.answers = list(answers)
        self.sent = sent
        self.cause = cause


def is_closing(reply: object) -> bool:
    """Return whether a reply means that the server closes the connection and ran nothing.

    It has no code of its own (`server/server.go: processLines`).
    """
    return isinstance(reply, FaktoryServerError) and reply.message.startswith(
        ("shutdown in progress", TOO_MANY)
    )


def count_sent(unanswered: Sequence[Command[Any]], sent: int) -> int:
    """Count the commands that were sent completely: the server may have acted on these."""
    for count, command in enumerate(unanswered):
        sent -= len(command.data)
        if sent < 0:
            return count
    return len(unanswered)


def may_resend(
    unanswered: Sequence[Command[Any]], sent: int, at_least_once: bool = False, now: float = inf
) -> bool:
    """Return whether all commands without an answer may be sent again on a new connection.

    `at_least_once` is the caller's choice to risk that a job is queued twice. `now` is the time, in
    seconds since the epoch: jobs that are scheduled for later may be pushed again.
    """
    return not any(command.send_once for command in unanswered) and all(
        command.idempotent
        or (at_least_once and command.may_duplicate)
        or _is_ahead(command.scheduled, now + REPEAT_MARGIN)
        for command in unanswered[: count_sent(unanswered, sent)]
    )


def _is_ahead(times: Sequence[str], moment: float) -> bool:
    try:
        return bool(times) and all(datetime.fromisoformat(at).timestamp() >= moment for at in times)
    except (ValueError, OverflowError):  # a time that we did not make
        return False


def error_for(unanswered: Sequence[Command[Any]], sent: int, cause: FaktoryError) -> FaktoryError:
    """Return the error for an exchange that fails."""
    gone = unanswered[: count_sent(unanswered, sent)]
    doubtful = [command for command in gone if not command.idempotent]
    if not doubtful:
        return cause
    jids = [jid for command in doubtful for jid in command.jids]
    names = " and ".join(dict.fromkeys(command.name for command in doubtful))
    of = f" of {clip(jids[0])}" if len(jids) == 1 else f" of {len(jids)} jobs" if jids else ""
    unknown = FaktoryOutcomeUnknown(
        f"the connection broke after {names}{of} was sent and before it was answered; "
        f"it may or may not have happened: {cause}",
        jids,
    )
    unknown.__cause__ = cause
    return unknown


def resolve_resent(answer: Answer) -> Answer:
    """Return the answer to a command that was sent before: "already done" means success."""
    error, already_done = answer.error, answer.command.already_done
    if (
        already_done
        and isinstance(error, FaktoryServerError)
        and error.message.startswith(already_done)
    ):
        return Answer(answer.command, None, None)
    return answer


Steps = Generator[Sequence[Command[Any]], Sequence[Answer], list[Answer]]
"""What `exchange_again` asks for, one thing after the other, and what it returns."""


def exchange_again(
    sent: Sequence[Command[Any]],
    broken: ConnectionBroken,
    clock: Callable[[], float],
    at_least_once: bool = False,
    given_up: bool = False,
) -> Steps:
    """Send what has no answer again, once, on a new connection; return the answers to all.

    It does nothing itself: () asks for a new connection, and commands for their answers on it.
    The caller sends the answers in, or throws in what went wrong: ConnectionBroken, or a
    FaktoryConnectionError without a connection. It raises the error of the exchange where nothing
    may be sent again, or that was `given_up`. `clock` returns seconds since the epoch.
    """
    rest = sent[len(broken.answers) :]
    error: FaktoryError | None = None
    if given_up or not may_resend(rest, broken.sent, at_least_once, clock()):
        error = error_for(rest, broken.sent, broken.cause)
        raise error from error.__cause__
    resent = count_sent(rest, broken.sent)  # the server may have run so many
    try:
        yield ()
        answers: Sequence[Answer] = ()
        if may_resend(rest, broken.sent, at_least_once, clock()):
            answers = yield rest
        else:  # connecting took a while
            error = error_for(rest, broken.sent, broken.cause)
    except ConnectionBroken as again:
        left = rest[len(again.answers) :]
        before = sum(len(command.data) for command in rest[len(again.answers) : resent])
        error = error_for(left, max(before, again.sent), again.cause)
    except FaktoryConnectionError as failed:  # there is no new connection
        error = error_for(rest, broken.sent, failed)
    if error is not None:
        raise error from error.__cause__
    return [*broken.answers, *map(resolve_resent, answers[:resent]), *answers[resent:]]


class Backoff(NamedTuple):
    """Seconds to wait between attempts, doubling from `first` to `longest`."""

    first: float = 0.5
    longest: float = 15.0

    def delay(self, attempt: int, random: float) -> float:
        """Return the seconds to wait before attempt 1, 2...

        `random`, from 0 to 1, takes up to half of them away, so that clients that lost their
        server at the same moment do not all come back at the same moment.
        """
        delay = min(self.longest, self.first * 2.0 ** min(attempt - 1, 10))
        return delay * (1 - random / 2)


backoff: Final = Backoff().delay
"""Return the seconds that this package waits by default before attempt 1, 2..."""

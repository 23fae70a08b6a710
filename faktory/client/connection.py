"""A line to a server that mends itself: what a client speaks over.

Rules: whether a command is sent again after a break is decided in `wire.recovery`; here it is only
asked, once for every command. Threads take turns, an exchange at a time; a signal handler that
comes into the middle of its own thread's is refused. A forked child lets go of the parent's
connection without a word and opens its own.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from threading import RLock
from typing import TYPE_CHECKING, Any

from ..wire import recovery
from ..wire.address import Address
from ..wire.commands import Command
from ..wire.session import Answer
from . import fork, network
from .transport import Transport

if TYPE_CHECKING:
    from ssl import SSLContext


class Connection:
    """Opens when first needed, and again after a break."""

    def __init__(
        self,
        address: Address,
        identity: Mapping[str, object],
        timeout: float,
        ssl_context: SSLContext | None = None,
        *,
        at_least_once: bool = False,
        log: logging.Logger,
        log_payloads: bool = False,
    ) -> None:
        self._address = address
        self._identity = identity
        self._timeout = timeout
        self._ssl_context = ssl_context
        self._at_least_once = at_least_once
        self._log = log
        self._log_payloads = log_payloads
        self._network: network.Network = network.SOCKETS
        self._transport: Transport | None = None  # opened by this network
        self._turn = RLock()
        self._busy = False
        fork.register(self)

    @property
    def is_open(self) -> bool:
        """Whether there is a connection; it may be broken without having been noticed."""
        return self._transport is not None or network.current.in_process

    def open(self) -> None:
        """Connect now, if not connected."""
        using = network.current
        if using.in_process:
            return
        if using is not self._network:
            self._switch(using)
        with self._turn:
            if self._transport is None:
                self._refuse_interruption()
                self._opened()

    def close(self) -> None:
        """Say goodbye and close; the next command opens it anew."""
        with self._turn:
            line, self._transport = self._transport, None
            busy = self._busy
        if line is not None and busy:  # a signal handler's wish, in the middle of a command
            line.abort()
        elif line is not None:
            line.close()

    def exchange(self, *sent: Command[Any]) -> list[Answer]:
        """Send commands in one piece; return an answer for each, refusals among them.

        What a break left unanswered goes out again on a new connection, once, if it may; else
        FaktoryOutcomeUnknown or the connection's own error.
        """
        using = network.current  # read once: another thread may end a test mode meanwhile
        if using is not self._network:
            if using.in_process:
                there = using.connect(
                    self._address, self._identity, self._timeout, self._ssl_context
                )
                return there.exchange(sent)
            self._switch(using)
        shown = self._log.isEnabledFor(logging.DEBUG)
        if shown:
            for command in sent:
                self._log.debug("> %s", self._show(command))
        with self._turn:
            if self._busy:
                self._refuse_interruption()
            try:
                self._busy = True
                answers = (self._transport or self._opened()).exchange(sent)
            except recovery.ConnectionBroken as broken:
                self._drop()
                answers = self._exchange_again(sent, broken)
            except BaseException:  # no connection, or an interrupt
                self._drop()
                raise
            finally:
                self._busy = False
        if shown:
            self._show_answers(answers)
        return answers

    def _show_answers(self, answers: Sequence[Answer]) -> None:
        """Show what was answered; what jobs hold only where that was asked for."""
        for answer in answers:
            said: object = answer.value
            if answer.error is not None:
                said = str(answer.error)
                if not self._log_payloads:  # the server repeats the job that it refuses
                    said = said.partition("{")[0]
            elif said is None:
                said = "OK or nothing"
            elif not self._log_payloads:
                said = f"a {type(said).__name__}"
            self._log.debug("< %s", said)

    def _show(self, command: Command[Any]) -> str:
        if self._log_payloads:
            return command.data.decode().rstrip()
        about = f" of {', '.join(command.jids[:3])}" if command.jids else ""
        more = f" and {len(command.jids) - 3} more" if len(command.jids) > 3 else ""
        return f"{command.name}{about}{more} ({len(command.data)} bytes)"

    def reset_after_fork(self) -> None:
        """Forget the connection, which is the parent's: for `fork`, in the child."""
        self._turn = RLock()
        self._busy = False
        self._drop()

    def _exchange_again(
        self, sent: Sequence[Command[Any]], broken: recovery.ConnectionBroken
    ) -> list[Answer]:
        rest = sent[len(broken.answers) :]
        if not recovery.may_resend(rest, broken.sent, self._at_least_once):
            error = recovery.error_for(rest, broken.sent, broken.cause)
            raise error from error.__cause__
        self._log.debug("once more, over a new connection: %s", broken.cause)
        doubtful = recovery.count_sent(rest, broken.sent)  # so many may have happened before
        try:
            fresh = self._opened().exchange(rest)
        except recovery.ConnectionBroken as again:
            self._drop()
            error = recovery.error_for(rest[len(again.answers) :], again.sent, again.cause)
            raise error from error.__cause__
        except BaseException:
            self._drop()
            raise
        return [*broken.answers, *map(recovery.resolve_resent, fresh[:doubtful]), *fresh[doubtful:]]

    def _refuse_interruption(self) -> None:
        """Raise where this thread is in the middle of a command: it could never be its turn."""
        if self._busy:
            raise RuntimeError(
                "a signal handler uses the client that the code which it interrupts is using: "
                "give it a client of its own, or let it only take a note."
            )

    def _switch(self, using: network.Network) -> None:
        """Drop the connection, and open the next one through another network."""
        with self._turn:
            self._refuse_interruption()
            self._drop()
            self._network = using

    def _opened(self) -> Transport:
        if self._transport is None:
            identity = {"hostname": socket.gethostname(), "pid": os.getpid(), **self._identity}
            self._transport = self._network.connect(
                self._address, identity, self._timeout, self._ssl_context
            )
        return self._transport

    def _drop(self) -> None:
        line, self._transport = self._transport, None
        if line is not None:
            line.abort()

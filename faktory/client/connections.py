"""A client's connection to a server, which reconnects after a break.

Rules: `wire.recovery` decides whether a command is sent again after a break, at most once. Threads
take turns, an exchange at a time; a signal handler that interrupts its own thread's exchange gets
an error. A forked child drops the parent's connection, sends nothing on it and opens its own.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from time import time
from typing import TYPE_CHECKING, Any

from ..exceptions import FaktoryConnectionError, FaktoryTimeout
from ..wire import recovery
from ..wire.address import Address
from ..wire.commands import Command
from ..wire.log import Log
from ..wire.session import Answer
from ..wire.validate import clip, fit
from . import fork, network
from .sockets import TCP_KEEPALIVE
from .transport import Transport

if TYPE_CHECKING:
    from ssl import SSLContext


class Connection:
    """A connection that opens when first needed, and again after a break."""

    _lock = fork.AtFirstUse(lambda: threading.RLock())

    def __init__(
        self,
        address: Address,
        identity: Mapping[str, object],
        timeout: float,
        ssl_context: SSLContext | None = None,
        *,
        keepalive: float = TCP_KEEPALIVE,
        at_least_once: bool = False,
        log: logging.Logger,
        log_payloads: bool = False,
    ) -> None:
        self._address = address
        self._identity = identity
        self._timeout = timeout
        self._ssl_context = ssl_context
        self._keepalive = keepalive
        self._at_least_once = at_least_once
        self._log = Log(log)
        self._log_payloads = log_payloads
        self._network: network.Network = network.SOCKETS
        self._transport: Transport | None = None  # opened by this network
        self._busy = False  # in an exchange
        self._interrupted = False
        fork.register(self)
        fork.preload(tls=False, password=address.password is not None)

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
        with self._lock:
            if self._transport is None:
                self._check_not_busy()
                self._opened()

    def close(self) -> None:
        """Send END and close; the next command opens it again."""
        with self._lock:
            transport, self._transport = self._transport, None
            busy = self._busy
        if transport is not None and busy:  # in a signal handler: no END inside a command
            transport.abort()
        elif transport is not None:
            transport.close()

    def interrupt(self) -> None:
        """End the exchange that another thread is in, or connects for, with FaktoryTimeout.

        From any thread. A FETCH that was sent ends with FaktoryOutcomeUnknown; nothing is sent
        again. Outside an exchange this ends the next one.
        """
        self._interrupted = True
        if (transport := self._transport) is not None:
            transport.interrupt()

    def exchange(self, *sent: Command[Any]) -> list[Answer]:
        """Send commands in one piece; return an answer for each, errors of the server included.

        If the connection breaks, the commands without an answer are sent again on a new one, once,
        if all of them may be; else FaktoryOutcomeUnknown or the connection's own error.
        """
        using = network.current  # read once: another thread may end a test mode meanwhile
        if using is not self._network:
            if using.in_process:
                transport = using.connect(
                    self._address, self._identity, self._timeout, self._ssl_context, self._keepalive
                )
                return transport.exchange(sent)
            self._switch(using)
        logged = self._log.isEnabledFor(logging.DEBUG)
        if logged:
            for command in sent:
                self._log.debug("> %s", self._show(command))
        with self._lock:
            if self._busy:
                self._check_not_busy()
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
        if logged:
            self._log_answers(answers)
        return answers

    def _log_answers(self, answers: Sequence[Answer]) -> None:
        """Log answers, with the contents of jobs only if that was asked for."""
        for answer in answers:
            text: object = answer.value
            if answer.error is not None:
                text = str(answer.error)
                if not self._log_payloads:  # the server repeats a job that it refuses
                    text = clip(text.partition("{")[0], 1000)
            elif text is None:
                text = "OK or nothing"
            elif not self._log_payloads:
                text = f"a {type(text).__name__}"
            self._log.debug("< %s", text)

    def _show(self, command: Command[Any]) -> str:
        if self._log_payloads:
            return command.data.decode().rstrip()
        about = f" of {', '.join(map(clip, command.jids[:3]))}" if command.jids else ""
        more = f" and {len(command.jids) - 3} more" if len(command.jids) > 3 else ""
        return f"{command.name}{about}{more} ({len(command.data)} bytes)"

    def reset_after_fork(self) -> None:
        """Drop the connection, which is the parent's: for `fork`, in the child."""
        vars(self).pop("_lock", None)
        self._busy = False
        self._drop()

    def _exchange_again(
        self, sent: Sequence[Command[Any]], broken: recovery.ConnectionBroken
    ) -> list[Answer]:
        rest = sent[len(broken.answers) :]
        if self._interrupted or not self._may_resend(rest, broken):
            self._interrupted = False
            error = recovery.error_for(rest, broken.sent, broken.cause)
            raise error from error.__cause__
        self._log.debug("once more, over a new connection: %s", broken.cause)
        resent = recovery.count_sent(rest, broken.sent)  # the server may have run so many
        try:
            transport = self._opened()
            late = not self._may_resend(rest, broken)  # connecting took a while
            answers = [] if late else transport.exchange(rest)
        except recovery.ConnectionBroken as again:
            self._drop()
            left = rest[len(again.answers) :]
            before = sum(len(command.data) for command in rest[len(again.answers) : resent])
            error = recovery.error_for(left, max(before, again.sent), again.cause)
            raise error from error.__cause__
        except FaktoryConnectionError as failed:  # there is no new connection
            self._drop()
            error = recovery.error_for(rest, broken.sent, failed)
            raise error from error.__cause__
        except BaseException:
            self._drop()
            raise
        if late:
            error = recovery.error_for(rest, broken.sent, broken.cause)
            raise error from error.__cause__
        return [
            *broken.answers,
            *map(recovery.resolve_resent, answers[:resent]),
            *answers[resent:],
        ]

    def _may_resend(self, rest: Sequence[Command[Any]], broken: recovery.ConnectionBroken) -> bool:
        return recovery.may_resend(rest, broken.sent, self._at_least_once, time())

    def _check_not_busy(self) -> None:
        """Raise in a signal handler that interrupted an exchange, which it would wait for."""
        if self._busy:
            raise RuntimeError(
                "a signal handler uses a client in the middle of that client's own command: "
                "give it a client of its own, or let it only set a flag."
            )

    def _switch(self, using: network.Network) -> None:
        """Drop the connection, and open the next one through another network."""
        with self._lock:
            self._check_not_busy()
            self._drop()
            self._network = using

    def _opened(self) -> Transport:
        if self._transport is None:
            identity = {"hostname": fit(socket.gethostname()), "pid": os.getpid(), **self._identity}
            if self._address.tls:
                fork.preload(tls=True, password=False)
            transport = self._network.connect(
                self._address, identity, self._timeout, self._ssl_context, self._keepalive
            )
            if self._interrupted:
                self._interrupted = False
                transport.abort()
                raise FaktoryTimeout(f"connecting to {self._address.place} was given up")
            self._transport = transport
        return self._transport

    def _drop(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

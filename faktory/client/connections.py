"""A client's connection to a server, which reconnects after a break.

Rules: `wire.recovery` decides whether a command is sent again after a break, at most once. Threads
take turns, an exchange at a time; a signal handler that interrupts its own thread's exchange gets
an error. A forked child drops the parent's connection, sends nothing on it and opens its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from logging import DEBUG
from time import time
from typing import Any

from ..exceptions import FaktoryConnectionError
from ..wire import recovery
from ..wire.commands import Command
from ..wire.session import Answer
from ..wire.trace import CommandLog
from . import fork, network, settings
from .sockets import given_up
from .transport import Transport


class Connection:
    """A connection that opens when first needed, and again after a break."""

    _lock = fork.AtFirstUse(lambda: threading.RLock())

    def __init__(
        self,
        endpoint: settings.Endpoint,
        *,
        at_least_once: bool = False,
        log: logging.Logger,
        log_payloads: bool = False,
    ) -> None:
        self._endpoint = endpoint
        self._at_least_once = at_least_once
        self._log = CommandLog(log, log_payloads)
        self._network: network.Network = network.SOCKETS
        self._transport: Transport | None = None  # opened by this network
        self._opening: Transport | None = None  # one that connects
        self._busy = False  # in an exchange
        self._interrupted = False
        fork.register(self)
        fork.preload(tls=False, password=endpoint.address.password is not None)

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
        for transport in (self._opening, self._transport):  # in this order: one becomes the other
            if transport is not None:
                transport.interrupt()

    def exchange(self, *sent: Command[Any]) -> list[Answer]:
        """Send commands in one piece; return an answer for each, errors of the server included.

        If the connection breaks, the commands without an answer are sent again on a new one, once,
        if all of them may be; else FaktoryOutcomeUnknown or the connection's own error.
        """
        using = network.current  # read once: another thread may end a test mode meanwhile
        if using is not self._network:
            if using.in_process:
                return self._connect(using).exchange(sent)
            self._switch(using)
        log = self._log
        logged = log.levels.get(DEBUG) is not False and log.isEnabledFor(DEBUG)
        if logged:
            log.sent(sent)
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
            log.answered(answers)
        return answers

    def reset_after_fork(self) -> None:
        """Drop the connection, which is the parent's: for `fork`, in the child."""
        vars(self).pop("_lock", None)
        self._busy = False
        self._drop()

    def _exchange_again(
        self, sent: Sequence[Command[Any]], broken: recovery.ConnectionBroken
    ) -> list[Answer]:
        given_up = self._interrupted
        if given_up:
            self._interrupted = False
        steps = recovery.exchange_again(sent, broken, time, self._at_least_once, given_up)
        asked = next(steps)
        self._log.debug("once more, over a new connection: %s", broken.cause)
        try:
            while True:
                try:
                    transport = self._opened()
                    answers = transport.exchange(asked) if asked else []
                except (recovery.ConnectionBroken, FaktoryConnectionError) as error:
                    self._drop()
                    asked = steps.throw(error)
                else:
                    asked = steps.send(answers)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        except BaseException:
            self._drop()
            raise

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
            if self._endpoint.address.tls:
                fork.preload(tls=True, password=False)
            try:
                transport = self._connect(self._network)
                if self._interrupted:
                    transport.abort()
                    raise given_up(self._endpoint.address.place)
                self._transport = transport
            except BaseException:
                self._interrupted = False
                raise
            finally:
                self._opening = None
        return self._transport

    def _begin(self, transport: Transport) -> None:
        """Let `interrupt` find a transport that connects."""
        self._opening = transport
        if self._interrupted:
            transport.interrupt()

    def _connect(self, using: network.Network) -> Transport:
        to = self._endpoint
        return using.connect(
            to.address, to.hello(), to.timeout, to.ssl_context, to.keepalive, self._begin
        )

    def _drop(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

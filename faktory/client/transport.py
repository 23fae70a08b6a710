"""A blocking socket under a session: with `opening`, the only place of the client that does I/O.

Rules: the call that sends a command reads its answer; anything that prevents that, an interrupt
included, closes the connection, so that no answer can be taken for another command's, and resets
it, so that nothing of it arrives later. Before commands are sent, the connection is checked to be
open and silent: a PUSH into one that the server has closed meanwhile may not be sent again. Only a
worker's FETCH, and the report that goes with it, skip the check, after which their thread would
have to wait for the interpreter's lock.
Sending is late when nothing has left for `timeout` seconds, an answer when nothing of it has
arrived for so long since the last byte left. A FETCH has no such limit: the server may have
reserved a job for it, so that only a peer that is gone ends it, or `interrupt`.
A transport is used by one thread at a time and by the process that opened it.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..exceptions import (
    FaktoryAuthenticationError,
    FaktoryConnectionError,
    FaktoryError,
    FaktoryProtocolError,
    FaktoryTimeout,
)
from ..proto import NEED_DATA, implementation
from ..wire import commands, recovery
from ..wire.address import Address
from ..wire.commands import Command
from ..wire.log import Log
from ..wire.session import Answer
from . import opening, sockets
from .waiting import KERNEL_WAIT, MAX_TIMEOUTS, DeadlinePassed, is_plain

if TYPE_CHECKING:
    from ssl import SSLContext

    from .._exchange import Exchange
elif implementation == "cython":
    try:
        from .._exchange import Exchange
    except ImportError:  # as on Windows, where no socket blocks for a moment
        from .._exchange_py import Exchange
else:
    from .._exchange_py import Exchange


_OK_SIZE: Final = len(b"+OK\r\n")
"""Bytes of the answer to ACK or FAIL, which the server sends ahead of the answer to the FETCH
behind it. Nothing can be done with it alone, and waking up for it took a fifth of a job's CPU."""

_TLS_CHUNK: Final = 65536
"""Bytes that TLS sends in one call, which has no progress to look at before its end."""


_log = Log(logging.getLogger("faktory.connection"))


class Transport(Protocol):
    """An open connection, as a client uses it."""

    def exchange(self, sent: Sequence[Command[Any]]) -> list[Answer]:
        """Send commands in one piece and wait for their answers.

        ConnectionBroken if not all are answered; the connection is closed then.
        """

    def interrupt(self) -> None:
        """End the wait for an answer, if there is one. From any thread."""

    def close(self) -> None:
        """Send END and close."""

    def abort(self) -> None:
        """Close without END; in a forked child, leave the parent's connection alone."""


class SocketTransport:
    """A connection to a server, past the handshake.

    `identity` is sent with HELLO. `timeout` is the seconds for connecting, the handshake included,
    and without progress for each answer, unless a command's own minimum is longer; `keepalive` see
    `sockets`, `kernel_wait` see `waiting`. `begun` is called with this object before it connects:
    from then on it can be interrupted.
    """

    def __init__(
        self,
        address: Address,
        identity: Mapping[str, object],
        timeout: float,
        ssl_context: SSLContext | None = None,
        keepalive: float = sockets.TCP_KEEPALIVE,
        begun: Callable[[Transport], object] | None = None,
        kernel_wait: float = KERNEL_WAIT,
    ) -> None:
        self._place = address.place
        self._timeout = timeout
        self._process = os.getpid()
        self._resets = False
        self._interrupted = False
        self._chunk = _TLS_CHUNK if address.tls else None
        if begun is not None:
            begun(self)
        try:
            self._socket, self._timed, self._session = opening.open_session(
                address, identity, timeout, ssl_context, keepalive, kernel_wait, self._begin
            )
        except FaktoryConnectionError as error:
            if self._interrupted and not isinstance(error, FaktoryAuthenticationError):
                raise sockets.given_up(self._place) from error
            raise
        # Here for each exchange, which would look them up there.
        self._send = self._timed.send
        self._can_read = self._timed.can_read
        self._parser = self._session.parser
        plain = self._timed.kernel_waits and is_plain(self._socket)
        self._at_once = Exchange(self._socket, self._can_read, self._parser).run if plain else None

    def exchange(self, sent: Sequence[Command[Any]]) -> list[Answer]:
        """Send commands in one piece and wait for their answers."""
        answers: list[Answer] = []
        left = 0
        tried: int | OSError | None = None
        try:
            if self._at_once is not None and sent[-1].min_timeout < inf:
                result = self._at_once(sent)
                if isinstance(result, list):
                    return result
                tried = result
            if tried is None and (self._parser or (not sent[-1].skip_check and self._can_read())):
                self._check_unsolicited()
            session = self._session
            timed = self._timed
            timeout = self._timeout
            timed.start(timeout)
            for command in sent:
                if command.min_timeout > timeout:
                    timeout = command.min_timeout
            if timeout == inf and not self._resets:
                self._expect_job()
            data = session.send(sent)
            if tried is None:
                left = self._send(data if self._chunk is None else data[: self._chunk])
            elif isinstance(tried, OSError):
                left = len(data)
                raise tried
            else:
                left = tried
            while left < len(data):
                left += self._send_more(data, left)
            timed.start(timeout)
            more_than = _OK_SIZE if len(sent) > 1 else 0
            for _ in sent:
                if answers:
                    timed.start(timeout)
                answer = session.next_answer() if answers or tried is not None else NEED_DATA
                while answer is NEED_DATA:
                    self._receive(more_than)
                    more_than = 0
                    answer = session.next_answer()
                if answer.error is not None and recovery.is_closing(answer.error):
                    left = 0
                    raise sockets.closing(self._place, answer.error)
                answers.append(answer)
            return answers
        except (OSError, FaktoryProtocolError) as error:
            self.abort()
            if isinstance(error, OSError) and error.errno == errno.EBADF:
                _log.warning(
                    "the socket of the connection to %s was closed by other code of this process: "
                    "did a job close all descriptors? Connecting again.",
                    self._place,
                )
            if not sockets.is_own(error):
                raise  # a signal handler's, at any point: nobody knows how much was sent
            if isinstance(error, DeadlinePassed):
                cause: FaktoryError = self._stalled(left, len(data))
            else:
                cause = sockets.explain(error, self._place, self._timeout)
            answered = sum(len(answer.command.data) for answer in answers)
            raise recovery.ConnectionBroken(answers, max(0, left - answered), cause) from error
        except BaseException:
            self.abort()
            raise

    def interrupt(self) -> None:
        """End the wait to connect, or for an answer, if there is one; it is closed then.

        From any thread. What has arrived is read first. What the system does to find the host's
        addresses goes on.
        """
        self._interrupted = True
        if (sock := getattr(self, "_socket", None)) is not None:
            sockets.end_reading(sock)

    def close(self) -> None:
        """Send END, which the server does not answer, and close."""
        try:
            if self._resets:
                self._resets = False
                sockets.reset_on_close(self._socket, False)
            with suppress(OSError):
                self._socket.sendall(commands.end())
        finally:
            with suppress(OSError):
                self._socket.close()

    def abort(self) -> None:
        """Close without END, and reset; in a forked child, leave the parent's connection alone."""
        sockets.abort(self._socket, self._process)

    def _expect_job(self) -> None:
        """Before the first FETCH: the server may give out a job whatever happens to the connection.

        Wait longer for a network, and have the system reset the connection of a process that is
        killed with FETCH unsent.
        """
        self._resets = True
        sockets.reset_on_close(self._socket, True)
        sockets.double_limit(self._socket)

    def _begin(self, sock: socket.socket) -> None:
        """Let `interrupt` find a socket that is about to wait; raise if that was called before."""
        self._socket = sock
        if self._interrupted:
            raise sockets.given_up(self._place)

    def _send_more(self, data: bytes, left: int) -> int:
        """Send what is left of some data; return how many bytes were sent."""
        end = None if self._chunk is None else left + self._chunk
        count = self._timed.send(memoryview(data)[left:end])
        if count:
            self._timed.start(self._timeout)
        return count

    def _receive(self, more_than: int = 0) -> None:
        """Receive something, or return when there is something to receive.

        For `more_than` see `TimedSocket.receive`.
        """
        timed = self._timed
        parser = self._session.parser
        try:
            received = timed.receive(parser.get_buffer(), more_than)
        except DeadlinePassed:
            seconds = timed.timeout or self._timeout
            if timed.is_at_limit:
                raise sockets.trickled(self._place, MAX_TIMEOUTS * seconds) from None
            raise sockets.late(self._place, seconds) from None
        if received:
            parser.buffer_updated(received)
            if timed.timeout:
                timed.deadline = None
        elif received is not None:
            raise self._closed()

    def _check_unsolicited(self) -> None:
        """Raise if the server has closed the connection, or sent what nobody asked for.

        That would be taken for the next command's answer.
        """
        parser = self._parser
        if not parser:
            received = self._timed.receive_now(parser.get_buffer())
            if received is None:
                return
            if not received:
                raise self._closed()
            parser.buffer_updated(received)
        reply = parser.next()
        if recovery.is_closing(reply):
            raise sockets.closing(self._place, reply)
        raise sockets.unsolicited(self._place, reply)

    def _closed(self) -> FaktoryConnectionError:
        if self._interrupted:
            return FaktoryTimeout(f"the wait for an answer from {self._place} was given up")
        return sockets.closed(self._place)

    def _stalled(self, left: int, size: int) -> FaktoryTimeout:
        return FaktoryTimeout(
            f"{self._place} takes no more: {left} of {size} bytes could be sent, and nothing moved "
            f"for {self._timeout:g} s; the connection is dropped"
        )

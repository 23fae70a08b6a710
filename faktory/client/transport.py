"""A blocking socket under a session: the only place of the client that does I/O.

Rules: the call that sends a command reads its answer; anything that prevents that, an interrupt
included, closes the connection, so that no answer can be taken for another command's. Before
commands are sent, the connection is checked to be open and silent: a PUSH into one that the server
has closed meanwhile may not be sent again. Only a worker's FETCH, and the report that goes with it,
skip the check, after which their thread would have to wait for the interpreter's lock.
A transport is used by one thread at a time and by the process that opened it.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..exceptions import (
    FaktoryAuthenticationError,
    FaktoryConnectionError,
    FaktoryConnectionResetError,
    FaktoryError,
    FaktoryHandshakeError,
    FaktoryProtocolError,
    FaktoryTimeout,
)
from ..proto import NEED_DATA
from ..wire import commands, recovery
from ..wire.address import Address, switched_on
from ..wire.commands import Command
from ..wire.log import Log
from ..wire.session import Answer, ClientSession
from .waiting import KERNEL_WAIT, DeadlinePassed, TimedSocket

if TYPE_CHECKING:
    from ssl import SSLContext


_HOSTNAME_MISMATCH: Final = (62, 64)
"""OpenSSL's codes for a certificate of another host name, or address (X509_V_ERR_*_MISMATCH)."""

_OWN_CODE: Final = re.compile(r"faktory\.(client\.(transport|waiting)$|wire\.|_proto)|ssl$")
"""Modules whose code runs during an exchange; any other's runs in a signal handler."""

_OK_SIZE: Final = len(b"+OK\r\n")
"""Bytes of the answer to ACK or FAIL, which the server sends ahead of the answer to the FETCH
behind it. Nothing can be done with it alone, and waking up for it took a fifth of a job's CPU."""

_log = Log(logging.getLogger("faktory.connection"))


class Transport(Protocol):
    """An open connection, as a client uses it."""

    def exchange(self, sent: Sequence[Command[Any]]) -> list[Answer]:
        """Send commands in one piece and wait for their answers.

        ConnectionBroken if not all are answered; the connection is closed then.
        """

    def close(self) -> None:
        """Send END and close."""

    def abort(self) -> None:
        """Close without END; in a forked child, leave the parent's connection alone."""


class SocketTransport:
    """A connection to a server, past the handshake.

    `identity` is sent with HELLO. `timeout` is the seconds for connecting and for each answer,
    unless a command's own minimum is longer; `kernel_wait` see `waiting`.
    """

    def __init__(
        self,
        address: Address,
        identity: Mapping[str, object],
        timeout: float,
        ssl_context: SSLContext | None = None,
        kernel_wait: float = KERNEL_WAIT,
    ) -> None:
        self._place = address.place
        self._timeout = timeout
        self._session = ClientSession()
        self._socket = self._open(address, ssl_context)
        try:
            self._timed = TimedSocket(self._socket, tls=address.tls, kernel_wait=kernel_wait)
            # Here for each exchange, which would look them up there.
            self._send = self._timed.send
            self._can_read = self._timed.can_read
            self._kernel_waits = self._timed.kernel_waits
            if not self._kernel_waits:
                self._timed.set_timeout(timeout)
            self._shake_hands(address, identity)
        except BaseException:
            self._socket.close()
            raise

    def exchange(self, sent: Sequence[Command[Any]]) -> list[Answer]:
        """Send commands in one piece and wait for their answers."""
        answers: list[Answer] = []
        left = 0
        session = self._session
        try:
            unsolicited = session.parser.next()
            if unsolicited is not NEED_DATA or (not sent[-1].skip_check and self._can_read()):
                self._check_unsolicited(unsolicited)
            timeout = self._timeout
            for command in sent:
                if command.min_timeout > timeout:
                    timeout = command.min_timeout
            if not self._kernel_waits:
                self._timed.set_timeout(timeout)
            data = session.send(sent)
            deadline = monotonic() + timeout
            while left < len(data):
                rest = memoryview(data)[left:] if left else data
                left += self._send(rest, deadline)
            more_than = _OK_SIZE if len(sent) > 1 else 0
            for _ in sent:
                if answers:
                    deadline = monotonic() + timeout
                answer = session.next_answer() if answers else NEED_DATA
                while answer is NEED_DATA:
                    self._receive(timeout, deadline, more_than)
                    more_than = 0
                    answer = session.next_answer()
                if answer.error is not None and recovery.is_closing(answer.error):
                    left = 0
                    raise self._closing(answer.error)
                answers.append(answer)
            return answers
        except (OSError, FaktoryProtocolError) as error:
            self.abort()
            if not _is_own(error):
                raise  # a signal handler's, at any point: nobody knows how much was sent
            answered = sum(len(answer.command.data) for answer in answers)
            raise recovery.ConnectionBroken(
                answers, max(0, left - answered), self._explain(error)
            ) from error
        except BaseException:
            self.abort()
            raise

    def close(self) -> None:
        """Send END, which the server does not answer, and close."""
        try:
            with suppress(OSError):
                self._socket.sendall(commands.end())
        finally:
            self.abort()

    def abort(self) -> None:
        """Close without END; in a forked child, leave the parent's connection alone."""
        self._socket.close()

    def _open(self, address: Address, ssl_context: SSLContext | None) -> socket.socket:
        try:
            sock = socket.create_connection((address.host, address.port), self._timeout)
        except (OSError, UnicodeError) as error:  # UnicodeError: no host can have such a name
            raise self._explain(error, connecting=True) from error
        try:
            with suppress(OSError):  # a connection that is dead already fails when it is read
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if address.tls:
                sock = self._secure(sock, address.host, ssl_context)
            return sock
        except BaseException:
            sock.close()
            raise

    def _secure(self, sock: socket.socket, host: str, context: SSLContext | None) -> socket.socket:
        import ssl  # takes long, and most connections do without

        try:
            if context is None:
                context = ssl.create_default_context()
                if switched_on(os.environ.get("FAKTORY_DISABLE_HOSTNAME_VERIFICATION")):
                    self._disable_verification(context)
            return context.wrap_socket(sock, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            reason = error.verify_message.rstrip(".")
            if error.verify_code in _HOSTNAME_MISMATCH:
                remedy = "The address must name the host as the certificate does."
            else:
                remedy = (
                    "For a private one pass ssl_context=ssl.create_default_context(cafile=...)."
                )
            raise FaktoryConnectionError(
                f"the certificate of {self._place} cannot be trusted: {reason}. {remedy}"
            ) from error
        except (ssl.SSLError, ConnectionResetError) as error:
            raise FaktoryHandshakeError(
                f"no TLS with {self._place} ({error}). Does the server use TLS? "
                "If not, the address begins with tcp:// instead of tcp+tls://."
            ) from error
        except OSError as error:
            raise self._explain(error, connecting=True) from error

    def _disable_verification(self, context: SSLContext) -> None:
        """Verify nothing, as the Ruby client does with the same variable."""
        import ssl

        _log.warning(
            "FAKTORY_DISABLE_HOSTNAME_VERIFICATION is set: any server at %s is trusted, "
            "and may read all that is sent. A private certificate needs ssl_context= instead.",
            self._place,
        )
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE

    def _shake_hands(self, address: Address, identity: Mapping[str, object]) -> None:
        hi = None
        try:
            hi = self._receive_reply()
            hello = self._session.hello(hi, identity, address.username, address.password)
            deadline = monotonic() + self._timeout
            while hello:
                hello = hello[self._send(hello, deadline) :]
            self._session.welcome(self._receive_reply())
        except (FaktoryHandshakeError, FaktoryAuthenticationError):
            raise
        except (OSError, FaktoryProtocolError) as error:
            if not _is_own(error):
                raise
            cause = self._explain(error)
            kind = FaktoryHandshakeError if isinstance(error, FaktoryProtocolError) else type(cause)
            plain = hi is None and not address.tls
            hint = " Does the server use TLS? Then use tcp+tls://." if plain else ""
            raise kind(f"the handshake with {self._place} failed: {cause}.{hint}") from error

    def _receive_reply(self) -> object:
        """Receive one reply of the handshake."""
        deadline = monotonic() + self._timeout
        while (reply := self._session.parser.next()) is NEED_DATA:
            self._receive(self._timeout, deadline)
        return reply

    def _receive(self, timeout: float, deadline: float, more_than: int = 0) -> None:
        """Receive something, or return when there is something to receive.

        A peer that trickles bytes still times out. For `more_than` see `TimedSocket.receive`.
        """
        parser = self._session.parser
        try:
            received = self._timed.receive(parser.get_buffer(), deadline, more_than)
        except DeadlinePassed:
            raise FaktoryTimeout(
                f"no answer from {self._place} within {timeout:g} s; the connection is dropped"
            ) from None
        if received:
            parser.buffer_updated(received)
        elif received is not None:
            raise self._closed()

    def _check_unsolicited(self, reply: object) -> None:
        """Raise if the server has closed the connection, or sent what nobody asked for.

        That would be taken for the next command's answer.
        """
        parser = self._session.parser
        if reply is NEED_DATA:
            received = self._timed.receive_now(parser.get_buffer())
            if received is None:
                return
            if not received:
                raise self._closed()
            parser.buffer_updated(received)
            reply = parser.next()
        if recovery.is_closing(reply):
            raise self._closing(reply)
        raise FaktoryProtocolError(f"{self._place} sent unsolicited data ({reply!r:.100})")

    def _closed(self) -> FaktoryConnectionResetError:
        return FaktoryConnectionResetError(f"{self._place} closed the connection")

    def _closing(self, reply: object) -> FaktoryConnectionResetError:
        return FaktoryConnectionResetError(f"{self._place} closes the connection: {reply}")

    def _explain(self, error: Exception, connecting: bool = False) -> FaktoryError:
        """Return an error of this package, with the remedy, for one of the system."""
        if isinstance(error, FaktoryError):
            return error
        if isinstance(error, ConnectionRefusedError):
            return FaktoryConnectionError(
                f"nothing listens on {self._place} (connection refused). "
                "Is the Faktory server running? For development: python -m faktory server."
            )
        if isinstance(error, (socket.gaierror, UnicodeError)):
            return FaktoryConnectionError(
                f"the host of {self._place} is not known ({getattr(error, 'strerror', error)}). "
                "Is it spelt right in FAKTORY_URL?"
            )
        if isinstance(error, TimeoutError):
            what = "no connection to" if connecting else "nothing could be sent to"
            return FaktoryTimeout(f"{what} {self._place} within {self._timeout:g} s")
        reset = isinstance(error, (ConnectionResetError, BrokenPipeError, ConnectionAbortedError))
        kind = FaktoryConnectionResetError if reset else FaktoryConnectionError
        return kind(f"the connection to {self._place} broke: {error}")


def _is_own(error: Exception) -> bool:
    """Return False for an error that a signal handler raised in the middle of an exchange."""
    step = error.__traceback__
    while step is not None:
        if not _OWN_CODE.match(step.tb_frame.f_globals.get("__name__", "")):
            return False
        step = step.tb_next
    if isinstance(error, OSError) and not isinstance(error, (FaktoryError, DeadlinePassed)):
        return error.errno is not None
    return True

"""A blocking socket under a session: the only place of the client that does I/O.

Rules: an answer is read by whoever sent its command, in the same call; whatever keeps that from
happening, an interrupt included, closes the line, so that no answer can be taken for another's.
Before a command goes out, the line is seen to be open and silent: a PUSH into one that the server
has closed meanwhile could not be repeated. Only a worker's FETCH, and the report that goes with
it, go out `blind`: after the look its thread would wait for its turn of the interpreter.
A transport is used by one thread at a time and by the process that opened it.
"""

from __future__ import annotations

import logging
import os
import re
import select
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
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
from ..wire.session import Answer, ClientSession

if TYPE_CHECKING:
    from ssl import SSLContext


_OTHER_NAME: Final = (62, 64)
"""OpenSSL's codes for a certificate of another host name, or address (X509_V_ERR_*_MISMATCH)."""

_PARTS: Final = re.compile(rf"{re.escape(__name__)}$|faktory\.wire\.|faktory\._proto|ssl$")
"""The modules whose code runs during an exchange, and no other unless a signal comes."""

KERNEL_WAIT: Final = 0.005
"""Seconds for which a socket blocks in the kernel, longer than most answers take; Python would poll
before each step instead. A signal makes the kernel begin anew (a profiler sends 100 a second), so
what takes longer is waited for in Python."""

_LONE_OK: Final = len(b"+OK\r\n")
"""Bytes of the server's answer to ACK or FAIL, which it sends ahead of what FETCH sent along
brings: nothing can be done with it alone, and to be woken for it was a fifth of a job's CPU."""

_log = logging.getLogger("faktory.connection")


class Transport(Protocol):
    """What a client needs of a line that is open."""

    def exchange(self, sent: Sequence[Command[Any]]) -> list[Answer]:
        """Send commands in one piece and wait for their answers.

        ConnectionBroken where not all are answered; the line is closed then.
        """

    def close(self) -> None:
        """Say goodbye and close."""

    def abandon(self) -> None:
        """Close without a word; for a process that inherited the line, too."""


class SocketTransport:
    """A connection to a server, past the handshake.

    `identity` goes into HELLO. `timeout` is the seconds for connecting and for each answer; a
    command that may lawfully take longer says so itself.
    """

    def __init__(
        self,
        address: Address,
        identity: Mapping[str, object],
        timeout: float,
        ssl_context: SSLContext | None = None,
    ) -> None:
        self._place = address.place
        self._timeout = timeout
        self._nothing_there: type[OSError] = BlockingIOError
        self._session = ClientSession()
        self._socket = self._open(address, ssl_context)
        try:
            self._kernel_waits = not address.tls and _let_kernel_wait(self._socket)
            self._waits_for_more = self._kernel_waits and _can_wait_for_more(self._socket)
            self._patience = -1.0
            self._has_news = _look_out(self._socket)
            if not self._kernel_waits:
                self._wait_at_most(timeout)
            self._greet(address, identity)
        except BaseException:
            self._socket.close()
            raise

    def exchange(self, sent: Sequence[Command[Any]]) -> list[Answer]:
        """Send commands in one piece and wait for their answers."""
        answers: list[Answer] = []
        left = 0
        session = self._session
        began = monotonic()
        try:
            news = session.parser.next()
            if news is not NEED_DATA or (not sent[-1].skip_check and self._has_news()):
                self._refuse_news(news)
            timeout = self._timeout
            for command in sent:
                if command.min_timeout > timeout:
                    timeout = command.min_timeout
            if timeout != self._patience and not self._kernel_waits:
                self._wait_at_most(timeout)
            data = session.begin(sent)
            deadline = began + timeout
            while left < len(data):
                rest = memoryview(data)[left:] if left else data
                left += self._send(rest, deadline)
            more_than = _LONE_OK if len(sent) > 1 else 0
            for _ in sent:
                if answers:
                    deadline = monotonic() + timeout
                answer = session.answer() if answers else NEED_DATA
                while answer is NEED_DATA:
                    self._receive(timeout, deadline, more_than)
                    more_than = 0
                    answer = session.answer()
                if answer.error is not None and recovery.is_closing(answer.error):
                    left = 0
                    raise self._goodbye(answer.error)
                answers.append(answer)
            return answers
        except (OSError, FaktoryProtocolError) as error:
            self.abandon()
            if not self._is_ours(error, began):
                raise  # a signal handler's, between any two steps: nobody knows how much has left
            answered = sum(len(answer.command.data) for answer in answers)
            raise recovery.ConnectionBroken(
                answers, max(0, left - answered), self._explain(error)
            ) from error
        except BaseException:
            self.abandon()
            raise

    def close(self) -> None:
        """Say goodbye and close; the server does not answer END."""
        try:
            with suppress(OSError):
                self._socket.sendall(commands.end())
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close without a word; for a process that inherited the line, too."""
        self._socket.close()

    def _open(self, address: Address, ssl_context: SSLContext | None) -> socket.socket:
        try:
            sock = socket.create_connection((address.host, address.port), self._timeout)
        except (
            OSError,
            UnicodeError,
        ) as error:  # UnicodeError: no host can have such a name
            raise self._explain(error, connecting=True) from error
        try:
            with suppress(OSError):  # one that is dead already shows it when it is read
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if address.tls:
                sock = self._secure(sock, address.host, ssl_context)
            return sock
        except BaseException:
            sock.close()
            raise

    def _secure(self, sock: socket.socket, host: str, context: SSLContext | None) -> socket.socket:
        import ssl  # costly, and most connections go without

        try:
            if context is None:
                context = ssl.create_default_context()
                if switched_on(os.environ.get("FAKTORY_DISABLE_HOSTNAME_VERIFICATION")):
                    self._trust_anybody(context)
            self._nothing_there = ssl.SSLWantReadError
            return context.wrap_socket(sock, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            told = error.verify_message.rstrip(".")
            if error.verify_code in _OTHER_NAME:
                remedy = "The address must name the host as the certificate does."
            else:
                remedy = (
                    "For a private one pass ssl_context=ssl.create_default_context(cafile=...)."
                )
            raise FaktoryConnectionError(
                f"the certificate of {self._place} cannot be trusted: {told}. {remedy}"
            ) from error
        except (ssl.SSLError, ConnectionResetError) as error:
            raise FaktoryHandshakeError(
                f"no TLS with {self._place} ({error}). Does the server use TLS? "
                "If not, the address begins with tcp:// instead of tcp+tls://."
            ) from error
        except OSError as error:
            raise self._explain(error, connecting=True) from error

    def _trust_anybody(self, context: SSLContext) -> None:
        """Verify nothing, as the Ruby client does with the same variable."""
        import ssl

        _log.warning(
            "FAKTORY_DISABLE_HOSTNAME_VERIFICATION is set: whoever answers at %s is trusted, "
            "and may read all that is sent. A private certificate needs ssl_context= instead.",
            self._place,
        )
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE

    def _greet(self, address: Address, identity: Mapping[str, object]) -> None:
        hi = None
        began = monotonic()
        try:
            hi = self._reply()
            line = self._session.hello(hi, identity, address.username, address.password)
            self._socket.sendall(line)
            self._session.welcome(self._reply())
        except (FaktoryHandshakeError, FaktoryAuthenticationError):
            raise
        except (OSError, FaktoryProtocolError) as error:
            if not self._is_ours(error, began):
                raise
            cause = self._explain(error)
            kind = FaktoryHandshakeError if isinstance(error, FaktoryProtocolError) else type(cause)
            plain = hi is None and not address.tls
            hint = " Does the server use TLS? Then use tcp+tls://." if plain else ""
            raise kind(f"the handshake with {self._place} failed: {cause}.{hint}") from error

    def _reply(self) -> object:
        """Read one reply of the handshake; HI is all that can be there before it is asked for."""
        deadline = monotonic() + self._timeout
        while (reply := self._session.parser.next()) is NEED_DATA:
            self._receive(self._timeout, deadline)
        return reply

    def _receive(self, timeout: float, deadline: float, more_than: int = 0) -> None:
        """Receive something, or see that there is something now; who drips is given up, too.

        Where the system can, it waits for more than so many bytes at first, then for any.
        """
        if monotonic() > deadline:
            raise self._too_late(timeout)
        parser = self._session.parser
        try:
            received = self._read(parser.get_buffer(), more_than)
        except BlockingIOError as error:  # where the kernel waits
            if error.errno is None:
                raise  # a signal handler's
            if not self._wait_longer(select.POLLIN, deadline):
                raise self._too_late(timeout) from None
            return
        except TimeoutError as error:
            if not _is_due(error, deadline):
                raise
            raise self._too_late(timeout) from None
        if not received:
            raise self._end_of_line()
        parser.buffer_updated(received)

    def _read(self, room: memoryview, more_than: int) -> int:
        """Read what there is, once that is more than so many bytes or KERNEL_WAIT is over."""
        if not more_than or not self._waits_for_more:
            return self._socket.recv_into(room)
        _wake_at(self._socket, more_than + 1)
        try:
            return self._socket.recv_into(room)
        finally:
            _wake_at(self._socket, 1)

    def _send(self, data: bytes | memoryview, deadline: float) -> int:
        """Send something, or see that it can be sent now; return how many bytes have left."""
        try:
            return self._socket.send(data)
        except BlockingIOError as error:
            if error.errno is None or not self._wait_longer(select.POLLOUT, deadline):
                raise
            return 0

    def _wait_longer(self, event: int, deadline: float) -> bool:
        """Go on waiting in Python, whose clock no signal sets back; tell whether it is there."""
        poll = select.poll()
        poll.register(self._socket, event)
        return bool(poll.poll(max(0.0, deadline - monotonic()) * 1000))

    def _wait_at_most(self, seconds: float) -> None:
        """Let Python give up each wait for the other end after that long."""
        self._patience = seconds
        self._socket.settimeout(seconds)

    def _is_ours(self, error: Exception, began: float) -> bool:
        """Tell what the socket raised from what a signal handler raised in the middle of it."""
        if _passed_through_others(error):
            return False
        if not isinstance(error, OSError) or isinstance(error, FaktoryError):
            return True
        return error.errno is not None or (
            not self._kernel_waits and _is_due(error, began + self._patience)
        )

    def _refuse_news(self, news: object) -> None:
        """Look at what came unasked before anything is sent that may not be repeated.

        The server may have closed the line meanwhile, and what it said could be taken for the
        next answer.
        """
        parser = self._session.parser
        if news is NEED_DATA:
            self._patience = 0.0
            self._socket.settimeout(0)
            try:
                received = self._socket.recv_into(parser.get_buffer())
            except self._nothing_there:
                return
            finally:
                if self._kernel_waits:
                    self._socket.settimeout(None)
            if not received:
                raise self._end_of_line()
            parser.buffer_updated(received)
            news = parser.next()
        if recovery.is_closing(news):
            raise self._goodbye(news)
        raise FaktoryProtocolError(f"{self._place} said something unasked ({news!r:.100})")

    def _too_late(self, timeout: float) -> FaktoryTimeout:
        return FaktoryTimeout(
            f"no answer from {self._place} within {timeout:g} s; the connection is dropped"
        )

    def _end_of_line(self) -> FaktoryConnectionResetError:
        return FaktoryConnectionResetError(f"{self._place} closed the connection")

    def _goodbye(self, reply: object) -> FaktoryConnectionResetError:
        return FaktoryConnectionResetError(f"{self._place} closes the connection: {reply}")

    def _explain(self, error: Exception, connecting: bool = False) -> FaktoryError:
        """Make an error of ours, that says what to do, of what the system said."""
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
        if isinstance(error, (TimeoutError, BlockingIOError)):  # the second from the kernel
            what = "no connection to" if connecting else "nothing could be sent to"
            return FaktoryTimeout(f"{what} {self._place} within {self._timeout:g} s")
        kind = FaktoryConnectionResetError if _is_reset(error) else FaktoryConnectionError
        return kind(f"the connection to {self._place} broke: {error}")


def _look_out(sock: socket.socket) -> Callable[[], object]:
    """Return what tells, much faster than reading, whether there may be something to read."""
    if not hasattr(select, "poll"):
        return lambda: True
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return partial(poll.poll, 0)


def _let_kernel_wait(sock: socket.socket) -> bool:
    """Make a socket block, for KERNEL_WAIT at most; tell whether that works.

    Not on Windows, where a socket is of no use after such a timeout, nor with TLS, whose reading
    would begin again.
    """
    if sys.platform == "win32":
        return False
    sock.settimeout(None)
    limit = struct.pack("@ll", 0, int(KERNEL_WAIT * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    return True


def _can_wait_for_more(sock: socket.socket) -> bool:
    """Tell whether a socket can let its reader sleep until there is more than a byte.

    Only on Linux is it known that what came within the timeout is returned all the same.
    """
    if sys.platform != "linux":
        return False
    try:
        _wake_at(sock, 1)
    except OSError:
        return False
    return True


def _wake_at(sock: socket.socket, size: int) -> None:
    """Let the kernel wake who reads, or polls, when there are so many bytes: 1 is usual.

    More only while the kernel does the waiting, which ends it after KERNEL_WAIT: the last bytes
    of an answer may come alone, and a poll would not see them.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)


def _is_due(error: OSError, deadline: float) -> bool:
    """Tell whether Python's own clock may have raised this, which it does without an errno."""
    return isinstance(error, TimeoutError) and monotonic() > deadline - 0.05


def _passed_through_others(error: Exception) -> bool:
    """Tell whether an error came up through code that has no part in an exchange."""
    step = error.__traceback__
    while step is not None:
        if not _PARTS.match(step.tb_frame.f_globals.get("__name__", "")):
            return True
        step = step.tb_next
    return False


def _is_reset(error: Exception) -> bool:
    return isinstance(error, (ConnectionResetError, BrokenPipeError, ConnectionAbortedError))

"""The first try of an exchange in pure Python: look, send and receive.

The twin of `_exchange.pyx` and its readable specification: same name, same results, same errors.
Both change in the same commit.

Rules: a try waits only as long as its socket blocks, a few milliseconds (`client/waiting.py`), and
begins nothing again: what it has not done, `client/transport.py` does, with clocks, and finds the
reasons. It sends nothing unless the socket is open and silent. What a signal handler raises comes
out as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from .wire.commands import Command, expect_ok
from .wire.session import Answer

if TYPE_CHECKING:
    from socket import socket

    from .proto import ReplyParser

_ROOM: Final = 4096
"""Bytes of an answer that are received at once; the rest is left in the socket."""


class Exchange:
    """Exchanges over one socket that blocks, for a moment at most.

    `can_read` returns whether there is something to read, or an end. What is received goes to
    `parser`.
    """

    __slots__ = ("_can_read", "_parser", "_socket")

    def __init__(self, sock: socket, can_read: Callable[[], object], parser: ReplyParser) -> None:
        self._socket = sock
        self._can_read = can_read
        self._parser = parser

    def run(self, sent: Sequence[Command[Any]]) -> list[Answer] | int | OSError | None:
        """Send a command if the socket is open and silent, and receive some of the answer.

        Returns the answer in a list, if that is +OK; else how many bytes were sent, while the
        parser has what was received; an OSError if receiving failed after all was sent; None if
        nothing was sent: there are several commands, or there may be something to read first.
        Raises OSError if sending failed.
        """
        if len(sent) != 1 or len(self._parser) or self._can_read():
            return None
        command = sent[0]
        done = 0
        try:
            done = self._socket.send(command.data)
            if done < len(command.data):
                return done
        except BlockingIOError as error:
            if error.errno is None:
                raise
            return done
        try:
            received = self._socket.recv(_ROOM)
        except OSError as error:
            if error.errno is None:
                raise
            return done if isinstance(error, BlockingIOError) else error
        if received == b"+OK\r\n" and command.read is expect_ok:
            return [Answer(command, None, None)]
        if received:
            self._parser.feed(received)
        return done

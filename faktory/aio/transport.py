"""One open connection on an event loop: commands go out in order, answers come back in order.

Rules: the loop reads into the parser's own buffer. Commands are written at once if nothing is
unanswered, else together with those of the same turn of the loop; never while 64 KiB wait to be
sent. Who waits for an exchange may be cancelled: before its bytes are written it is taken out, and
after that its answer is read in its place, and a job that it brings goes to `on_job`.
One alarm watches the oldest exchange. It is late when nothing of its answer has arrived, and
nothing has left, for its timeout. When the connection breaks, all of an exchange that was written
counts as sent, since the loop throws away what had not left: except behind an error by which the
server says that it runs nothing more.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Final

from ..client import sockets, waiting
from ..exceptions import FaktoryError, FaktoryProtocolError
from ..proto import NEED_DATA
from ..wire import commands, recovery
from ..wire.commands import Command
from ..wire.session import ClientSession
from .exchange import Exchange

HIGH_WATER: Final = 65536
"""Bytes that the loop holds at most before commands wait their turn to be written."""

FETCH_WAIT: Final = 2.0
"""Seconds for which the server holds a FETCH without a job (`manager/fetch.go: Fetch`)."""

_READ_FIRST: Final = 0.02
"""Seconds that the loop has to read what has arrived, before an answer counts as late."""


class Transport(asyncio.BufferedProtocol):
    """A connection, from the moment that it is made.

    `on_job` is called with each job that a FETCH brings for nobody.
    """

    def __init__(
        self, place: str, timeout: float, sock: socket.socket, on_job: Callable[[Any], object]
    ) -> None:
        self.session = ClientSession()
        self.cause: FaktoryError | None = None
        """Why the connection is of no use any more."""
        self.abandoned: list[Exchange] = []
        """FETCHes under way whose caller was cancelled, for the next one who asks the same."""
        self._place = place
        self._timeout = timeout
        self._socket = sock
        self._on_job = on_job
        self._loop = asyncio.get_running_loop()
        self._parser = self.session.parser
        self.get_buffer = self._parser.get_buffer  # type: ignore[method-assign]
        self.can_read = waiting.readability(sock)
        """Whether there is something to read that the loop has not read yet, or the end."""
        self._unacknowledged = waiting.unacknowledged(sock)
        self._ready = False  # past the handshake
        self._resets = False
        self._written: deque[Exchange] = deque()
        self._unsent: deque[Exchange] = deque()
        self._flushing: asyncio.Handle | None = None
        self._paused = False
        self._alarm: asyncio.TimerHandle | None = None
        # When the oldest exchange became the oldest, and when something of it moved.
        self._since = self._moved = 0.0
        self._left: float = inf
        self._arrived: asyncio.Future[None] | None = None  # for the handshake
        self._draining: list[asyncio.Future[None]] = []
        self._lost: asyncio.Future[None] = self._loop.create_future()

    # The handshake.

    async def next_reply(self) -> object:
        """Wait for a reply of the handshake, which may have arrived before."""
        while (reply := self._parser.next()) is NEED_DATA:
            if self.cause is not None:
                raise self.cause
            self._arrived = self._loop.create_future()
            await self._arrived
        return reply

    def write(self, data: bytes) -> None:
        """Write bytes of the handshake, or END."""
        self._transport.write(data)

    def start(self) -> None:
        """The handshake is over: from now on there are exchanges."""
        self._ready = True
        self._check_silent()

    # Exchanges.

    @property
    def is_idle(self) -> bool:
        """Whether nothing is unanswered."""
        return not self._written and not self._unsent

    async def look(self) -> None:
        """Let the loop see an end of file that came while it was blocked; see `cause` then."""
        for _ in range(2):  # one was not enough
            await asyncio.sleep(0)
            if not self.is_idle:
                return
        if self.cause is None and self.can_read():
            self._end(sockets.closed(self._place))

    def exchange(self, sent: Sequence[Command[Any]]) -> Exchange:
        """Write commands as soon as possible; the exchange's future has their answers."""
        exchange = Exchange(sent, self._loop.create_future())
        if self.cause is not None:
            exchange.fail(0, self.cause)
        elif self._written or self._unsent or self._paused:
            self._unsent.append(exchange)
            if self._flushing is None and not self._paused:
                self._flushing = self._loop.call_soon(self._flush)
        else:
            exchange.written = True
            self._start_clock()
            self._written.append(exchange)
            if sent[-1].min_timeout == inf and not self._resets:
                self._expect_job()
            self._transport.write(self.session.send(sent))
        return exchange

    def abandon(self, exchange: Exchange) -> None:
        """Nobody waits for an exchange any more."""
        exchange.future.cancel()  # it is done already, as a rule
        if not exchange.written:
            if exchange in self._unsent:
                self._unsent.remove(exchange)
                self._check_drained()
        elif exchange.future.cancelled():
            # Its answer may have come since.
            if exchange.is_fetch and not exchange.answers and self.cause is None:
                self.abandoned.append(exchange)
        elif exchange.future.exception() is None:  # it came in this same turn of the loop
            self._keep_jobs(exchange)

    def adopt(self, sent: Sequence[Command[Any]]) -> Exchange | None:
        """Return an abandoned FETCH of the same queues, if there is one under way."""
        for exchange in self.abandoned:
            if len(sent) == 1 and exchange.sent[0].data == sent[0].data:
                self.abandoned.remove(exchange)
                exchange.future = self._loop.create_future()
                return exchange
        return None

    def _expect_job(self) -> None:
        """Before the first FETCH: the server may give out a job whatever happens; see `sockets`."""
        self._resets = True
        sockets.reset_on_close(self._socket, True)
        sockets.double_limit(self._socket)

    def _flush(self) -> None:
        """Write what was not written, in pieces of about 64 KiB."""
        self._flushing = None
        unsent, written = self._unsent, self._written
        while unsent and not self._paused and self.cause is None:
            sent: list[Command[Any]] = []
            size = 0
            while unsent and size < HIGH_WATER:
                exchange = unsent.popleft()
                if exchange.future.done():  # cancelled, and its task has not run since
                    continue
                exchange.written = True
                if not written:
                    self._start_clock()
                written.append(exchange)
                sent += exchange.sent
                for command in exchange.sent:
                    size += len(command.data)
                    if command.min_timeout == inf and not self._resets:
                        self._expect_job()
            if sent:
                self._transport.write(self.session.send(sent))
        self._check_drained()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._transport.set_write_buffer_limits(high=HIGH_WATER)

    def buffer_updated(self, nbytes: int) -> None:
        """Read the answers that are complete now."""
        if self.cause is not None:
            return
        self._parser.buffer_updated(nbytes)
        if not self._ready:
            self._wake(self._arrived)
            return
        written = self._written
        if not written:
            self._check_silent(sure=False)
            return
        self._moved = now = self._loop.time()
        next_answer = self.session.next_answer
        try:
            while written:
                answer = next_answer()
                if answer is NEED_DATA:
                    return
                error = answer.error
                if error is not None and recovery.is_closing(error):
                    self._end(sockets.closing(self._place, error), sent=False)
                    return
                self._since = now
                exchange = written[0]
                answers = exchange.answers
                answers.append(answer)
                if len(answers) == len(exchange.sent):
                    written.popleft()
                    future = exchange.future
                    if not future.done():
                        future.set_result(answers)
                    else:
                        self._keep_jobs(exchange)
        except FaktoryProtocolError as error:
            self._end(error)
            return
        self._check_silent()
        if self._draining:
            self._check_drained()

    def eof_received(self) -> None:
        """The server has closed the connection."""
        self._end(sockets.closed(self._place))

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        if error is not None:
            self._end(sockets.explain(error, self._place, self._timeout))
        self._end(sockets.closed(self._place))
        self._wake(self._lost)

    def pause_writing(self) -> None:
        """More than HIGH_WATER bytes wait to be sent."""
        self._paused = True

    def resume_writing(self) -> None:
        """Most of them have left."""
        self._paused = False
        self._moved = self._loop.time()
        self._flush()

    # Its end.

    async def drain(self) -> None:
        """Wait until nothing is unanswered, for as long as that may take at most."""
        if self.is_idle or self.cause is not None:
            return
        unanswered = (*self._written, *self._unsent)
        fetches = sum(exchange.sent[-1].name == "FETCH" for exchange in unanswered)
        drained = self._loop.create_future()
        self._draining.append(drained)
        try:
            async with asyncio.timeout(self._timeout + fetches * FETCH_WAIT):
                await drained
        except TimeoutError:
            self._end(sockets.late(self._place, self._timeout))

    async def close(self) -> None:
        """Send END, and close; without END where something is unanswered."""
        cause = sockets.closed(self._place)
        if not self.is_idle:
            self._end(cause)
        elif self.cause is None:
            self.cause = cause
            self._stop_clock()
            if self._resets:
                sockets.reset_on_close(self._socket, False)
            self._transport.write(commands.end())
            self._transport.close()
        try:
            await asyncio.wait([self._lost], timeout=self._timeout)
        finally:
            self.abort()

    def abort(self) -> None:
        """Close without END, and reset."""
        if not self._lost.done():
            sockets.reset_on_close(self._socket, True)
            self._transport.abort()

    def release(self) -> None:
        """In a forked child: close the socket, and nothing else.

        The transport would remove it from the loop's epoll, which is the parent's, too.
        """
        self.cause = sockets.closed(self._place)
        os.close(self._socket.detach())

    def _end(self, cause: FaktoryError, sent: bool = True) -> None:
        """Drop the connection and fail what is unanswered, of which all that was written was sent.

        Unless `sent` is false: then the server has run none of it.
        """
        if self.cause is not None:
            return
        self.cause = cause
        self._stop_clock()
        for exchange in self._written:
            unanswered = exchange.sent[len(exchange.answers) :]
            exchange.fail(sum(len(each.data) for each in unanswered) if sent else 0, cause)
        for exchange in self._unsent:
            exchange.fail(0, cause)
        self._written.clear()
        self._unsent.clear()
        self.abandoned.clear()
        self._wake(self._arrived)
        self._check_drained()
        self.abort()

    def _check_silent(self, sure: bool = True) -> None:
        """End the connection if the server has sent what nobody asked for, or says that it ends.

        It has sent something if not `sure`.
        """
        try:
            reply = self._parser.next()
        except FaktoryProtocolError as error:
            self._end(error)
            return
        if recovery.is_closing(reply):
            self._end(sockets.closing(self._place, reply))
        elif reply is not NEED_DATA or not sure:
            self._end(sockets.unsolicited(self._place, reply))

    def _keep_jobs(self, exchange: Exchange) -> None:
        """Keep what an exchange brings whose caller was cancelled."""
        if exchange in self.abandoned:
            self.abandoned.remove(exchange)
        for answer in exchange.answers:
            if answer.command.name == "FETCH" and answer.value is not None:
                self._on_job(answer.value)

    def _check_drained(self) -> None:
        if self._draining and self.is_idle:
            for drained in self._draining:
                self._wake(drained)
            self._draining.clear()

    def _wake(self, future: asyncio.Future[None] | None) -> None:
        if future is not None and not future.done():
            future.set_result(None)

    # The clock of the oldest exchange.

    def _start_clock(self) -> None:
        now = self._loop.time()
        self._since = self._moved = now
        self._left = inf
        if self._alarm is None:
            self._alarm = self._loop.call_at(now + self._timeout, self._look_at_clock)

    def _stop_clock(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _look_at_clock(self) -> None:
        """End the connection if the oldest exchange is late; else look again when it may be.

        Whatever becomes the oldest meanwhile has at least `timeout` from then on.
        """
        self._alarm = None
        if not self._written:
            return
        now = self._loop.time()
        exchange = self._written[0]
        limit = max(self._timeout, exchange.sent[len(exchange.answers)].min_timeout)
        if limit == inf:
            due = now + self._timeout
        else:
            left = self._transport.get_write_buffer_size() + self._unacknowledged()
            if 0 < left < self._left:
                self._moved = now
            self._left = left or inf
            due = min(self._moved + limit, self._since + waiting.MAX_TIMEOUTS * limit)
        if due <= now:
            if not self.can_read():
                if now < self._moved + limit:
                    cause = sockets.trickled(self._place, waiting.MAX_TIMEOUTS * limit)
                else:
                    cause = sockets.late(self._place, limit)
                self._end(cause)
                return
            due = now + _READ_FIRST
        self._alarm = self._loop.call_at(due, self._look_at_clock)

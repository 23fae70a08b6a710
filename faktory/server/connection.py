"""One client's connection to the embedded server: handshake, commands one after another, limits.

Rules: a command is begun when the one before it is answered. Whoever does not read gets no more
answers, and is not read from: neither side of a connection piles up memory. What is refused for a
limit is refused with its number.
"""

from __future__ import annotations

import asyncio
from hmac import compare_digest
from typing import TYPE_CHECKING, Final

from ..exceptions import FaktoryProtocolError
from ..wire.session import (
    CommandReader,
    encode_bulk,
    encode_error,
    encode_hi,
    encode_simple,
    password_hash,
)
from .commands import Wait, answer
from .store import Waiter
from .workers import Worker, read_hello

if TYPE_CHECKING:
    from .state import Core

HANDSHAKE_TIMEOUT: Final = 2.0
"""Seconds from the connection to the end of HELLO [Go: server/server.go, startConnection]."""

FETCH_WAIT: Final = 2.0
"""Seconds that FETCH waits for a job [Go: manager/fetch.go, brpop]."""

LINGER: Final = 2.0
"""Seconds that a client has to read the last answers before the line is cut."""

MAX_HELLO: Final = 64 * 1024
"""Bytes of a HELLO line."""

MAX_UNREAD: Final = 1024 * 1024
"""Bytes of further commands that are taken in while one is at work."""

MAX_UNSENT: Final = 1024 * 1024
"""Bytes of answers that wait for a slow reader before its next command is begun."""


TURN: Final = 100
"""Commands of one connection that are executed before others have their turn."""


class Connection(asyncio.BufferedProtocol):
    """The states are: handshake (no `_worker`), serving, closed."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._reader = CommandReader(core.max_command)
        self._transport: asyncio.Transport
        self._worker: Worker | None = None
        self._closed = False
        self._salt, self._iterations = core.challenge()
        self._answers: list[bytes] = []
        self._unsent = 0
        self._unread = 0
        self._greeted = 0
        """Bytes that came in before the handshake was done."""
        self._busy = False
        """A command is at work: FETCH waits, or a fault delays or holds one."""
        self._slow = False
        """The client does not read what we write."""
        self._yielded = False
        """There is more to execute when the others have had their turn."""
        self._hung_up = False
        """The client said that it will send no more."""
        self._mute = False
        """The answer to the command at work is not to be sent."""
        self._deadline: asyncio.TimerHandle
        """When to close, whatever happens: at the end of the handshake's time or after closing."""
        self._timer: asyncio.TimerHandle | None = None
        self._waiter: Waiter | None = None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=MAX_UNSENT)
        self._core.connections.add(self)
        transport.write(encode_hi(self._salt, self._iterations))
        self._deadline = self._core.loop.call_later(HANDSHAKE_TIMEOUT, self.close)

    def get_buffer(self, _sizehint: int) -> memoryview:
        # One for all: what is written into it is taken out again before anything else happens. A
        # new one each time would cost as much as all the rest.
        return self._core.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._closed:
            return
        self._reader.feed(self._core.buffer[:nbytes].tobytes())
        if not self._yielded:
            self._run()
        if self._worker is None:
            self._greeted += nbytes
            if self._greeted > MAX_HELLO:
                self._refuse(f"HELLO is longer than {MAX_HELLO} bytes")
        elif self._busy or self._slow or self._yielded:
            self._unread += nbytes
            if self._unread > MAX_UNREAD:
                self._transport.pause_reading()

    def eof_received(self) -> None:
        # Most likely the client is gone for good: it must not be handed a job any more. What it
        # has sent before is executed.
        self._hung_up = True
        if self._waiter is not None:
            self._deliver(None)
        self._run(to_the_end=True)

    def pause_writing(self) -> None:
        self._slow = True

    def resume_writing(self) -> None:
        self._slow = False
        self._core.loop.call_soon(self._run)

    def connection_lost(self, _error: Exception | None) -> None:
        self._closed = self._hung_up = True
        self._deadline.cancel()
        self._stop_waiting()
        self._core.connections.discard(self)
        if self._worker is not None:
            self._core.leave(self, self._worker)

    # What the server calls.

    def close(self) -> None:
        """Send what is due and close."""
        self._flush()
        self._closed = True
        self._stop_waiting()
        self._transport.close()
        self._limit_lingering()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def proceed(self, line: bytes) -> None:
        """Execute a command that was held."""
        self._busy = False
        self._meet_faults(line)
        self._run()

    # Commands.

    def _run(self, *, to_the_end: bool = False) -> None:
        """Execute what has come in, as far as possible, and send the answers."""
        self._yielded = False
        begun = 0
        while not (self._busy or self._slow or self._closed):
            if begun == TURN and not to_the_end:
                self._yielded = True
                self._core.loop.call_soon(self._run)
                break
            begun += 1
            try:
                line = self._reader.next()
            except FaktoryProtocolError as error:
                self._refuse(str(error))
                return
            if line is None:
                break
            self._begin(line)
        self._flush()
        if self._unread and not (self._busy or self._slow or self._yielded or self._closed):
            self._unread = 0
            self._transport.resume_reading()
        self._core.settle()

    def _begin(self, line: bytes) -> None:
        core = self._core
        verb = line.partition(b" ")[0]
        core.record(verb, line)
        if core.shutting_down and self._worker is not None:
            self._reply(encode_error("shutdown in progress"))
            self.close()
        elif verb in core.faults.held:
            self._busy = True
            core.hold(verb, self, line)
        elif core.faults:
            self._meet_faults(line)
        else:
            self._execute(line)

    def _meet_faults(self, line: bytes) -> None:
        fault = self._core.faults.take(line.partition(b" ")[0])
        if fault is None:
            self._execute(line)
        elif fault.kind == "drop before":
            self.close()
        elif fault.kind == "error":
            self._reply(encode_error(fault.message))
        elif fault.kind == "delay":
            self._busy = True
            self._core.loop.call_later(fault.seconds, self._execute_late, line)
        else:
            self._mute = True
            self._execute(line)

    def _execute_late(self, line: bytes) -> None:
        self._busy = False
        self._execute(line)
        self._run()

    def _execute(self, line: bytes) -> None:
        if self._worker is None:
            if not self._closed:
                self._shake_hands(line)
            return
        if self._hung_up and line.partition(b" ")[0] == b"FETCH":
            self._reply(encode_bulk(None))
            return
        reply = answer(self._core.state, self._worker, line)
        if reply is None:
            self.close()
        elif isinstance(reply, Wait):
            self._wait(reply.queues)
        else:
            self._reply(reply)

    def _shake_hands(self, line: bytes) -> None:
        core = self._core
        worker = read_hello(line)
        if worker is None:
            self.close()
            return
        if core.password:
            # Clients of the protocol's first version know nothing of iterations.
            iterations = 1 if worker.version < 2 else self._iterations
            expected = password_hash(core.password, self._salt, iterations)
            if not compare_digest(worker.password_hash.encode(), expected.encode()):
                self._reply(encode_error("Invalid password"))
                self.close()
                return
        self._deadline.cancel()
        self._worker = worker
        core.join(self, worker)
        self._reply(encode_simple("OK"))
        count = core.state.connections
        if count > core.max_connections:
            self._reply(encode_error(f"too many connections: {count}"))
            self.close()

    def _wait(self, queues: list[str]) -> None:
        """Wait for a job of these queues, or for the time that FETCH takes without."""
        assert self._worker is not None
        self._busy = True
        core = self._core
        self._timer = core.loop.call_later(FETCH_WAIT, self._deliver, None)
        self._waiter = core.state.store.wait(self._worker.wid, queues, self._deliver)

    def _deliver(self, payload: bytes | None) -> None:
        """Answer the FETCH that waits; what the client sent behind it comes after this."""
        self._stop_waiting()
        self._busy = False
        self._reply(encode_bulk(payload))
        self._flush()
        self._core.loop.call_soon(self._run)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiter is not None:
            self._core.state.store.give_up(self._waiter)
            self._waiter = None

    def _reply(self, data: bytes) -> None:
        if self._mute:
            self._mute = False
            self.close()
            return
        self._answers.append(data)
        self._unsent += len(data)
        if self._unsent > MAX_UNSENT:
            self._flush()

    def _flush(self) -> None:
        if self._answers and not self._closed:
            data = self._answers[0] if len(self._answers) == 1 else b"".join(self._answers)
            self._answers.clear()
            self._unsent = 0
            self._transport.write(data)

    def _refuse(self, limit: str) -> None:
        """Answer that a limit was passed, and end the conversation.

        What the client goes on sending is read and dropped: if we closed at once, the reset would
        overtake the answer.
        """
        self._reply(encode_error(f"{limit}: that is the limit of this embedded server"))
        self._flush()
        self._closed = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._limit_lingering()

    def _limit_lingering(self) -> None:
        """See to it that the connection ends, even if the client neither reads nor closes."""
        self._deadline.cancel()
        self._deadline = self._core.loop.call_later(LINGER, self._transport.abort)

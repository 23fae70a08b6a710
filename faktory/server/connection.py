"""One client's connection to the embedded server: handshake, commands one after another, limits.

Rules: a command is started when the one before it has its reply. A client that does not read its
replies is not read from either, so neither side of a connection piles up memory. A command beyond
a limit is rejected with the number of the limit. What has been received before the client closes
is executed, in turns with the other connections.
"""

from __future__ import annotations

import asyncio
from hmac import compare_digest
from typing import Final

from ..exceptions import FaktoryProtocolError
from ..wire.session import (
    CommandReader,
    encode_bulk,
    encode_error,
    encode_hi,
    encode_simple,
    password_hash,
)
from .calls import Reply, Wait
from .commands import start
from .slices import SLICE, Steps
from .state import ServerState
from .store import Waiter
from .workers import ClientRecord, read_hello

MAX_HELLO: Final = 64 * 1024
"""Bytes of a HELLO line."""

MAX_UNREAD: Final = 1024 * 1024
"""Bytes of further commands that are received while one is in progress."""

MAX_UNSENT: Final = 128 * 1024
"""Bytes of replies that wait for a slow reader before its next command is started."""

_MAX_VERB = 64
"""Bytes of a line in which the verb is looked for."""

COMMANDS_PER_TURN: Final = 100
"""Commands of one connection that are executed before other connections have their turn."""


class ServerConnection(asyncio.BufferedProtocol):
    """A connection is in its handshake (no `_client`), serving, or closed."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._log_command = state.log.add
        self._reader = CommandReader(state.max_command)
        self._transport: asyncio.Transport
        self._client: ClientRecord | None = None
        self.received = 0
        self._unfinished = 0
        """Bytes of commands that are not finished, as the state has counted them."""
        self._closed = False
        """No reply can be sent any more."""
        self._stopped = False
        """No command is to be executed any more."""
        self._salt, self._iterations = state.challenge()
        self._replies: list[bytes] = []
        self._unsent = 0
        self._unread = 0
        self._handshake_bytes = 0
        """Bytes that came in before the handshake was done."""
        self._busy = False
        """A command is in progress: FETCH waits, a fault delays or holds one, or it takes long."""
        self._steps: Steps[Reply] | None = None
        """What remains to be done of a command that takes long; its line has `_line_bytes`."""
        self._line_bytes = 0
        self._write_paused = False
        """The client does not read what we write."""
        self._yielded = False
        """More commands will be executed after the other connections' turns."""
        self._at_eof = False
        """The client will send no more."""
        self._drop_reply = False
        """A fault: the command in progress ends with a close instead of its reply."""
        self._deadline: asyncio.TimerHandle
        """Closes when the handshake takes too long, cuts when closing takes too long."""
        self._fetch_timer: asyncio.TimerHandle | None = None
        self._waiter: Waiter | None = None

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        state = self._state
        self._transport = transport
        transport.set_write_buffer_limits(high=MAX_UNSENT)
        state.peers.add(self)
        transport.write(encode_hi(self._salt, self._iterations))
        self._deadline = state.loop.call_later(state.timing.handshake_timeout, self.close)

    def get_buffer(self, _sizehint: int) -> memoryview:
        # One for all: what is written into it is copied out before anything else happens. A new
        # buffer for each read would cost as much as everything else.
        return self._state.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._closed:
            return
        self._reader.feed(self._state.buffer[:nbytes].tobytes())
        if not self._yielded:
            self._run()
        if self._client is None:
            self._handshake_bytes += nbytes
            if self._handshake_bytes > MAX_HELLO:
                self.reject(f"HELLO is longer than {MAX_HELLO} bytes")
        elif self._busy or self._write_paused or self._yielded:
            self._unread += nbytes
            if self._unread > MAX_UNREAD:
                self._transport.pause_reading()
            self._count_bytes()

    def eof_received(self) -> bool:
        # Most likely the client is gone and must not get a job any more. The commands that it has
        # sent before are executed; if that takes longer, the replies can still be sent, but not
        # with TLS.
        self._at_eof = True
        if self._waiter is not None:
            self._deliver(None)
        self._run()
        goes_on = self._yielded or self._steps is not None
        return goes_on and self._transport.get_extra_info("ssl_object") is None

    def pause_writing(self) -> None:
        self._write_paused = True
        self._state.check_unsent()

    def resume_writing(self) -> None:
        self._write_paused = False
        self._state.loop.call_soon(self._run)

    def connection_lost(self, _error: Exception | None) -> None:
        self._stopped = self._stopped or not self._at_eof
        self._closed = self._at_eof = True
        self._deadline.cancel()
        self._stop_waiting()
        self._state.peers.discard(self)
        if self._write_paused:
            self.resume_writing()
        if self._stopped:
            self._reader.clear()
        self._count_bytes()
        if self._client is not None:
            self._state.leave(self, self._client)

    # Called by the server: see `Peer`.

    @property
    def unsent(self) -> int:
        return self._transport.get_write_buffer_size() if self._write_paused else 0

    def close(self) -> None:
        self._flush()
        self._closed = self._stopped = True
        self._stop_waiting()
        self._transport.close()
        self._abort_later()

    def abort(self) -> None:
        self._transport.abort()

    def resume(self, line: bytes) -> None:
        self._busy = False
        self._apply_fault(line)
        self._run()

    # Commands.

    def _run(self) -> None:
        """Execute the commands that have come in, as far as possible, and send the replies."""
        self._yielded = False
        started = 0
        end = 0.0
        while not (self._busy or self._write_paused or self._stopped):
            if started:
                if not self._reader:
                    break
                now = self._state.loop.time()
                if started == 1:
                    end = now + SLICE
                elif now > end or started == COMMANDS_PER_TURN:
                    self._yielded = True
                    self._state.loop.call_soon(self._run)
                    break
            started += 1
            try:
                line = self._reader.next()
            except FaktoryProtocolError as error:
                self.reject(str(error))
                return
            if line is None:
                break
            self._start(line)
        self._flush()
        if not (self._busy or self._write_paused or self._yielded or self._closed):
            if self._unread:
                self._unread = 0
                self._transport.resume_reading()
            if self._at_eof:
                self.close()
        if self._reader or self._unfinished:
            self._count_bytes()
        self._state.schedule()

    def _start(self, line: bytes) -> None:
        state = self._state
        verb = line[:_MAX_VERB].partition(b" ")[0]
        self._log_command(verb, line)
        if state.shutting_down and self._client is not None:
            self._reply(encode_error("shutdown in progress"))
            self.close()
        elif verb in state.faults.held:
            self._busy = True
            state.hold(verb, self, line)
        elif state.faults:
            self._apply_fault(line)
        else:
            self._execute(line)

    def _apply_fault(self, line: bytes) -> None:
        """Let the fault that is planned for this verb happen; execute the command if none is."""
        fault = self._state.faults.pop(line[:_MAX_VERB].partition(b" ")[0])
        if fault is None:
            self._execute(line)
        elif fault.kind == "drop before":
            self.close()
        elif fault.kind == "error":
            self._reply(encode_error(fault.message))
        elif fault.kind == "delay":
            self._busy = True
            self._state.loop.call_later(fault.seconds, self._execute_late, line)
        else:
            self._drop_reply = True
            self._execute(line)

    def _execute_late(self, line: bytes) -> None:
        self._busy = False
        self._execute(line)
        self._run()

    def _execute(self, line: bytes) -> None:
        if self._client is None:
            if not self._closed:
                self._handshake(line)
            return
        if self._at_eof and line[:_MAX_VERB].partition(b" ")[0] == b"FETCH":
            self._reply(encode_bulk(None))
            return
        reply = start(self._state, self._client, line)
        if isinstance(reply, bytes):
            self._reply(reply)
        elif reply is None or isinstance(reply, Wait):
            self._finish(reply)
        else:
            self._busy = True
            self._steps = reply
            self._line_bytes = len(line)
            self._state.long_commands += 1
            self._take_steps()

    def _take_steps(self) -> bool:
        """Go on with a command that takes long; return whether it is done."""
        assert self._steps is not None
        state = self._state
        clock = state.loop.time
        # All commands that take long share the time between two turns of the others.
        end = clock() + SLICE / state.long_commands
        try:
            while True:
                next(self._steps)
                if clock() > end:
                    state.loop.call_soon(self._go_on)
                    return False
        except StopIteration as done:
            self._steps = None
            self._busy = False
            self._line_bytes = 0
            state.long_commands -= 1
            self._finish(done.value)
            return True

    def _go_on(self) -> None:
        if self._steps is not None and self._take_steps():
            self._run()
        else:
            self._state.schedule()

    def _finish(self, reply: Reply) -> None:
        """Send the reply of a command; FETCH may have to wait."""
        if reply is None:
            self.close()
        elif isinstance(reply, Wait):
            self._wait(reply.queues)
        else:
            self._reply(reply)

    def _handshake(self, line: bytes) -> None:
        state = self._state
        client = read_hello(line)
        if client is None:
            self.close()
            return
        if state.password:
            # Clients of the protocol's first version do not know iterations.
            iterations = 1 if client.version < 2 else self._iterations
            expected = password_hash(state.password, self._salt, iterations)
            if not compare_digest(client.password_hash.encode(), expected.encode()):
                self._reply(encode_error("Invalid password"))
                self.close()
                return
        self._deadline.cancel()
        self._client = client
        state.join(self, client)
        self._reply(encode_simple("OK"))
        count = state.connection_count
        if count > state.max_connections:
            self._reply(encode_error(f"too many connections: {count}"))
            self.close()

    def _wait(self, queues: list[str]) -> None:
        """Wait for a job of these queues, as long as FETCH does."""
        assert self._client is not None
        self._busy = True
        state = self._state
        self._fetch_timer = state.loop.call_later(state.timing.fetch_wait, self._deliver, None)
        self._waiter = state.store.wait(self._client.wid, queues, self._deliver)

    def _deliver(self, payload: bytes | None) -> None:
        """Reply to the FETCH that waits, then go on with the commands behind it."""
        self._stop_waiting()
        self._busy = False
        self._reply(encode_bulk(payload))
        self._flush()
        self._state.loop.call_soon(self._run)

    def _stop_waiting(self) -> None:
        if self._fetch_timer is not None:
            self._fetch_timer.cancel()
            self._fetch_timer = None
        if self._waiter is not None:
            self._state.store.stop_waiting(self._waiter)
            self._waiter = None

    def _reply(self, data: bytes) -> None:
        if self._drop_reply:
            self._drop_reply = False
            self.close()
            return
        if self._closed:
            return
        self._replies.append(data)
        self._unsent += len(data)
        if self._unsent > MAX_UNSENT:
            self._flush()

    def _flush(self) -> None:
        if self._replies and not self._closed:
            data = self._replies[0] if len(self._replies) == 1 else b"".join(self._replies)
            self._replies.clear()
            self._unsent = 0
            self._transport.write(data)

    def reject(self, limit: str) -> None:
        """Reply that a limit was exceeded, and close.

        What the client goes on sending is read and dropped: an immediate close would send a reset,
        which would overtake the reply.
        """
        self._reply(encode_error(f"{limit}: that is the limit of this embedded server"))
        self._flush()
        self._closed = self._stopped = True
        self._stop_waiting()
        self._reader.clear()
        self._count_bytes()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._abort_later()

    def _count_bytes(self) -> None:
        """Count what is held of commands that are not finished."""
        self.received = len(self._reader)
        unfinished = self.received + self._line_bytes
        if unfinished != self._unfinished:
            more = unfinished - self._unfinished
            self._unfinished = unfinished
            self._state.count_unfinished(more)

    def _abort_later(self) -> None:
        """Cut the connection after a while, even if the client neither reads nor closes."""
        self._deadline.cancel()
        self._deadline = self._state.loop.call_later(
            self._state.timing.close_timeout, self._transport.abort
        )

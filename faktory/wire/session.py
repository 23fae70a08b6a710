"""The conversation of one connection, both ends of it, without the connection.

HI and HELLO, the password's hash, answers matched to the commands that they answer; for a
server, command lines in and replies out.

Rules: answers come in the order of the commands, one each. An answer that makes no sense ends the
conversation, since nothing that follows could be trusted to answer what it seems to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from ..exceptions import (
    FaktoryAuthenticationError,
    FaktoryError,
    FaktoryHandshakeError,
    FaktoryJSONError,
    FaktoryProtocolError,
    FaktoryServerError,
)
from ..proto import NEED_DATA, NeedData, ReplyParser, encode_command, load_json
from .commands import Command
from .validate import clip

PROTOCOL_VERSION: Final = 2

_MAX_ITERATIONS: Final = 1_000_000
"""Rounds of hashing that a server may ask for: it asks for 4,000 to 8,095
(`server/server.go: startConnection`); a hostile one must not keep us busy for long."""


def password_hash(password: str, salt: str, iterations: int) -> str:
    """Return what proves that one knows the password (`server/server.go: hash`).

    SHA-256 over password and salt, then over its own raw digest, `iterations` rounds in all;
    lower-case hex.
    """
    from hashlib import sha256  # costly to import, needed with a password only

    digest = sha256((password + salt).encode()).digest()
    for _ in range(iterations - 1):
        digest = sha256(digest).digest()
    return digest.hex()


class Answer(NamedTuple):
    """A command and what the server said to it: a value, or the error that reading it raised."""

    command: Command[Any]
    value: Any
    error: FaktoryError | None


class ClientSession:
    """The client's end of one connection.

    First `hello` and `welcome` with the server's first two replies, then any number of commands:
    send the bytes of `send(commands)`, give what comes back to `parser`, take `next_answer()`.
    """

    def __init__(self) -> None:
        self.parser = ReplyParser()
        self._waiting: deque[Command[Any]] = deque()

    def hello(
        self, hi: object, identity: Mapping[str, object], username: str, password: str | None
    ) -> bytes:
        """Answer the server's greeting: the HELLO line, with `identity` as the fields of it.

        FaktoryHandshakeError where the greeting is none of Faktory's,
        FaktoryAuthenticationError where it asks for a password and there is none.
        """
        if not isinstance(hi, str) or not hi.startswith("HI "):
            raise FaktoryHandshakeError(
                f"expected the greeting HI from a Faktory server, got {_clip(hi)}. "
                "Is the address right?"
            )
        try:
            greeting = load_json(hi[3:].encode())
        except FaktoryJSONError as error:
            raise FaktoryHandshakeError(f"the greeting {_clip(hi)} is broken: {error}") from None
        version = greeting.get("v") if isinstance(greeting, dict) else None
        if version != PROTOCOL_VERSION:
            raise FaktoryHandshakeError(
                f"the server speaks version {version!r} of the protocol, this client speaks "
                f"version {PROTOCOL_VERSION}: one of them needs an update."
            )
        fields: dict[str, object] = {**identity, "v": PROTOCOL_VERSION}
        if username:
            fields["username"] = username
        salt = greeting.get("s")
        if salt is not None:
            iterations = greeting.get("i", 1)
            if not isinstance(salt, str) or type(iterations) is not int or iterations < 1:
                raise FaktoryHandshakeError(f"the greeting {_clip(hi)} has no valid 's' and 'i'.")
            if iterations > _MAX_ITERATIONS:
                raise FaktoryHandshakeError(
                    f"the server asks for {iterations} rounds of hashing; "
                    f"more than {_MAX_ITERATIONS} are refused."
                )
            if password is None:
                raise FaktoryAuthenticationError(
                    "the server requires a password and none is configured. "
                    "Put it into the address: tcp://:password@host:port."
                )
            fields["pwdhash"] = password_hash(password, salt, iterations)
        return encode_command("HELLO", json=fields)

    def welcome(self, reply: object) -> None:
        """Read the server's answer to HELLO."""
        if reply == "OK":
            return
        if isinstance(reply, FaktoryServerError):
            if reply.message == "Invalid password":
                raise FaktoryAuthenticationError(
                    "the server refused the password. "
                    "A special character in an address must be percent-encoded."
                )
            raise FaktoryHandshakeError(f"the server refused HELLO: {reply.message}")
        raise FaktoryHandshakeError(f"expected OK after HELLO, got {_clip(reply)}")

    def send(self, commands: Sequence[Command[Any]]) -> bytes:
        """Take the commands as sent; return the bytes that say them, to be put on the line."""
        self._waiting.extend(commands)
        if len(commands) == 1:
            return commands[0].data
        return b"".join([command.data for command in commands])

    def next_answer(self) -> Answer | NeedData:
        """Take the answer to the oldest command that waits, once it is there.

        A refusal, or an answer that makes no sense, is the answer's `error`; FaktoryProtocolError
        is raised only where the whole conversation is lost.
        """
        command = self._waiting[0]
        value: Any = None
        error: FaktoryError | None = None
        try:
            reply = self.parser.next_json() if command.json else self.parser.next()
            if reply is NEED_DATA:
                return NEED_DATA
            if isinstance(reply, FaktoryServerError):
                error = reply
            else:
                if command.json and isinstance(reply, str) and reply.startswith("{"):
                    reply = load_json(reply.encode())  # as the protocol's document has it
                value = command.read(reply)
        except FaktoryJSONError as exception:
            error = exception
        self._waiting.popleft()
        return Answer(command, value, error)


class CommandReader:
    """A server's end: cut what a client sends into command lines.

    A line ends with LF or CRLF and is at most `max_line` bytes long (`server/server.go:
    processLines`, which knows no limit).
    """

    def __init__(self, max_line: int) -> None:
        self._max_line = max_line
        self._buffer = bytearray()
        self._scanned = 0

    def feed(self, data: bytes) -> None:
        """Add received bytes, split anywhere."""
        self._buffer += data

    def next(self) -> bytes | None:
        """Take the next whole line without its end; FaktoryProtocolError if it is too long."""
        end = self._buffer.find(b"\n", self._scanned)
        length = len(self._buffer) if end < 0 else end
        length -= self._buffer.endswith(b"\r", 0, length)
        if length > self._max_line:
            raise FaktoryProtocolError(f"a command is longer than {self._max_line} bytes")
        if end < 0:
            self._scanned = len(self._buffer)
            return None
        line = bytes(self._buffer[:length])
        del self._buffer[: end + 1]
        self._scanned = 0
        return line


def encode_hi(salt: str = "", iterations: int = 0) -> bytes:
    """Encode a server's greeting; with a salt, it asks for a password."""
    secret = f',"i":{iterations},"s":"{salt}"' if salt else ""
    return f'+HI {{"v":{PROTOCOL_VERSION}{secret}}}\r\n'.encode()


def encode_simple(text: str) -> bytes:
    """Encode a `+` reply."""
    return b"+" + text.encode() + b"\r\n"


def encode_error(message: str, code: str = "ERR") -> bytes:
    """Encode a `-` reply; line ends, which would end it early, become spaces."""
    line = f"{code} {message}".replace("\r", " ").replace("\n", " ")
    return b"-" + line.encode("utf-8", "surrogateescape") + b"\r\n"


def encode_bulk(data: bytes | None) -> bytes:
    """Encode a `$` reply, None as nil."""
    return b"$-1\r\n" if data is None else b"$%d\r\n%b\r\n" % (len(data), data)


def _clip(reply: object) -> str:
    """A peer's reply fit to be shown in an error."""
    return clip(str(reply) if isinstance(reply, FaktoryError) else repr(reply))

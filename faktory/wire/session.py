"""The state of one connection, at either end, without the connection.

HI and HELLO, the password's hash, answers matched to their commands; for a server, command lines
in and replies out.

Rules: there is one answer to each command, in their order. An answer that makes no sense ends the
connection, since what follows could answer any command.
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
from .validate import brief, clip

PROTOCOL_VERSION: Final = 2

_MAX_ITERATIONS: Final = 1_000_000
"""Rounds of hashing that a server may ask for: Faktory asks for 4,000 to 8,095
(`server/server.go: startConnection`); a hostile server must not keep the client busy for long."""


def password_hash(password: str, salt: str, iterations: int) -> str:
    """Return the proof that a client knows the password (`server/server.go: hash`).

    SHA-256 over password and salt, then over its own raw digest, `iterations` rounds in all;
    lower-case hex.
    """
    from hashlib import sha256  # takes long, and is needed with a password only

    digest = sha256((password + salt).encode()).digest()
    for _ in range(iterations - 1):
        digest = sha256(digest).digest()
    return digest.hex()


class Answer(NamedTuple):
    """A command, and the value or the error that answers it."""

    command: Command[Any]
    value: Any
    error: FaktoryError | None


class ClientSession:
    """The client's end of one connection.

    First `hello` and `welcome` read the server's first two replies. Then, any number of times: put
    the bytes of `send(commands)` on the connection, feed `parser`, take `next_answer()`.
    """

    def __init__(self) -> None:
        self.parser = ReplyParser()
        self._waiting: deque[Command[Any]] = deque()

    def hello(
        self, hi: object, identity: Mapping[str, object], username: str, password: str | None
    ) -> bytes:
        """Return the HELLO line that answers the greeting, with the fields of `identity`.

        FaktoryHandshakeError if the greeting is not Faktory's, FaktoryAuthenticationError if it
        asks for a password and there is none.
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
                f"the server speaks version {brief(version)} of the protocol, this client speaks "
                f"version {PROTOCOL_VERSION}: one of them needs an update."
            )
        fields: dict[str, object] = {**identity, "v": PROTOCOL_VERSION}
        if username:
            fields["username"] = username
        salt = greeting.get("s")
        if salt is not None:
            iterations = greeting.get("i", 1)
            if not _is_utf8(salt) or type(iterations) is not int or iterations < 1:
                raise FaktoryHandshakeError(f"the greeting {_clip(hi)} has no valid 's' and 'i'.")
            if iterations > _MAX_ITERATIONS:
                raise FaktoryHandshakeError(
                    f"the server asks for {brief(iterations)} rounds of hashing; "
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
            raise FaktoryHandshakeError(f"the server refused HELLO: {clip(reply.message, 1000)}")
        raise FaktoryHandshakeError(f"expected OK after HELLO, got {_clip(reply)}")

    def send(self, commands: Sequence[Command[Any]]) -> bytes:
        """Return the bytes of commands, which count as sent from now on."""
        self._waiting.extend(commands)
        if len(commands) == 1:
            return commands[0].data
        return b"".join([command.data for command in commands])

    def next_answer(self) -> Answer | NeedData:
        """Return the answer to the oldest command without one, or NEED_DATA.

        A server's error, or JSON that cannot be read, is the answer's `error`. FaktoryProtocolError
        is raised for an answer that makes no sense: the connection is of no use then.
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
                    reply = load_json(reply.encode())  # as the protocol's document shows it
                value = command.read(reply)
        except (FaktoryJSONError, FaktoryServerError) as exception:
            error = exception
        self._waiting.popleft()
        return Answer(command, value, error)


class CommandReader:
    """A server's end: splits received bytes into command lines.

    A line ends with LF or CRLF and has at most `max_line` bytes (`server/server.go: processLines`
    has no limit).
    """

    def __init__(self, max_line: int) -> None:
        self._max_line = max_line
        self._buffer = bytearray()
        self._scanned = 0

    def __len__(self) -> int:
        """Return how many bytes are held: lines that were not taken, and a part of one."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Add received bytes, split anywhere."""
        self._buffer += data

    def clear(self) -> None:
        """Forget what is held."""
        self._buffer = bytearray()
        self._scanned = 0

    def next(self) -> bytes | None:
        """Return the next complete line without its end; FaktoryProtocolError if it is too long."""
        end = self._buffer.find(b"\n", self._scanned)
        length = len(self._buffer) if end < 0 else end
        length -= self._buffer.endswith(b"\r", 0, length)
        if length > self._max_line:
            raise FaktoryProtocolError(f"a command is longer than {self._max_line} bytes")
        if end < 0:
            self._scanned = len(self._buffer)
            return None
        with memoryview(self._buffer) as view:  # one copy: it may be a large one
            line = bytes(view[:length])
        del self._buffer[: end + 1]
        self._scanned = 0
        return line


def encode_hi(salt: str = "", iterations: int = 0) -> bytes:
    """Encode a server's greeting, which asks for a password if there is a salt."""
    secret = f',"i":{iterations},"s":"{salt}"' if salt else ""
    return f'+HI {{"v":{PROTOCOL_VERSION}{secret}}}\r\n'.encode()


def encode_simple(text: str) -> bytes:
    """Encode a `+` reply."""
    return b"+" + text.encode() + b"\r\n"


def encode_error(message: str, code: str = "ERR") -> bytes:
    """Encode a `-` reply; line ends in the message become spaces."""
    line = f"{code} {message}".replace("\r", " ").replace("\n", " ")
    return b"-" + line.encode("utf-8", "surrogateescape") + b"\r\n"


def encode_bulk(data: bytes | None) -> bytes:
    """Encode a `$` reply, None as nil."""
    return b"$-1\r\n" if data is None else b"$%d\r\n%b\r\n" % (len(data), data)


def _clip(reply: object) -> str:
    """Return a peer's reply for an error message."""
    return clip(str(reply)) if isinstance(reply, FaktoryError) else brief(reply)


def _is_utf8(text: object) -> bool:
    """Return whether this is text without lone surrogates, which cannot be hashed."""
    try:
        return isinstance(text, str) and text.encode() is not None
    except UnicodeEncodeError:
        return False

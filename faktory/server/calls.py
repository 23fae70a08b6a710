"""What the functions of commands are given, and what they return."""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType
from typing import Any, Final, NamedTuple

from ..wire.session import encode_bulk, encode_simple
from .go import json as go_json
from .go.json import JSONError
from .go.long import LONG
from .slices import Steps, chunks, in_order
from .state import ServerState
from .workers import ClientRecord

OK: Final = encode_simple("OK")

LIMIT = "that is the limit of this embedded server"


MAX_ECHO: Final = LONG
"""Bytes of a command that an error repeats."""


class Wait(NamedTuple):
    """The reply to a FETCH that finds no job: wait for one from these queues."""

    queues: list[str]


class Panic(Exception):
    """The real server panics here and replies "internal error" [Go: safeDispatch]."""


class Call(NamedTuple):
    """One command; `begin` is where its arguments begin in the line, 0 without a space."""

    state: ServerState
    client: ClientRecord
    line: bytes
    begin: int
    loaded: Any = Ellipsis
    """The JSON that `load` is to return, or the error that it is to raise."""

    @property
    def text(self) -> str:
        """The text after the verb; the real server panics without one."""
        if not self.begin:
            raise Panic
        return go_json.decode(self.line[self.begin :])

    @property
    def echo(self) -> str:
        """The text after the verb, so that an error can repeat it byte for byte."""
        return echo(self.line[self.begin : self.begin + MAX_ECHO] if self.begin else b"")

    def load(self) -> Any:
        """Return the JSON after the verb; JSONError if it is broken."""
        loaded = self.loaded
        if loaded is Ellipsis:
            if not self.begin:
                raise Panic
            return go_json.load(go_json.decode(self.line[self.begin :]))
        if isinstance(loaded, JSONError):
            raise loaded
        return loaded


Reply = bytes | Wait | None
REPLY: Final = (bytes, Wait, NoneType)
"""The types of a reply; anything else is steps."""

Handler = Callable[[Call], Reply | Steps[Reply]]


def echo(data: bytes) -> str:
    """Return text that `encode_error` turns into the same bytes again."""
    return data.decode("utf-8", "surrogateescape")


def dump(members: dict[str, Any]) -> Steps[str]:
    """Write an object as `go_json.dump` does."""
    if not members:
        return "{}"
    ordered = yield from in_order(members)
    pieces = []
    for names in chunks(ordered):
        pieces.append(go_json.dump({name: members[name] for name in names})[1:-1])
        yield
    return f"{{{','.join(pieces)}}}"


def bulk(value: object) -> bytes:
    return encode_bulk(go_json.dump(value).encode())

"""The types of an exchange's first try, for both implementations."""

from collections.abc import Callable, Sequence
from socket import socket
from typing import Any, final

from .proto import ReplyParser
from .wire.commands import Command
from .wire.session import Answer

@final
class Exchange:
    def __init__(
        self, sock: socket, can_read: Callable[[], object], parser: ReplyParser
    ) -> None: ...
    def run(self, sent: Sequence[Command[Any]]) -> list[Answer] | int | OSError | None: ...

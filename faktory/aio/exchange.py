"""Commands that were written in one piece, and who waits for their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ..exceptions import FaktoryError
from ..wire import recovery
from ..wire.commands import Command
from ..wire.session import Answer


class Exchange:
    """Commands that were written in one piece, and their answers so far."""

    __slots__ = ("answers", "future", "sent", "written")

    def __init__(self, sent: Sequence[Command[Any]], future: asyncio.Future[list[Answer]]) -> None:
        self.sent = sent
        self.future = future
        self.answers: list[Answer] = []
        self.written = False

    @property
    def is_fetch(self) -> bool:
        """Whether this is a FETCH alone."""
        return len(self.sent) == 1 and self.sent[0].name == "FETCH"

    def fail(self, sent: int, cause: FaktoryError) -> None:
        """End the wait for it: the connection broke."""
        if not self.future.done():
            self.future.set_exception(recovery.ConnectionBroken(self.answers, sent, cause))

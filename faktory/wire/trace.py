"""Commands and their answers in the log, at level DEBUG: the contents of jobs only if asked for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from .commands import Command
from .log import Log
from .session import Answer
from .validate import clip


class CommandLog(Log):
    """A log of what one client sends and is answered."""

    def __init__(self, logger: logging.Logger, payloads: bool) -> None:
        super().__init__(logger)
        self._payloads = payloads
        self.levels: Mapping[int, bool] = getattr(self.logger, "_cache", {})
        """What `isEnabledFor` has found for a level and will find again: half of its time."""

    def sent(self, commands: Sequence[Command[Any]]) -> None:
        """Log commands."""
        for command in commands:
            self.debug("> %s", self._show(command))

    def answered(self, answers: Sequence[Answer]) -> None:
        """Log answers."""
        for answer in answers:
            text: object = answer.value
            if answer.error is not None:
                text = str(answer.error)
                if not self._payloads:  # the server repeats a job that it refuses
                    text = clip(text.partition("{")[0], 1000)
            elif text is None:
                text = "OK or nothing"
            elif not self._payloads:
                text = f"a {type(text).__name__}"
            self.debug("< %s", text)

    def _show(self, command: Command[Any]) -> str:
        if self._payloads:
            return command.data.decode().rstrip()
        about = f" of {', '.join(map(clip, command.jids[:3]))}" if command.jids else ""
        more = f" and {len(command.jids) - 3} more" if len(command.jids) > 3 else ""
        return f"{command.name}{about}{more} ({len(command.data)} bytes)"

"""A terminal that shows the log: one line below it says how things stand, and is redrawn in place.

Rules: the line is drawn below the cursor, which stays where the log goes on. So it takes nothing
that anybody else writes to the terminal with it, and one command erases it, however the terminal's
width has changed since. Only the writer of the log draws it, in one piece with the lines above it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from math import inf
from time import monotonic
from typing import Final

PAUSE: Final = 0.05
"""Seconds between two writes: a subprocess, which writes past the log, is to come after it."""

DRAW_INTERVAL: Final = 0.25
"""Seconds between two times that the line is made. With lines it is drawn again as it is."""

CHECK_INTERVAL: Final = 0.5
"""Seconds between two looks whether it has changed, where nothing else is written."""

ERASE: Final = b"\x1b[J"
"""From the cursor to the end of the screen."""

_ROOM: Final = b"\x1bD\x1b[A"
"""Down, which scrolls at the bottom, and up again, in the same column."""

_BELOW: Final = b"\x1b7\r\x1b[B"
_BACK: Final = b"\x1b8"

_RETURN: Final = b"\r"


class StatusLine:
    """What stands below the log; for one thread, but for `show`."""

    def __init__(self) -> None:
        self._status: Callable[[], bytes] | None = None
        self._drawn = b""
        self._drawn_at = -inf
        self._text = b""
        self._made_at = -inf
        self._size: object = None
        self.size: Callable[[], object] = lambda: None
        """Returns the size of the terminal."""
        self.is_shared = False
        """Whether other processes draw here, too."""
        self.has_keys: Callable[[], bool] = lambda: False
        """Returns whether a key may be shown where the log goes on, as the ^C of Ctrl-C."""

    @property
    def has_status(self) -> bool:
        """Whether there is a line to draw."""
        return self._status is not None

    def show(self, status: Callable[[], bytes] | None) -> None:
        """Draw what a function returns from now on, None for nothing. From any thread."""
        self._status = status
        self._made_at = -inf

    def reset_after_fork(self) -> None:
        """Draw nothing: the line is the parent's."""
        self._status = None
        self._drawn = b""
        self.has_keys = lambda: False
        self.is_shared = True

    def compose(self, lines: bytes, more: bool, is_own: bool) -> bytes:
        """Return what to write so that lines stand above the line.

        `more`: others come at once; `is_own`: the first one is of the log, and begins here.
        """
        text, now = b"", monotonic()
        if self._status is not None and not (more and now - self._drawn_at < DRAW_INTERVAL):
            text = self._made(now)
        if not lines and text == self._drawn:
            size = self.size()
            if size == self._size:
                return b""
            self._size = size  # a terminal that became smaller has lost the line
        erased = ERASE if self._drawn or self.is_shared else b""
        if is_own and self.has_keys():
            erased = _RETURN + ERASE
        self._drawn = text
        if not text:
            return erased + lines
        self._drawn_at = now
        return b"".join((erased, lines, _ROOM, _BELOW, text, _BACK))

    def _made(self, now: float) -> bytes:
        if self._status is not None and now - self._made_at >= DRAW_INTERVAL:
            self._made_at = now
            self._text = b""
            with suppress(Exception):
                self._text = self._status()
        return self._text

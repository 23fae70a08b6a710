"""The terminal while `top` has it: a screen of its own, keys, its size, and all of it restored.

Rules: only lines that have changed are written, in one write; nothing is, if none has. However the
block ends, by an error, a signal or Ctrl-Z, the terminal is as it was before.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from ...worker.signals import handled
from ..terminal import STYLES
from .frame import Row

_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[H\x1b[2J"
"""The other screen, no cursor, no line that goes on in the next one, all blank."""

_LEAVE: Final = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"

_UPDATE: Final = ("\x1b[?2026h", "\x1b[?2026l")
"""Around an update: a terminal that knows it shows all of it at once."""


class Ended(BaseException):
    """Raised in the main thread by a signal that ends the tool."""


class Screen:
    """The terminal of standard output, within a block, and of standard input for the keys."""

    def __init__(self) -> None:
        from rich.console import Console

        # For its colours alone: as the terminal has them, and none with NO_COLOR.
        self._console = Console(
            file=sys.stdout, force_terminal=True, legacy_windows=False, highlight=False
        )
        self._out: int = sys.stdout.fileno()
        self._keys = _keyboard()
        self._before: list[Any] | None = None
        self._shown: list[Row] = []
        self._size = (0, 0)
        self._stopped = False
        self._leaves = False
        self._signals = ExitStack()
        self._wake_reader, self._wake_writer = os.pipe()
        for descriptor in (self._wake_reader, self._wake_writer):
            os.set_blocking(descriptor, False)
        self._readers = [each for each in (self._wake_reader, self._keys) if each is not None]

    def __enter__(self) -> Self:
        end = dict.fromkeys(("SIGTERM", "SIGHUP", "SIGQUIT"), partial(self._end, Ended))
        end["SIGINT"] = partial(self._end, KeyboardInterrupt)
        others = {"SIGWINCH": self.wake, "SIGTSTP": self._on_stop}
        self._signals.enter_context(handled({**end, **others}))
        try:
            self._take()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leaves = True
        try:
            self._restore()
        finally:
            self._signals.close()
            os.close(self._wake_reader)
            os.close(self._wake_writer)

    def wake(self) -> None:
        """End a `wait`. From any thread, and from a signal handler."""
        with suppress(OSError):  # there are enough of them, or the block has ended
            os.write(self._wake_writer, b"x")

    def wait(self, timeout: float) -> bytes:
        """Wait for a key, a change of the size, or `wake`; return the keys that were typed."""
        if self._stopped:
            self._stop()
            return b""
        ready, _, _ = select.select(self._readers, (), (), timeout)
        if self._wake_reader in ready:
            os.read(self._wake_reader, 4096)
        if self._keys is None or self._keys not in ready:
            return b""
        keys = os.read(self._keys, 1024)
        if not keys:  # there is no keyboard any more
            self._readers.remove(self._keys)
        return keys

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, as they are now."""
        with suppress(OSError):
            found = os.get_terminal_size(self._out)
            if found.columns > 0 and found.lines > 0:
                return found
        return shutil.get_terminal_size()

    def draw(self, lines: Sequence[Row]) -> None:
        """Show these lines, each of which fits into the width; write those that have changed."""
        columns, height = size = self.size
        drawn = list(lines[:height])
        written: list[str] = []
        if size != self._size:
            self._size, self._shown = size, []
            written.append("\x1b[0m\x1b[2J")
        before = self._shown
        for row, line in enumerate(drawn):
            if row >= len(before) or before[row] != line:
                # In the last column that would erase the last character.
                rest = "\x1b[K" if sum(len(text) for text, _ in line) < columns else ""
                written.append(f"\x1b[{row + 1};1H{self._render(line)}{rest}")
        written += [f"\x1b[{row + 1};1H\x1b[K" for row in range(len(drawn), len(before))]
        if written:
            self._shown = drawn
            self._write(f"{_UPDATE[0]}{''.join(written)}{_UPDATE[1]}")

    def _render(self, line: Row) -> str:
        from rich.text import Text

        text = Text.assemble(*((piece, STYLES.get(meaning, "")) for piece, meaning in line))
        with self._console.capture() as capture:
            self._console.print(text, end="", soft_wrap=True)
        return capture.get()

    def _take(self) -> None:
        if self._keys is not None:
            self._before = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys, termios.TCSANOW)
        self._size = (0, 0)
        self._write(_ENTER)

    def _restore(self) -> None:
        with suppress(OSError, termios.error):
            termios.tcflow(self._out, termios.TCOON)  # Ctrl-S would have us wait
        with suppress(OSError):
            self._write(_LEAVE)
        if self._keys is not None and self._before is not None:
            with suppress(OSError, termios.error):
                termios.tcsetattr(self._keys, termios.TCSANOW, self._before)

    def _write(self, text: str) -> None:
        data = text.encode("ascii", "backslashreplace")
        while data:
            data = data[os.write(self._out, data) :]

    def _end(self, kind: type[BaseException]) -> None:
        if not self._leaves:  # else a second signal would leave the terminal as it is
            raise kind

    def _on_stop(self) -> None:
        self._stopped = True
        self.wake()

    def _stop(self) -> None:
        """Stop, as Ctrl-Z asks for, and go on with the same screen later."""
        self._stopped = False
        self._restore()
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)
        self._take()


def _keyboard() -> int | None:
    """Return the descriptor of standard input if it is a terminal."""
    try:
        return sys.stdin.fileno() if sys.stdin.isatty() else None
    except (OSError, ValueError, AttributeError):
        return None

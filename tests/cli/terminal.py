"""A command on a terminal whose size changes, and what its screen shows."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Self

PIECE = re.compile(rb"\x1b\[([?0-9;]*)([A-Za-z])|\x1b.|([\r\n])|([^\x1b\r\n]+)", re.S)
UNFINISHED = re.compile(rb"\x1b(\[[?0-9;]*)?\Z")


class Terminal:
    """A process on a pseudo-terminal; `screen` is what a terminal would show.

    It knows the codes that `top` writes: where the cursor is, what is erased, the other screen.
    """

    def __init__(
        self, *command: str, env: Mapping[str, str], columns: int = 80, lines: int = 24
    ) -> None:
        self.columns, self.lines = columns, lines
        self.raw = b""
        self.modes: set[str] = set()
        """Private modes that are set: 1049 is the other screen, 25 a visible cursor."""
        self.screen = [""] * lines
        self._row = self._column = 0
        self._rest = b""
        self._ours, self._theirs = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self._theirs)
        self._ended, self._end = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=subprocess.PIPE,
            env=env,
            cwd=Path(__file__).parents[2],
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        os.close(self._end)
        self._reader.join()
        for descriptor in (self._ours, self._theirs, self._ended):
            os.close(descriptor)

    @property
    def text(self) -> str:
        """The lines of the screen."""
        return "\n".join(self.screen)

    @property
    def after(self) -> list[object]:
        """The settings of the terminal, as `before`."""
        return termios.tcgetattr(self._theirs)

    def resize(self, columns: int, lines: int) -> None:
        """Change its size; the process gets a signal."""
        self.columns, self.lines = columns, lines
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        """Type keys."""
        os.write(self._ours, keys)

    def wait(self) -> tuple[int, str]:
        """Return exit code and standard error of the process, and read all that it has written."""
        _, error = self.process.communicate(timeout=20)
        os.close(self._end)
        self._reader.join()
        self._ended, again = os.pipe()
        self._end = again
        return self.process.returncode, error.decode()

    def _read(self) -> None:
        while True:
            ready, _, _ = select.select([self._ours, self._ended], (), ())
            if self._ours in ready:
                with suppress(OSError):
                    data = os.read(self._ours, 65536)
                    self.raw += data
                    part = UNFINISHED.search(self._rest + data)
                    whole = len(self._rest + data) if part is None else part.start()
                    data, self._rest = (self._rest + data)[:whole], (self._rest + data)[whole:]
                    self._show(data)
                    continue
            if self._ended in ready:
                return

    def _show(self, data: bytes) -> None:
        for numbers, kind, end, text in PIECE.findall(data):
            if kind in (b"h", b"l"):
                change = self.modes.add if kind == b"h" else self.modes.discard
                change(numbers.decode().removeprefix("?"))
            elif kind == b"H":
                row, _, column = numbers.decode().partition(";")
                self._row, self._column = int(row or 1) - 1, int(column or 1) - 1
            elif kind == b"J":
                self.screen = [""] * max(self.lines, 1)
            elif kind == b"K":
                self._put(self._line()[: self._column])
            elif end == b"\r":
                self._column = 0
            elif end == b"\n":
                self._row += 1
            elif text:
                line, shown = self._line(), text.decode()
                start = line[: self._column].ljust(self._column)
                self._put(f"{start}{shown}{line[self._column + len(shown) :]}")
                self._column += len(shown)

    def _line(self) -> str:
        return self.screen[self._row] if self._row < len(self.screen) else ""

    def _put(self, line: str) -> None:
        while self._row >= len(self.screen):
            self.screen.append("")
        self.screen[self._row] = line.rstrip()

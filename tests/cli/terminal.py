"""A command on a terminal whose size changes, and what its screen shows."""

from __future__ import annotations

import fcntl
import os
import pty
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

from .emulator import Emulator


class Terminal:
    """A process on a pseudo-terminal; `screen` is what a terminal would show."""

    def __init__(
        self, *command: str, env: Mapping[str, str], columns: int = 80, lines: int = 24
    ) -> None:
        self.raw = b""
        self._emulator = Emulator(columns, lines)
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
    def screen(self) -> list[str]:
        """The lines of the screen."""
        return self._emulator.screen

    @property
    def modes(self) -> set[str]:
        """Private modes that are set, see `Emulator`."""
        return self._emulator.modes

    @property
    def text(self) -> str:
        """The screen as one text."""
        return "\n".join(self.screen)

    @property
    def after(self) -> list[object]:
        """The settings of the terminal, as `before`."""
        return termios.tcgetattr(self._theirs)

    def resize(self, columns: int, lines: int) -> None:
        """Change its size; the process gets a signal."""
        self._emulator.columns, self._emulator.rows = columns, lines
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        """Type keys."""
        os.write(self._ours, keys)

    def wait(self) -> tuple[int, str]:
        """Return exit code and standard error of the process, and read all that it has written."""
        _, error = self.process.communicate(timeout=20)
        os.close(self._end)
        self._reader.join()
        os.close(self._ended)
        self._ended, self._end = os.pipe()
        return self.process.returncode, error.decode()

    def _read(self) -> None:
        while True:
            ready, _, _ = select.select([self._ours, self._ended], (), ())
            if self._ours in ready:
                with suppress(OSError):
                    data = os.read(self._ours, 65536)
                    self.raw += data
                    self._emulator.feed(data.decode())
                    continue
            if self._ended in ready:
                return

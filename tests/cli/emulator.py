"""A terminal that understands what this package writes, and nothing else: a screen of text."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\x1b\[([0-9;]*)([A-Za-z])|\x1b([78D])|([\r\n])|([^\x1b\r\n])", re.S)


class Emulator:
    """What a terminal of so many columns shows; lines that scroll off it stay in `lines`."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.columns = columns
        self.rows = rows
        self._cells: list[list[str]] = [[]]
        self._top = 0
        self._row = self._column = 0
        self._saved = 0, 0
        self.draws = 0
        """How often the line below the cursor was drawn."""

    @property
    def lines(self) -> list[str]:
        """All lines, from the first one that was written."""
        return ["".join(cells).rstrip() for cells in self._cells]

    def feed(self, text: str) -> None:
        """Show what was written to the terminal; an unknown code fails."""
        at = 0
        while at < len(text):
            found = _TOKEN.match(text, at)
            assert found is not None, repr(text[at : at + 40])
            at = found.end()
            self._do(*found.groups())

    def _do(self, numbers: str, code: str, escape: str, control: str, character: str) -> None:
        if character:
            if self._column == self.columns:
                self._column = 0
                self._down()
            cells = self._cells[self._row]
            cells.extend(" " * (self._column + 1 - len(cells)))
            cells[self._column] = character
            self._column += 1
        elif control:
            self._column = 0
            if control == "\n":
                self._down()
        elif escape == "D":
            self._down()
        elif escape == "7":
            self._saved = self._row - self._top, self._column
            self.draws += 1
        elif escape == "8":
            row, self._column = self._saved
            self._row = self._top + row
        elif code == "A":
            self._row = max(self._top, self._row - 1)
        elif code == "B":
            self._row = min(self._top + self.rows - 1, self._row + 1)
            self._reach()
        elif code in ("J", "K"):
            assert numbers == ""
            del self._cells[self._row][self._column :]
            if code == "J":
                for cells in self._cells[self._row + 1 :]:
                    cells.clear()
        else:
            assert code == "m", (numbers, code)

    def _down(self) -> None:
        self._row += 1
        self._reach()
        self._top = max(self._top, self._row - self.rows + 1)

    def _reach(self) -> None:
        while self._row >= len(self._cells):
            self._cells.append([])

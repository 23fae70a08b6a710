"""A terminal that understands what this package writes, and nothing else: a screen of text."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|\x1b([78D])|([\r\n])|([^\x1b\r\n])", re.S)
_UNFINISHED = re.compile(r"\x1b(\[[?0-9;]*)?\Z")


class Emulator:
    """What a terminal of so many columns shows; lines that scroll off it stay in `lines`."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.columns = columns
        self.rows = rows
        self.modes: set[str] = set()
        """Private modes that are set: 1049 is the other screen, 25 a visible cursor."""
        self._cells: list[list[str]] = [[]]
        self._top = 0
        self._row = self._column = 0
        self._saved = 0, 0
        self._rest = ""
        self.draws = 0
        """How often the line below the cursor was drawn."""

    @property
    def lines(self) -> list[str]:
        """All lines, from the first one that was written."""
        return ["".join(cells).rstrip() for cells in self._cells]

    @property
    def screen(self) -> list[str]:
        """The lines that are to be seen, as many as it has rows."""
        seen = self.lines[self._top : self._top + self.rows]
        return seen + [""] * (self.rows - len(seen))

    def feed(self, text: str) -> None:
        """Show what was written to the terminal, up to a code that ends later; others fail."""
        text, at = self._rest + text, 0
        unfinished = _UNFINISHED.search(text)
        end = len(text) if unfinished is None else unfinished.start()
        self._rest = text[end:]
        while at < end:
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
            self._go(self._row - self._top + 1)
        elif code == "H":
            row, _, column = numbers.partition(";")
            self._go(int(row or 1) - 1)
            self._column = int(column or 1) - 1
        elif code in ("J", "K"):
            self._erase(code, numbers)
        elif code in ("h", "l"):
            change = self.modes.add if code == "h" else self.modes.discard
            change(numbers.removeprefix("?"))
        else:
            assert code == "m", (numbers, code)

    def _erase(self, code: str, numbers: str) -> None:
        if (code, numbers) == ("J", "2"):
            for cells in self._cells[self._top :]:
                cells.clear()
            return
        assert numbers == "", (code, numbers)
        del self._cells[self._row][self._column :]
        if code == "J":
            for cells in self._cells[self._row + 1 :]:
                cells.clear()

    def _go(self, row: int) -> None:
        self._row = self._top + min(row, self.rows - 1)
        self._reach()

    def _down(self) -> None:
        self._row += 1
        self._reach()
        self._top = max(self._top, self._row - self.rows + 1)

    def _reach(self) -> None:
        while self._row >= len(self._cells):
            self._cells.append([])

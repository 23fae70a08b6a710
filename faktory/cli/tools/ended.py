"""How a tool ends before it is done."""

from __future__ import annotations

from ..exits import Exit


class Ended(Exception):
    """A tool ends here, with this code, and says why in one line."""

    def __init__(self, code: Exit, why: str) -> None:
        super().__init__(why)
        self.code = code

"""What programs print, in whole lines: the standard streams of a worker whose log is text.

Rules: what a thread writes waits until its line is complete, it flushes, or has written a lot; then
it goes out in one piece, so that no line of the log, and of another thread, is in the middle of it.
Nothing of it is lost at the end. Whatever else programs ask of a standard stream is the original's.
"""

from __future__ import annotations

import os
import sys
from threading import get_ident
from typing import Any, Final, Self

from .writer import Text, Writer

MAX_UNFINISHED: Final = 8192
"""Characters of a line that wait for its end."""


class TextStream:
    """Replaces a standard stream; `writer` writes to the same file, or there is none.

    `waits`: a line is written before the program goes on.
    """

    def __init__(self, stream: Any, writer: Writer | None, waits: bool = False) -> None:
        self._stream = stream
        self._writer = writer
        self._waits = waits
        self.unfinished: dict[int, str] = {}
        """By thread."""
        self._is_ending = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.unfinished.clear)  # the parent writes it

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, text: str) -> int:
        """Write what is complete; keep the rest until its line is."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if self._stream.closed:
            raise ValueError("I/O operation on closed file.")
        thread = get_ident()
        written = self.unfinished.pop(thread, "") + text
        # A line that is written again, as a progress bar's, is shown at once.
        end = len(written) if "\r" in text else written.rfind("\n") + 1
        if len(written) - end > MAX_UNFINISHED:
            end = len(written)
        if end < len(written):
            self.unfinished[thread] = written[end:]
        if end:
            self._send(written[:end])
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each of some texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write this thread's unfinished line; wait until all is written, a second at most."""
        self._send_rest(list(self.unfinished) if self._is_ending else [get_ident()])
        if self._writer is not None:
            self._writer.wait()
        self._stream.flush()

    def end_line(self) -> None:
        """Write this thread's unfinished line."""
        self._send_rest([get_ident()])

    def close(self) -> None:
        """Have all that is unfinished written, and close the original."""
        if not self._stream.closed:
            self.end()
            self.flush()
        self._stream.close()

    def end(self) -> None:
        """Have the unfinished lines of all threads written, by the next `flush` at the latest."""
        self._is_ending = True
        if self._writer is not None:  # else it may take long
            self._send_rest(list(self.unfinished))

    def _send_rest(self, threads: list[int]) -> None:
        for thread in threads:
            if rest := self.unfinished.pop(thread, ""):
                self._send(rest)

    def _send(self, text: str) -> None:
        if self._writer is None or sys.is_finalizing():
            self._stream.write(text)
        else:
            self._writer.put(Text(self._encoded(text)), self._waits)

    def _encoded(self, text: str) -> bytes:
        try:
            return text.encode(self._stream.encoding, self._stream.errors)
        except UnicodeError:
            return text.encode(self._stream.encoding, "backslashreplace")

"""What a terminal can show: colour, a line that is redrawn in place, durations in people's units.

Rules: a pipe, a file and a dumb terminal get plain text, and so does everybody who asks for it, by
NO_COLOR or `--plain`. Colour needs rich, which the extra `cli` brings. Text is escaped before it is
painted, and never after.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any, Final

STYLES: Final = {
    "good": "green",
    "note": "cyan",
    "warning": "yellow",
    "error": "bold red",
    "title": "bold",
    "dim": "dim",
}
"""The meanings that are painted, and rich's name of how."""

is_plain = False
"""Whether `--plain` asks for plain text."""


def is_live(stream: Any, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether a line may be redrawn in place: where nobody objects, see `can_redraw`."""
    if is_plain or environ.get("NO_COLOR") or environ.get("CLICOLOR") == "0":
        return False
    return can_redraw(stream, environ)


def can_redraw(stream: Any, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether a stream is a terminal that understands escape codes.

    Not on Windows, whose terminals may show them as text.
    """
    if environ.get("TERM", "dumb") in ("dumb", "unknown", "") or sys.platform == "win32":
        return False
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError, OSError):  # it is none, or closed
        return False


def has_colour(stream: Any, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether to paint what goes to a stream; FORCE_COLOR does so in a pipe, too."""
    if is_plain or environ.get("NO_COLOR"):
        return False
    forced = any(
        environ.get(name, "0") not in ("", "0") for name in ("FORCE_COLOR", "CLICOLOR_FORCE")
    )
    return (forced or is_live(stream, environ)) and has_rich()


@cache
def has_rich() -> bool:
    """Return whether rich is installed."""
    try:
        return find_spec("rich") is not None
    except (ImportError, ValueError):  # the program, or a test, has put something in its place
        return False


@cache
def _codes(meaning: str) -> tuple[str, str]:
    from rich.color import ColorSystem
    from rich.style import Style

    style = Style.parse(STYLES[meaning])
    before, _, after = style.render("\0", color_system=ColorSystem.STANDARD).partition("\0")
    return before, after


def paint(text: str, meaning: str) -> str:
    """Return text in the colour of a meaning, see `STYLES`."""
    before, after = _codes(meaning)
    return f"{before}{text}{after}" if text else ""


def painted(text: str, meaning: str, stream: Any) -> str:
    """Return text in the colour of a meaning if the stream shows colour, else as it is."""
    return paint(text, meaning) if meaning and has_colour(stream) else text


def width(text: str) -> int:
    """Return how many columns a text takes: a wide character takes two."""
    if text.isascii() or not has_rich():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def fit(text: str, columns: int) -> str:
    """Return as much of a text as fits into so many columns."""
    if width(text) <= columns:
        return text
    if text.isascii() or not has_rich():
        return text[:columns]
    from rich.cells import set_cell_size

    return set_cell_size(text, columns).rstrip()


def columns(terminal: Any) -> int:
    """Return how wide a terminal is now, a descriptor or a stream; 80 where that is not known."""
    return size(terminal)[0] or 80


def size(terminal: Any) -> tuple[int, int]:
    """Return the columns and lines of a terminal as it is now, zeros where that is not known."""
    try:
        descriptor = terminal if isinstance(terminal, int) else terminal.fileno()
        return os.get_terminal_size(descriptor)
    except (OSError, ValueError):
        return 0, 0


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: 2 d 3 h, 4 min 5 s, 0.6 s."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    left = round(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        many, left = divmod(left, length)
        if many or parts:
            parts.append(f"{many} {unit}" if many else "")
    return " ".join(part for part in parts[:2] if part)


def short_duration(seconds: float) -> str:
    """Return a duration that may be short: 0.4 ms, 12 ms, 3.4 s, 2 min 5 s."""
    if seconds < 0.9995:
        milliseconds = seconds * 1000
        return f"{milliseconds:.1f} ms" if milliseconds < 9.95 else f"{milliseconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 59.95 else duration(seconds)

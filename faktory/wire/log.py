"""Lines of the log: nothing that a line quotes can forge another, and no handler's error gets out.

Rules: what this package logs goes through `Log`. Texts come from a peer or from a job, so control
characters in them are escaped and long ones are cut, also where the program's own handler writes
the line. A handler, a filter or a record factory that raises loses the line, and nothing else.
"""

from __future__ import annotations

import logging
import re
from functools import partial
from typing import Any, Final

from .failure import text_of

MAX_ARGUMENT: Final = 10_000
"""Characters of one value that a line quotes."""

_CONTROLS: Final = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_UNSAFE: Final = re.compile(f"[\t\n{_CONTROLS}]")
_UNSAFE_IN_LINES: Final = re.compile(f"[{_CONTROLS}]")


class Lines(str):
    """Text whose line ends and tabs stay when it is logged: it is this package's own."""


def cut(text: str, limit: int) -> str:
    """Return text of about `limit` characters at most: its begin and its end."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} [... {len(text) - 2 * half} characters ...] {text[-half:]}"


def escape(text: str) -> str:
    """Escape control characters, line ends too, and those that change the direction of text."""
    return text if text.isprintable() else _UNSAFE.sub(_escaped, text)


def escape_lines(text: str) -> str:
    """Escape the same, but for line feeds and tabs."""
    return text if text.isprintable() else _UNSAFE_IN_LINES.sub(_escaped, text)


def clean(value: object) -> object:
    """Return what a line may quote of a value: a number as it is, else text, escaped and cut."""
    if isinstance(value, int | float):
        return value
    text = value if isinstance(value, str) else text_of(value)
    if len(text) > MAX_ARGUMENT:
        text = type(text)(cut(text, MAX_ARGUMENT))
    return escape_lines(text) if isinstance(text, Lines) else escape(text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


class Log:
    """Writes lines to a logger, which may be the program's; no Exception comes out."""

    __slots__ = ("isEnabledFor", "logger")

    def __init__(self, logger: logging.Logger | Log) -> None:
        self.logger: logging.Logger = logger.logger if isinstance(logger, Log) else logger
        self.isEnabledFor = self.logger.isEnabledFor
        """The logger's own, for what is costly to say."""

    def debug(self, message: str, *args: object, **extra: object) -> None:
        """Write a line of level DEBUG; `extra` are further attributes of its record."""
        self._write(logging.DEBUG, message, args, None, extra)

    def info(self, message: str, *args: object, **extra: object) -> None:
        """Write a line of level INFO; `extra` are further attributes of its record."""
        self._write(logging.INFO, message, args, None, extra)

    def warning(self, message: str, *args: object, **extra: object) -> None:
        """Write a line of level WARNING; `extra` are further attributes of its record."""
        self._write(logging.WARNING, message, args, None, extra)

    def error(self, message: str, *args: object, **extra: object) -> None:
        """Write a line of level ERROR; `extra` are further attributes of its record."""
        self._write(logging.ERROR, message, args, None, extra)

    def critical(self, message: str, *args: object, exc_info: Any = None) -> None:
        """Write a line of level CRITICAL."""
        self._write(logging.CRITICAL, message, args, exc_info)

    def exception(self, message: str, *args: object, exc_info: Any = True) -> None:
        """Write a line of level ERROR, with the traceback of what is handled."""
        self._write(logging.ERROR, message, args, exc_info)

    def log(
        self, level: int, message: str, *args: object, exc_info: Any = None, **extra: object
    ) -> None:
        """Write a line."""
        self._write(level, message, args, exc_info, extra)

    def _write(
        self,
        level: int,
        message: str,
        args: tuple[object, ...],
        exc_info: Any = None,
        extra: dict[str, object] | None = None,
    ) -> None:
        try:
            if not enabled(self.logger).isEnabledFor(level):
                return
            quoted = [clean(value) for value in args]
            write = partial(
                self.logger.log, level, message, *quoted, exc_info=exc_info, stacklevel=3
            )
            try:
                write(extra=extra)
            except KeyError as error:
                if "overwrite" not in str(error):
                    raise
                write()  # the program's record factory has an attribute of that name
        except Exception:
            pass


# A program's dictConfig disables all loggers that it does not name, by default, those of a running
# worker too. The logger "faktory" logs nothing itself: only that can have disabled it.
_marker: Final = logging.getLogger("faktory")
_kept = False


def keep_enabled() -> None:
    """From now on undo it when a configuration disables all loggers: for a process of a worker."""
    global _kept
    _kept = True


def enabled(logger: logging.Logger) -> logging.Logger:
    """Return a logger, enabled again if a configuration has disabled all loggers."""
    # A LoggerAdapter has no such attribute.
    if _kept and _marker.disabled and getattr(logger, "disabled", False):
        for name, each in logging.root.manager.loggerDict.copy().items():
            own = name.partition(".")[0] == _marker.name
            if own and isinstance(each, logging.Logger):
                each.disabled = False
    return logger

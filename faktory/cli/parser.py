"""The parser of all commands: a help of 80 columns, and errors that say what may have been meant.

Rules: a probe imports it, so what takes time to import is imported where it is needed.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final, NoReturn

WIDTH: Final = 80
"""The most columns of a help, however wide the terminal is."""

_CHOICE: Final = re.compile(r"invalid choice: '([^']*)'.*\(choose from (.*)\)")


class Formatter(argparse.HelpFormatter):
    """Lines of a description that fit stay as they are; no flag is broken at its hyphens."""

    def __init__(self, prog: str, **given: Any) -> None:
        super().__init__(prog, **{"max_help_position": 26, **given, "width": WIDTH - 2})

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(
            fill(line, indent, indent + line[: len(line) - len(line.lstrip())], width)
            for line in text.splitlines()
        )

    def _split_lines(self, text: str, width: int) -> list[str]:
        return fill(" ".join(text.split()), width=width).splitlines()

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if sys.version_info >= (3, 13) or not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        metavar = self._get_default_metavar_for_optional(action)
        return f"{', '.join(action.option_strings)} {self._format_args(action, metavar)}"


class Parser(argparse.ArgumentParser):
    """A parser whose error is one line on standard error, and ends the command with 2."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**{"formatter_class": Formatter, **given})

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the options; what is left over is an error, with what may have been meant."""
        options, rest = self.parse_known_args(args, namespace)
        if rest:
            self.refuse(rest)
        return options

    def refuse(self, rest: Sequence[str]) -> NoReturn:
        """End because of arguments that nothing takes."""
        flag = next((each.partition("=")[0] for each in rest if each.startswith("-")), "")
        close = closest(flag, self.flags()) if flag else ""
        hint = f". Did you mean {close}?" if close else ""
        self.error(f"unrecognized arguments: {' '.join(rest)}{hint}")

    def flags(self) -> list[str]:
        """Return its long flags."""
        return [name for name in self._option_string_actions if name.startswith("--")]

    def error(self, message: str) -> NoReturn:
        """End with 2, as ever, also where standard error cannot be written (Python 3.11.2)."""
        if found := _CHOICE.search(message):
            close = closest(found[1], re.findall(r"[\w-]+", found[2]))
            message = f"{message}. Did you mean {close}?" if close else message
        stop = "" if message.endswith("?") else "."
        try:
            print(f"{self.prog}: {message}{stop} See {self.prog} --help", file=sys.stderr)
            sys.stderr.flush()
        except OSError:
            from . import streams

            streams.discard(sys.stderr)
        sys.exit(2)


def closest(name: str, known: Iterable[str]) -> str:
    """Return the known name that may have been meant, or ''."""
    from difflib import get_close_matches

    known = list(known)
    longer = [each for each in known if each.startswith(name) and name.strip("-")]
    return next(iter(longer or get_close_matches(name, known, 1, cutoff=0.7)), "")


def fill(text: str, first: str = "", rest: str = "", width: int = WIDTH - 2) -> str:
    """Return a line as lines of a width, with what the first one and the others begin with."""
    from textwrap import fill

    if len(first) + len(text) <= width:
        return first + text
    return fill(text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)


def columns(rows: Iterable[tuple[str, str]], at: int = 14) -> str:
    """Return two columns, the second one at a place, wrapped: a part of an epilog."""
    return "\n".join(fill(text, f"  {name:{at - 3}} ", " " * at) for name, text in rows)


def examples(rows: Iterable[tuple[str, str]]) -> str:
    """Return commands, each below what it does: the end of an epilog."""
    return "examples:\n" + "\n".join(f"  {text}:\n    {command}" for command, text in rows)


def add_completion(parser: Any) -> None:
    """Add --print-completion, which `cli.completion` answers."""
    parser.add_argument(
        "--print-completion",
        metavar="SHELL",
        help="print what completes commands in a shell, bash, zsh, fish or tcsh, and end (needs: "
        "pip install 'faktory-worker[cli]')",
    )

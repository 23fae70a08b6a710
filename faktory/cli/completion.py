"""`--print-completion`: what a shell has to know to complete the program's commands.

Rules: shtab makes it of the parsers, so a flag is declared once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from .names import WORKER, WORKER_SUMMARY
from .parser import Parser, add_completion
from .tools.main import add_tools
from .worker.command_line import add_flags
from .worker.values import LEVELS

_NEEDED = "--print-completion needs shtab: pip install 'faktory-worker[cli]'"


_CHOICES = {
    "log_level": [level.lower() for level in LEVELS],
    "log_format": ["text", "json"],
}
"""Of flags whose values the worker checks itself."""

_OF_EVAL = "if [[ $zsh_eval_context[-1] == eval ]]"
_OF_EVAL_AND_SOURCE = "if [[ $zsh_eval_context[-1] == (eval|file) ]]"
"""Where the script is not loaded from `$fpath` it registers itself; shtab forgets `source`."""


def main(argv: Sequence[str], prog: str) -> int:
    """Print the completion for the shell that the command line names; return the exit code."""
    parser = Parser(prog=prog, usage=f"{prog} --print-completion SHELL", add_help=False)
    add_completion(parser)
    try:
        import shtab
    except ImportError:
        parser.error(_NEEDED)
    options = parser.parse_args(argv)
    if options.print_completion not in shtab.SUPPORTED_SHELLS:
        known = ", ".join(shtab.SUPPORTED_SHELLS)
        parser.error(f"--print-completion {options.print_completion}: shtab knows {known}")
    script = shtab.complete(_program(shtab), options.print_completion)
    if options.print_completion == "zsh":
        script = script.replace(_OF_EVAL, _OF_EVAL_AND_SOURCE)
    print(script)
    return 0


def _program(shtab: Any) -> argparse.ArgumentParser:
    """Return a parser of the whole program."""
    program = Parser(prog="faktory-worker", add_help=False)
    add_flags(program)
    tools = program.add_subparsers(dest="tool")
    add_flags(tools.add_parser(WORKER, help=WORKER_SUMMARY, add_help=False))
    add_tools(tools, program.prog)
    choices = {**_CHOICES, "print_completion": shtab.SUPPORTED_SHELLS}
    for parser in (program, *tools.choices.values()):
        for action in parser._actions:
            if action.metavar in ("FILE", "MODULE"):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif action.choices is None:
                action.choices = choices.get(action.dest)
    return program

"""Write commands.md, the page of all commands, from what their help is made of.

`python docs/commands.py` writes it; tests/cli/test_program.py fails if the page is not what this
makes.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from faktory.cli.names import GROUPS
from faktory.cli.parser import Parser
from faktory.cli.tools import main as tools
from faktory.cli.tools.main import SERVER
from faktory.cli.worker import command_line as worker
from faktory.cli.worker.flags import FILE_KEYS, FLAGS, Flag

PAGE = Path(__file__).with_name("commands.md")

PROGRAM = "faktory-worker"

CODE = re.compile(
    r"pip install '[^']*'|\[[\w.-]+\]|(?<![\w-])--?[a-zA-Z][\w-]*|FAKTORY_\w+"
    r"|(?:tcp|tcp\+tls|http)://[\w:/.@-]*|'\*'|\*\"[^\"]*\"\*|[\w/-]+\.(?:py|toml)\b|uvloop:\w+"
)
"""What is code in a text of the help."""

INTRO = """\
# Commands

<!-- Made by docs/commands.py from the code: change the texts there, then run it again. -->

There is one program. `faktory-worker` with flags runs the worker, and `faktory-worker TOOL` a tool:
[doctor](#doctor), [push](#push), [queues](#queues) and others. `faktory-worker worker` is the
worker, too, and `python -m faktory` is the same program, where no script is installed:
`python -m faktory worker -r app.jobs`, `python -m faktory doctor`. Each `--help` has what stands
here.

## The worker
"""

AFTER_FLAGS = """\
A switch as a variable is `1`, `true`, `yes` or `on`, a list has spaces between its items, and a
variable that is set to nothing does not count. A misspelt key is an error, a misspelt variable a
warning.

### The file

The file of `-C` is TOML:

```toml
# worker.toml
require = ["app.jobs"]
queue = { critical = 3, bulk = 1, api = { weight = 1, limit = 2 } }
concurrency = 5

[production]
processes = 4
log-format = "json"
```

`faktory-worker -C worker.toml -e production` adds the table `[production]` to what stands at the
top. Without `-C` the table `[tool.faktory-worker]` of a `pyproject.toml` in the current folder is
the file, and `-e production` adds `[tool.faktory-worker.production]` to it.
"""

ALL_TOOLS = "All but `health`, `server` and `demo` talk to a server, and have:\n"

COMPLETION = """\
## Completion

A shell completes tools and flags with what `--print-completion` prints, for bash, zsh, fish or
tcsh. It needs the extra `cli`: `pip install 'faktory-worker[cli]'`.

```bash
faktory-worker --print-completion bash > ~/.local/share/bash-completion/completions/faktory-worker
faktory-worker --print-completion fish > ~/.config/fish/completions/faktory-worker.fish
```

For zsh write it to a file `_faktory-worker` in a folder of `$fpath`.
"""


def make() -> str:
    """Return the page."""
    parts = [INTRO, f"{_code(worker.ABOUT)}\n", _block([worker.USAGE.replace(" " * 7, "")])]
    for title, flags in groupby(FLAGS, lambda flag: flag.group):
        header = ("Flag", "Variable, key of the file", "")
        parts.append(f"### {title.capitalize()}\n\n{_table(header, map(_row, flags))}")
    parts += [f"{_code(worker.SOURCES)}\n", AFTER_FLAGS]
    signals = [(f"`{names}`", _code(text)) for names, text in worker.SIGNALS.items()]
    parts.append(f"### Signals\n\n{_table(('Signal', ''), signals)}\n{_code(worker.PASSED_ON)}\n")
    codes = [
        (f"{int(code)}", f"`{code.name}`", _code(text)) for code, text in worker.EXIT_CODES.items()
    ]
    parts.append(f"### Exit codes of the worker\n\n{_table(('Code', 'Name', ''), codes)}")
    parts.append(f"### Examples of the worker\n\n{_examples(worker.EXAMPLES)}")
    parser = argparse.ArgumentParser(prog=PROGRAM)
    adding = parser.add_subparsers(parser_class=Parser)
    tools.add_tools(adding, PROGRAM)
    common = _table(("Argument", ""), _rows(_of_server(adding.choices["info"])))
    parts.append(f"## Tools\n\n{ALL_TOOLS}\n{common}")
    for title, group in GROUPS.items():
        parts.append(f"## Tools: {title}\n")
        parts += [_tool(name, adding.choices[name]) for name in group]
    tool_codes = [(f"{int(code)}", _code(text)) for code, text in tools.EXIT_CODES.items()]
    parts.append(f"## Exit codes of the tools\n\n{_table(('Code', ''), tool_codes)}")
    parts.append(COMPLETION)
    return "\n".join(parts)


def _row(flag: Flag) -> tuple[str, str, str]:
    long = f"--{flag.name} {flag.metavar}".strip()
    names = [f"`{name}`" for name in (flag.short, long) if name]
    key = f", `{flag.name}`" if flag.name in FILE_KEYS else ""
    return ", ".join(names), f"`{flag.variable}`{key}", _code(flag.help)


def _tool(name: str, parser: argparse.ArgumentParser) -> str:
    rows = _rows(action for action in parser._actions if action not in _of_server(parser))
    about = f"{parser.description}"
    commands = (parser.epilog or "").removeprefix("examples:\n").splitlines()
    pairs = [
        (command.strip(), text.strip().removesuffix(":"))
        for text, command in zip(commands[::2], commands[1::2], strict=True)
    ]
    table = f"{_table(('Argument', ''), rows)}\n" if rows else ""
    return f"### {name}\n\n{_code(about)}\n\n{table}{_examples(pairs)}"


def _of_server(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the arguments that all tools have that talk to a server."""
    groups = parser._action_groups
    return [each for group in groups if group.title == SERVER for each in group._group_actions]


def _rows(actions: Iterable[argparse.Action]) -> list[tuple[str, str]]:
    return [row for action in actions if (row := _argument(action))]


def _argument(action: argparse.Action) -> tuple[str, str] | None:
    if action.help == argparse.SUPPRESS or action.dest == "help":
        return None
    metavar = action.metavar or "|".join(map(str, action.choices or ())) or action.dest.upper()
    value = "" if action.nargs == 0 else f" {metavar}"
    *short, long = action.option_strings or [metavar]
    names = [f"`{name}`" for name in (*short, f"{long}{value}" if action.option_strings else long)]
    return ", ".join(names).replace("|", "\\|"), _code(action.help or "")


def _code(text: str) -> str:
    """Return a text for Markdown: flags, variables, addresses and the like are code."""
    return CODE.sub(lambda found: f"`{found[0]}`", text)


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines).replace("|  |", "| |")


def _examples(pairs: Iterable[tuple[str, str]]) -> str:
    return _block(line for command, text in pairs for line in (f"# {text}", command))


def _block(lines: Iterable[str]) -> str:
    return "```bash\n" + "\n".join(lines) + "\n```\n"


if __name__ == "__main__":
    PAGE.write_text(make(), encoding="utf-8")

"""What `faktory-worker` was told: by the command line, by variables, by a file.

Rules: the command line goes before variables, these before the table of -e, that before the top
of the file. What is wrong is named by where it stands. A key nobody knows is an error; a variable
nobody knows is not, since others make them too (Kubernetes: FAKTORY_WORKER_SERVICE_HOST).
"""

from __future__ import annotations

import tomllib
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from .flags import FLAGS, OF_FILE, PREFIX, Wrong, closest, parse


def load(argv: Sequence[str], environ: Mapping[str, str]) -> Namespace:
    """Return every option; `Wrong` says what cannot be.

    The options also have `beware`: sentences about what looks wrong and is no error.
    """
    given = parse(argv)
    variables = _variables(environ)
    told = {**variables, **given}
    path, env = told.get("config"), told.get("env")
    of_file = {} if path is None else _of_file(path, env)
    defaults = {flag.attribute: flag.default for flag in FLAGS}
    return Namespace(**{**defaults, **of_file, **told}, beware=_beware(environ))


def log_format(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    """Return the format of the log as far as can be told before anything else is known.

    So that what is wrong with all the rest can be said in it.
    """
    flag = "--log-format"
    for number in range(len(argv) - 1, -1, -1):
        name, equals, text = argv[number].partition("=")
        if name == flag:
            found = text if equals else (argv[number + 1 :] or [""])[0]
            return "json" if found == "json" else "text"
    if (found := environ.get("FAKTORY_WORKER_LOG_FORMAT", "")) or not (
        path := _path(argv) or environ.get("FAKTORY_WORKER_CONFIG")
    ):
        return "json" if found == "json" else "text"
    return _format_of_file(path)


def _path(argv: Sequence[str]) -> str | None:
    for number, word in enumerate(argv):
        if word in ("-C", "--config") and number + 1 < len(argv):
            return argv[number + 1]
        if word.startswith("--config="):
            return word.partition("=")[2]
        if word.startswith("-C"):
            return word[2:]
    return None


def _format_of_file(path: str) -> str:
    """The format that any part of the file wants: who reads a log as JSON gets JSON."""
    try:
        top = _read(path)
    except Wrong:
        return "text"
    tables = [top, *(value for value in top.values() if isinstance(value, dict))]
    wanted = [table.get(key) for table in tables for key in ("log-format", "log_format")]
    return "json" if "json" in wanted else "text"


def _variables(environ: Mapping[str, str]) -> dict[str, Any]:
    found = {}
    for flag in FLAGS:
        text = environ.get(flag.variable)
        if not text:  # set to nothing is how a variable is taken back
            continue
        try:
            found[flag.attribute] = flag.kind.of_text(text)
        except ValueError as fault:
            raise Wrong(f"{flag.variable}: {fault}") from None
    return found


def _beware(environ: Mapping[str, str]) -> list[str]:
    known = [flag.variable.removeprefix(PREFIX) for flag in FLAGS]
    found = []
    for name in sorted(environ):
        rest = name.removeprefix(PREFIX)
        if rest not in (name, *known) and (meant := closest(rest, known)):
            found.append(f"the variable {name} says nothing here. Did you mean {PREFIX}{meant}?")
    return found


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise Wrong(f"-C {path}: cannot be read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Wrong(f"-C {path}: is no TOML: {error}") from None


def _of_file(path: str, env: str | None) -> dict[str, Any]:
    top = _read(path)
    names = [key for key in top if _is_table(top, key)]
    # All of them, so that a slip in [production] is seen at the desk.
    tables = {name: _options(top[name], f"-C {path}: [{name}] ") for name in names}
    options = _options({key: top[key] for key in top if key not in tables}, f"-C {path}: ")
    if env is not None and env not in tables:
        there = ", ".join(f"[{name}]" for name in names) or "no table at all"
        raise Wrong(f"-e {env}: {path} has no table [{env}]: there is {there}")
    return options if env is None else {**options, **tables[env]}


def _is_table(top: Mapping[str, Any], key: str) -> bool:
    return isinstance(top[key], dict) and key not in OF_FILE


def _options(table: Mapping[str, object], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        flag = OF_FILE.get(key.replace("_", "-"))
        if flag is None:
            close = closest(key, list(OF_FILE))
            meant = f"Did you mean {close}?" if close else f"There are: {', '.join(OF_FILE)}"
            raise Wrong(f"{where}{key}: no such key. {meant}")
        if flag.attribute in found:
            raise Wrong(f"{where}{key}: given twice, with - and with _")
        try:
            found[flag.attribute] = flag.kind.of_value(value)
        except ValueError as fault:
            raise Wrong(f"{where}{key}: {fault}") from None
    return found

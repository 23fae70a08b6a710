"""The options of `faktory-worker`: from the command line, the variables and the file.

Rules: the command line goes before variables, these before the table of -e, that before the top
of the file. An error names the place where it stands. An unknown key is an error; an unknown
variable is not, since others set them too (Kubernetes: FAKTORY_WORKER_SERVICE_HOST).
"""

from __future__ import annotations

import tomllib
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from ..exits import UsageError
from .flags import FILE_KEYS, FLAGS, PREFIX, closest, parse


class ConfigError(UsageError):
    """An option is wrong; `log_format` is the format in which to say so."""

    def __init__(self, message: str, log_format: str) -> None:
        super().__init__(message)
        self.log_format = log_format


def load(argv: Sequence[str], environ: Mapping[str, str]) -> Namespace:
    """Return every option, and in `warnings` sentences about variables that may be misspelt.

    All three sources are read even if there is an error, and ConfigError raised for the first one:
    an error on the command line is logged in the format that the file asks for.
    """
    errors: list[str] = []
    flags = parse(argv, errors)
    given = {**_from_variables(environ, errors), **flags}
    path, env = given.get("config"), given.get("env")
    tables = {} if path is None else _from_file(path, errors)
    if tables and env not in tables:
        existing = ", ".join(f"[{name}]" for name in tables if name) or "no table at all"
        errors.append(f"-e {env}: {path} has no table [{env}]: there is {existing}")
    if errors:
        # Without the right -e any table may be the one that counts: who reads JSON gets JSON.
        sources = [given] if "log_format" in given else tables.values()
        json = any(options.get("log_format") == "json" for options in sources)
        raise ConfigError(errors[0], "json" if json else "text")
    defaults = {flag.attribute: flag.default for flag in FLAGS}
    options = {**defaults, **tables.get(None, {}), **tables.get(env, {}), **given}
    return Namespace(**options, warnings=_warnings(environ))


def _from_variables(environ: Mapping[str, str], errors: list[str]) -> dict[str, Any]:
    found = {}
    for flag in FLAGS:
        text = environ.get(flag.variable)
        if not text:  # set to nothing is how a variable is taken back
            continue
        try:
            found[flag.attribute] = flag.value_type.from_text(text)
        except ValueError as error:
            errors.append(f"{flag.variable}: {error}")
    return found


def _warnings(environ: Mapping[str, str]) -> list[str]:
    known = [flag.variable.removeprefix(PREFIX) for flag in FLAGS]
    found = []
    for name in sorted(environ):
        rest = name.removeprefix(PREFIX)
        if rest not in (name, *known) and (meant := closest(rest, known)):
            found.append(f"the variable {name} has no meaning. Did you mean {PREFIX}{meant}?")
    return found


def _from_file(path: str, errors: list[str]) -> dict[str | None, dict[str, Any]]:
    """Return the options of the file's tables by name, those at its top as None.

    Of all tables, so that an error in [production] is found on the developer's machine.
    """
    try:
        with open(path, "rb") as file:
            top = tomllib.loads(file.read().decode("utf-8-sig"))
    except OSError as error:
        errors.append(f"-C {path}: cannot be read: {error.strerror or error}")
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        errors.append(f"-C {path}: is not TOML: {error}")
        return {}
    names = [name for name in top if isinstance(top[name], dict) and name not in FILE_KEYS]
    tables = {name: top.pop(name) for name in names}
    return {
        None: _from_table(top, f"-C {path}: ", errors),
        **{name: _from_table(tables[name], f"-C {path}: [{name}] ", errors) for name in names},
    }


def _from_table(table: Mapping[str, object], where: str, errors: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        flag = FILE_KEYS.get(key.replace("_", "-"))
        if flag is None:
            close = closest(key, list(FILE_KEYS))
            hint = f"Did you mean {close}?" if close else f"There are: {', '.join(FILE_KEYS)}"
            errors.append(f"{where}{key}: no such key. {hint}")
        elif flag.attribute in found:
            errors.append(f"{where}{key}: given twice, with - and with _")
        else:
            try:
                found[flag.attribute] = flag.value_type.from_value(value)
            except ValueError as error:
                errors.append(f"{where}{key}: {error}")
    return found

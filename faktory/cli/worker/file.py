"""The file of options: the TOML file of -C, else a table of pyproject.toml in the current folder.

Rules: all tables are read, so that an error in [production] is found on the developer's machine.
A pyproject.toml that nobody has named is for other programs, too: without our table it is ignored,
and one that cannot be read is a warning.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from ..parser import closest
from .flags import FILE_KEYS, FLAGS

PYPROJECT: Final = "pyproject.toml"

TABLE: Final = "tool.faktory-worker"
"""The table of it that is for us."""

_YAML: Final = (".yml", ".yaml")


class Found(NamedTuple):
    """What a file has."""

    path: str = ""
    tables: Mapping[str | None, dict[str, Any]] = {}
    """The options of its tables by name, those at its top as None; empty without a file."""
    above: str = ""
    """The table that stands for its top."""

    def header(self, name: str | None) -> str:
        """Return the line that begins a table."""
        return f"[{'.'.join(filter(None, (self.above, name)))}]"


def read(path: str | None, errors: list[str], warnings: list[str]) -> Found:
    """Return what the file of -C has, else the one that is found; append what is wrong with it."""
    by_itself = path is None
    path = path or PYPROJECT
    if by_itself and not os.path.exists(path):
        return Found()
    above = TABLE if os.path.basename(path) == PYPROJECT else ""
    try:
        top = _load(path)
    except ValueError as error:
        if by_itself:
            warnings.append(f"{path}: {error}. So its table [{TABLE}], if any, does not count")
        else:
            errors.append(f"-C {path}: {error}")
        return Found()
    place = path if by_itself else f"-C {path}"
    tool = top.get("tool")
    if not above and isinstance(tool, dict) and isinstance(tool.get("faktory-worker"), dict):
        errors.append(f"{place}: [{TABLE}] is for {PYPROJECT}: here its keys stand at the top")
        return Found()
    if above:
        ours = tool.get("faktory-worker") if isinstance(tool, dict) else None
        if ours is None:
            if not by_itself:
                errors.append(f"{place}: has no table [{TABLE}]")
            return Found()
        if not isinstance(ours, dict):
            errors.append(f"{place}: {TABLE} is {ours!r}, not a table")
            return Found()
        top = ours
    names = [name for name in top if isinstance(top[name], dict) and name not in FILE_KEYS]
    tables: dict[str | None, dict[str, Any]] = {}
    for name in (None, *names):
        found = Found(path, above=above)
        where = f"{place}: {found.header(name)} " if above or name else f"{place}: "
        table = top if name is None else top[name]
        keys = {key: value for key, value in table.items() if name or key not in names}
        tables[name] = _options(keys, where, errors)
    return Found(path, tables, above)


def _load(path: str) -> dict[str, Any]:
    """Return what a file has; ValueError with the end of a sentence about it."""
    try:
        with open(path, "rb") as file:
            return tomllib.loads(file.read().decode("utf-8-sig"))
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        if path.lower().endswith(_YAML):
            raise ValueError(
                "is YAML, and the file of faktory-worker is TOML, with the same keys where they "
                "exist: :concurrency: 5 is concurrency = 5"
            ) from None
        raise ValueError(f"is not TOML: {error}") from None


def _options(table: Mapping[str, object], where: str, errors: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        flag = FILE_KEYS.get(name)
        if flag is None:
            errors.append(f"{where}{key}: {_unknown(name)}")
        elif flag.attribute in found:
            errors.append(f"{where}{key}: given twice, with - and with _")
        else:
            try:
                found[flag.attribute] = flag.value_type.from_value(value)
            except ValueError as error:
                bare = flag.value_type.without_quotes(value)
                text = f"{value!r} is text. Write it without quotes: {key} = {bare}"
                errors.append(f"{where}{key}: {text if bare else error}")
    return found


def _unknown(name: str) -> str:
    if name in (flag.name for flag in FLAGS if flag.of_client):
        return (
            "the server's address is not a key, since a file gets committed, and its password "
            "with it. Set FAKTORY_URL, or FAKTORY_PROVIDER to the name of the variable that has it"
        )
    close = closest(name, FILE_KEYS)
    hint = f"Did you mean {close}?" if close else f"There are: {', '.join(FILE_KEYS)}"
    return f"no such key. {hint}"

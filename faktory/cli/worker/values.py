"""The types of the values of flags: how each is read from text and from TOML, and what is valid.

Rules: a check raises ValueError with the end of a sentence about the value. Nothing here reads a
file or the environment.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from .. import health_address

LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class ValueType(NamedTuple):
    """The type of a flag's value: how to read it and what is valid."""

    check: Callable[[object], Any]
    """Returns the value as an option; raises ValueError with the end of a sentence about it."""
    parse: Callable[[str], object] = str
    """Turns a string into something for `check`; returns it unchanged if it cannot."""

    def from_text(self, text: str) -> Any:
        """Return the option that a string stands for, or raise ValueError with the reason."""
        return self._checked(self.parse(text), text)

    def from_value(self, value: object) -> Any:
        """Return the option that a value of TOML stands for, or raise ValueError."""
        return self._checked(value, value)

    def without_quotes(self, value: object) -> str:
        """Return how TOML has a value that is in quotes and must not be; "" for any other."""
        parsed = self.parse(value) if isinstance(value, str) else None
        if not isinstance(parsed, (int, float)):
            return ""
        try:
            self.check(parsed)
        except ValueError:
            return ""
        return str(parsed).lower().removesuffix(".0")

    def _checked(self, value: object, given: object) -> Any:
        try:
            return self.check(value)
        except ValueError as error:
            raise ValueError(f"{given!r} {error}") from None


def _number(value: object) -> int:
    if type(value) is int and value >= 1:
        return value
    raise ValueError("is not a whole number of 1 or more")


def _seconds(value: object) -> float:
    if isinstance(value, (int, float)) and value is not True and 0 <= value < float("inf"):
        return float(value)
    raise ValueError("is not a number of seconds, 0 or more")


def _limit(value: object) -> float:
    if isinstance(value, (int, float)) and value is not True and 0 < value < float("inf"):
        return float(value)
    raise ValueError("is not a number of seconds above 0; for no limit leave it out")


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("is not a string")


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return value
    raise ValueError("is neither a string nor a list of strings")


def _queues(value: object) -> list[str] | list[str | list[str]]:
    """Return queues as -q has them; a table in a list is a list of them."""
    if isinstance(value, dict):
        return _table(value)
    if not (isinstance(value, list) and any(isinstance(each, dict) for each in value)):
        return _texts(value)
    found: list[str | list[str]] = []
    for each in value:
        if isinstance(each, str):
            found.append(each)
        elif not isinstance(each, dict):
            raise ValueError("is neither a string nor a list of strings and tables")
        elif each:
            found.append(_table(each))
    return found


def _table(value: dict[str, Any]) -> list[str]:
    """Return the queues of a table as -q has them, with weights."""
    for name, share in value.items():
        given = share if isinstance(share, dict) else {"weight": share}
        numbers = all(type(number) is int and number > 0 for number in given.values())
        if not numbers or given.keys() - {"weight", "limit"}:
            raise ValueError(
                "is not a table of weights: each must be a whole number of 1 or more, or a table "
                "like { weight = 3, limit = 2 }"
            )
        if "," in name:
            raise ValueError(f"has the name {name!r}: no queue's name has a comma")
    return [f"{name},{_settings(share)}" for name, share in value.items()]


def _settings(share: int | dict[str, int]) -> str:
    if isinstance(share, int):
        return str(share)
    limit = f",limit={share['limit']}" if "limit" in share else ""
    return f"{share.get('weight', 1)}{limit}"


def _health(value: object) -> tuple[str, int]:
    if isinstance(value, str) or type(value) is int:
        return health_address.parse(str(value))
    raise ValueError("is neither a port nor an address")


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("is neither true nor false")


def _format(value: object) -> str:
    if value in ("text", "json"):
        return str(value)
    raise ValueError("is neither text nor json")


def _level(value: object) -> str:
    if isinstance(value, str) and value.upper() in LEVELS:
        return value.upper()
    raise ValueError(f"is not a level of the log: {', '.join(LEVELS)}")


def _parse_number(text: str) -> object:
    return int(text) if text.isascii() and text.isdigit() else text


def _parse_seconds(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def _parse_texts(text: str) -> object:
    try:
        return shlex.split(text)
    except ValueError:  # a quote that is not closed
        return None


_SWITCHES: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off", ""), False),
}


def _parse_switch(text: str) -> object:
    return _SWITCHES.get(text.lower(), text)


NUMBER: Final = ValueType(_number, _parse_number)
SECONDS: Final = ValueType(_seconds, _parse_seconds)
LIMIT: Final = ValueType(_limit, _parse_seconds)
TEXT: Final = ValueType(_text)
TEXTS: Final = ValueType(_texts, _parse_texts)
QUEUES: Final = ValueType(_queues, _parse_texts)
SWITCH: Final = ValueType(_switch, _parse_switch)
FORMAT: Final = ValueType(_format)
LEVEL: Final = ValueType(_level)
HEALTH: Final = ValueType(_health)

"""JSON as Go reads and writes it, and so the real server.

Numbers pass through a double, object keys come out sorted, `<`, `>`, `&`, U+2028 and U+2029 come
out escaped, bytes that are not UTF-8 become U+FFFD. A struct takes its fields by name without
regard to case, ignores the others, and does not convert: 3.0 is not an int.

What is accepted is exactly what Go accepts. Errors name the problem and its place, but only the
common ones in Go's words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

_INT64: Final = 1 << 63

DEPTH: Final = 10_000
"""How deep Go's encoding/json reads. Python gives up earlier, or later since 3.14."""

_DEPTH_CHANGE: Final = {"[": 1, "{": 1, "]": -1, "}": -1}

# Marks what is written without quotes; `load` returns no lone surrogate, so no text holds it.
_BARE: Final = "\udfff"


class JSONError(ValueError):
    """JSON that is broken, or that does not fit the Go type it is read as."""


class Literal(str):
    """A number whose text Python would write differently."""

    __slots__ = ()


class Whole(int):
    """A whole number that was not written as one (3.0), so that it does not fit an int."""

    __slots__ = ()


class Rounded(int):
    """A whole number with more digits than a double holds for sure, as the double gives it."""

    exact: int
    """The number as it was written: a struct's int does not pass through a double."""


class Rendered(NamedTuple):
    """A large list or dict that was rendered while it was read, see `long.py`."""

    kind: type
    text: str


class GoType(NamedTuple):
    """A type of Go: its name there, the Python type that JSON for it is read as, its parts."""

    name: str
    type: type
    fields: Mapping[str, GoType] | None = None
    items: GoType | None = None
    bounds: tuple[int, int] = (-_INT64, _INT64 - 1)


STRING: Final = GoType("string", str)
INT: Final = GoType("int", int)
UINT8: Final = GoType("uint8", int, bounds=(0, 255))
STRINGS: Final = GoType("[]string", list, items=STRING)
ANYTHINGS: Final = GoType("[]interface {}", list)
OBJECT: Final = GoType("map[string]interface {}", dict)


def decode(data: bytes) -> str:
    """Read UTF-8, with U+FFFD for each byte that is not."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return re.sub("[\udc80-\udcff]", "\ufffd", data.decode("utf-8", "surrogateescape"))


def load(text: str) -> Any:
    """Read JSON; JSONError where it is broken.

    A number beyond the range of doubles is read as an infinity, which `dump` refuses.
    """
    try:
        if text.count("[") + text.count("{") > DEPTH and _is_too_deep(text):
            raise RecursionError
        return _decode(replace_lone_surrogates(text))
    except json.JSONDecodeError as error:
        raise JSONError(describe(error)) from None
    except RecursionError:
        raise JSONError("exceeded max depth") from None


def dump(value: object) -> str:
    """Write JSON on one line; JSONError for an infinity."""
    if type(value) is Rendered:
        return value.text
    try:
        text = _encode(value)
    except RecursionError:
        raise JSONError("exceeded max depth") from None
    except ValueError:
        raise JSONError("json: cannot unmarshal a number beyond the range of float64") from None
    return _SPECIAL.sub(_escape_special, text) if _SPECIAL.search(text) else text


def to_float(value: object) -> float | None:
    """Return a number that `load` gave as a float; None for anything else."""
    if isinstance(value, Literal):
        return float(value.strip(_BARE))
    return float(value) if isinstance(value, int | float) and type(value) is not bool else None


def read_struct(struct: GoType, value: Any, path: str = "") -> dict[str, Any]:
    """Return the fields of a struct that `value` gives, null being no value.

    JSONError if one does not fit; `path` is the place of `value`, where it is inside another.
    """
    if type(value) is not dict:
        if value is None:
            return {}
        raise _misfit(value, struct, path or "Go value")
    fields = struct.fields
    assert fields is not None
    found: dict[str, Any] = {}
    for name, given in value.items():
        field = fields.get(name)
        if field is None:
            name = name.casefold()
            field = fields.get(name)
            if field is None:
                continue
        if given is None:
            continue
        wanted: Any = field.type
        if type(given) is not wanted:
            if type(given) is Rendered and given.kind is wanted and field.items is None:
                found[name] = given
                continue
            exact = _exact(given) if wanted is int else None
            if exact is None:
                raise _misfit(given, field, f"Go struct field {_inside(struct, path)}.{name}")
            given = exact
        if wanted is int:
            low, high = field.bounds
            if not low <= given <= high:
                raise _misfit(given, field, f"Go struct field {_inside(struct, path)}.{name}")
        elif field.fields is not None:
            given = read_struct(field, given, f"{_inside(struct, path)}.{name}")
        elif field.items is not None:
            given = _read_items(field.items, given, f"{_inside(struct, path)}.{name}")
        found[name] = given
    return found


def read_structs(array: GoType, value: Any) -> list[dict[str, Any]]:
    """Return the fields of each struct in a list, as `read_struct`; null is an empty list."""
    if type(value) is not list:
        if value is None:
            return []
        raise _misfit(value, array, "Go value")
    assert array.items is not None
    return [read_struct(array.items, item, f".{number}") for number, item in enumerate(value)]


def quote(text: str) -> str:
    """Quote text as Go's %q does."""
    return '"' + "".join(_QUOTED.get(c) or _quote_character(c) for c in text) + '"'


def _read_items(kind: GoType, values: list[Any], path: str) -> list[Any]:
    items = []
    for number, value in enumerate(values):
        if value is None:
            value = kind.type()
        elif type(value) is not kind.type:
            raise _misfit(value, kind, f"{path}.{number}")
        items.append(value)
    return items


def _exact(value: object) -> int | None:
    """Return an integer that was written as one, but is not read as an int."""
    if type(value) is Rounded:
        return value.exact
    return 0 if value is _MINUS_ZERO else None


def _inside(struct: GoType, path: str) -> str:
    return path or struct.name.rpartition(".")[2]


def _misfit(value: object, kind: GoType, place: str) -> JSONError:
    """Return the error for a value that does not fit a type, in Go's words."""
    if type(value) is Rendered:
        value = value.kind()
    if isinstance(value, str | bool | list | dict) and type(value) is not Literal:
        given = {str: "string", bool: "bool", list: "array", dict: "object"}[type(value)]
    elif kind.type is int:
        given = f"number {str(value).strip(_BARE)}{'.0' if type(value) is Whole else ''}"
    else:
        given = "number"
    return JSONError(f"json: cannot unmarshal {given} into {place} of type {kind.name}")


def describe(error: json.JSONDecodeError) -> str:
    """Say what is wrong with a text: in Go's words for the common cases, else in Python's."""
    found = error.doc[error.pos : error.pos + 1]
    if not found:
        return "unexpected end of JSON input"
    if error.msg.startswith("Expecting value"):
        return f"invalid character {found!r} looking for beginning of value"
    if error.msg.startswith("Expecting property name"):
        return f"invalid character {found!r} looking for beginning of object key string"
    return str(error)


def _is_too_deep(text: str) -> bool:
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += _DEPTH_CHANGE.get(token[0], 0)
        if depth > DEPTH:
            return True
    return False


def replace_lone_surrogates(text: str) -> str:
    """Let the escapes of lone surrogates in JSON become U+FFFD."""
    if "\\ud" in text or "\\uD" in text:
        return _ESCAPE.sub(lambda match: "\\ufffd" if match[1] else match[0], text)
    return text


def _int(text: str) -> object:
    if len(text) < 16:
        return int(text) if text != "-0" else _MINUS_ZERO
    number = float(text)
    if abs(number) >= 1e21:
        return number
    # The digits of the double, which are fewer than those of the integer that it stands for.
    rounded = Rounded(Decimal(repr(number)))
    rounded.exact = int(text)
    return rounded


def _float(text: str) -> object:
    number = float(text)
    if number.is_integer() and abs(number) < 1e21:
        if not number and text.startswith("-"):
            return Literal(_MINUS_ZERO)
        return Whole(Decimal(repr(number)))
    written = repr(number)
    digits, exponential, exponent = written.partition("e-")
    if not exponential:
        return number
    if int(exponent) <= 6:
        return Literal(f"{_BARE}{Decimal(written):f}{_BARE}")
    return Literal(f"{_BARE}{digits}e-{int(exponent)}{_BARE}")


def _constant(text: str) -> None:
    raise JSONError(f"invalid value {text}")


def _escape_special(match: re.Match[str]) -> str:
    character = match[0]
    return "" if _BARE in character else f"\\u{ord(character):04x}"


def _quote_character(character: str) -> str:
    code = ord(character)
    if character.isprintable():
        return character
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


# The integer; -0.0 is a Literal of its own, since it does not fit an int.
_MINUS_ZERO = Literal(f"{_BARE}-0{_BARE}")
_SPECIAL = re.compile(f'[<>&\u2028\u2029]|"{_BARE}|{_BARE}"')
# A pair of surrogates, a lone one, or any other escape.
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
# A string, which may lack its end, or a bracket.
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[][{}]', re.DOTALL)
_QUOTED = dict(zip('"\\\a\b\f\n\r\t\v', map(r"\{}".format, '"\\abfnrtv'), strict=True))
_decoder: Any = json.JSONDecoder(parse_int=_int, parse_float=_float, parse_constant=_constant)
_decode = _decoder.decode
scan_once: Final[Callable[[str, int], tuple[Any, int]]] = _decoder.scan_once
_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
).encode

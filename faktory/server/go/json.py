"""JSON as the real server reads and writes it, that is as Go does.

Numbers of arguments pass through a double, object keys come out sorted, `<`, `>`, `&`, U+2028 and
U+2029 come out escaped, what is no UTF-8 becomes U+FFFD. A struct takes its fields by name without
regard to case, ignores the others, and does not convert: 3.0 is no int.

Two ways lead through here. The fast one only finds out whether all is well; where it is not, the
text is read a second time by `mismatch` and `syntax`, to say so in Go's words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

_INT64: Final = 1 << 63

DEPTH: Final = 10_000
"""How deep Go's encoding/json reads. Python gives up earlier, or later since 3.14."""

_DEEPER: Final = {"[": 1, "{": 1, "]": -1, "}": -1}

# A lone surrogate cannot be in what `load` returns, so it may mark what goes out unquoted.
_BARE: Final = "\udfff"


class GoError(ValueError):
    """Go's complaint about a text, in Go's words."""


class Literal(str):
    """A number whose text Python would write differently."""

    __slots__ = ()


class Whole(int):
    """A whole number that was not written as one (3.0), so that it fits no int."""

    __slots__ = ()


class Raw(str):
    """A number as it was written, for messages."""

    __slots__ = ()


class Kind(NamedTuple):
    """A type of Go: its name there, the Python type that JSON for it is read as, its parts."""

    name: str
    type: type
    fields: Mapping[str, Kind] | None = None
    items: Kind | None = None
    bounds: tuple[int, int] = (-_INT64, _INT64 - 1)


STRING: Final = Kind("string", str)
INT: Final = Kind("int", int)
UINT8: Final = Kind("uint8", int, bounds=(0, 255))
STRINGS: Final = Kind("[]string", list, items=STRING)
ANYTHINGS: Final = Kind("[]interface {}", list)
OBJECT: Final = Kind("map[string]interface {}", dict)


def decode(data: bytes) -> str:
    """Read UTF-8, each byte that is none as U+FFFD."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return re.sub("[\udc80-\udcff]", "\ufffd", data.decode("utf-8", "surrogateescape"))


def load(text: str) -> Any:
    """Read JSON; GoError says where it is none.

    What is no finite double comes as an infinity, which `dump` refuses.
    """
    try:
        if text.count("[") + text.count("{") > DEPTH and _too_deep(text):
            raise RecursionError
        return _decode(_valid(text))
    except json.JSONDecodeError as error:
        raise GoError(syntax(text, error)) from None
    except RecursionError:
        raise GoError("exceeded max depth") from None


def _too_deep(text: str) -> bool:
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += _DEEPER.get(token[0], 0)
        if depth > DEPTH:
            return True
    return False


def dump(value: object) -> str:
    """Write JSON on one line; ValueError for an infinity."""
    try:
        text = _encode(value)
    except RecursionError:
        raise GoError("exceeded max depth") from None
    return _SPECIAL.sub(_special, text) if _SPECIAL.search(text) else text


def _valid(text: str) -> str:
    """Replace the escapes of lone surrogates in JSON."""
    if "\\ud" in text or "\\uD" in text:
        return _ESCAPE.sub(lambda match: "\\ufffd" if match[1] else match[0], text)
    return text


def number(value: object) -> float | None:
    """Return a number that `load` gave; None for what is none."""
    if isinstance(value, Literal):
        return float(value.strip(_BARE))
    return float(value) if isinstance(value, int | float) and type(value) is not bool else None


def take(kind: Kind, value: Any) -> dict[str, Any]:
    """Return the fields of a struct that `value` gives, null being no value; ValueError if one
    does not fit."""
    if type(value) is not dict:
        if value is None:
            return {}
        raise ValueError
    fields = kind.fields
    assert fields is not None
    taken: dict[str, Any] = {}
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
            raise ValueError
        if wanted is int:
            low, high = field.bounds
            if not low <= given <= high:
                raise ValueError
        elif field.fields is not None:
            given = take(field, given)
        elif field.items is not None:
            given = [_item(field.items, item) for item in given]
        taken[name] = given
    return taken


def _item(kind: Kind, value: Any) -> Any:
    if value is None:
        return kind.type()
    if type(value) is not kind.type:
        raise ValueError
    return value


def quote(text: str) -> str:
    """Quote text as Go's %q does."""
    return '"' + "".join(_QUOTED.get(c) or _quote_character(c) for c in text) + '"'


def mismatch(kind: Kind, text: str) -> str:
    """Say what of the JSON in `text`, which is valid, does not fit the kind: the first in order."""
    try:
        wrong = _mismatch(kind, _decode_raw(_valid(text)), kind.name.rpartition(".")[2], top=True)
    except RecursionError:
        return "exceeded max depth"
    assert wrong is not None
    return wrong


def _mismatch(kind: Kind | None, value: Any, path: str, top: bool = False) -> str | None:
    """Say what does not fit; None as a kind takes anything that a double can hold."""
    if value is None:
        return None
    wrong = _wrong(kind, value)
    if wrong is not None:
        name = kind.name if kind else "float64"
        return f"json: cannot unmarshal {wrong} into {_place(path, top)} of type {name}"
    if type(value) is list:
        items = kind.items if kind else None
        path = "" if top else path
        for position, item in enumerate(value):
            if text := _mismatch(items, item, f"{path}.{position}"):
                return text
    elif type(value) is dict:
        for name, item in value.items():
            part = kind.items if kind else None
            if kind is not None and kind.fields is not None:
                name = name if name in kind.fields else name.casefold()
                part = kind.fields.get(name)
                if part is None:
                    continue
            escaped = name.replace("~", "~0").replace("/", "~1")  # as in a JSON pointer
            if text := _mismatch(part, item, f"{path}.{escaped}"):
                return text
    return None


def _place(path: str, top: bool) -> str:
    if top:
        return "Go value"
    last = path.rpartition(".")[2]
    return path if last.isascii() and last.isdigit() else f"Go struct field {path}"


def _wrong(kind: Kind | None, value: Any) -> str | None:
    """Return what Go calls a value that does not fit by itself, None if it does."""
    if type(value) is not Raw:
        return None if kind is None or type(value) is kind.type else _go_name(value)
    if kind is None:
        return f"number {value}" if abs(float(value)) == float("inf") else None
    if kind.type is not int:
        return "number"
    low, high = kind.bounds
    fits = value.lstrip("-").isdigit() and low <= int(value) <= high
    return None if fits else f"number {value}"


def _go_name(value: Any) -> str:
    return {str: "string", bool: "bool", list: "array", dict: "object"}[type(value)]


def syntax(text: str, error: json.JSONDecodeError) -> str:
    """Say in Go's words what Python found wrong with a text."""
    position, found = error.pos, error.msg
    if found.startswith("Invalid \\"):
        return _bad_escape(text)
    if found.startswith("Unterminated string"):
        return _END
    if found.startswith("Illegal trailing comma"):
        position = _next(text, position + 1)
        found = "Expecting value" if text[position : position + 1] == "]" else "Expecting property"
    position = _next(text, position)
    if found.startswith("Invalid control character"):
        return _invalid(text, error.pos, "in string")
    if found.startswith("Expecting value"):
        return _no_value(text, position)
    if found.startswith("Expecting property"):
        return _invalid(text, position, "looking for beginning of object key string")
    if found.startswith("Expecting ':'"):
        return _invalid(text, position, "after object key")
    start = _start_of_number(text, position)
    if start < position and (number := _UNFINISHED.match(text, start)):
        return _invalid(text, number.end(), "in numeric literal")
    inside = _innermost(text[:position])
    return _invalid(text, position, _AFTER[inside])


_END = "unexpected end of JSON input"
_AFTER = {
    "": "after top-level value",
    "[": "after array element",
    "{": "after object key:value pair",
}


def _invalid(text: str, position: int, where: str) -> str:
    if position >= len(text):
        return _END
    character = text[position]
    quoted = {"'": r"\'", '"': '"'}.get(character) or quote(character)[1:-1]
    return f"invalid character '{quoted}' {where}"


def _no_value(text: str, position: int) -> str:
    rest = text[position:]
    if rest.startswith("-"):
        return _invalid(text, position + 1, "in numeric literal")
    for word in ("true", "false", "null"):
        if rest.startswith(word[0]):
            length = next(n for n in range(1, 6) if rest[:n] != word[:n])
            where = f"in literal {word} (expecting {word[length - 1]!r})"
            return _invalid(text, position + length - 1, where)
    return _invalid(text, position, "looking for beginning of value")


def _bad_escape(text: str) -> str:
    bad = next((m.start() for m in _GOOD_ESCAPE.finditer(text) if m[1] is None), len(text))
    rest = text[bad:]
    if _CUT_ESCAPE.fullmatch(rest):
        return _END
    # Go counts bytes, and may so cut through a character.
    length = 6 if rest.startswith("\\u") else 2
    shown = rest.encode()[:length].decode("utf-8", "surrogateescape")
    plain = all(c.isprintable() and c not in " `\ufffd" for c in shown)
    return f"invalid escape sequence {f'`{shown}`' if plain else quote(shown)} in string"


def _start_of_number(text: str, end: int) -> int:
    """Return where the number that ends here begins."""
    while end and text[end - 1] in "0123456789+-.eE":
        end -= 1
    return end


def _innermost(text: str) -> str:
    """Return the bracket that is open at the text's end."""
    stack = [""]
    for token in _TOKEN.findall(text):
        if token in ("[", "{"):
            stack.append(token)
        elif token in ("]", "}"):
            stack.pop()
    return stack[-1]


def _next(text: str, position: int) -> int:
    """Return where the next character that is no space is, from `position` on."""
    while text[position : position + 1] in (" ", "\t", "\r", "\n"):
        position += 1
    return position


def _int(text: str) -> object:
    if len(text) < 16:
        return int(text) if text != "-0" else _MINUS_ZERO
    number = float(text)
    if abs(number) >= 1e21:
        return number
    # The digits of the double, which are fewer than those of the integer that it stands for.
    return int(Decimal(repr(number)))


def _float(text: str) -> object:
    number = float(text)
    if number.is_integer() and abs(number) < 1e21:
        return Whole(Decimal(repr(number))) if number else _zero(text)
    written = repr(number)
    digits, exponential, exponent = written.partition("e-")
    if not exponential:
        return number
    if int(exponent) <= 6:
        return Literal(f"{_BARE}{Decimal(written):f}{_BARE}")
    return Literal(f"{_BARE}{digits}e-{int(exponent)}{_BARE}")


def _zero(text: str) -> object:
    return _MINUS_ZERO if text.startswith("-") else Whole(0)


def _constant(text: str) -> None:
    where = "in numeric literal" if text.startswith("-") else "looking for beginning of value"
    raise GoError(f"invalid character '{text.lstrip('-')[0]}' {where}")


def _special(match: re.Match[str]) -> str:
    character = match[0]
    return "" if _BARE in character else f"\\u{ord(character):04x}"


def _quote_character(character: str) -> str:
    code = ord(character)
    if character.isprintable():
        return character
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_MINUS_ZERO = Literal(f"{_BARE}-0{_BARE}")
_SPECIAL = re.compile(f'[<>&\u2028\u2029]|"{_BARE}|{_BARE}"')
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
_GOOD_ESCAPE = re.compile(r'\\(u[0-9a-fA-F]{4}|["\\/bfnrt])|\\')
_CUT_ESCAPE = re.compile(r"(\\(u[0-9a-fA-F]{0,4})?)?")
_UNFINISHED = re.compile(r"-?+(?:0|[1-9][0-9]*+)(?:\.(?![0-9])|(?:\.[0-9]++)?+[eE][+-]?+(?![0-9]))")
# A string, which may lack its end, or what opens or closes something.
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[][{}]', re.DOTALL)
_QUOTED = dict(zip('"\\\a\b\f\n\r\t\v', map(r"\{}".format, '"\\abfnrtv'), strict=True))
_decode = json.JSONDecoder(parse_int=_int, parse_float=_float, parse_constant=_constant).decode
_decode_raw = json.JSONDecoder(parse_int=Raw, parse_float=Raw).decode
_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
).encode

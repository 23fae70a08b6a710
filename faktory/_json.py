"""Read and write JSON step by step: the reference that both twins fall back on.

The fast paths of the twins only detect that a value is irregular. This module then processes the
value or the bytes again, and either returns the result (for a subclass, or an interpreter with a
low recursion limit) or raises an error that says what is wrong, where, and what to do. So each
error message exists once.

Rules: no recursion, so no input can exhaust the stack; offsets are bytes; digits are ASCII.
Reading has the semantics of `json.loads`, except for NaN and infinities. Writing rejects values
that the server would change silently (it stores numbers as doubles and text as UTF-8).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from json.encoder import encode_basestring as _quote
from typing import Final, NoReturn, TypeGuard, TypeVar

from .exceptions import FaktoryJSONError, FaktoryPayloadError, FaktoryProtocolError

MAX_DEPTH: Final = 512
"""Maximum nesting of containers, for reading and writing: half of what the standard library
supports with the interpreter's default recursion limit."""

MAX_INTEGER: Final = 2**53
"""The largest integer, either sign, that the server's doubles keep exactly."""

_MAX_SHOWN: Final = 60
"""Maximum characters of a value in an error message."""

_MAX_EXCERPT: Final = 200
"""Maximum bytes of broken JSON that an error keeps."""

_MAX_TOKENS: Final = 100_000
"""Strings and brackets that `find_jid` looks at: the server writes the jid in front of all that
can be long, and a broken job must not keep the thread for long."""

_SPACE = re.compile(rb"[ \t\n\r]*")
_NUMBER = re.compile(rb"(-?(?:0|[1-9][0-9]*))(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+("?)|[][{}]', re.DOTALL)
_COLON = re.compile(rb"[ \t\n\r]*:[ \t\n\r]*")
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
_HEX4 = re.compile(rb"[0-9a-fA-F]{4}")
_ESCAPES = {
    ord('"'): '"',
    ord("\\"): "\\",
    ord("/"): "/",
    ord("b"): "\b",
    ord("f"): "\f",
    ord("n"): "\n",
    ord("r"): "\r",
    ord("t"): "\t",
}
_WORDS = ((b"true", True), (b"false", False), (b"null", None))
_CONSTANTS = (b"NaN", b"Infinity", b"-Infinity")


def read(data: bytes) -> object:
    """Decode UTF-8 JSON; raise FaktoryJSONError with the offset and what was expected there."""
    try:
        return _read(data)
    except FaktoryJSONError as error:
        error.jid, error.excerpt = find_jid(data), data[:_MAX_EXCERPT]
        raise


def too_large(data: bytes | bytearray | memoryview) -> FaktoryJSONError:
    """Return the error for JSON that cannot be decoded for lack of memory."""
    reason = f"{len(data):,} bytes of JSON cannot be read: they need more memory than there is"
    return FaktoryJSONError(reason, find_jid(data), bytes(data[:_MAX_EXCERPT]))


def unfinished(received: memoryview) -> FaktoryProtocolError:
    """Return the error for a reply that is larger than the memory: so much of it was received."""
    line_end = bytes(received[:_MAX_EXCERPT]).find(b"\n") + 1
    jid = find_jid(received[line_end:])
    error = FaktoryProtocolError(
        f"a reply {'' if jid is None else f'with the job {_clip(jid)} '}needs more memory than "
        f"there is: {len(received):,} bytes were received"
    )
    error.jid = jid
    return error


def find_jid(data: bytes | bytearray | memoryview) -> str | None:
    """Return the first jid at the top level of an object, however broken what follows it is.

    It is text that can be sent, and not empty.
    """
    depth = end = 0
    for _ in range(_MAX_TOKENS):
        token = _TOKEN.search(data, end)
        if token is None:
            return None
        start, end = token.start(), token.end()
        first = data[start]
        if first in b"[{":
            if depth == 0 and (first == ord("[") or bytes(data[:start]).strip()):
                return None
            depth += 1
        elif first in b"]}":
            depth -= 1
            if depth <= 0:
                return None
        elif not token[1] or depth == 0:  # text without an end; not an object
            return None
        elif depth == 1 and end - start == 5 and data[start:end] == b'"jid"':
            colon = _COLON.match(data, end)
            if colon is not None:
                return _jid_at(data, colon.end())
    return None


def _jid_at(data: bytes | bytearray | memoryview, pos: int) -> str | None:
    value = _TOKEN.match(data, pos)
    if value is None or not value[1]:
        return None
    try:
        jid, _ = _text(bytes(value[0]), 0)
        jid.encode()
    except (FaktoryJSONError, UnicodeEncodeError):
        return None
    return jid or None


def _read(data: bytes) -> object:
    stack: list[tuple[object, str]] = []  # the open containers, each with the key of its next value
    here: object = None  # the innermost of them
    key = ""
    pos = _space(data, 0)
    while True:
        if pos < len(data) and data[pos] in b"[{":
            if len(stack) == MAX_DEPTH:
                raise _invalid(pos, f"nested deeper than {MAX_DEPTH} levels")
            value: object = [] if data[pos] == ord("[") else {}
            pos = _space(data, pos + 1)
            if data[pos : pos + 1] != (b"]" if type(value) is list else b"}"):
                stack.append((here, key))
                here = value
                if type(value) is dict:
                    key, pos = _key(data, pos)
                continue
            pos += 1
        else:
            value, pos = _scalar(data, pos)
        while True:
            if not stack:
                pos = _space(data, pos)
                if pos < len(data):
                    raise _unexpected(data, pos, "nothing after the value")
                return value
            if type(here) is dict:
                here[key] = value
                closing = b"}"
            else:
                assert type(here) is list
                here.append(value)
                closing = b"]"
            pos = _space(data, pos)
            following = data[pos : pos + 1]
            if following == b",":
                pos = _space(data, pos + 1)
                if type(here) is dict:
                    key, pos = _key(data, pos)
                break
            if following != closing:
                raise _unexpected(data, pos, f"',' or '{closing.decode()}'")
            pos += 1
            value = here
            here, key = stack.pop()


def _space(data: bytes, pos: int) -> int:
    match = _SPACE.match(data, pos)
    assert match
    return match.end()


def _key(data: bytes, pos: int) -> tuple[str, int]:
    if data[pos : pos + 1] != b'"':
        raise _unexpected(data, pos, "a key in double quotes")
    key, pos = _text(data, pos)
    pos = _space(data, pos)
    if data[pos : pos + 1] != b":":
        raise _unexpected(data, pos, "':'")
    return key, _space(data, pos + 1)


def _scalar(data: bytes, pos: int) -> tuple[object, int]:
    if data[pos : pos + 1] == b'"':
        return _text(data, pos)
    for word, value in _WORDS:
        if data.startswith(word, pos):
            return value, pos + len(word)
    for name in _CONSTANTS:
        if data.startswith(name, pos):
            raise _invalid(pos, f"{name.decode()} is not a JSON number")
    match = _NUMBER.match(data, pos)
    if not match:
        raise _unexpected(data, pos, "a value")
    if match[2] is None and match[3] is None:
        try:
            return int(match[0]), match.end()
        except ValueError:  # the interpreter's limit (sys.set_int_max_str_digits)
            digits = len(match[0].lstrip(b"-"))
            raise _invalid(pos, f"an integer of {digits} digits is too long") from None
    number = float(match[0])
    if number - number != 0:
        raise _invalid(pos, "the number is too large for a double")
    return number, match.end()


def _text(data: bytes, pos: int) -> tuple[str, int]:
    pieces = []
    start = pos
    pos += 1
    while True:
        match = _PLAIN.match(data, pos)
        assert match
        try:
            pieces.append(match[0].decode())
        except UnicodeDecodeError as error:
            raise _invalid(pos + error.start, "invalid UTF-8") from None
        pos = match.end()
        following = data[pos : pos + 1]
        if following == b'"':
            return "".join(pieces), pos + 1
        if not following:
            raise _invalid(start, "an unterminated string")
        if following != b"\\":
            raise _invalid(pos, f"the control character {following!r} inside a string")
        character, pos = _escape(data, pos)
        pieces.append(character)


def _escape(data: bytes, pos: int) -> tuple[str, int]:
    letter = data[pos + 1 : pos + 2]
    if letter != b"u":
        if not letter or letter[0] not in _ESCAPES:
            raise _invalid(pos, "an invalid escape")
        return _ESCAPES[letter[0]], pos + 2
    code = _hex4(data, pos)
    if 0xD800 <= code < 0xDC00 and data[pos + 6 : pos + 8] == b"\\u":
        low = _hex4(data, pos + 6)
        if 0xDC00 <= low < 0xE000:
            return chr(0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)), pos + 12
    return chr(code), pos + 6


def _hex4(data: bytes, pos: int) -> int:
    match = _HEX4.match(data, pos + 2)
    if not match:
        raise _invalid(pos, "a \\u escape needs four hex digits")
    return int(match[0], 16)


def _unexpected(data: bytes, pos: int, expected: str) -> FaktoryJSONError:
    got = f"byte {data[pos : pos + 1]!r}" if pos < len(data) else "the end"
    return _invalid(pos, f"expected {expected}, got {got}")


def _invalid(pos: int, reason: str) -> FaktoryJSONError:
    return FaktoryJSONError(f"invalid JSON at byte {pos}: {reason}")


_T = TypeVar("_T")
_Segment = str | int


def write(value: object, root: Sequence[_Segment] = ()) -> bytes:
    """Encode as compact UTF-8 JSON, or raise FaktoryPayloadError with path and remedy.

    `root` is the path to the value in the caller's argument.
    """
    out: list[str] = []
    path: list[_Segment] = list(root)
    stack: list[tuple[Iterator[tuple[_Segment, object]], str]] = []
    _write_one(value, out, path, stack)
    while stack:
        children, closing = stack[-1]
        for segment, child in children:
            if out[-1] not in ("[", "{"):
                out.append(",")
            path.append(segment)
            if type(segment) is str:
                out.append(_string(segment, path))
                out.append(":")
            depth = len(stack)
            _write_one(child, out, path, stack)
            if len(stack) > depth:
                break
            path.pop()
        else:
            stack.pop()
            out.append(closing)
            if stack:
                path.pop()
    return "".join(out).encode()


def _write_one(
    value: object,
    out: list[str],
    path: list[_Segment],
    stack: list[tuple[Iterator[tuple[_Segment, object]], str]],
) -> None:
    if is_a(value, str):
        out.append(_string(value, path))
    elif value is None or value is True or value is False:
        out.append("null" if value is None else "true" if value else "false")
    elif is_a(value, int):
        integer = int.__int__(value)
        if not -MAX_INTEGER <= integer <= MAX_INTEGER:
            _reject(
                path,
                f"is an integer beyond +-2^53 ({_show(integer)}), which the server would change",
                "Send text: str(value).",
            )
        out.append(int.__repr__(integer))
    elif is_a(value, float):
        number = float.__float__(value)
        if number - number != 0:
            _reject(path, f"is {float.__repr__(number)}, which JSON lacks", "Send None or text.")
        out.append(float.__repr__(number))
    elif is_a(value, dict) or is_a(value, list) or is_a(value, tuple):
        if len(stack) == MAX_DEPTH:
            _reject(
                path[:3],
                f"is nested deeper than {MAX_DEPTH} levels, or contains itself",
                "Send a flatter value.",
            )
        if is_a(value, dict):
            out.append("{")
            stack.append((_members(value, path), "}"))
        elif is_a(value, list):
            out.append("[")
            stack.append((enumerate(list.__iter__(value)), "]"))
        elif is_a(value, tuple):
            out.append("[")
            stack.append((enumerate(tuple.__iter__(value)), "]"))
    else:
        _reject(
            path,
            f"is {kind(value)} ({_show(value)}); a job's arguments must be JSON",
            _remedy(value),
        )


def _members(value: dict[object, object], path: list[_Segment]) -> Iterator[tuple[str, object]]:
    for key, child in list(value.items()):  # another thread may change it meanwhile
        if not is_a(key, str):
            _reject(
                path,
                f"has a key that is {kind(key)} ({_show(key)}); JSON keys are text",
                "Send str(key).",
            )
        yield str.__str__(key), child


def _string(value: str, path: Sequence[_Segment]) -> str:
    text = str.__str__(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        _reject(
            path,
            f"holds the lone surrogate U+{ord(text[error.start]):04X} at index {error.start}, "
            "which the server would change",
            'Send text without it: value.encode("utf-8", "replace").decode().',
        )
    return _quote(text)


def _reject(path: Sequence[_Segment], fault: str, remedy: str) -> NoReturn:
    raise FaktoryPayloadError(f"{_format_path(path)} {fault}. {remedy}")


def _format_path(path: Sequence[_Segment]) -> str:
    """Format a path like `args[1]["items"][3]`: the first name, then subscripts as in Python."""
    if not path:
        return "the value"
    first, *rest = path
    bare = type(first) is str and first.isidentifier()
    place = _clip(str(first)) if bare else f"[{_clip(repr(first))}]"
    return place + "".join(
        f"[{segment}]" if type(segment) is int else f'["{_clip(str(segment))}"]' for segment in rest
    )


def is_a(value: object, base: type[_T]) -> TypeGuard[_T]:
    """Check the type of a value, not its `__class__`: a proxy of a str is not a str."""
    return issubclass(type(value), base)


def kind(value: object) -> str:
    """Return the name of a value's type with its article."""
    name = type(value).__name__
    return f"{'an' if name[:1] in 'aeiouAEIO' else 'a'} {name}"


def _show(value: object) -> str:
    """Return the value as text, clipped; never raises, whatever its class does."""
    try:
        if isinstance(value, int) and value.bit_length() > 4 * _MAX_SHOWN:
            return f"{value.bit_length()} bits"
        return _clip(str(value))
    except Exception:
        return "which cannot be shown"


def _clip(text: str) -> str:
    text = text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."
    return text.encode("utf-8", "backslashreplace").decode()


def _remedy(value: object) -> str:
    """Return the remedy by the names of the type and its bases, which are not imported."""
    for cls in type(value).__mro__:
        match cls.__name__:
            case "datetime" | "date" | "time":
                return "Send text: value.isoformat()."
            case "timedelta":
                return "Send a number of seconds: value.total_seconds()."
            case "UUID" | "Decimal" | "Fraction" | "PurePath" | "complex" | "_IPAddressBase":
                return "Send text: str(value)."
            case "datetime64" | "timedelta64" | "tzinfo":
                return "Send text: str(value)."
            case "bool" | "bool_":  # numpy's
                return "Send a boolean: bool(value)."
            case "Enum":
                return "Send value.value or value.name."
            case "bytes" | "bytearray" | "memoryview":
                return 'Send text: base64.b64encode(value).decode(), or value.decode("utf-8").'
            case "set" | "frozenset" | "deque" | "range" | "dict_keys" | "dict_values":
                return "Send a list: list(value)."
            case "ndarray":
                return "Send a list: value.tolist()."
            case "generic":
                return "Send a plain number: value.item()."
            case "coroutine":
                return "Await it first."
    if hasattr(type(value), "model_dump"):
        return 'Send a dict: value.model_dump(mode="json").'
    if hasattr(type(value), "__fields__") and hasattr(type(value), "json"):  # of pydantic 1
        return "Send a dict: json.loads(value.json())."
    if hasattr(type(value), "__dataclass_fields__"):
        return "Send a dict: dataclasses.asdict(value)."
    if hasattr(type(value), "__attrs_attrs__"):
        return "Send a dict: attrs.asdict(value)."
    if hasattr(type(value), "__next__"):
        return "Send a list: list(value)."
    return "Send text, numbers, booleans, None, lists or dicts of them."

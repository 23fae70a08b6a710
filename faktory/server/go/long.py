"""Long JSON as Go reads it, in slices: what `json.py` reads at once would stop the server.

The text is read through a window. A value that fits into it is decoded at once; one that does not
is opened, and its parts are read one by one. A job's `args` and `custom` are only kept as text, so
their parts are rendered as soon as they are read: they never exist as objects, which would take up
to thirty times the memory.

Rules: the result is that of `json.load` and `json.dump`, with the limits below in addition.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, Final

from ..slices import ITEMS, Steps, in_order
from .json import (
    JSONError,
    Rendered,
    decode,
    describe,
    dump,
    replace_lone_surrogates,
    scan_once,
)

LONG: Final = 64 * 1024
"""Bytes of JSON from which on it is read in slices."""

MAX_PARSED: Final = 8 * 1024 * 1024
"""Bytes of JSON that may become objects at the same time: `args`, `custom` and long strings do not
count, nor do the jobs of a PUSHB together."""

MAX_KEYS: Final = 1_000_000
"""Keys of the objects in `args` or `custom`, as far as they must be held to be sorted."""

MAX_DEPTH: Final = 1000
"""Levels of nesting of what does not fit into the window; each costs a look at the whole window."""

_WINDOW = 16 * 1024

_RENDERED = frozenset(("args", "custom"))

_TOO_LARGE = "the JSON is too large for this embedded server: "


class _Window:
    """The part of the data that is decoded; `text[at:]` has not been read yet."""

    def __init__(self, data: bytes, begin: int) -> None:
        self._data = data
        self._begin = begin
        self.at = 0
        self.raw = ""
        """With each byte that is not UTF-8 as a lone surrogate."""
        self.text = ""
        """As JSON is to see it; of the same length."""
        self.slide()

    def slide(self) -> None:
        """Let the window begin where reading has come to."""
        begin = self._begin + len(self.raw[: self.at].encode("utf-8", "surrogateescape"))
        end = begin + _WINDOW
        data = self._data
        if end < len(data) and data[end] & 0xC0 == 0x80:  # it must not end inside a character
            end -= next((back for back in (1, 2, 3) if data[end - back] >= 0xC0), 0)
        part = data[begin:end]
        self.raw = part.decode("utf-8", "surrogateescape")
        self.text = replace_lone_surrogates(decode(part))
        self.at = 0
        self._begin = begin
        self.is_last = end >= len(data)

    def peek(self) -> str | None:
        """Skip white space; return the next character, "" at the end, None to go on elsewhere."""
        self.at = _skip(self.text, self.at).end()  # type: ignore[union-attr]
        character = self.text[self.at : self.at + 1]
        return None if not character and not self.is_last else character


class _Open:
    """An array or object whose end has not been read."""

    def __init__(self, kind: type, render: bool) -> None:
        self.kind = kind
        self.render = render
        self.key = ""
        self.items: list[Any] = []
        self.joined: list[str] = []
        """Rendered items, many in one text: that takes less memory."""
        self.members: dict[str, Any] = {}

    def add(self, value: Any) -> None:
        if self.kind is dict:
            self.members[self.key] = f"{dump(self.key)}:{value}" if self.render else value
            return
        self.items.append(value)
        if self.render and len(self.items) == ITEMS:
            self.joined.append(",".join(self.items))
            self.items.clear()


def load_in_slices(
    data: bytes, begin: int, each: Callable[[Any], None] | None = None
) -> Steps[Any]:
    """Read the JSON in data[begin:]; JSONError where it is broken or too large.

    With `each`, the items of an array are not kept but passed to it. Lists in `args` and objects
    in `custom` may come as `Rendered`.
    """
    window = _Window(data, begin)
    path: list[_Open] = []
    parsed = keys = steps = 0
    while True:
        # A value begins here.
        while (first := window.peek()) is None:
            window.slide()
            yield
        steps += 1
        if steps % ITEMS == 0:
            yield
        parent = path[-1] if path else None
        render = parent is not None and (
            parent.render or (parent.kind is dict and parent.key.casefold() in _RENDERED)
        )
        value: Any = None
        problem: Exception | None = None
        try:
            value, end = scan_once(window.text, window.at)
            if len(window.text) - end < 3 and not window.is_last:
                problem = JSONError("a number may go on: 1, 1., 1e+")
        except StopIteration as error:
            problem = json.JSONDecodeError("Expecting value", window.text, error.value)
        except json.JSONDecodeError as error:
            problem = error.with_traceback(None)  # it would keep this frame, and the jobs in it
        except RecursionError:
            raise JSONError("exceeded max depth") from None
        if problem is None:
            if parent is not None and parent.render:
                value = dump(value)
            else:
                parsed += end - window.at
            window.at = end
        elif not window.is_last and window.at:
            window.slide()
            yield
            continue
        elif window.is_last:
            raise _error(problem)
        elif first in "[{":
            if len(path) == MAX_DEPTH:
                raise JSONError("exceeded max depth")
            path.append(_Open(list if first == "[" else dict, render))
            window.at += 1
            while (character := window.peek()) is None:
                window.slide()
                yield
            if character != "]" and first == "[":
                continue
            if character != "}" and first == "{":
                yield from _read_key(window, path[-1])
                continue
            window.at += 1
            value = yield from _close(path)
        elif first == '"':
            value = yield from _read_string(window, parent is not None and parent.render)
        elif first in "-0123456789":
            raise JSONError(f"{_TOO_LARGE}a number has more than {_WINDOW} digits")
        else:
            raise _error(problem)
        # A value ends here, and maybe those around it.
        while True:
            while (character := window.peek()) is None:
                window.slide()
                yield
            if not path:
                if character:
                    raise JSONError(f"invalid character {character!r} after top-level value")
                return value
            here = path[-1]
            if each is not None and len(path) == 1 and here.kind is list:
                each(value)
                parsed = 0
            else:
                keys += here.kind is dict
                parsed += 0 if here.render else len(here.key) + 8
                here.add(value)
            if parsed > MAX_PARSED:
                raise JSONError(f"{_TOO_LARGE}more than {MAX_PARSED} bytes beside args and custom")
            if keys > MAX_KEYS:
                raise JSONError(f"{_TOO_LARGE}more than {MAX_KEYS} keys")
            if character == ",":
                window.at += 1
                if here.kind is dict:
                    yield from _read_key(window, here)
                break
            if character != ("]" if here.kind is list else "}"):
                what = "array element" if here.kind is list else "object key:value pair"
                raise JSONError(
                    f"invalid character {character!r} after {what}"
                    if character
                    else "unexpected end of JSON input"
                )
            window.at += 1
            keys -= len(here.members)
            value = yield from _close(path)
            steps += 1
            if steps % ITEMS == 0:
                yield


def _close(path: list[_Open]) -> Steps[Any]:
    """Return the value of the innermost array or object, which has been read."""
    here = path.pop()
    if not here.render or not (here.items or here.joined or here.members):
        value = here.items if here.kind is list else here.members
        return dump(value) if path and path[-1].render else value
    if here.kind is list:
        text = f"[{','.join(here.joined + here.items)}]"
    else:
        members = here.members
        ordered: Any = (yield from in_order(members)) if members else ()
        pieces = []
        for number, key in enumerate(ordered):
            pieces.append(members[key])
            if number % ITEMS == 0:
                yield
        text = f"{{{','.join(pieces)}}}"
    return text if path and path[-1].render else Rendered(here.kind, text)


def _read_key(window: _Window, here: _Open) -> Steps[None]:
    """Read a key and the colon behind it."""
    while True:
        while (character := window.peek()) is None:
            window.slide()
            yield
        if character != '"':
            raise JSONError(
                f"invalid character {character!r} looking for beginning of object key string"
                if character
                else "unexpected end of JSON input"
            )
        try:
            here.key, window.at = scanstring(window.text, window.at + 1, True)
            break
        except json.JSONDecodeError as error:
            if window.is_last:
                raise _error(error) from None
            if not window.at:
                raise JSONError(f"{_TOO_LARGE}a key is broken or too long") from None
        window.slide()
        yield
    while (character := window.peek()) is None:
        window.slide()
        yield
    if character != ":":
        raise JSONError(
            f"invalid character {character!r} after object key"
            if character
            else "unexpected end of JSON input"
        )
    window.at += 1


def _read_string(window: _Window, render: bool) -> Steps[str]:
    """Read a string that does not fit into the window."""
    pieces = []
    window.at += 1
    while True:
        pattern = _LAST_PART if window.is_last else _PART
        end = pattern(window.raw, window.at).end()  # type: ignore[union-attr]
        text = replace_lone_surrogates(window.raw[window.at : end])
        try:
            piece = scanstring(_NOT_UTF8.sub("\ufffd", text) + '"', 0, True)[0]
        except json.JSONDecodeError as error:
            raise _error(error) from None
        pieces.append(dump(piece)[1:-1] if render else piece)
        moved = end > window.at
        window.at = end
        if window.raw[end : end + 1] == '"':
            window.at += 1
            text = "".join(pieces)
            return f'"{text}"' if render else text
        if window.is_last or not moved:
            rest = window.text[end : end + 6]
            raise JSONError(
                f"invalid character {rest!r} in string escape code"
                if rest
                else "unexpected end of JSON input"
            )
        window.slide()
        yield


def _error(problem: Exception) -> JSONError:
    if isinstance(problem, json.JSONDecodeError):
        return JSONError(describe(problem))
    return problem if isinstance(problem, JSONError) else JSONError(str(problem))


_skip = re.compile(r"[ \t\n\r]*+").match
_NOT_UTF8 = re.compile("[\udc80-\udcff]")

# The part of a string that can be decoded without what follows: a surrogate that may be the first
# of a pair only with what stands behind it. Nothing follows the loop, so it never goes back; as a
# possessive one it ends too late in Python 3.11.2.
_UNITS = (
    r'(?:[^"\\]+|\\[^u]|\\u(?![dD][89abAB])[0-9a-fA-F]{4}'
    r"|\\u[dD][89abAB][0-9a-fA-F]{2}(?:\\u[dD][c-fC-F][0-9a-fA-F]{2}|%s))*"
)
_PART = re.compile(_UNITS % "(?=.{6})", re.DOTALL).match
_LAST_PART = re.compile(_UNITS % "", re.DOTALL).match

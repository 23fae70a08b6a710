"""A converter for each type of argument, by msgspec: imported only where one is needed.

On the wire is what msgspec makes of a value, except for what `changes.py` changes afterwards. On
the way back that is undone before msgspec makes the value again.

Rules: a value in its wire form is as good as the value, so the arguments of a running job can be
pushed again. What is pushed was read back before: a wrong value fails where it is pushed.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import inspect as nodes

from ..exceptions import FaktoryPayloadError
from ..wire.validate import show
from .annotations import base_of
from .changes import (
    Change,
    Changes,
    Wrong,
    check,
    find,
    inside,
    is_untyped,
    named_from_wire,
    named_to_wire,
    type_of,
)

_ERROR: Final = re.compile(r"(.*) - at (?:`key` in )?`\$\[0\](.*)`", re.DOTALL)
"""An error of msgspec: what is wrong, and the path below the argument."""

_OBJECTS: Final = re.compile(r"Expected .*\bobject\b.*, got `object`")
"""What msgspec says of an instance of `object` where JSON has an object: nothing to go by."""

_MINUTE: Final = timedelta(minutes=1)

_PLAIN: Final = (str, int, float, dict, list, tuple, set, frozenset)


class Converter:
    """Converts the values of one type."""

    def __init__(self, hint: Any, takes: str) -> None:
        """Make one for a type, which errors show as `takes`: "when: datetime".

        Raises what msgspec raises for a type that it does not take, and TypeError for a type whose
        JSON would have two meanings.
        """
        self._takes = takes
        node = nodes.type_info(hint)
        found = inside(node)
        for each in found:
            check(each)
        # A Decimal is text on the wire, and is read from a number, too; in a model it may be.
        self._reads_numbers = any(
            type_of(each) is Decimal or hasattr(getattr(each, "cls", None), "model_validate_json")
            for each in found
        )
        # Where a field has no type, what JSON lacks must be refused, and not become text.
        untyped = any(is_untyped(each) for each in found)
        leaves = {**_CHANGED, **_UNCHANGED} if untyped else _CHANGED
        self._kept = tuple(leaves)
        self._to_wire = Changes(
            lambda leaf: leaves.get(type_of(leaf)), named_to_wire, sort_sets=True
        ).of(node)
        self._from_wire = Changes(lambda leaf: _READ.get(type_of(leaf)), named_from_wire).of(node)
        # msgspec remembers what it knows of a struct; of `list[UUID]` it would not.
        self._holder: Any = msgspec.defstruct("Argument", [("value", hint)], array_like=True)

    def to_wire(self, value: object, index: int) -> Any:
        """Return the argument of this index as plain JSON.

        FaktoryPayloadError, with the path, for a value of another type. One that the type reads all
        the same, as a Decimal reads a number, is sent as that value would be.
        """
        plain = self._plain(value, index)
        read = self.from_wire(plain, index)
        if not self._reads_numbers:
            return plain
        again = self._plain(read, index)
        return plain if _are_alike(plain, again) else again

    def _plain(self, value: object, index: int) -> Any:
        try:
            plain = self._to_builtins(value)
            if self._to_wire is not None:
                plain = self._to_wire(plain)
        except Wrong as wrong:
            raise self._error(index, wrong.reason, wrong.path) from None
        except RecursionError:
            raise FaktoryPayloadError(
                f"args[{index}] is nested too deep, or contains itself. Send a flatter value."
            ) from None
        except (TypeError, ValueError, OverflowError) as error:  # of msgspec, or of the value
            raise self._error(index, str(error), "", [value]) from error
        return plain

    def from_wire(self, plain: object, index: int) -> Any:
        """Return the value of the argument of this index.

        FaktoryPayloadError, with the path, if the JSON is not that of the type.
        """
        try:
            changed = plain if self._from_wire is None else self._from_wire(plain)
        except Wrong as wrong:
            raise self._error(index, wrong.reason, wrong.path) from None
        try:
            return msgspec.convert(
                [changed],
                self._holder,
                builtin_types=(timedelta,),
                str_keys=True,
                dec_hook=_value_of_other,
            ).value
        except msgspec.ValidationError as error:
            found = _ERROR.fullmatch(str(error))
            reason, path = found.groups() if found else (str(error), "")
            cause = error.__cause__  # what the class of a value raised
            if isinstance(cause, Wrong):
                path, cause = path + cause.path, None
            raise self._error(index, reason, *find(changed, path)) from cause

    def _to_builtins(self, value: object) -> Any:
        kept = self._kept
        while True:
            try:
                return msgspec.to_builtins(
                    value, builtin_types=kept, str_keys=True, enc_hook=_plain_of_other
                )
            except _UnknownType as unknown:
                # Such an object is kept as it is: it is refused where its path is known.
                kept = (*kept, unknown.kind)

    def _error(
        self, index: int, reason: str, path: str, shown: Sequence[object] = ()
    ) -> FaktoryPayloadError:
        if _OBJECTS.fullmatch(reason) and not any(isinstance(each, dict) for each in shown):
            reason = "nothing here makes JSON of it"
        reason = reason.replace("`duration`", "a number of seconds").rstrip(".")
        place = f"args[{index}]{path}" + "".join(f" is {show(value)}" for value in shown)
        return FaktoryPayloadError(
            f"{place}: {reason[:1].lower()}{reason[1:]}. The parameter is {self._takes}."
        )


def _are_alike(one: Any, other: Any) -> bool:
    """Return whether two JSON values have the same kinds of values in the same places."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_are_alike, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return all(_are_alike(item, other[key]) for key, item in one.items() if key in other)
    are_numbers = isinstance(one, int | float) and isinstance(other, int | float)
    return are_numbers or type(one) is type(other)


class _UnknownType(Exception):
    """An object in a value is of a type of which nothing here makes JSON."""

    def __init__(self, kind: type) -> None:
        super().__init__(kind)
        self.kind = kind


def _plain_of_other(value: Any) -> Any:
    """Return for a subclass, a path or a model of pydantic what msgspec knows: a hook of it."""
    kind = type(value)
    base: Any = base_of(kind)
    match base and base.__name__:
        case "datetime" | "date" | "time":
            return base.fromisoformat(value.isoformat())
        case "timedelta":
            return base(value.days, value.seconds, value.microseconds)
        case "Decimal":
            return base(value)
        case "PurePath":
            return str(value)
    if hasattr(kind, "model_validate_json"):
        return value.model_dump(mode="json", by_alias=True)
    for plain in _PLAIN:
        if issubclass(kind, plain):
            return plain(value)
    raise _UnknownType(kind)


def _value_of_other(kind: Any, value: Any) -> Any:
    """Return the value of such a type from its JSON: a hook of msgspec."""
    if hasattr(kind, "model_validate_json"):
        return _model(kind, value)
    base: Any = base_of(kind)
    match base and base.__name__:
        case "datetime" | "date" | "time":
            return kind.fromisoformat(msgspec.convert(value, base).isoformat())
        case "timedelta" if isinstance(value, base):
            return kind(value.days, value.seconds, value.microseconds)
        case "Decimal":
            return kind(msgspec.convert(value, base))
        case "UUID" | "PurePath" if isinstance(value, str):
            return kind(value)
    return value  # msgspec says that it is not of the type


def _model(kind: Any, value: object) -> Any:
    """Return a model of pydantic: a strict one takes more from JSON than from Python's values."""
    try:
        return kind.model_validate_json(json.dumps(value))
    except ValueError as error:
        if not hasattr(error, "errors"):
            raise
        first = error.errors()[0]
        steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"])
        raise Wrong(first["msg"], "".join(steps)) from None


# Values of single types, on the way to the wire and, in `_timedelta`, back


def _seconds(value: Any) -> Any:
    if not isinstance(value, timedelta):
        return value
    if not value.microseconds:
        return value.days * 86_400 + value.seconds
    seconds = value.total_seconds()
    try:
        is_exact = timedelta(seconds=seconds) == value
    except OverflowError:  # of the longest of all, rounded up
        is_exact = False
    if not is_exact:
        raise Wrong(f"{value} has more digits than a JSON number keeps, round it to seconds")
    return seconds


def _timedelta(value: Any) -> Any:
    if type(value) is int or type(value) is float:
        try:
            return timedelta(seconds=value)
        except (OverflowError, ValueError):
            raise Wrong(f"{show(value)} seconds are not a timedelta") from None
    return value


def _instant(value: Any) -> Any:
    if not isinstance(value, datetime):
        return value
    offset = value.utcoffset()
    if offset is not None and offset % _MINUTE:  # of a zone long ago: RFC 3339 lacks seconds
        try:
            value = value.astimezone(UTC)
        except OverflowError:
            raise Wrong(f"in UTC {value} is outside the years 1 to 9999") from None
    return _with_z(value.isoformat())


def _clock(value: Any) -> Any:
    if not isinstance(value, time):
        return value
    offset = value.utcoffset()
    if value.tzinfo is not None and (offset is None or offset % _MINUTE):
        raise Wrong(f"the zone of {value!r} has no fixed offset in minutes, pass a datetime")
    return _with_z(value.isoformat())


def _with_z(text: str) -> str:
    return f"{text[:-6]}Z" if text.endswith("+00:00") else text


def _day(value: Any) -> Any:
    is_day = isinstance(value, date) and not isinstance(value, datetime)
    return value.isoformat() if is_day else value


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, UUID | Decimal) else value


def _base64(value: Any) -> Any:
    return b64encode(value).decode() if isinstance(value, bytes | bytearray) else value


_CHANGED: Final[dict[type, Change]] = {timedelta: _seconds, datetime: _instant, time: _clock}
"""Types of which msgspec would make other JSON, or lose something."""

_UNCHANGED: Final[dict[type, Change]] = {
    date: _day,
    UUID: _text,
    Decimal: _text,
    bytes: _base64,
    bytearray: _base64,
}
"""The others that JSON lacks, with what msgspec makes of them."""

_READ: Final[dict[type, Change]] = {timedelta: _timedelta}
"""Types whose JSON msgspec would not read."""

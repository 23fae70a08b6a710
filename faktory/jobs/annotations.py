"""The annotations of a job's parameters: which type each names, and whether it is plain JSON.

Rules: a name is looked up when the job is first pushed or run, so that a class may be defined below
the job. Types are known by their names and attributes: no library of types is imported here.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

_BASES: Final = {
    ("datetime", "datetime"),
    ("datetime", "date"),
    ("datetime", "time"),
    ("datetime", "timedelta"),
    ("decimal", "Decimal"),
    ("enum", "Enum"),
    ("pathlib", "PurePath"),
    ("uuid", "UUID"),
    ("builtins", "bytes"),
    ("builtins", "bytearray"),
    ("builtins", "set"),
    ("builtins", "frozenset"),
    ("collections", "Set"),
}
"""The packages and names of the types that JSON lacks, and of which a converter makes JSON."""

_MODULES: Final = re.compile(r"(?:\w+\.)+(?=\w)")

_MARKS: Final = (
    "__dataclass_fields__",
    "__attrs_attrs__",
    "__struct_fields__",
    "model_validate_json",
)
"""Attributes of dataclasses, attrs classes, msgspec's structs and pydantic's models."""


def base_of(cls: type) -> type | None:
    """Return the type of the standard library that JSON lacks and that `cls` is, or inherits."""
    for base in cls.__mro__:
        if (base.__module__.partition(".")[0], base.__name__) in _BASES:
            return base
    return None


def resolve(annotation: object, function: Callable[..., object]) -> Any:
    """Return the type that an annotation of a function's parameter names.

    Raises what evaluating the text of an annotation raises: NameError for an unknown name.
    """

    def carrier() -> None: ...

    carrier.__annotations__ = {"value": annotation}
    names = getattr(function, "__globals__", {})
    return get_type_hints(carrier, names, _names_of_class(function), include_extras=True)["value"]


def _names_of_class(function: Callable[..., object]) -> dict[str, Any]:
    """Return what is defined in the class around a method."""
    around: object = sys.modules.get(getattr(function, "__module__", None) or "")
    for part in getattr(function, "__qualname__", "").split(".")[:-1]:
        around = getattr(around, part, None)
    return dict(vars(around)) if isinstance(around, type) else {}


def text_of(annotation: object) -> str:
    """Return an annotation as it is in the code, without the names of modules."""
    if isinstance(annotation, str):
        return annotation
    return _MODULES.sub("", inspect.formatannotation(annotation))


def is_plain(hint: Any, inside: tuple[object, ...] = ()) -> bool:
    """Return whether a type needs no converter: it is JSON, or nothing is known about it.

    `inside` are the aliases around it, which may name themselves.
    """
    if hint in inside:
        return True
    meant = getattr(hint, "__supertype__", None) or getattr(hint, "__value__", None)
    if meant is not None and not isinstance(hint, type):  # of NewType, of `type X = ...`
        return is_plain(meant, (*inside, hint))
    origin, args = get_origin(hint), get_args(hint)
    if origin is None:
        return not isinstance(hint, type) or _is_plain_class(hint)
    if origin is Annotated:
        return is_plain(args[0], inside)
    if origin is Literal:
        return not any(isinstance(value, Enum) for value in args)
    if isinstance(origin, type):
        if not _is_plain_class(origin):
            return False
        if args and issubclass(origin, Mapping) and not _is_text(args[0]):
            return False
    return all(is_plain(arg, inside) for arg in args if not isinstance(arg, list))


def _is_plain_class(cls: type) -> bool:
    return (
        base_of(cls) is None
        and not any(hasattr(cls, mark) for mark in _MARKS)
        and not (issubclass(cls, tuple) and hasattr(cls, "_fields"))
        and not is_typeddict(cls)
    )


def _is_text(key: object) -> bool:
    return not isinstance(key, type) or issubclass(key, str) or key is object

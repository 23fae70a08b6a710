"""A job's arguments by the annotations of its parameters: to plain JSON, and back.

Rules: what is on the wire is plain JSON, and so is `current_job().args`. A parameter whose
annotation names JSON, or nothing that is known, is left alone. So is one whose annotation cannot be
used; the error for a value that is not JSON then says why.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Optional

from .annotations import is_plain, resolve, text_of

if TYPE_CHECKING:
    from .converters import Converter

_INSTALL: Final = "pip install 'faktory-worker[types]'"

_MOST_LEVELS: Final = 20
"""How deep a refused value is searched for what JSON lacks."""


class Arguments:
    """The parameters of a function, and what converts their values."""

    def __init__(
        self, function: Callable[..., object], parameters: Sequence[inspect.Parameter]
    ) -> None:
        function = inspect.unwrap(function)
        self._function: Callable[..., object] | None = getattr(function, "__func__", function)
        self._parameters = list(parameters)
        self._hints: dict[int, Any] = {}
        self._faults: dict[int, str] = {}
        self._unknown: set[str] = set()
        self._made: list[Converter | None] | None = None
        variadic = [p.kind is p.VAR_POSITIONAL for p in self._parameters]
        self._first_of_rest = variadic.index(True) if True in variadic else None

    def __getstate__(self) -> dict[str, Any]:
        """Keep the types, which are pickled by their names, and neither function nor converters."""
        self._converters()
        return {**vars(self), "_function": None, "_unknown": set(), "_made": None}

    @property
    def are_typed(self) -> bool:
        """Whether anything is converted, or would be once a name is defined."""
        return any(self._converters()) or bool(self._unknown)

    def to_wire(self, args: Sequence[object]) -> list[Any]:
        """Return arguments by position as plain JSON; FaktoryPayloadError names the path."""
        return [
            value if converter is None else converter.to_wire(value, index)
            for index, value, converter in self._each(args)
        ]

    def from_wire(self, args: Sequence[object]) -> list[Any]:
        """Return arguments as they were pushed; FaktoryPayloadError names the path."""
        return [
            value if converter is None else converter.from_wire(value, index)
            for index, value, converter in self._each(args)
        ]

    def in_gap(self, index: int, default: object) -> object:
        """Return a default on the wire; FaktoryPayloadError if its annotation does not take it."""
        converter = self._converters()[index]
        return default if converter is None else converter.to_wire(default, index)

    def remedy(self, index: int, value: object) -> str:
        """Return what else can be done about an argument that is not JSON, or nothing."""
        kind = kind_of_leaf(value)
        converters = self._converters()
        index = min(index, len(converters) - 1)
        if kind is None or index < 0 or converters[index] is not None:
            return ""
        parameter, fault = self._parameters[index], self._faults.get(index)
        if fault is not None:
            return f"The annotation {text_of(parameter.annotation)} cannot be used: {fault}."
        asked = f"Or annotate the parameter, {parameter.name}: {kind.__name__}"
        return f"{asked}." if find_spec("msgspec") else f"{asked}, and {_INSTALL}."

    def _each(self, args: Sequence[object]) -> Iterator[tuple[int, object, Converter | None]]:
        converters = self._converters()
        rest = None if self._first_of_rest is None else converters[self._first_of_rest]
        for index, value in enumerate(args):
            yield index, value, converters[index] if index < len(converters) else rest

    def _converters(self) -> list[Converter | None]:
        """Return the converter of each parameter; they are made when they are first needed."""
        if self._made is None or (self._unknown and self._are_defined()):
            self._unknown = set()
            self._made = [self._make(index) for index in range(len(self._parameters))]
        return self._made

    def _are_defined(self) -> bool:
        """Return whether a name that an annotation needs was defined meanwhile."""
        names = getattr(self._function, "__globals__", {})
        return any(name in names for name in self._unknown)

    def _make(self, index: int) -> Converter | None:
        parameter = self._parameters[index]
        if parameter.annotation is parameter.empty:
            return None
        if self._function is not None:
            self._faults.pop(index, None)
            try:
                hint = resolve(parameter.annotation, self._function)
                self._hints[index] = Optional[hint] if parameter.default is None else hint  # noqa: UP045
            except Exception as error:  # evaluating the text of an annotation runs any code
                self._fault(index, error)
        if index not in self._hints or is_plain(self._hints[index]):
            return None
        try:
            from .converters import Converter
        except ImportError as error:
            absent = isinstance(error, ModuleNotFoundError) and error.name == "msgspec"
            why = "msgspec is not installed" if absent else f"msgspec does not load, {error}"
            self._faults[index] = f"{why}: {_INSTALL}"
            return None
        try:
            return Converter(
                self._hints[index], f"{parameter.name}: {text_of(parameter.annotation)}"
            )
        except Exception as error:  # msgspec's, of a type that it does not take; a class's own
            self._fault(index, error)
            return None

    def _fault(self, index: int, error: Exception) -> None:
        self._faults[index] = str(error).rstrip(".") or type(error).__name__
        if isinstance(error, NameError) and error.name:
            self._unknown.add(error.name)


def kind_of_leaf(value: object, level: int = 0) -> type | None:
    """Return the type of the first object in a value that a converter would make JSON of."""
    if level == _MOST_LEVELS:
        return None
    inner: list[object] = []
    if type(value) in (list, tuple):
        inner = [*value]  # type: ignore[misc]
    elif type(value) is dict:
        inner = [*value.values()]
    elif not is_plain(type(value)):
        return type(value)
    return next((kind for each in inner if (kind := kind_of_leaf(each, level + 1))), None)

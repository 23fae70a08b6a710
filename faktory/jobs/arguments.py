"""A job's arguments by the annotations of its parameters: to plain JSON, and back.

Rules: what is on the wire is plain JSON, and so is `current_job().args`. A parameter whose
annotation names JSON, or nothing that is known, is left alone. So is one whose annotation cannot be
used; the error for a value that is not JSON then says why.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Optional

from .annotations import is_plain, resolve, text_of

if TYPE_CHECKING:
    from .converters import Converter

_INSTALL: Final = "pip install 'faktory-worker[types]'"

_MOST_LOOKS: Final = 1000
"""How often names that are unknown are looked up: they may be there for type checkers only."""

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
        # One attribute for both, as threads see it: the converters, and the unknown names.
        self._found: tuple[list[Converter | None], set[str]] | None = None
        self._looks = 0
        # Such a parameter is the last one, and its annotation that of each argument behind it.
        self._is_variadic = any(p.kind is p.VAR_POSITIONAL for p in self._parameters)

    def __getstate__(self) -> dict[str, Any]:
        """Keep the types, which are pickled by their names, and neither function nor converters."""
        self._find()
        return {**vars(self), "_function": None, "_found": None}

    @property
    def are_typed(self) -> bool:
        """Whether anything is converted, or would be once a name is defined."""
        converters, unknown = self._find()
        return any(converters) or bool(unknown)

    def to_wire(self, args: Sequence[object]) -> list[Any]:
        """Return arguments by position as plain JSON; FaktoryPayloadError names the path."""
        made = [*args]
        for index, converter in self._typed(len(made)):
            made[index] = converter.to_wire(made[index], index)
        return made

    def from_wire(self, args: Sequence[object]) -> list[Any]:
        """Return arguments as they were pushed; FaktoryPayloadError names the path."""
        made = [*args]
        for index, converter in self._typed(len(made)):
            made[index] = converter.from_wire(made[index], index)
        return made

    def in_gap(self, index: int, default: object) -> object:
        """Return a default on the wire; FaktoryPayloadError if its annotation does not take it."""
        converter = self._find()[0][index]
        return default if converter is None else converter.to_wire(default, index)

    def remedy(self, index: int, value: object) -> str:
        """Return what else can be done about an argument that is not JSON, or nothing."""
        kind = kind_of_leaf(value)
        converters, _ = self._find()
        index = min(index, len(converters) - 1)
        if kind is None or index < 0 or converters[index] is not None:
            return ""
        parameter, fault = self._parameters[index], self._faults.get(index)
        if fault is not None:
            return f"The annotation {text_of(parameter.annotation)} cannot be used: {fault}."
        from importlib.util import find_spec
        from pathlib import Path

        name = "Path" if issubclass(kind, Path) else kind.__name__
        asked = f"Or annotate the parameter, {parameter.name}: {name}"
        return f"{asked}." if find_spec("msgspec") else f"{asked}, and {_INSTALL}."

    def _typed(self, count: int) -> list[tuple[int, Converter]]:
        """Return the positions, of so many, that are converted."""
        found = [(i, each) for i, each in enumerate(self._find()[0][:count]) if each is not None]
        if found and self._is_variadic and found[-1][0] == len(self._parameters) - 1:
            rest = found[-1][1]
            found += [(index, rest) for index in range(len(self._parameters), count)]
        return found

    def _find(self) -> tuple[list[Converter | None], set[str]]:
        """Return a converter, or None, for each parameter, and the names that are unknown so far.

        They are found when they are first needed, and again once an unknown name is defined; one
        that has been unknown for a long time stays so.
        """
        if self._found is not None and self._found[1]:
            self._looks += 1
            if self._looks > _MOST_LOOKS:
                self._found = self._found[0], set()
        if self._found is None or any(map(self._is_defined, self._found[1])):
            unknown: set[str] = set()
            converters = [self._make(index, unknown) for index in range(len(self._parameters))]
            self._found = converters, unknown
        return self._found

    def _is_defined(self, name: str) -> bool:
        return name in getattr(self._function, "__globals__", {})

    def _make(self, index: int, unknown: set[str]) -> Converter | None:
        parameter = self._parameters[index]
        if parameter.annotation is parameter.empty:
            return None
        try:
            if self._function is not None:
                self._faults.pop(index, None)
                hint = resolve(parameter.annotation, self._function)
                self._hints[index] = Optional[hint] if parameter.default is None else hint  # noqa: UP045
            if index not in self._hints or is_plain(self._hints[index]):
                return None
            from .converters import Converter

            takes = f"{parameter.name}: {text_of(parameter.annotation)}"
            return Converter(self._hints[index], takes)
        except Exception as error:  # of msgspec, of the annotation's text, of a class: it runs code
            self._faults[index] = str(error).rstrip(".") or type(error).__name__
            if isinstance(error, ModuleNotFoundError) and error.name == "msgspec":
                self._faults[index] = f"msgspec is not installed: {_INSTALL}"
            if isinstance(error, NameError) and error.name and not self._is_defined(error.name):
                unknown.add(error.name)
            return None


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

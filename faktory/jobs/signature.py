"""The parameters of a job: the arguments of a call become the positions in a job's `args`.

Rules: wrong arguments are a TypeError where the job is pushed, in Python's own words, with the
parameters that the job has.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ..exceptions import FaktoryPayloadError
from ..proto import dump_json
from ..wire.validate import brief, clip, signature_of
from .arguments import Arguments, kind_of_leaf

MAX_SHOWN: Final = 500
"""Characters of a signature in a message."""


class Signature:
    """The parameters of a job's function.

    `typed` is False once it is known that no argument has to be converted.
    """

    typed = False
    _arguments: Arguments | None = None

    def __init__(
        self, function: Callable[..., object], jobtype: str = "", *, method: bool = False
    ) -> None:
        """Read them from `function`, with `method` those behind `self`.

        TypeError for a parameter that has no position. `jobtype` is for messages.
        """
        self._jobtype = jobtype
        self._signature = signature_of(function)
        parameters = list(self._signature.parameters.values())
        if method and not parameters:
            raise TypeError(f"{function.__qualname__} takes no self, so no instance can run it.")
        if method and parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
            parameters = parameters[1:]
            self._signature = self._signature.replace(parameters=parameters)
        for parameter in parameters:
            if parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD):
                raise TypeError(
                    f"{function.__qualname__} takes {parameter} by keyword only, and a job's "
                    "arguments are a list: make it positional, or take a dict."
                )
        positional = [p for p in parameters if p.kind is not p.VAR_POSITIONAL]
        self.least = sum(p.default is p.empty for p in positional)
        self.most = len(positional) if len(positional) == len(parameters) else None
        self._positional = [
            (None if p.kind is p.POSITIONAL_ONLY else p.name, p.default) for p in positional
        ]
        self._arguments = Arguments(function, parameters)
        self.typed = any(p.annotation is not p.empty for p in parameters)

    def bind(self, args: Sequence[object], kwargs: Mapping[str, object]) -> list[Any]:
        """Return the arguments as positions; TypeError where the function would not take them.

        Defaults fill the gaps between the given arguments only: the worker has its own.
        """
        positions = [*args]
        found = 0
        if kwargs:
            for name, default in self._positional[len(args) :]:
                if name is not None and name in kwargs:
                    positions.append(kwargs[name])
                    found += 1
                elif found == len(kwargs) or default is inspect.Parameter.empty:
                    break
                else:
                    positions.append(self._in_gap(name, default, len(positions)))
        if found < len(kwargs) or not self.fits(len(positions)):
            try:
                self._signature.bind(*args, **kwargs)  # raises, with the reason
            except TypeError as error:
                raise TypeError(f"{error}; the job is {self}") from None
        return positions

    def __str__(self) -> str:
        """Return what a call looks like: `resize(image: str, width: int = 200)`."""
        return show_call(self._jobtype, self._signature)

    def fits(self, count: int) -> bool:
        """Return whether the function takes that many positions."""
        return self.least <= count and (self.most is None or count <= self.most)

    def to_wire(self, args: Sequence[object]) -> list[Any]:
        """Return positions as plain JSON, by their annotations, if these are `typed`.

        FaktoryPayloadError, with the path, for a value of another type.
        """
        if self._arguments is None or not self._arguments.are_typed:
            self.typed = False
            return [*args]
        return self._arguments.to_wire(args)

    def from_wire(self, args: Sequence[object]) -> list[Any]:
        """Return what `to_wire` was given; FaktoryPayloadError, with the path, if that fails."""
        if self._arguments is None or not self._arguments.are_typed:
            self.typed = False
            return [*args]
        return self._arguments.from_wire(args)

    def explain(self, error: FaktoryPayloadError, args: object) -> FaktoryPayloadError | None:
        """Return an error about an argument that is not JSON with what else can be done."""
        for index, value in enumerate(args if isinstance(args, list | tuple) else ()):
            try:
                dump_json(value)
            except FaktoryPayloadError:
                remedy = self._remedy(index, value)
                return FaktoryPayloadError(f"{error} {remedy}") if remedy else None
        return None

    def _remedy(self, index: int, value: object) -> str:
        return "" if self._arguments is None else self._arguments.remedy(index, value)

    def _in_gap(self, name: str | None, default: object, index: int) -> object:
        """Return a parameter's default if a job can carry it."""
        try:
            if self.typed and self._arguments is not None:
                default = self._arguments.in_gap(index, default)
            dump_json(default)
        except FaktoryPayloadError:
            raise TypeError(
                f"the default of {name or 'a parameter'}, {clip(repr(default))}, is not a value "
                "that a job can carry: pass a value for it, too."
            ) from None
        return default


def check_call(
    error: TypeError, function: Callable[..., object], args: Sequence[object], jobtype: str
) -> None:
    """Raise TypeError, with the parameters, if a call of the function has failed for its arguments.

    Not for an error of the function itself.
    """
    trace = error.__traceback__
    if trace is None or trace.tb_next is not None:
        return
    try:
        signature = signature_of(function)
    except (TypeError, ValueError):  # written in C
        return
    try:
        signature.bind(*args)
    except TypeError:
        raise TypeError(f"{error}; the job is {show_call(jobtype, signature)}") from None


def show_call(jobtype: str, signature: inspect.Signature) -> str:
    """Return what a call looks like: `resize(image: str, width: int = 200)`."""
    shown = [
        each.replace(
            annotation=_shown_annotation(each.annotation), default=_shown_default(each.default)
        )
        for each in signature.parameters.values()
    ]
    return clip(f"{jobtype}{inspect.Signature(shown)}", MAX_SHOWN)


class _Shown(str):
    """Text that stands for what it names, in a signature that is shown."""

    __repr__ = str.__str__


def _shown_annotation(annotation: Any) -> Any:
    """Return an annotation that is shown without quotes where it is text, or names what is not."""
    if annotation is inspect.Parameter.empty or isinstance(annotation, type):
        return annotation
    text = getattr(annotation, "__forward_arg__", annotation)
    return _Shown(text) if isinstance(text, str) else annotation


def _shown_default(default: object) -> object:
    return default if default is inspect.Parameter.empty else _Shown(brief(default))


class AnyArguments(Signature):
    """The parameters of an external job that nobody described: any number, by position."""

    def __init__(self) -> None:
        self.least, self.most = 0, None

    def bind(self, args: Sequence[object], kwargs: Mapping[str, object]) -> list[Any]:
        """Return the positions; TypeError for keywords, whose positions are unknown."""
        if kwargs:
            raise TypeError(
                f"the position of {next(iter(kwargs))!r} is not known here. Pass the arguments by "
                "position, or give external() a signature."
            )
        return [*args]

    def fits(self, count: int) -> bool:  # noqa: ARG002
        """Accept any number of positions."""
        return True

    def _remedy(self, index: int, value: object) -> str:  # noqa: ARG002
        if kind_of_leaf(value) is None:
            return ""
        return "Or give external() a signature that annotates the parameter."

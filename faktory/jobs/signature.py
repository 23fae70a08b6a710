"""The parameters of a job: the arguments of a call become the positions in a job's `args`.

Rules: wrong arguments are a TypeError where the job is pushed, in Python's own words.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..exceptions import FaktoryPayloadError
from ..proto import dump_json
from ..wire.validate import clip


class Signature:
    """The parameters of a job's function."""

    def __init__(self, function: Callable[..., object], *, method: bool = False) -> None:
        """Read them from `function`, with `method` those behind `self`.

        TypeError for a parameter that has no position.
        """
        self._signature = inspect.signature(function)
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
                    positions.append(_in_gap(name, default))
        if found < len(kwargs) or not self.fits(len(positions)):
            self._signature.bind(*args, **kwargs)  # raises, with the reason
        return positions

    def fits(self, count: int) -> bool:
        """Return whether the function takes that many positions."""
        return self.least <= count and (self.most is None or count <= self.most)


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


def _in_gap(name: str | None, default: object) -> object:
    """Return a parameter's default if a job can carry it."""
    try:
        dump_json(default)
    except FaktoryPayloadError:
        raise TypeError(
            f"the default of {name or 'a parameter'}, {clip(repr(default))}, is not a value that a "
            "job can carry: pass a value for it, too."
        ) from None
    return default

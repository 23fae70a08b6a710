"""Checks of what is declared as a job, or put around one: errors with the remedy.

Rules: they are raised where it is declared. Rejected is a function that a worker could not run, or
would acknowledge without having run it. An async function is a job like any other; as a handler or
a middleware it is rejected, since nothing would await it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, Final

from ..client import Pool, Producer
from ..wire.validate import signature_of

_DEFERRED: Final = (
    (inspect.iscoroutinefunction, "an async function"),
    (inspect.isasyncgenfunction, "an async function"),
    (inspect.isgeneratorfunction, "a generator function"),
)


def deferred(function: object) -> str | None:
    """Return the kind of a callable whose call runs nothing yet; None for any other."""
    return next((kind for is_deferred, kind in _DEFERRED if _is(is_deferred, function)), None)


def _is(kind: Callable[[Any], bool], function: object) -> bool:
    return kind(function) or kind(getattr(type(function), "__call__", None))  # noqa: B004  an object's


def check_function(function: Any, name: str | None) -> Any:
    """Return the function that `@faktory.job` got; TypeError with the remedy if it is not a job."""
    if isinstance(function, type):
        raise TypeError(
            f"{function.__name__} is a class: make it a subclass of faktory.Job, which takes no "
            "decorator, with its options in faktory_options."
        )
    if isinstance(function, staticmethod):
        function = function.__func__
    if isinstance(function, classmethod) or _is_method(function):
        raise TypeError(
            f"{function.__qualname__} is a method, and a job has no object to call it on: declare "
            "a function, make it a @staticmethod, or make its class a subclass of faktory.Job."
        )
    if not callable(function):
        raise TypeError(
            f'{function!r} cannot be a job: options go by keyword, like @faktory.job(queue="mail").'
        )
    if not isinstance(getattr(function, "__qualname__", None), str):
        raise TypeError(
            f"{function!r} is not a function: declare one, by def, that calls it. "
            "Its name becomes the job type."
        )
    if name is None and function.__name__ == "<lambda>":
        raise TypeError('a lambda has no name to be the job type: faktory.job(name="...")(lambda).')
    check_no_generator(function)
    return function


def check_no_generator(function: Any) -> None:
    """Raise TypeError if a call of the function gives a generator: nothing loops over it."""
    for is_generator, what, loop in (
        (inspect.isgeneratorfunction, "a generator function", "a plain function that loops"),
        (
            inspect.isasyncgenfunction,
            "an async generator function",
            "an async function that loops by async for",
        ),
    ):
        if _is(is_generator, function):
            raise TypeError(
                f"{getattr(function, '__qualname__', function)} is {what}; a worker runs plain "
                f"ones, and async ones that return. Declare {loop} over it."
            )


def check_class(cls: type, perform: object) -> None:
    """Raise TypeError if a worker could not make an instance of a job class and run it."""
    if not callable(perform):
        raise TypeError(f"{cls.__name__}.perform is {perform!r}: it must be a method.")
    check_no_generator(perform)
    init = inspect.getattr_static(cls, "__init__")
    if inspect.isfunction(init):
        for parameter in list(signature_of(init).parameters.values())[1:]:
            variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if parameter.default is parameter.empty and not variadic:
                raise TypeError(
                    f"{cls.__name__}.__init__ needs {parameter.name!r}, and a worker makes an "
                    "instance for each job without arguments: give it a default."
                )


def meant_perform(cls: type) -> str:
    """Return a question, with a space before it, if a class may have a misspelt `perform`."""
    own = [name for name, value in vars(cls).items() if inspect.isroutine(value)]
    likely = get_close_matches("perform", own, 1, 0.7) or [name for name in own if name == "run"]
    return f" Did you mean perform, instead of {likely[0]}?" if likely else ""


def check_handler(handler: Any) -> Any:
    """Return the handler of an event; TypeError if it cannot be called, or runs nothing yet."""
    if not callable(handler):
        raise TypeError(f"{handler!r} is not callable: pass a function.")
    if what := deferred(handler):
        raise TypeError(f"{handler!r} is {what}, and nothing awaits it: pass a plain function.")
    return handler


def check_pool(pool: object, *, producer: bool = False) -> None:
    """Raise TypeError if this is not a pool of clients, or a producer where that is allowed."""
    if pool is not None and not isinstance(pool, (Pool, Producer) if producer else Pool):
        what = "a pool of clients or a Producer" if producer else "a pool of clients"
        raise TypeError(
            f"pool is of type {type(pool).__name__}: pass {what}, "
            'like faktory.Pool("tcp://other:7419").'
        )


def _is_method(function: object) -> bool:
    """Return whether a function is defined in a class and takes its instance."""
    around = getattr(function, "__qualname__", "").rpartition(".")[0]
    if not inspect.isfunction(function) or not around or around.endswith("<locals>"):
        return False
    first = next(iter(signature_of(function).parameters), None)
    return first in ("self", "cls")

"""What cannot be a job, and what to declare instead: said where it is declared.

Rules: refused is what a worker could not run, and what it would take for done without running it.
"""

from __future__ import annotations

import inspect
from typing import Any, Final

_DEFERRED: Final = (
    (inspect.iscoroutinefunction, "an async function"),
    (inspect.isasyncgenfunction, "an async function"),
    (inspect.isgeneratorfunction, "a generator function"),
)


def deferred(function: object) -> str | None:
    """Return what a callable is if a call of it runs nothing yet, else None."""
    for each in (function, getattr(type(function), "__call__", None)):  # noqa: B004  an object's
        for is_deferred, what in _DEFERRED:
            if is_deferred(each):
                return what
    return None


def check_function(function: Any, name: str | None) -> Any:
    """Return the function that `@faktory.job` got; TypeError with the remedy if it is no job."""
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
            f"{function!r} is no function: declare one, by def, that calls it. "
            "Its name becomes the job type."
        )
    if name is None and function.__name__ == "<lambda>":
        raise TypeError('a lambda has no name to be the job type: faktory.job(name="...")(lambda).')
    check_runs(function)
    return function


def check_runs(function: Any) -> None:
    """Raise TypeError if a call of the function runs nothing yet."""
    what = deferred(function)
    if what is not None:
        remedy = "calls asyncio.run(...)" if "async" in what else "loops over it"
        raise TypeError(
            f"{getattr(function, '__qualname__', function)} is {what}; a worker runs plain ones. "
            f"Declare a plain function that {remedy}."
        )


def check_class(cls: type, perform: object) -> None:
    """Raise TypeError if no worker could make an instance of a job class, and run it."""
    if not callable(perform):
        raise TypeError(f"{cls.__name__}.perform is {perform!r}: it must be a method.")
    check_runs(perform)
    init = inspect.getattr_static(cls, "__init__")
    if inspect.isfunction(init):
        for parameter in list(inspect.signature(init).parameters.values())[1:]:
            variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if parameter.default is parameter.empty and not variadic:
                raise TypeError(
                    f"{cls.__name__}.__init__ needs {parameter.name!r}, and a worker makes an "
                    "instance for each job without arguments: give it a default."
                )


def _is_method(function: object) -> bool:
    """Tell whether a function stands in a class and takes its object."""
    around = getattr(function, "__qualname__", "").rpartition(".")[0]
    if not inspect.isfunction(function) or not around or around.endswith("<locals>"):
        return False
    first = next(iter(inspect.signature(function).parameters), None)
    return first in ("self", "cls")

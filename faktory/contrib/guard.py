"""What watches jobs and pushes: nothing that it raises breaks one of them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_log: Final = logging.getLogger("faktory.contrib")


class Guard:
    """Calls functions; the first exception that one raises is logged, the others are not.

    Interrupts of a job (Shutdown, TimeLimitExceeded) pass through: their base is BaseException.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._logged = False

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Return what the function returns; None if it raises."""
        try:
            return function(*args, **kwargs)
        except Exception:
            if not self._logged:
                self._logged = True
                text = "%s raised; jobs and pushes go on, and this is not logged again"
                _log.exception(text, self._what)
            return None


End = Callable[[BaseException | None, object], None]
"""Called with what a push or a run has raised, or else with what it has returned."""


def around(call_next: Callable[[], object], end: End) -> object:
    """Continue as a middleware does, and call `end`; on an event loop when the push has ended."""
    try:
        result: Any = call_next()
    except BaseException as error:
        end(error, None)
        raise
    if hasattr(type(result), "__await__"):
        return _awaited(result, end)
    end(None, result)
    return result


async def _awaited(pushing: Awaitable[object], end: End) -> object:
    try:
        result = await pushing
    except BaseException as error:
        end(error, None)
        raise
    end(None, result)
    return result


def text_of(error: BaseException) -> str:
    """Return an error as its class and its text, as FAIL reports them."""
    report: Any = getattr(error, "report", None)  # of an error from another process
    if isinstance(report, tuple):
        return f"{report[0]}: {report[1]}"
    return f"{type(error).__qualname__}: {error}"


def class_of(error: BaseException) -> str:
    """Return the full name of an error's class; of one from another process the name alone."""
    report: Any = getattr(error, "report", None)
    return str(report[0]) if isinstance(report, tuple) else full_name(type(error))


def full_name(kind: type) -> str:
    """Return the name of a class, with that of its module unless it is built in."""
    name = kind.__qualname__
    return name if kind.__module__ == "builtins" else f"{kind.__module__}.{name}"

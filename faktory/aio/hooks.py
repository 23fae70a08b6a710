"""What runs on the loop of a worker's async jobs before the first of them, and after the last.

Rules: hooks are for all workers of the process. Those of the end are called in reverse, as the
handlers of `faktory.on("shutdown")` are.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from ..wire.validate import is_async, signature_of

Hook = Callable[[], Coroutine[Any, Any, object]]
"""An async function without arguments."""

H = TypeVar("H", bound=Hook)

_startup: Final[list[Hook]] = []
_shutdown: Final[list[Hook]] = []


def on_startup(hook: H) -> H:
    """Have an async function without arguments run before the first async job; return it.

    It runs on the loop of the async jobs, which starts with the first of them: what it makes, an
    engine or a session, they all can use. The job waits for it. What it raises is logged, and the
    jobs run all the same.
    """
    _startup.append(_checked("on_startup", "startup", hook))
    return hook


def on_shutdown(hook: H) -> H:
    """Have an async function without arguments run when the worker has stopped; return it.

    It runs on the loop of the async jobs, after the last of them and before the loop closes; not
    if there was none. It has what is left of the grace period, and 3 s at least; then it is
    cancelled. What it raises is logged.
    """
    _shutdown.append(_checked("on_shutdown", "shutdown", hook))
    return hook


def hooks_of_startup() -> list[Hook]:
    """Return the hooks of the loop's beginning, as they are called."""
    return _startup.copy()


def hooks_of_shutdown() -> list[Hook]:
    """Return the hooks of the loop's end, as they are called."""
    return _shutdown[::-1]


def _checked(name: str, event: str, hook: Any) -> Hook:
    if not is_async(hook):
        raise TypeError(
            f"{name} got {hook!r}: pass an async function. A plain one goes to "
            f"faktory.on({event!r}, ...)."
        )
    try:
        signature_of(hook).bind()
    except TypeError as error:
        raise TypeError(f"{name} calls {hook!r} without arguments: {error}.") from None
    return hook  # type: ignore[no-any-return]

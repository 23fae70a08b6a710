"""Handlers of events: a worker starts, gets quiet, stops, or a job fails its last attempt.

Rules: a handler that raises is logged, and the worker goes on. Handlers of a beginning are called
in their order, those of an end in reverse. They are for one worker, or for all workers of the
process (`faktory.on`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, Final, Literal, TypeVar

from ..jobs.validation import check_handler
from ..wire.log import Log

Event = Literal["startup", "quiet", "shutdown", "exhausted"]
H = TypeVar("H", bound=Callable[..., Any])

ErrorHandler = Callable[[BaseException, dict[str, Any]], object]
"""Called with what a job raised, and {"context": "Job raised exception", "job": its payload}."""

_EVENTS: Final = ("startup", "quiet", "shutdown", "exhausted")
_REVERSED: Final = ("quiet", "shutdown")


class Events:
    """Handlers, by event."""

    def __init__(self, outer: Events | None = None) -> None:
        self._outer = outer
        self.error_handlers: list[ErrorHandler] = []
        """Called in the job's thread with each error, before it is reported."""
        self._handlers: list[tuple[str, Callable[..., Any]]] = []

    def on(self, event: Event, handler: H) -> H:
        """Have `handler` called on an event; return it.

        "startup", before jobs are fetched, "quiet", when no more are, and "shutdown" call it
        without arguments: in the main thread if `run` was called there, else in a thread of its
        own. One that goes on when the grace period is over is cut short by Shutdown. "exhausted"
        calls it in the job's thread with the job (as `current_job()` returns it) and its
        exception, before the failure of its last attempt is reported, or of one that buries it.
        """
        if event not in _EVENTS:
            close = get_close_matches(str(event), _EVENTS, 1) or _EVENTS
            raise ValueError(f"there is no event {event!r}: is it {' or '.join(close)}?")
        self._handlers.append((event, check_handler(handler)))
        return handler

    def fire(
        self,
        log: logging.Logger,
        event: Event,
        *args: object,
        own: Sequence[Callable[..., Any]] = (),
    ) -> None:
        """Call the handlers of an event, those of the process first, then the job's `own`."""
        for handler in [*self.handlers(event), *own]:
            try:
                handler(*args)
            except BaseException:  # sys.exit() too
                Log(log).exception("a handler of '%s' raised: %s", event, handler)

    def report(self, log: logging.Logger, error: BaseException, job: dict[str, Any]) -> None:
        """Call the error handlers for what a job raised, those of the process first."""
        outer = [] if self._outer is None else self._outer.error_handlers
        for handler in [*outer, *self.error_handlers]:
            try:
                handler(error, {"context": "Job raised exception", "job": job})
            except BaseException:
                Log(log).exception("an error handler raised: %s", handler)

    def handlers(self, event: Event) -> list[Callable[..., Any]]:
        """Return the handlers of an event as they are called, in that order."""
        handlers = self._of(event)
        return handlers[::-1] if event in _REVERSED else handlers

    def _of(self, event: Event) -> list[Callable[..., Any]]:
        outer = [] if self._outer is None else self._outer._of(event)
        return outer + [handler for name, handler in self._handlers if name == event]


of_process: Final = Events()
on = of_process.on
error_handlers = of_process.error_handlers

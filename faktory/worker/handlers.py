"""The calls of the handlers of "startup", "quiet" and "shutdown", which may block.

Rules: whatever a handler does, the worker is managed meanwhile, and stops in its time. In the main
thread handlers are called there, since they may need it, and another thread manages; elsewhere it
is the other way round. When the grace period is over, a handler is cut short. One that does not
end even then is left to its thread: `run` returns all the same, unless that is the main thread.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext, suppress
from threading import Event as Flag
from threading import Lock, Thread, current_thread, main_thread
from time import monotonic
from typing import Final

from ..exceptions import Shutdown
from ..wire.log import Log
from .events import Event, Events
from .interrupts import raise_in, release_locks
from .signals import main_call, noticed
from .stacks import stack

CUT_INTERVAL: Final = 0.05
"""Seconds between two attempts to cut a handler short."""


def _name(handler: Callable[[], object]) -> object:
    """Return where a function is defined, and its name; anything else as it is."""
    name = getattr(handler, "__qualname__", None)
    return f"{handler.__module__}.{name}" if isinstance(name, str) else handler


class HandlerCalls:
    """Calls the handlers of one worker; `fire` and `end` are for the thread that manages it.

    `manage` has the worker managed until a condition is true; `wake` makes it look at that.
    `grace` is for the handlers that are left when the grace period is over, and once more for one
    that does not let itself be cut short.
    """

    def __init__(
        self,
        events: Events,
        log: logging.Logger,
        manage: Callable[[Callable[[], bool]], None],
        wake: Callable[[], None],
        grace: float,
    ) -> None:
        self.on_stuck: Callable[[], None] | None = None
        """Called when all else has ended, and a handler in the main thread has not."""
        self._events = events
        self._log = Log(log)
        self._manage = manage
        self._wake = wake
        self._grace = grace
        self._lock = Lock()
        self._due: deque[Event] = deque()
        self._firing = False
        self._over = Flag()
        self._over.set()
        self._thread: Thread = main_thread()
        self._current = ""
        self._count = 0
        """How many handlers have been called: which one is running."""
        self._skipping = False
        self._error: BaseException | None = None

    def fire(self, *events: Event) -> None:
        """Have the handlers of these events called, and the worker managed until they have ended.

        While handlers are called, this only adds theirs.
        """
        with self._lock:
            self._due += [event for event in events if self._events.handlers(event)]
            if self._firing or not self._due:
                return
            self._firing = True
        while self._firing:
            self._over.clear()
            self._call_and_manage()
            if self._error is not None:
                raise self._error
            with self._lock:
                self._firing = bool(self._due) or not self._over.is_set()
            if not self._over.is_set():  # one does not end
                return

    def _call_and_manage(self) -> None:
        in_main = current_thread() is main_thread()
        other = Thread(
            target=self._manage_meanwhile if in_main else self._call_all,
            name=f"faktory-{'manager' if in_main else 'handlers'}",
            daemon=True,
        )
        self._thread = main_thread() if in_main else other
        try:
            other.start()
        except RuntimeError:  # the system has no more threads
            self._call_all()
            return
        if in_main:
            with noticed():
                self._call_all()
            other.join()
        else:
            self._manage_meanwhile()

    def end(self) -> None:
        """Cut the handlers short: the grace period is over."""
        if not self._over.is_set():
            with suppress(RuntimeError):  # the system has no more threads
                Thread(target=self._cut, name="faktory-cut", daemon=True).start()

    def _call_all(self) -> None:
        try:
            while (event := self._next()) is not None:
                for handler in self._events.handlers(event):
                    self._call(event, handler)
        except Shutdown:  # it came too late
            pass
        finally:
            self._over.set()
            self._wake()

    def _next(self) -> Event | None:
        with self._lock:
            return self._due.popleft() if self._due else None

    def _call(self, event: Event, handler: Callable[[], object]) -> None:
        if self._skipping:
            text = "a handler of '%s' is not called, since the grace period is over: %s"
            own = getattr(handler, "__module__", "").startswith("faktory.")
            self._log.log(logging.DEBUG if own else logging.ERROR, text, event, _name(handler))
            return
        self._current = f"a handler of {event!r}"
        self._count += 1
        try:
            with main_call.running() if self._thread is main_thread() else nullcontext():
                handler()
        except Shutdown:
            release_locks()
            text = "%s did not end within the grace period, and was cut short: %s"
            self._log.error(text, self._current, _name(handler))
        except BaseException:  # sys.exit() too
            self._log.exception("%s raised: %s", self._current, handler)

    def _cut(self) -> None:
        now = monotonic()
        skip_at, give_up_at = now + self._grace, now + 2 * self._grace
        cut_at, count = now, self._count
        while now < give_up_at:
            self._skipping = now >= skip_at
            if self._count != count:
                cut_at, count = now + self._grace / 2, self._count
            if now >= min(cut_at, skip_at):
                if self._thread is main_thread():
                    main_call.cut(Shutdown)
                else:
                    raise_in(self._thread.ident or 0, Shutdown)
            if self._over.wait(CUT_INTERVAL):
                return
            now = monotonic()

    def _manage_meanwhile(self) -> None:
        try:
            self._manage(self._over.is_set)
        except BaseException as error:
            self._error = error
        if self._over.wait(2 * self._grace + CUT_INTERVAL):
            return
        text = "%s does not end, and cannot be cut short; it stands at:\n%s"
        self._log.error(text, self._current, stack(self._thread))
        if self.on_stuck is not None and self._thread is main_thread():
            self.on_stuck()

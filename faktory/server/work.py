"""Work that another thread has asked for, in the server's thread, in slices like a long command.

Rule: the result is there after the commit of what the work, and all before it, has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, Generic, TypeVar

from .clock import monotonic
from .slices import SLICE, Steps, finish
from .state import ServerState

T = TypeVar("T")


class Work(Generic[T]):
    """Steps that `function` makes of the state; `future` gets what they return, or raise."""

    def __init__(self, state: ServerState, function: Callable[[ServerState], Steps[T]]) -> None:
        self._state = state
        self._function = function
        self._steps: Steps[T]
        self.future: Future[T] = Future()

    def begin(self) -> None:
        """Begin, in the loop's thread; what does not end at once goes on in the loop's turns."""
        if self.future.done() or self._fails():
            return
        try:
            self._steps = self._function(self._state)
        except Exception as error:
            self.fail(error)
            return
        self._state.long_commands += 1
        self._go_on()

    def do(self) -> None:
        """Do all of it now: there is no loop."""
        if self.future.done():
            return
        try:
            value = finish(self._function(self._state))
        except BaseException as error:
            self.fail(error)
        else:
            self._succeed(value)

    def fail(self, error: BaseException) -> None:
        """End with an error, unless it has ended."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)

    def _succeed(self, value: T) -> None:
        with suppress(InvalidStateError):
            self.future.set_result(value)

    def _fails(self) -> bool:
        """End with an error if the file has failed: the jobs in memory are ahead of it."""
        failure = self._state.failure
        if failure is None:
            return False
        error = RuntimeError(str(failure))
        error.__cause__ = failure
        self.fail(error)
        return True

    def _go_on(self) -> None:
        state = self._state
        end = monotonic() + SLICE / state.long_commands
        try:
            if self.future.done() or self._fails():
                self._steps.close()
                self._leave()
                return
            while True:
                next(self._steps)
                if monotonic() > end:
                    state.loop.call_soon(self._go_on)
                    state.schedule()
                    return
        except StopIteration as done:
            self._end(self._succeed, done.value)
        except BaseException as error:
            self._end(self.fail, error)

    def _end(self, end: Callable[[Any], None], result: Any) -> None:
        self._leave()

        def settle() -> None:
            if not self._fails():
                end(result)

        self._state.after_commit(settle)

    def _leave(self) -> None:
        self._state.long_commands -= 1
        self._state.schedule()

"""Which mode the process is in: the real thing, fake or inline.

The mode is the process's, as in the Ruby client: all threads see it, those that run already, too.
Each of `fake`, `inline` and `disable` switches at once; used in a `with` statement it also
switches back to what was before.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Generic, TypeVar

from ..client import network
from .memory import MemoryServer

M = TypeVar("M", bound=MemoryServer | None)


class Switched(Generic[M]):
    """A mode that was switched to; leaving the `with` block switches back."""

    def __init__(self, memory: M) -> None:
        self._memory = memory
        self._before = network.current
        self.__enter__()

    def __enter__(self) -> M:
        network.use(network.SOCKETS if self._memory is None else self._memory)
        return self._memory

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        network.use(self._before)


def fake(*, middleware: bool = False) -> Switched[MemoryServer]:
    """Keep what is pushed, to be looked at and run by the test; no socket is opened.

    With `middleware`, jobs run inside `faktory.worker_middleware`.
    """
    return Switched(MemoryServer(middleware=middleware))


def inline(*, middleware: bool = False) -> Switched[MemoryServer]:
    """Run each job at once where it is pushed, scheduled ones too; what it raises comes out.

    With `middleware`, jobs run inside `faktory.worker_middleware`.
    """
    return Switched(MemoryServer(inline=True, middleware=middleware))


def disable() -> Switched[None]:
    """Talk to the server, whatever mode was on."""
    return Switched(None)


def clear_all() -> None:
    """Forget all jobs that wait in the test mode that is on."""
    network.memory().clear()


def drain_all() -> int:
    """Run all jobs that wait, and those that they push; see `MemoryServer.drain`."""
    return network.memory().drain()


def look_up(name: str) -> Any:
    """Return what `faktory.testing` shows of the mode that is on: jobs, queues or mode."""
    if name == "mode":
        on = network.current
        return ("inline" if on.inline else "fake") if isinstance(on, MemoryServer) else None
    return getattr(network.memory(), name)

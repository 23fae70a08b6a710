"""The test mode of the process: fake, inline or none.

As in the Ruby client all threads of the process share it, threads that already run included.
`fake`, `inline` and `disable` switch at once; the end of a `with` block restores the mode before,
and drops the default pool if it was made inside: what comes next may push to another address.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Generic, TypeVar

from ..client import defaults, network
from .memory import MemoryServer

M = TypeVar("M", bound=MemoryServer | None)


class Switched(Generic[M]):
    """The mode that was switched to; the end of a `with` block restores the one before."""

    def __init__(self, memory: M) -> None:
        self._memory = memory
        self._before = network.current
        self._use()

    def __enter__(self) -> M:
        self._use()
        self._pool = defaults.kept()
        self._pool.__enter__()
        return self._memory

    def _use(self) -> None:
        network.use(network.SOCKETS if self._memory is None else self._memory)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        network.use(self._before)
        self._pool.__exit__(None, None, None)


def fake(*, middleware: bool = False) -> Switched[MemoryServer]:
    """Keep pushed jobs for the test to look at and to run; no socket is opened.

    With `middleware`, jobs run inside `faktory.worker_middleware`.
    """
    return Switched(MemoryServer(middleware=middleware))


def inline(*, middleware: bool = False) -> Switched[MemoryServer]:
    """Run each job at once where it is pushed, scheduled ones, too; its exception comes out.

    With `middleware`, jobs run inside `faktory.worker_middleware`.
    """
    return Switched(MemoryServer(inline=True, middleware=middleware))


def disable() -> Switched[None]:
    """Push to the server, without a test mode."""
    return Switched(None)


def clear_all() -> None:
    """Forget all waiting jobs of the active test mode."""
    network.memory().clear()


def drain_all() -> int:
    """Run all waiting jobs, and those that they push; see `MemoryServer.drain`."""
    return network.memory().drain()


def look_up(name: str) -> Any:
    """Return what `faktory.testing` shows of the active test mode: jobs, queues or mode."""
    if name == "mode":
        on = network.current
        return ("inline" if on.inline else "fake") if isinstance(on, MemoryServer) else None
    return getattr(network.memory(), name)

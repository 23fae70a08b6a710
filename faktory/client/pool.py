"""Clients lent to threads.

Rules: the client that came back last goes out first, so that as few as possible stay busy. A
forked child starts with an empty pool of its own and leaves the parent's connections alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Semaphore

from ..exceptions import FaktoryTimeout
from ..wire.payload import seconds
from . import fork
from .client import Client


class Pool:
    """Up to `size` clients, made by `make` when first needed, each lent to one thread at a time.

    `timeout` is the seconds to wait for one to come back; FaktoryTimeout after that.
    """

    def __init__(
        self,
        make: Callable[[], Client] = Client,
        *,
        size: int = 20,
        timeout: float | timedelta = 5.0,
    ) -> None:
        if size < 1:
            raise ValueError(f"the pool's size is {size}: it must be 1 or more.")
        self.size = size
        self.timeout = seconds("timeout", timeout)
        self._make = make
        self._closed = False
        self.start_anew()
        fork.starts_anew(self)

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Lend a client for a `with` block; from a closed pool, one for this block alone."""
        free, idle = self._free, self._idle
        if not free.acquire(timeout=self.timeout):
            raise FaktoryTimeout(
                f"none of the pool's {self.size} clients came back within {self.timeout:g} s. "
                "Make the pool larger (pool_size), or keep clients for a shorter time."
            )
        try:
            try:
                client = idle.pop()
            except IndexError:
                client = self._make()
            try:
                yield client
            finally:
                idle.append(client)
                if self._closed or idle is not self._idle:
                    _disconnect(idle)
        finally:
            if free is self._free:  # else this is a child now, and that was its parent's
                free.release()

    def close(self) -> None:
        """Disconnect the clients, those that are lent when they come back."""
        self._closed = True
        _disconnect(self._idle)

    def start_anew(self) -> None:
        """Start with no clients: for `fork`, in the child."""
        self._free = Semaphore(self.size)
        self._idle: list[Client] = []


def _disconnect(idle: list[Client]) -> None:
    """Disconnect clients, while others may put some back or take some out."""
    with suppress(IndexError):
        while True:
            idle.pop().close()

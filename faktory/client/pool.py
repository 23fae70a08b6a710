"""Clients lent to threads.

Rules: the client that came back last goes out first, so that as few as possible stay busy. After
a fork the child starts with an empty pool of its own and leaves the parent's connections alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Semaphore

from ..exceptions import FaktoryTimeout
from .client import Client


class Pool:
    """Up to `size` clients, made by `make` when first needed, each lent to one thread at a time.

    `timeout` is the seconds to wait for one to come back; FaktoryTimeout after that.
    """

    def __init__(
        self, make: Callable[[], Client] = Client, *, size: int = 20, timeout: float = 5.0
    ) -> None:
        if size < 1:
            raise ValueError(f"the pool's size is {size}: it must be 1 or more.")
        self.size = size
        self.timeout = timeout
        self._make = make
        self._closed = False
        self._start_empty()

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Lend a client for a `with` block."""
        if self._pid != os.getpid():
            self._start_empty()
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
                if self._closed:
                    client.close()
                else:
                    idle.append(client)
        finally:
            free.release()

    def close(self) -> None:
        """Disconnect the clients, those that are lent when they come back."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def _start_empty(self) -> None:
        self._pid = os.getpid()
        self._free = Semaphore(self.size)
        self._idle: list[Client] = []

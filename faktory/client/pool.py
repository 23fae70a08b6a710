"""Clients that threads acquire and release.

Rules: the client that was released last is acquired first, so that few connections are in use; the
thread that waits longest is served first. A forked child starts with an empty pool and leaves the
parent's connections alone.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta

from ..exceptions import FaktoryTimeout
from ..wire.validate import check_timeout
from . import fork, network, settings
from .client import Client
from .factory import client_factory, shown_factory


def check_size(size: int) -> int:
    """Return a valid size of a pool; ValueError for any other."""
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ValueError(f"the pool's size is {size!r}: it must be a whole number of 1 or more.")
    return size


class Pool:
    """Up to `size` clients, made when first needed, each used by one thread at a time.

    Args:
        make: The server's address, or a function that makes a client; without it the clients are
            those of `faktory.configure`, also after it was called again.
        size: How many clients there are at most.
        timeout: Seconds to wait for a client to be released; FaktoryTimeout after that.
    """

    _process: object
    _lock = fork.AtFirstUse(lambda: threading.RLock())  # a signal handler may push, too
    _idle: list[Client]

    def __init__(
        self,
        make: str | Callable[[], Client] = Client,
        *,
        size: int = 20,
        timeout: float | timedelta = 5.0,
    ) -> None:
        self.size = check_size(size)
        self.timeout = check_timeout("timeout", timeout)
        self._make = client_factory(make)
        self._configured = make is Client
        self._settings = settings.current
        self._closed = False
        self.reset_after_fork()
        fork.register(self)

    def __repr__(self) -> str:
        used = self._made - len(self._idle)
        state = "closed" if self._closed else f"{used} of {self.size} clients in use"
        return f"<faktory.Pool {shown_factory(self._make)}, {state}>"

    def client(self) -> AbstractContextManager[Client]:
        """Acquire a client for a `with` block; a closed pool makes one for this block alone."""
        return _Acquired(self)

    def close(self) -> None:
        """Disconnect the clients, those in use when they are released."""
        self._closed = True
        self._disconnect_idle()

    def reset_after_fork(self) -> None:
        """Start with no clients: for `fork`, in the child."""
        self._process = object()
        vars(self).pop("_lock", None)
        self._made = 0  # clients that exist, in use or idle
        self._idle = []
        self._waiters: deque[queue.SimpleQueue[Client | None]] = deque()

    def _disconnect_idle(self) -> None:
        with self._lock:
            idle = self._idle.copy()
            self._idle.clear()
            self._made -= len(idle)
        for client in idle:
            client.close()

    def _follow_settings(self) -> None:
        """Disconnect the clients that `configure` has made outdated."""
        self._settings = settings.current
        if self._configured:
            self._disconnect_idle()

    def _is_outdated(self, client: Client | None) -> bool:
        if client is None or not self._configured:
            return False
        return client._settings is not settings.current

    def _acquire(self) -> Client:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            waiter: queue.SimpleQueue[Client | None] = queue.SimpleQueue()
            if self._made < self.size:
                self._made += 1
                waiter.put(None)
            else:
                self._waiters.append(waiter)
        return self._wait(waiter) or self._make_one()

    def _wait(self, waiter: queue.SimpleQueue[Client | None]) -> Client | None:
        """Wait for a client, or for None: permission to make one."""
        try:
            return waiter.get(timeout=self.timeout)
        except queue.Empty:
            with self._lock:
                if waiter in self._waiters:  # else something was released at the last moment
                    self._waiters.remove(waiter)
                    raise FaktoryTimeout(
                        f"none of the pool's {self.size} clients was released within "
                        f"{self.timeout:g} s. Make the pool larger (pool_size), or keep clients "
                        "for a shorter time."
                    ) from None
            return waiter.get()
        except BaseException:  # an interrupt: this thread waits no more
            with self._lock:
                waits = waiter in self._waiters
                if waits:
                    self._waiters.remove(waiter)
            if not waits:
                try:
                    self._release(waiter.get_nowait())
                except queue.Empty:  # interrupted behind `get`, which had a client or None
                    self._release(None)
            raise

    def _make_one(self) -> Client:
        try:
            return self._make()
        except BaseException:
            self._release(None)
            raise

    def _release(self, client: Client | None) -> None:
        """Pass a client, or None, to the thread that waits longest; else keep it."""
        with self._lock:
            kept = None if self._closed or self._is_outdated(client) else client
            if self._waiters:
                self._waiters.popleft().put(kept)
            elif kept is not None:
                self._idle.append(kept)
            else:
                self._made -= 1
        if client is not None and kept is None:
            client.close()


class _Acquired:
    """A client of a pool for a `with` block. A generator would take three times as long."""

    __slots__ = ("_client", "_pool", "_process")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def __enter__(self) -> Client:
        pool = self._pool
        if network.current.in_process:  # jobs may nest deeper than the pool is large
            self._process: object = None
            self._client = pool._make()
        else:
            if pool._settings is not settings.current:
                pool._follow_settings()
            self._process = pool._process
            self._client = pool._acquire()
        return self._client

    def __exit__(self, *_: object) -> None:
        if self._process is self._pool._process:
            self._pool._release(self._client)
        else:
            # Made for this block (the test mode may have ended meanwhile), or forked in it: the
            # client counts in the parent's pool.
            self._client.close()

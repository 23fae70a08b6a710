"""Clients lent to threads.

Rules: the client that came back last goes out first, so that as few as possible stay busy; who
waits longest is served first, so that nobody starves. A forked child starts with an empty pool of
its own and leaves the parent's connections alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from queue import Empty, SimpleQueue
from threading import RLock

from ..exceptions import FaktoryTimeout
from ..wire.validate import check_timeout
from . import fork, network
from .client import Client, maker


def check_size(size: int) -> int:
    """Return the size of a pool if it can be one, else raise ValueError."""
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ValueError(f"the pool's size is {size!r}: it must be a whole number of 1 or more.")
    return size


class Pool:
    """Up to `size` clients, made when first needed, each lent to one thread at a time.

    `make` is the server's address, or what makes a client. `timeout` is the seconds to wait for one
    to come back; FaktoryTimeout after that.
    """

    _life: object
    _lock: RLock  # a signal handler may push, too
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
        self._make = maker(make)
        self._closed = False
        self.reset_after_fork()
        fork.register(self)

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Lend a client for a `with` block; from a closed pool, one for this block alone."""
        if network.current.in_process:  # jobs may nest deeper than the pool is large
            client = self._make()
            try:
                yield client
            finally:
                client.close()  # the test mode may have ended meanwhile
            return
        life = self._life
        client = self._take()
        try:
            yield client
        finally:
            if life is self._life:
                self._give_back(client)
            else:  # this is a child now, and the client counts in its parent's pool
                client.close()

    def close(self) -> None:
        """Disconnect the clients, those that are lent when they come back."""
        with self._lock:
            self._closed = True
            idle = self._idle.copy()
            self._idle.clear()
            self._made -= len(idle)
        for client in idle:
            client.close()

    def reset_after_fork(self) -> None:
        """Start with no clients: for `fork`, in the child."""
        self._life = object()
        self._lock = RLock()
        self._made = 0  # clients that there are, lent or idle
        self._idle = []
        self._queue: deque[SimpleQueue[Client | None]] = deque()

    def _take(self) -> Client:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            place: SimpleQueue[Client | None] = SimpleQueue()
            if self._made < self.size:
                self._made += 1
                place.put(None)
            else:
                self._queue.append(place)
        return self._wait_at(place) or self._make_one()

    def _wait_at(self, place: SimpleQueue[Client | None]) -> Client | None:
        """Wait for a client, or for None: the room for a new one."""
        try:
            return place.get(timeout=self.timeout)
        except Empty:
            with self._lock:
                if place in self._queue:  # else something has come at the last moment
                    self._queue.remove(place)
                    raise FaktoryTimeout(
                        f"none of the pool's {self.size} clients came back within "
                        f"{self.timeout:g} s. Make the pool larger (pool_size), or keep clients "
                        "for a shorter time."
                    ) from None
            return place.get()
        except BaseException:  # an interrupt: nobody waits at this place any more
            with self._lock:
                waits = place in self._queue
                if waits:
                    self._queue.remove(place)
            if not waits:
                try:
                    self._give_back(place.get_nowait())
                except Empty:  # it came, and the interrupt before anybody had it
                    self._give_back(None)
            raise

    def _make_one(self) -> Client:
        try:
            return self._make()
        except BaseException:
            self._give_back(None)
            raise

    def _give_back(self, client: Client | None) -> None:
        """Give a client, or the room for one, to who waits longest; else keep it."""
        with self._lock:
            kept = None if self._closed else client
            if self._queue:
                self._queue.popleft().put(kept)
            elif kept is not None:
                self._idle.append(kept)
            else:
                self._made -= 1
        if client is not None and kept is None:
            client.close()

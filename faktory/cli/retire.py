"""A worker that ends by itself: after so many jobs, or since its parent wants that.

Rules: what runs has all the time that it was promised, which is its reservation; then the worker
stops as it would at any other time. A TERM meanwhile cuts that short.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from threading import Event, Lock, Thread
from typing import Any, Final

from ..jobs.middleware import worker_middleware
from ..worker import Worker
from ..worker.jobthread import JobThread

# What goes through the channel between a worker and its parent. To the parent:
READY: Final = b"r"
# To the worker; an end of file is the end of its parent:
QUIET: Final = b"q"
RETIRE: Final = b"e"
STOP: Final = b"s"
NOW: Final = b"n"

LOOK_EVERY: Final = 0.5
"""Seconds between two looks whether a job that goes on has outlived its reservation."""


def retire(worker: Worker) -> None:
    """Let a worker end when what runs has finished. From any thread, at once."""
    worker.quiet()
    Thread(target=_stop_later, args=(worker,), name="faktory-retire", daemon=True).start()


def _stop_later(worker: Worker) -> None:
    for thread in threading.enumerate():
        if isinstance(thread, JobThread):
            while thread.is_alive() and not thread.slot.disowned:
                thread.join(LOOK_EVERY)
    worker.stop()


class Quota:
    """Retires a worker when `limit` jobs have ended, done or failed."""

    def __init__(self, worker: Worker, limit: int) -> None:
        self._worker = worker
        self._limit = limit
        self._ended = 0
        self._lock = Lock()
        self._quiet = Event()
        worker.on("quiet", self._quiet.set)
        worker_middleware.prepend(self._count)

    @property
    def is_used_up(self) -> bool:
        """Whether so many jobs have ended."""
        return self._ended >= self._limit

    def _count(self, job: object, payload: object, call_next: Callable[[], Any]) -> Any:  # noqa: ARG002
        try:
            return call_next()
        finally:
            with self._lock:
                self._ended += 1
                last = self._ended == self._limit
            if last:
                retire(self._worker)
            if self.is_used_up:
                self._quiet.wait(1)  # or this thread would fetch one more


def attach(worker: Worker, channel: socket.socket) -> None:
    """Tell the parent when the worker is ready, and do what it says from then on."""

    def begin() -> None:
        # TERM may come twice, from the parent and from who stops the whole group, and means the
        # same each time. INT is for the parent to pass on.
        signal.signal(signal.SIGTERM, lambda *_: worker.stop())
        signal.signal(signal.SIGINT, lambda *_: None)
        Thread(target=_obey, args=(worker, channel), name="faktory-parent", daemon=True).start()
        try:
            channel.send(READY)
        except OSError:  # no parent any more: `_obey` sees it
            return

    worker.on("startup", begin)


def _obey(worker: Worker, channel: socket.socket) -> None:
    while True:
        try:
            word = channel.recv(1)
        except OSError:
            word = b""
        if word == QUIET:
            worker.quiet()
        elif word == RETIRE:
            retire(worker)
        elif word == STOP:
            worker.stop()
        elif word == NOW:
            worker.disconnect(force=True)
        elif not word:
            worker.log.warning("the parent of this worker is gone, so it stops")
            worker.stop()
            return

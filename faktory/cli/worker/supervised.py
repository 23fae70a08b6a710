"""A worker's side of its supervisor, and `--max-jobs` and `--max-memory`: it finishes and ends.

Rules: a worker that finishes gives its running jobs all the time that they were promised, which is
their reservation; then it stops as at any other time. A TERM meanwhile cuts that short.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Lock, Thread
from typing import Any, Final, NamedTuple
from weakref import WeakSet

from ...jobs.middleware import worker_middleware
from ...wire.log import Log
from ...worker import Worker
from ...worker.backends.supervisor import RunningJobs
from ...worker.heartbeat import rss_kb
from ...worker.processor import Processor
from ...worker.signals import do_nothing
from ...worker.texts import ENDS
from ..exits import UsageError

# Words through the channel. To the supervisor, a line each, the first one with a `Ready`:
READY: Final = b"r"
QUIET: Final = b"q"  # it is quiet, because the server says so or a signal to it alone
DRAINED: Final = b"x"  # it ends because there is nothing left to do (--burst)
# To the worker, QUIET, too; an end of file means that its supervisor is gone:
FINISH: Final = b"e"
STOP: Final = b"s"
STOP_NOW: Final = b"n"
QUIT: Final = b"d"

CHECK_INTERVAL: Final = 0.5
"""Seconds between two checks whether a job that goes on is overdue."""


class Ready(NamedTuple):
    """What a supervisor, which never imports the program, must know to report a worker's jobs."""

    worker_id: str = ""
    url: str = ""
    """The address, perhaps one of `faktory.configure`; it has the password."""
    has_context: bool = False
    """Whether there is an ssl_context, which only the program can make."""

    @classmethod
    def of(cls, worker: Worker) -> Ready:
        """Return that of a worker."""
        has_context = worker._own_client.ssl_context is not None
        return cls(worker.worker_id, worker.faktory.url, has_context)

    @classmethod
    def read(cls, line: bytes) -> Ready:
        """Return the one that a worker has sent; one without an id if it cannot be read."""
        try:
            ready = cls(*json.loads(line[len(READY) :]))
        except (ValueError, TypeError, RecursionError):  # cut, or of a job that writes anywhere
            return cls()
        return ready if list(map(type, ready)) == [str, str, bool] else cls()

    def line(self) -> bytes:
        """Return what `read` takes, with its end."""
        return READY + json.dumps(self).encode() + b"\n"


_finishing: Final[WeakSet[Worker]] = WeakSet()
"""Workers that are quiet because they finish."""


def attach(worker: Worker, number: int, jobs: RunningJobs, channel: socket.socket) -> None:
    """Notify the supervisor when the worker is ready, and do what it says from then on."""

    def begin() -> None:
        # What has come up to now holds before the first FETCH.
        _obey(worker, channel, socket.MSG_DONTWAIT)
        Thread(target=_obey, args=(worker, channel), name="faktory-supervised", daemon=True).start()
        with suppress(OSError):  # the supervisor is gone: `_obey` sees it
            channel.sendall(Ready.of(worker).line())

    def on_quiet() -> None:
        if not (worker.is_disconnecting or worker in _finishing):
            with suppress(OSError):
                channel.send(QUIET + b"\n")

    def on_shutdown() -> None:
        if worker.is_drained:
            with suppress(OSError):
                channel.send(DRAINED + b"\n")

    worker._number = number
    worker.record_jobs(jobs)
    worker.on("startup", begin)
    worker.on("quiet", on_quiet)
    worker.on("shutdown", on_shutdown)
    # TERM may come twice, from the supervisor and from a signal to the whole group, and means the
    # same each time. What a terminal sends to the group is for the supervisor to pass on.
    worker._orders.always |= {"SIGTERM": worker._terminate, "SIGINT": do_nothing}
    worker._orders.unless_used |= {"SIGHUP": do_nothing}


def _obey(worker: Worker, channel: socket.socket, flags: int = 0) -> None:
    """Do what the supervisor says; with MSG_DONTWAIT, what it has said already."""
    while True:
        try:
            word = channel.recv(1, flags)
        except BlockingIOError:
            return
        except OSError:
            word = b""
        if word == QUIET:
            worker.quiet()
        elif word == QUIT:
            worker._inbox.put(worker._orders.quit)
        elif word == FINISH:
            finish(worker)
        elif word == STOP:
            worker.stop()
        elif word == STOP_NOW:
            worker.disconnect(force=True)
        elif not word:
            Log(worker.log).warning("the supervisor of this worker is gone, so it stops")
            worker.stop()
            channel.close()
            return


def finish(worker: Worker) -> None:
    """Let a worker end when its running jobs have finished. From any thread, at once.

    They have all the time that they were promised, which is their reservation; then the worker
    stops as at any other time. A TERM meanwhile cuts that short.
    """
    _finishing.add(worker)
    worker._after_quiet = ENDS
    worker.quiet()
    Thread(target=_stop_later, args=(worker,), name="faktory-finish", daemon=True).start()


def _stop_later(worker: Worker) -> None:
    for thread in threading.enumerate():
        if isinstance(thread, Processor):
            while thread.is_alive() and not thread.running.disowned:
                thread.join(CHECK_INTERVAL)
    worker.stop()


class Quota:
    """Has a worker finish after a job, done or failed, with which a limit is reached.

    `max_jobs` have ended then, or the process has more than `max_memory` MiB of resident memory; on
    macOS, where only that is known, it once had. UsageError where neither is known.
    """

    def __init__(self, worker: Worker, max_jobs: int | None, max_memory: int | None) -> None:
        self._worker = worker
        self._max_jobs = max_jobs
        self._max_memory = max_memory
        self._ended = 0
        self._lock = Lock()
        self._quiet = Event()
        self.reason = ""
        """Why the worker ends, for the log: " after 3 jobs (--max-jobs)"; empty until then."""
        if max_memory is not None:
            self._check(max_memory)
        worker.on("quiet", self._quiet.set)
        worker_middleware.prepend(self._count)

    def _check(self, max_memory: int) -> None:
        if (kib := rss_kb()) is None:
            raise UsageError("--max-memory: this system does not show how much memory is used")
        if kib > max_memory * 1024:
            Log(self._worker.log).warning(
                "--max-memory %d: the program has %d MiB before its first job, so a worker ends "
                "after each one: use a higher number",
                max_memory,
                kib // 1024,
            )

    def _count(self, job: object, payload: object, call_next: Callable[[], Any]) -> Any:  # noqa: ARG002
        try:
            return call_next()
        finally:
            with self._lock:
                self._ended += 1
                first = not self.reason
                self.reason = self.reason or self._reached()
            if self.reason:
                if first:
                    finish(self._worker)
                self._quiet.wait(1)  # or this thread would fetch one more

    def _reached(self) -> str:
        if self._ended == self._max_jobs:
            return f" after {self._ended} jobs (--max-jobs)"
        if self._max_memory is not None and (kib := rss_kb() or 0) > self._max_memory * 1024:
            mib = kib / 1024
            return f" after {self._ended} jobs with {mib:.0f} MiB (--max-memory {self._max_memory})"
        return ""

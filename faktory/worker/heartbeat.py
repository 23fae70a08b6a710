"""The heartbeat: a thread and a connection of its own, so that no job can delay it.

Rules: the first beat goes out at once, and no error stops the next one but a wrong password, which
ends the worker. A server that does not know the worker any more is greeted anew, at once.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from time import monotonic
from typing import Final

from ..client import Client
from ..exceptions import FaktoryAuthenticationError, FaktoryError, FaktoryServerError
from ..wire.commands import WorkerState
from .lifecycle import Lifecycle

LATE: Final = 2.0
"""Seconds after which a heartbeat is called late."""


class Heartbeat(Thread):
    """Beats every `interval` seconds until stopped, and passes on what the server wants.

    `trouble` hears of a line that broke, `reached` when the server was asked what it answered,
    `unknown` that it has forgotten this worker; `running` names the jobs that run.
    """

    def __init__(
        self,
        client: Client,
        interval: float,
        lifecycle: Lifecycle,
        wanted: Callable[[str], None],
        trouble: Callable[[FaktoryError], None],
        reached: Callable[[float], None],
        unknown: Callable[[], None],
        running: Callable[[], list[str]],
        log: logging.Logger,
    ) -> None:
        super().__init__(name="faktory-heartbeat", daemon=True)
        self._client = client
        self._interval = interval
        self._lifecycle = lifecycle
        self._wanted = wanted
        self._trouble = trouble
        self._reached = reached
        self._unknown = unknown
        self._running = running
        self._log = log
        self._stopped = Event()

    def run(self) -> None:
        """Beat until `stop` is called."""
        try:
            due = monotonic()
            while self._tell_of_beat(due):
                due = monotonic() + self._interval
                if self._stopped.wait(self._interval):
                    return
        finally:
            self._client.close()

    def _tell_of_beat(self, due: float) -> bool:
        """Beat, now or rather when it was due; tell whether there is any use in the next one."""
        asked_at = monotonic()
        try:
            if (late := asked_at - due) > LATE:
                self._log.warning(
                    "a heartbeat is %.1f s late: does a job keep the interpreter to itself? "
                    "After 60 s the server gives a worker up. Running: %s",
                    late,
                    ", ".join(self._running()) or "nothing",
                )
            state = self._beat()
            self._reached(asked_at)
            if state is not None:
                self._wanted(state)
        except FaktoryAuthenticationError as error:
            self._trouble(error)
            return False
        except Exception as error:
            with suppress(Exception):  # a log whose filter raises
                self._tell_of_error(error)
        return True

    def _tell_of_error(self, error: Exception) -> None:
        if isinstance(error, FaktoryServerError):
            self._log.warning("the server refused a heartbeat: %s", error)
        elif isinstance(error, FaktoryError):
            self._trouble(error)
        else:
            self._log.exception("a heartbeat failed", exc_info=error)

    def _beat(self) -> WorkerState | None:
        try:
            return self._client.beat(self._lifecycle.reported, rss_kb())
        except FaktoryServerError as error:
            # The server forgot this worker (`unknown worker`): HELLO makes it known again.
            self._log.warning("the server refused a heartbeat: %s; connecting anew", error)
            self._unknown()
            self._client.disconnect()
            return self._client.beat(self._lifecycle.reported, rss_kb())

    def stop(self) -> None:
        """Let the thread end."""
        self._stopped.set()


def rss_kb() -> int | None:
    """Return this process's resident memory in KiB, where the system tells."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    except (OSError, ValueError, AttributeError):
        return _peak_kb()


def _peak_kb() -> int | None:
    """The next best, where there is no /proc: the most it ever was."""
    try:
        import resource
        import sys
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak

"""The heartbeat: a thread and a connection of its own, so that no job can delay it.

Rules: the first beat goes out at once, and no error stops the next one but a wrong password, which
ends the worker. A server that does not know the worker any more is greeted again, at once.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from time import monotonic
from typing import Any, Final, Protocol

from ..client import Client
from ..client.settings import is_enterprise
from ..exceptions import FaktoryAuthenticationError, FaktoryError, FaktoryServerError
from ..wire.commands import WorkerState
from ..wire.log import Log
from ..wire.validate import clip
from .lifecycle import Lifecycle
from .timing import Timing

MAX_CONNECTIONS: Final = 2000
"""Of the open-source server (`DefaultMaxPoolSize`); a licence has another number."""

NEAR: Final = MAX_CONNECTIONS * 9 // 10
"""With so many connections a worker says how many it takes."""


class HeartbeatManager(Protocol):
    """What a heartbeat needs of its worker's manager; all of it from any thread."""

    lifecycle: Lifecycle
    log: logging.Logger

    def on_beat(self, asked_at: float, state: str | None) -> None:
        """The server answered a beat that was sent at `asked_at`, with the state that it wants."""

    def on_beat_error(self, asked_at: float, error: FaktoryError) -> None:
        """A beat that was sent at `asked_at` did not reach the server."""

    def reconnect(self) -> None:
        """Have every processor say HELLO again: the server does not know this worker any more."""

    def running(self) -> list[str]:
        """The running jobs."""


class Heartbeat(Thread):
    """Beats every `interval` seconds until stopped.

    After the first beat it asks for the server's INFO, if the worker takes some `connections`, and
    hands it to `on_connected`, None if it did not come; and it warns if these bring the server near
    its limit. `on_tried` is called after each beat.
    """

    def __init__(
        self,
        manager: HeartbeatManager,
        client: Client,
        interval: float,
        timing: Timing,
        connections: int = 0,
        on_connected: Callable[[object], object] = lambda info: None,  # noqa: ARG005
        on_tried: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(name="faktory-heartbeat", daemon=True)
        self._manager = manager
        self._client = client
        self._interval = interval
        self._first_interval = min(interval, timing.first_beat_interval)
        self._late_beat = timing.late_beat
        self._grace = timing.beat_grace
        self._log = Log(manager.log)
        self._connections = connections
        """How many the worker takes, until the server has been asked how many it has."""
        self._on_connected = on_connected
        self._on_tried = on_tried
        self._is_connected = False
        self.has_tried = False
        """Whether a beat has reached the server, or could not."""
        self._stopped = Event()
        self.due: float | None = None
        """When the next beat is due (`time.monotonic`), None while one is under way."""

    def run(self) -> None:
        """Beat until `stop` is called."""
        try:
            due = monotonic()
            while self._beat_once(due):
                interval = self._interval if self._is_connected else self._first_interval
                self.due = due = monotonic() + interval
                if self._stopped.wait(interval):
                    return
                self.due = None
        finally:
            self._client.close()

    def stop(self) -> None:
        """End the thread, after a beat that is under way if that is answered in time."""
        self._stopped.set()
        if self.is_alive() and not self._client.is_connected:
            self._client.interrupt()
        if self.is_alive():
            self.join(self._grace)
        if self.is_alive():
            self._client.interrupt()

    def _beat_once(self, due: float) -> bool:
        """Send the beat that was due at `due`; return False if no other can follow."""
        asked_at = monotonic()
        try:
            if (late := asked_at - due) > self._late_beat:
                self._log.warning(
                    "a heartbeat is %.1f s late: does a job keep the interpreter to itself? "
                    "After 60 s the server gives a worker up. Running: %s",
                    late,
                    ", ".join(self._manager.running()) or "nothing",
                )
            state = self._beat()
            self._is_connected = True
            self._manager.on_beat(asked_at, state)
            if self._connections:
                self._ask_once()
        except FaktoryAuthenticationError as error:
            self._manager.on_beat_error(asked_at, error)
            return False
        except Exception as error:
            if not self._stopped.is_set():  # else the worker may have ended the wait itself
                self._on_error(asked_at, error)
        finally:
            self.has_tried = True
            self._on_tried()
        return True

    def _ask_once(self) -> None:
        own, self._connections = self._connections, 0
        info: Any = None
        with suppress(FaktoryError):
            info = self._client.info()
        self._on_connected(info)
        with suppress(KeyError, TypeError):  # an answer of another kind: no matter
            there = info["server"]["connections"]
            if there + own > NEAR and not is_enterprise(info):
                self._log.warning(
                    "the server has %d connections, and closes those beyond %d by default; this "
                    "worker takes %d. Fewer threads take fewer, and fewer, wider processes",
                    there,
                    MAX_CONNECTIONS,
                    own,
                )

    def _on_error(self, asked_at: float, error: Exception) -> None:
        if isinstance(error, FaktoryServerError):
            self._log.warning("the server refused a heartbeat: %s", clip(str(error), 1000))
        elif isinstance(error, FaktoryError):
            self._manager.on_beat_error(asked_at, error)
        else:
            self._log.exception("a heartbeat failed", exc_info=error)

    def _beat(self) -> WorkerState | None:
        state = self._manager.lifecycle.reported
        try:
            return self._client.beat(state, rss_kb())
        except FaktoryServerError as error:
            # The server forgot this worker (`unknown worker`): HELLO makes it known again.
            text = "the server refused a heartbeat: %s; reconnecting"
            self._log.warning(text, clip(str(error), 1000))
            self._manager.reconnect()
            self._client.disconnect()
            return self._client.beat(state, rss_kb())


def rss_kb() -> int | None:
    """Return this process's resident memory in KiB, None where the system has no such number."""
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

"""Whether the server can be reached: logged once for all threads, when that changes."""

from __future__ import annotations

import logging
from threading import Lock
from time import monotonic

from ..wire.log import Log


class Outage:
    """A time in which the server cannot be reached. Safe to use from any thread."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = Log(log)
        self._lock = Lock()
        self._since: float | None = None

    def begins(self, error: BaseException) -> None:
        """Note that the server could not be reached; the first time it is logged."""
        with self._lock:
            if self._since is not None:
                return
            self._since = monotonic()
        self._log.warning("lost the server, trying until it is back: %s", error)

    def ends(self, asked_at: float) -> None:
        """Note that the server answered a command that was sent at `asked_at` (`time.monotonic`).

        An answer to a command from before the outage, read later, does not end it.
        """
        if self._since is None:
            return
        with self._lock:
            since = self._since
            if since is None or asked_at < since:
                return
            self._since = None
        self._log.info("the server is back after %.1f s", monotonic() - since)

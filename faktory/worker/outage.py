"""Trouble with the line, told once for all threads: when it begins, and when it is over."""

from __future__ import annotations

import logging
from threading import Lock
from time import monotonic


class Outage:
    """Whether the server can be reached. Safe to use from any thread."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._lock = Lock()
        self._since: float | None = None

    def begins(self, error: BaseException) -> None:
        """Report that the server could not be reached; only the first report is logged."""
        with self._lock:
            if self._since is not None:
                return
            self._since = monotonic()
        self._log.warning("lost the server, trying until it is back: %s", error)

    def ends(self, asked_at: float) -> None:
        """Report that the server answered what it was asked at `asked_at` (`time.monotonic`).

        An answer to what was asked before the outage began, and read after, does not end it.
        """
        if self._since is None:
            return
        with self._lock:
            since = self._since
            if since is None or asked_at < since:
                return
            self._since = None
        self._log.info("the server is back after %.1f s", monotonic() - since)

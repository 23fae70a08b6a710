"""What each signal has a worker do; docs/worker.md has the same as a table.

Rules: all of this is called by the thread that manages the worker, not by a signal's handler.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from ..wire.log import Log
from .lifecycle import Lifecycle, State


class SignalOrders:
    """The functions of the signals of one worker, by their names.

    `stop` is for a signal that skips the grace period when it comes again, `interrupt` for the same
    from a terminal, `terminate` for one that does not.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        log: logging.Logger,
        stop: Callable[[], None],
        interrupt: Callable[[], None],
        terminate: Callable[[], None],
        quiet: Callable[[], None],
        log_threads: Callable[[], None],
    ) -> None:
        self._lifecycle = lifecycle
        self._log = Log(log)
        self._terminate = terminate
        self._quiet = quiet
        self._log_threads = log_threads
        self.always: dict[str, Callable[[], None]] = {
            "SIGTERM": stop,
            "SIGINT": interrupt,
            "SIGQUIT": self.quit,
            "SIGTSTP": self._on_tstp,
            "SIGTTIN": log_threads,
        }
        """Signals that a worker handles in any case."""
        self.unless_used: dict[str, Callable[[], None]] = {
            "SIGHUP": terminate,
            "SIGXCPU": self._on_xcpu,
            "SIGUSR1": partial(self._ignore, "SIGUSR1"),
            "SIGUSR2": partial(self._ignore, "SIGUSR2"),
        }
        """Signals that a worker handles if the program has no handler for them."""

    def quit(self) -> None:
        """Log the stacks, the first time, and stop."""
        if not self._is_stopping:
            self._log_threads()
        self.always["SIGTERM"]()

    @property
    def _is_stopping(self) -> bool:
        return self._lifecycle.state is State.TERMINATE

    def _on_tstp(self) -> None:
        if not self._is_stopping:
            self._log.info("SIGTSTP (Ctrl-Z) makes a worker quiet, and does not suspend it")
        self._quiet()

    def _on_xcpu(self) -> None:
        if not self._is_stopping:
            self._log.error("the limit of CPU time is reached (SIGXCPU), so the worker stops")
        self._terminate()

    def _ignore(self, name: str) -> None:
        self._log.warning("%s is ignored: TERM stops a worker, TSTP makes it quiet", name)

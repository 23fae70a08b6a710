"""How the process ends: by signals before there is a worker, and with what is left after it.

Rules: a TERM is answered from the first line of `main` on, since the system does nothing about one
that a process with the id 1 does not handle. When the worker has stopped, what its jobs have
started (threads, processes) and the program's functions at exit have the rest of the grace period,
and EXIT_TIMEOUT at least; then the process ends, with the exit code that it has earned.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, Final, NoReturn

from ...client.producer import unsent
from ...exceptions import Shutdown
from ...wire.log import Log
from ...worker.signals import do_nothing, handled, ignore_permanently, main_call
from ..exits import Exit
from . import logs
from .logs import show_error

EXIT_TIMEOUT: Final = 1.0
"""Seconds that what is left has in any case, and once more when it has been cut short."""

CHECK_INTERVAL: Final = 0.05
"""Seconds between two looks at what is left."""

STOP_SIGNALS: Final = ("SIGTERM", "SIGINT", "SIGQUIT")

log = Log(logging.getLogger("faktory.worker"))


class StoppedEarly(BaseException):
    """A signal to stop came before there was a worker."""


class EarlySignals:
    """What signals do before there is a worker: nothing is fetched yet, so the command ends."""

    def __init__(self) -> None:
        self.code: Exit | None = None
        self.quiet = False
        """Whether the worker is to be quiet from the beginning."""
        self.is_over: Callable[[], bool] = lambda: False
        """Whether there is, or was, a worker, which all signals are for."""
        self._raises = False
        stop = partial(self._stop, Exit.STOPPED, StoppedEarly)
        self.handlers: dict[str, Callable[[], None]] = {
            **dict.fromkeys(STOP_SIGNALS, stop),
            "SIGINT": partial(self._stop, Exit.INTERRUPTED, KeyboardInterrupt),
            "SIGTSTP": self._become_quiet,
            "SIGTTIN": do_nothing,
        }
        self.unless_used: dict[str, Callable[[], None]] = {
            "SIGHUP": stop,
            "SIGXCPU": stop,
            "SIGUSR1": do_nothing,
            "SIGUSR2": do_nothing,
        }

    def run(self, command: Callable[[], tuple[int, float]]) -> tuple[int, float]:
        """Return what a command returns, or the exit code of the signal that ends it."""
        try:
            self._raises = True
            self.check()
            result = command()
            self._raises = False
        except (StoppedEarly, KeyboardInterrupt):
            self._raises = False
            if self.code == Exit.STOPPED:
                log.info("stopped before the worker began, so no job was fetched")
            else:
                show_error("interrupted")
            result = Exit.INTERRUPTED if self.code is None else self.code, 0.0
        self.is_over = lambda: True
        return result

    def check(self) -> None:
        """Raise once more for a signal whose exception the program's modules have caught."""
        if self.code is not None:
            raise StoppedEarly

    def _stop(self, code: Exit, error: type[BaseException]) -> None:
        if self.is_over():
            return
        if self.code is not None:  # the second one
            os._exit(self.code)
        self.code = code
        if self._raises:
            raise error

    def _become_quiet(self) -> None:
        self.quiet = True


def unblock() -> None:
    """Let signals through that who started this process had blocked."""
    if hasattr(signal, "pthread_sigmask"):
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked - {signal.SIGPIPE})


def end(code: int, until: float) -> int:
    """Wait for what is left, until then (`time.monotonic`) at most; call the functions at exit.

    Returns the exit code if nothing is left, else ends the process.
    """
    ending = _Ending(code, until)
    with handled(dict.fromkeys((*STOP_SIGNALS, "SIGHUP"), ending.hurry)):
        left = ending.wait_for_threads()
        ending.call_exit_functions()
        written = logs.close()
        if threading.current_thread() is threading.main_thread():
            ignore_permanently()
    if left or ending.cut or not written or code == Exit.ABANDONED:
        ending.exit()
    return code


class _Ending:
    """One end of the process."""

    def __init__(self, code: int, until: float) -> None:
        self.cut = False
        """Whether something did not end in time."""
        self._code = code
        self._until = until
        self._unsent = 0
        self._over = threading.Event()

    def hurry(self) -> None:
        """Do not wait any longer: for a signal's handler."""
        self._until = 0.0

    def wait_for_threads(self) -> bool:
        """Wait for the threads that Python would wait for; return whether any are left."""
        waiting = threading.Thread(target=_wait_for_threads, name="faktory-exit", daemon=True)
        try:
            waiting.start()
        except RuntimeError:  # the system has no more threads
            return True
        waiting.join(CHECK_INTERVAL)
        self._until = max(self._until, monotonic() + EXIT_TIMEOUT)
        if waiting.is_alive() and (seconds := self._until - monotonic()) > EXIT_TIMEOUT:
            text = "waiting up to %.0f seconds for what jobs have started: %s"
            log.info(text, seconds, _threads())
        while waiting.is_alive() and monotonic() < self._until:
            waiting.join(CHECK_INTERVAL)
        if waiting.is_alive():
            log.warning("the process ends, and cuts what jobs have started: %s", _threads())
        return waiting.is_alive()

    def call_exit_functions(self) -> None:
        """Call the program's functions at exit, within a limited time."""
        self._until = max(self._until, monotonic() + EXIT_TIMEOUT)
        with suppress(RuntimeError):  # the system has no more threads
            threading.Thread(target=self._watch, name="faktory-exit", daemon=True).start()
        sys.unraisablehook = _pass_over_shutdown(sys.unraisablehook)
        with suppress(Shutdown), main_call.running():
            atexit._run_exitfuncs()
        self._over.set()

    def exit(self) -> NoReturn:
        """End the process at once; say how many jobs that it has pushed are not sent."""
        if count := self._unsent or unsent():
            log.error("the process ends before %d jobs of a Producer are pushed", count)
        logs.close()
        os._exit(self._code)

    def _watch(self) -> None:
        """Cut short what does not end in time; end the process where that does not help."""
        while monotonic() < self._until:
            if self._over.wait(CHECK_INTERVAL):
                return
        self.cut = True
        self._unsent = unsent()
        if pids := _terminate_processes():
            log.warning("the process ends, and terminates what jobs have started: %s", pids)
        elif not self._unsent:
            log.warning("the process ends, and cuts a function of the program at exit (atexit)")
        for _ in range(4):
            main_call.cut(Shutdown)
            if self._over.wait(EXIT_TIMEOUT / 4):
                return
        self.exit()


def _pass_over_shutdown(
    hook: Callable[[sys.UnraisableHookArgs], object],
) -> Callable[[sys.UnraisableHookArgs], object]:
    """Return a hook that shows no traceback of what this module raises in a function at exit."""

    def show(error: sys.UnraisableHookArgs) -> None:
        if not issubclass(error.exc_type, Shutdown):
            hook(error)

    return show


def _wait_for_threads() -> None:
    """Do what Python does at exit first (`threading._shutdown`), which only its main thread can."""
    for end in reversed(getattr(threading, "_threading_atexits", ())):  # of executors
        with suppress(Exception):
            end()
    main = threading.main_thread()
    while left := [each for each in threading.enumerate() if not each.daemon and each is not main]:
        left[0].join()


def _threads() -> str:
    """Name the threads that Python waits for at exit, those of executors too."""
    threads = {thread for thread in threading.enumerate() if not thread.daemon}
    for module, name in (("thread", "_threads_queues"), ("process", "_threads_wakeups")):
        threads |= {*getattr(sys.modules.get(f"concurrent.futures.{module}"), name, ())}
    threads -= {threading.main_thread()}
    return ", ".join(sorted(f"thread {each.name}" for each in threads if each.is_alive()))


def _terminate_processes() -> str:
    """Terminate the processes of multiprocessing, as Python waits for them; return which."""
    module: Any = sys.modules.get("multiprocessing")
    pids = []
    with suppress(Exception):
        for process in module.active_children() if module else ():
            process.terminate()
            pids.append(f"process {process.pid}")
    return ", ".join(pids)

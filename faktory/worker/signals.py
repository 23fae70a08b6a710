"""Signal handlers that are in place while a block runs, and calls that a signal cuts short.

Rules: a handler runs between any two steps of the main thread, so it must acquire no lock that this
may hold: `SimpleQueue.put` is safe, `Event.set` is not. In a process that a job forks, each signal
does again what it did in the program before any handler of this package was there.
"""

from __future__ import annotations

import _thread
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final

from .interrupts import is_at_lock

NUDGE: Final = getattr(signal, "SIGTTIN", 0)
"""The signal that has the main thread notice others."""

NUDGE_PAUSES: Final = (0.05, 0.2, 0.5)
"""Seconds before each nudge, after a signal has come."""

Before = Callable[[int, FrameType | None], Any] | int | None
"""A handler as `signal.getsignal` returns it."""


GROUP_SIGNALS: Final = tuple(
    int(getattr(signal, name))
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGTSTP", "SIGTTIN")
    if hasattr(signal, name)
)
"""What terminals and init systems send to all processes of a group: its first one decides."""


class Handler:
    """A handler of this package; `do` may be exchanged while it is in place."""

    def __init__(self, do: Callable[[], object], before: Before) -> None:
        self.do = do
        self.program: Before = before.program if isinstance(before, Handler) else before
        """What the program had in place of it."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Cut the call of the main thread short if that is due, else `do` it."""
        if number == NUDGE and main_call.is_nudged:
            main_call.is_nudged = False
        elif main_call.is_due:  # it is that, and no signal of others
            main_call.end(frame)
        else:
            self.do()


def do_nothing() -> None:
    """Let a signal pass."""


def install(number: int, do: Callable[[], object]) -> Before:
    """Handle a signal, in the main thread; return what `restore` needs."""
    before = signal.getsignal(number)
    signal.signal(number, Handler(do, before))
    return before


def restore(number: int, before: Before) -> None:
    """Put back what was there before `install`, unless the program has set a handler meanwhile."""
    if isinstance(signal.getsignal(number), Handler):
        signal.signal(number, signal.SIG_DFL if before is None else before)


@contextmanager
def handled(
    handlers: Mapping[str, Callable[[], object]],
    unless_used: Mapping[str, Callable[[], object]] | None = None,
) -> Iterator[None]:
    """Call the function of a signal, by its name (`SIGTERM`), when it comes within the block.

    Those of `unless_used` are left alone where the program, or who started it, has the signal
    ignored or handled. Outside the main thread this does nothing; signals that the platform lacks
    are left out.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    exchanged: list[tuple[Handler, Callable[[], object]]] = []
    installed: list[tuple[int, Before]] = []
    for name, do in {**(unless_used or {}), **handlers}.items():
        number = getattr(signal, name, None)
        if number is None:
            continue
        present = signal.getsignal(number)
        if isinstance(present, Handler):
            # No system call: what a program has registered below Python, as faulthandler does,
            # stays, and there is no moment without a handler.
            exchanged.append((present, present.do))
            present.do = do
        elif name in handlers or is_unused(number):
            installed.append((number, install(number, do)))
    try:
        yield
    finally:
        for number, before in installed:
            restore(number, before)
        for handler, do in exchanged:
            handler.do = do


def ignore_permanently() -> None:
    """Ignore the signals that this package handles: the process ends, with its own exit code."""
    for number in _handled_numbers():
        signal.signal(number, signal.SIG_IGN)


def is_unused(number: int) -> bool:
    """Return whether nobody handles a signal, nor ignores it."""
    if signal.getsignal(number) is not signal.SIG_DFL:
        return False
    with suppress(OSError, ValueError, IndexError), open("/proc/self/status") as status:
        # faulthandler and others register handlers that Python does not know.
        caught = next(line for line in status if line.startswith("SigCgt:")).split()[1]
        return not int(caught, 16) >> (number - 1) & 1
    return True


def _handled_numbers() -> list[int]:
    return [
        number for number in signal.valid_signals() if isinstance(signal.getsignal(number), Handler)
    ]


class MainCall:
    """A call of the program's code in the main thread, which another thread can cut short.

    A signal ends what the thread waits for, and its handler raises the exception. That does not end
    a call into C that goes on after a signal, nor one that catches everything.
    """

    def __init__(self) -> None:
        self.exception: type[BaseException] = SystemExit
        self.is_due = False
        """Whether the next signal is to raise `exception`."""
        self.is_nudged = False
        """Whether the next NUDGE is one of `noticed`."""
        self._running = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Allow the main thread to be cut short within this block."""
        self.is_due = False
        try:
            self._running = True
            yield
        finally:
            self._running = False

    def cut(self, exception: type[BaseException]) -> None:
        """Raise in the main thread, within the block; to be repeated. From another thread."""
        numbers = _handled_numbers()
        if not (self._running and numbers):
            return
        self.exception = exception
        self.is_due = True
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(threading.main_thread().ident or 0, numbers[0])
        else:
            _thread.interrupt_main(signal.Signals(numbers[0]))

    def end(self, frame: FrameType | None) -> None:
        """Raise what is due, in the main thread; not at a lock, which might stay acquired."""
        self.is_due = False
        if self._running and not (frame is not None and is_at_lock(frame)):
            raise self.exception


main_call: Final = MainCall()


@contextmanager
def noticed() -> Iterator[None]:
    """Have the main thread notice each signal within the block, where the program's code runs.

    Python sees one too late, when a call has returned, that comes just as the call begins to wait:
    another one interrupts it.
    """
    if threading.current_thread() is not threading.main_thread() or not NUDGE:
        yield
        return
    try:
        reader, writer = socket.socketpair()
    except OSError:  # the system has no more descriptors
        yield
        return
    writer.setblocking(False)
    reader.settimeout(None)
    over = threading.Event()

    def nudge() -> None:
        with suppress(OSError):
            while reader.recv(64):
                for pause in NUDGE_PAUSES:
                    if over.wait(pause) or not isinstance(signal.getsignal(NUDGE), Handler):
                        break
                    main_call.is_nudged = True
                    signal.pthread_kill(threading.main_thread().ident or 0, NUDGE)
                reader.setblocking(False)
                with suppress(BlockingIOError):  # those of the nudges
                    while reader.recv(64):
                        pass
                reader.setblocking(True)

    thread = threading.Thread(target=nudge, name="faktory-signals", daemon=True)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        with suppress(RuntimeError):  # the system has no more threads
            thread.start()
        yield
    finally:
        over.set()
        if (present := signal.set_wakeup_fd(before)) != writer.fileno():
            signal.set_wakeup_fd(present)  # it is the program's
        writer.close()
        if thread.ident is not None:
            thread.join()
        reader.close()


def _reset_after_fork() -> None:
    """Let signals do what they do in a plain program, in a forked child."""
    main_call.__init__()  # type: ignore[misc]
    numbers = _handled_numbers()
    for number in numbers:
        handler = signal.getsignal(number)
        assert isinstance(handler, Handler)
        before = handler.program
        signal.signal(number, signal.SIG_DFL if before is None else before)
    if numbers:
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)

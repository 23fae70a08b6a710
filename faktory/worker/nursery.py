"""A process that does nothing but fork others, and the worker's handle on it.

A worker has threads, and a fork of it could find any lock taken, for ever. So it forks a nursery
before it has any; that has one thread, no jobs and no locks, forks a child whenever it is asked
to, and says how each one ended.

Rules: as long as there is a nursery, nobody else signals a child, since nobody else knows that its
pid is still its own.
When the worker is gone, however that came, the nursery kills what is left and ends.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Final, NoReturn

Ends = tuple[int, int]
"""Descriptors of a child: its channel, and the pipe that tells it why it was signalled."""

_ORDER: Final = struct.Struct("=cq")
_NUMBER: Final = struct.Struct("=q")
_FORK: Final = b"f"
_SIGNAL: Final = {signal.SIGTERM: b"t", signal.SIGKILL: b"k"}
_SIGNALLED: Final = {word: number for number, word in _SIGNAL.items()}

_IGNORED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGTSTP, signal.SIGTTIN)
"""What terminals and supervisors send to all processes of a group: the worker decides."""


class NurseryGone(RuntimeError):
    """The nursery has died, so there can be no more children."""

    def __init__(self) -> None:
        super().__init__(
            "the process that starts the processes of jobs is gone: was it killed? "
            "Start the worker again."
        )


class Nursery:
    """The worker's handle; `child` is what each child does, and ends with."""

    def __init__(self, child: Callable[[Ends], NoReturn]) -> None:
        """Fork it. To be called before the worker has threads."""
        with suppress(Exception):  # or each child would print what waits there
            sys.stdout.flush()
            sys.stderr.flush()
        self._control, theirs = socket.socketpair()
        self._lock = Lock()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)
        try:
            self.pid = _fork()
            if not self.pid:
                self._control.close()
                _Home(theirs, child).run(before)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def fork(self, ends: Ends, obituary: int) -> int:
        """Start a child with these descriptors, which stay the caller's to close; return its pid.

        Its exit code, or minus the signal that killed it, is written to `obituary`: see `ended`.
        OSError where the system gives no more processes.
        """
        with self._lock:
            try:
                socket.send_fds(self._control, [_ORDER.pack(_FORK, 0)], [*ends, obituary])
                answer = self._control.recv(_NUMBER.size)
            except OSError:
                answer = b""
        if not answer:
            raise NurseryGone
        (pid,) = _NUMBER.unpack(answer)
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        return int(pid)

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Send TERM or KILL to a child, if it is still there."""
        try:
            self._control.send(_ORDER.pack(_SIGNAL[number], pid))
        except OSError:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def close(self) -> None:
        """Kill the children that are left, and wait until nothing is."""
        self._control.close()
        with suppress(ChildProcessError):  # a program that ignores SIGCHLD has none to wait for
            os.waitpid(self.pid, 0)


def ended(obituary: int) -> int | None:
    """Wait for the end of a child; return how it ended, None if the nursery has ended as well."""
    said = os.read(obituary, _NUMBER.size)
    return int(_NUMBER.unpack(said)[0]) if said else None


def _fork() -> int:
    with warnings.catch_warnings():
        # Said below, to who calls `run`, and with what to do.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


class _Home:
    """The nursery itself."""

    def __init__(self, control: socket.socket, child: Callable[[Ends], NoReturn]) -> None:
        self._control = control
        self._child = child
        self._children: dict[int, int] = {}
        """Where to write how a child ended, by its pid."""
        self._awake, self._waker = socket.socketpair()

    def run(self, mask: set[int]) -> NoReturn:
        try:
            self._prepare(mask)
            poll = select.poll()
            poll.register(self._control, select.POLLIN)
            poll.register(self._awake, select.POLLIN)
            while True:
                heard = {descriptor for descriptor, _ in poll.poll()}
                if self._awake.fileno() in heard:
                    self._awake.recv(4096)
                self._bury()
                if self._control.fileno() in heard:
                    self._obey()
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            self._end(1)

    def _prepare(self, mask: set[int]) -> None:
        for number in _IGNORED:  # no SIG_IGN: a job's subprocess would inherit that
            signal.signal(number, lambda *_: None)
        self._awake.setblocking(False)
        self._waker.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._sigpipe = signal.signal(signal.SIGPIPE, signal.SIG_IGN) or signal.SIG_DFL
        signal.pthread_sigmask(signal.SIG_SETMASK, mask - {signal.SIGCHLD})

    def _obey(self) -> None:
        try:
            order, descriptors, _, _ = socket.recv_fds(self._control, _ORDER.size, 3)
        except ConnectionError:
            order, descriptors = b"", []
        if not order:
            self._end(0)
        for descriptor in descriptors:  # what a job starts must not hold them open
            os.set_inheritable(descriptor, False)
        word, pid = _ORDER.unpack(order)
        if word == _FORK:
            self._start(*descriptors)
        elif pid in self._children:
            os.kill(pid, _SIGNALLED[word])

    def _start(self, channel: int, reasons: int, obituary: int) -> None:
        # TERM meets the nursery's answer or the child's, and no child between two of them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)
        try:
            try:
                pid = os.fork()
            except OSError as error:
                pid = -(error.errno or 1)
            if pid == 0:
                self._become_child((channel, reasons), obituary, before)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(channel)
        os.close(reasons)
        if pid > 0:
            self._children[pid] = obituary
        else:
            os.close(obituary)
        self._control.send(_NUMBER.pack(pid))

    def _become_child(self, ends: Ends, obituary: int, mask: set[int]) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGPIPE, self._sigpipe)
            for inherited in (self._control, self._awake, self._waker):
                inherited.close()
            for other in (obituary, *self._children.values()):
                os.close(other)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            self._child(ends)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)  # whatever happens, there is one nursery

    def _bury(self) -> None:
        """Tell of those that have ended."""
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            obituary = self._children.pop(pid, None)
            if obituary is not None:
                with suppress(OSError):  # nobody wants to know any more
                    os.write(obituary, _NUMBER.pack(os.waitstatus_to_exitcode(status)))
                os.close(obituary)

    def _end(self, code: int) -> NoReturn:
        try:
            for pid in self._children:
                os.kill(pid, signal.SIGKILL)
            for pid in self._children:
                os.waitpid(pid, 0)
        finally:
            os._exit(code)

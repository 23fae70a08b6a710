"""A supervisor for a worker that has threads: it forks children in the worker's place.

A worker with threads must not fork: the child could find any lock acquired, for ever. So before it
has any, it forks a fork server, and asks that for each child.

Rules: the fork server has one thread and runs no job. When the worker is gone, however that came,
it kills what is left and ends. A channel carries jobs to a child and replies back; the fork server
has the child's end, too, and writes there how the child ended. Interrupts go through the fork
server, which alone signals a child.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from threading import Lock
from typing import Final, NoReturn

from .supervisor import Child, Supervisor, pair

ORDER: Final = struct.Struct("=cqq")
"""To the fork server: what, a child's pid, a job's number. It answers FORK with a NUMBER, and what
is not FORK or KILL it passes on to the child."""
NUMBER: Final = struct.Struct("=q")
"""A pid, minus an errno, a job's number, how a child ended."""

FORK, KILL = b"f", b"k"
ENDED: Final = b"e"
"""On a child's channel: the fork server's last message, with a NUMBER."""

_CLOEXEC: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class ForkServerDied(RuntimeError):
    """The fork server has died, so there can be no more children."""

    def __init__(self) -> None:
        super().__init__(
            "the process that starts the processes of jobs is gone: was it killed? "
            "Start the worker again."
        )


class ForkServerClient:
    """The worker's end of a fork server; `main` is what each child does, with both its channels."""

    def __init__(self, main: Callable[[Connection, socket.socket], NoReturn]) -> None:
        """Fork it. To be called before the worker has threads."""
        with suppress(Exception):  # or each child would print what is buffered
            sys.stdout.flush()
            sys.stderr.flush()
        self._control, control = pair()
        self._lock = Lock()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ForkServer.signals)
        try:
            self.pid = _fork()
            if not self.pid:
                self._control.close()
                _serve(ForkServer(control), mask, main)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        control.close()

    def fork(self) -> tuple[int, Connection]:
        """Start a child; return its pid and the channel to it.

        OSError where the system gives no more processes, or no more descriptors.
        """
        with self._lock:
            try:
                self._control.send(ORDER.pack(FORK, 0, 0))
                answer, descriptors, _, _ = socket.recv_fds(self._control, NUMBER.size, 1, _CLOEXEC)
            except OSError:
                answer = b""
        if not answer:
            raise ForkServerDied
        (pid,) = NUMBER.unpack(answer)
        if pid > 0 and not descriptors:  # this process has none left, so the child ends
            pid = -errno.EMFILE
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        os.set_inheritable(descriptors[0], False)  # where there is no _CLOEXEC
        return pid, Connection(descriptors[0])

    def order(self, what: bytes, pid: int, number: int) -> None:
        """Have a child killed, or one of its jobs interrupted, if it is still there."""
        try:
            self._control.send(ORDER.pack(what, pid, number))
        except OSError:  # there is no fork server to reap the child
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill the children that are left, and wait until nothing is."""
        self._control.close()
        with suppress(ChildProcessError):  # a program that ignores SIGCHLD has none to wait for
            os.waitpid(self.pid, 0)


class _JobChild(Child):
    """A child, its end of the channel for jobs, and the worker's until that is sent."""

    def __init__(self) -> None:
        super().__init__(0)
        self.theirs, self.jobs = Pipe()


class ForkServer(Supervisor):
    """Forks a child when the worker asks for one, and says how each one ended."""

    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGTSTP, signal.SIGTTIN)
    """What terminals and init systems send to all processes of a group: the worker decides."""

    def __init__(self, control: socket.socket) -> None:
        super().__init__([])
        self._control = control

    def done(self) -> bool:
        """Return whether the worker is gone."""
        return self._control.fileno() < 0

    def sources(self) -> dict[int, Callable[[], None]]:
        """Wait for orders."""
        return {self._control.fileno(): self._on_order}

    def on_start(self, child: Child) -> None:
        """Answer with the pid and the worker's end of the channel."""
        assert isinstance(child, _JobChild)
        with suppress(OSError):  # the worker is gone: seen when it is read
            socket.send_fds(self._control, [NUMBER.pack(child.pid)], [child.theirs.fileno()])
        child.theirs.close()

    def on_start_error(self, child: Child, error: OSError) -> None:
        """Answer with the reason; the worker asks again."""
        assert isinstance(child, _JobChild)
        self.children.remove(child)
        child.theirs.close()
        child.jobs.close()
        self._answer(-(error.errno or 1))

    def on_exit(self, child: Child, status: int) -> None:
        """Say how a child ended, in its place."""
        assert isinstance(child, _JobChild)
        self.children.remove(child)
        child.close_channel()
        with suppress(OSError):  # nobody reads that any more
            os.set_blocking(child.jobs.fileno(), False)
            child.jobs.send_bytes(ENDED + NUMBER.pack(status))
        child.jobs.close()

    def become_child(self, born: Child) -> None:
        """Close the ends that are the fork server's, the worker's or another child's."""
        self._control.close()
        for child in self.children:
            assert isinstance(child, _JobChild)
            if child.pid or child is born:
                child.theirs.close()
            if child is not born:
                child.jobs.close()

    def kill_children(self) -> None:
        """Kill all that are left, and wait for them."""
        for child in self.children:
            child.signal(signal.SIGKILL)
        for child in self.children:
            if child.pid:
                os.waitpid(child.pid, 0)

    def _on_order(self) -> None:
        try:
            order = self._control.recv(ORDER.size)
        except OSError:
            order = b""
        if not order:
            self._control.close()
            return
        what, pid, number = ORDER.unpack(order)
        if what == FORK:
            try:
                self.children.append(_JobChild())
            except OSError as error:  # no more descriptors
                self._answer(-(error.errno or 1))
            return
        for child in self.children:
            if child.pid == pid and what == KILL:
                child.signal(signal.SIGKILL)
            elif child.pid == pid and child.channel is not None:
                with suppress(OSError):  # it has just ended
                    child.channel.send(ORDER.pack(what, pid, number), socket.MSG_DONTWAIT)
                child.signal(signal.SIGTERM)

    def _answer(self, number: int) -> None:
        with suppress(OSError):
            self._control.send(NUMBER.pack(number))


def _fork() -> int:
    with warnings.catch_warnings():
        # Logged by `ProcessBackends`, with the remedy.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _serve(
    server: ForkServer, mask: set[int], main: Callable[[Connection, socket.socket], NoReturn]
) -> NoReturn:
    """Be the fork server, and then each of its children; ends the process."""
    try:
        born = server.run(mask)
        if born is not None:
            assert isinstance(born[0], _JobChild)
            server.children.clear()
            main(born[0].jobs, born[1])
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            server.kill_children()
        finally:
            os._exit(1)

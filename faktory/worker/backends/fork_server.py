"""A supervisor for a worker that has threads: it forks children in the worker's place.

A worker with threads must not fork: the child could find any lock acquired, for ever. So before it
has any, it forks a fork server, and asks that for each child.

Rules: the fork server has one thread and runs no job. When the worker is gone, however that came,
it kills what is left and ends. It alone signals a child; interrupts of jobs go through it, too.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from threading import Lock
from time import monotonic
from typing import Final, NoReturn

from ..signals import GROUP_SIGNALS, is_unused
from .supervisor import Child, Supervisor, fork_quietly, pair

ORDER: Final = struct.Struct("=cqq")
"""To the fork server: what, a child's pid, a job's number. It answers FORK with a NUMBER, and what
is not FORK or KILL it passes on to the child."""
NUMBER: Final = struct.Struct("=q")
"""A pid, minus an errno, or how a child ended."""

FORK, KILL, END = b"f", b"k", b"e"
"""END: no more jobs come. Its number is the milliseconds that children have to end by themselves;
as they have when the worker ends it: when it is just gone, they are killed at once."""


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
            self.pid = fork_quietly()
            if not self.pid:
                self._control.close()
                _serve(ForkServer(control), mask, main)
        except OSError:
            self._control.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            control.close()

    def fork(self) -> tuple[int, Connection, Connection]:
        """Start a child; return its pid, the channel to it, and where its end will be written.

        OSError where the system gives no more processes, or no more descriptors.
        """
        ours: list[Connection] = []
        theirs: list[Connection] = []
        try:
            for duplex in (True, False):
                reader, writer = Pipe(duplex)
                ours.append(reader)
                theirs.append(writer)
            return self._ask([end.fileno() for end in theirs]), ours[0], ours[1]
        except BaseException:
            for end in ours:
                end.close()
            raise
        finally:
            for end in theirs:
                end.close()

    def order(self, what: bytes, pid: int, number: int) -> None:
        """Have a child killed, or one of its jobs interrupted, if it is still there."""
        try:
            self._control.send(ORDER.pack(what, pid, number))
        except OSError:  # there is no fork server to reap the child
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self, grace: float = 0.0) -> None:
        """Let the children end, kill those that are left after `grace`, wait until nothing is."""
        with suppress(OSError):  # there is no fork server any more
            self._control.send(ORDER.pack(END, 0, int(grace * 1000)))
        with suppress(ChildProcessError):  # a program that ignores SIGCHLD has none to wait for
            os.waitpid(self.pid, 0)
        self._control.close()

    def _ask(self, descriptors: list[int]) -> int:
        """Ask for a child that has these; return its pid."""
        with self._lock:
            try:
                socket.send_fds(self._control, [ORDER.pack(FORK, 0, 0)], descriptors)
                answer = self._control.recv(NUMBER.size)
            except ConnectionError:
                answer = b""
        if not answer:
            raise ForkServerDied
        (pid,) = NUMBER.unpack(answer)
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        return int(pid)


class JobChild(Child):
    """A child, its end of the channel for jobs, and where to write how it ended."""

    def __init__(self, descriptors: list[int]) -> None:
        super().__init__(0)
        for descriptor in descriptors:  # what a job starts must not hold them open
            os.set_inheritable(descriptor, False)
        self.jobs = Connection(descriptors[0])
        self.end = Connection(descriptors[1])


class ForkServer(Supervisor[JobChild]):
    """Forks a child when the worker asks for one, and writes how each one ended."""

    def __init__(self, control: socket.socket) -> None:
        super().__init__([])
        users = (signal.SIGUSR1, signal.SIGUSR2)
        self.signals = (*GROUP_SIGNALS, *filter(is_unused, users))
        self._control = control

    def done(self) -> bool:
        """Return whether the worker is gone, or the time to end is over; then kill what is left."""
        if self._control.fileno() >= 0 and (
            self.deadline is None or (self.children and monotonic() < self.deadline)
        ):
            return False
        for child in self.children:
            child.signal(signal.SIGKILL)
        for child in self.children:
            if child.pid:
                os.waitpid(child.pid, 0)
        return True

    def sources(self) -> dict[int, Callable[[], None]]:
        """Wait for orders."""
        return {self._control.fileno(): self._on_order}

    def on_start(self, child: JobChild) -> None:
        """Answer with the pid."""
        child.jobs.close()
        self._answer(child.pid)

    def on_start_error(self, child: JobChild, error: OSError) -> None:
        """Answer with the reason; the worker asks again."""
        self.children.remove(child)
        child.jobs.close()
        child.end.close()
        self._answer(-(error.errno or 1))

    def on_exit(self, child: JobChild, status: int) -> None:
        """Write how a child ended."""
        self.children.remove(child)
        child.close_channel()
        with suppress(OSError):  # nobody waits for that any more
            child.end.send_bytes(NUMBER.pack(status))
        child.end.close()

    def become_child(self, child: JobChild) -> None:  # noqa: ARG002
        """Close what is the fork server's, or another child's."""
        self._control.close()
        for each in self.children:
            each.end.close()
        self.children.clear()

    def _on_order(self) -> None:
        try:
            order, descriptors, _, _ = socket.recv_fds(self._control, ORDER.size, 2)
        except OSError:
            order, descriptors = b"", []
        if not order:
            self._control.close()
            return
        what, pid, number = ORDER.unpack(order)
        if what == END:
            self.deadline = monotonic() + number / 1000
        if what == FORK and len(descriptors) == 2:
            self.children.append(JobChild(descriptors))
        elif what == FORK:  # this process has no more descriptors
            for descriptor in descriptors:
                os.close(descriptor)
            self._answer(-errno.EMFILE)
        for child in self.children if pid else ():
            if child.pid == pid and what == KILL:
                child.signal(signal.SIGKILL)
            elif child.pid == pid and child.channel is not None:
                with suppress(OSError):  # it has just ended
                    child.channel.send(order, socket.MSG_DONTWAIT)
                child.signal(signal.SIGTERM)

    def _answer(self, number: int) -> None:
        with suppress(OSError):  # the worker is gone: seen when it is read
            self._control.send(NUMBER.pack(number))


def _serve(
    server: ForkServer, mask: set[int], main: Callable[[Connection, socket.socket], NoReturn]
) -> NoReturn:
    """Be the fork server, and then each of its children; ends the process."""
    try:
        born = server.run(mask)
        if born is not None:
            main(born[0].jobs, born[1])
    except BaseException:
        sys.excepthook(*sys.exc_info())
        for child in server.children:
            child.signal(signal.SIGKILL)
    finally:
        os._exit(1)

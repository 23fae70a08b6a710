"""A process that keeps others running: it forks them, notices how each ends, and starts another.

Rules: this process has one thread and runs no job, so that a fork of it is safe. It alone signals
a child, since it alone knows that the pid is still the child's. The mechanism stands here; what to
do on each event is decided in two subclasses: of `--processes` and `--reload` in `cli`, and of
`use_threads=False` in `children`, where the supervisor is a fork server.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import socket
import struct
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from random import random
from time import monotonic
from types import FrameType
from typing import Any, Final, Generic, NamedTuple, TypeVar

from ...wire import recovery
from ..signals import do_nothing, install, restore

MAX_WAIT: Final = 3600.0
"""Seconds that one wait takes at most: the system does not accept any number."""


class Unreported(NamedTuple):
    """A job that a child had not reported: until when that can be done, and by ACK or by FAIL."""

    until: float
    ack: bool


class RunningJobs:
    """The ids of the jobs that a child runs, in memory that its supervisor shares.

    The child writes them, and its supervisor reads them after its death. A write is not a system
    call. There is an entry for each of the `count` jobs that run at a time.
    """

    _ENTRY: Final = 1024
    _HEAD: Final = struct.Struct("=d?H")  # when the reservation ends, `ack`, the id's length

    def __init__(self, count: int) -> None:
        self._memory = mmap.mmap(-1, count * self._ENTRY)
        self._free = list(range(0, count * self._ENTRY, self._ENTRY))
        self._entries: dict[str, int] = {}

    def write(self, owner: str, jid: str | None, until: float = 0.0, ack: bool = False) -> None:
        """Note which job `owner`, a thread, has until then (`reservation_clock`); None for none.

        If it dies, the job is failed, or with `ack` acknowledged. Safe to use from any thread. An
        id of more than 1000 bytes is left out.
        """
        if jid is None:
            if (start := self._entries.pop(owner, None)) is not None:
                self._put(start, 0.0, False, b"")
                self._free.append(start)
            return
        if owner not in self._entries:
            self._entries[owner] = self._free.pop()
        self._put(self._entries[owner], until, ack, jid.encode("utf-8", "surrogatepass"))

    def take(self) -> dict[str, Unreported]:
        """Return the jobs by their ids, and forget all: for the next child."""
        found = {}
        for start in range(0, len(self._memory), self._ENTRY):
            until, ack, size = self._HEAD.unpack_from(self._memory, start)
            if size:
                first = start + self._HEAD.size
                jid = self._memory[first : first + size].decode("utf-8", "replace")
                found[jid] = Unreported(until, ack)
        self._memory[:] = bytes(len(self._memory))
        return found

    def _put(self, start: int, until: float, ack: bool, data: bytes) -> None:
        size = len(data) if len(data) <= self._ENTRY - self._HEAD.size else 0
        first = start + self._HEAD.size
        self._HEAD.pack_into(self._memory, start, 0.0, False, 0)  # a kill here leaves it empty
        self._memory[first : first + size] = data[:size]
        self._HEAD.pack_into(self._memory, start, until, ack, size)


class Child:
    """A child by its number; when its process ends, another one is started."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid = 0
        """0: there is no process."""
        self.channel: socket.socket | None = None
        """Our end of a pair; an end of file there means that the other process is gone."""
        self.started_at = 0.0
        self.due: float | None = 0.0
        """When to start the next process (`time.monotonic`), None: not by itself."""
        self.deaths = 0
        """How many processes in a row did not last."""

    def close_channel(self) -> None:
        """Close our end, if it is open."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None

    def signal(self, number: int) -> None:
        """Send a signal to the process, if there is one."""
        if self.pid:
            os.kill(self.pid, number)


C = TypeVar("C", bound=Child)


class Supervisor(Generic[C]):
    """Keeps children running until `done`; `backoff` gives the pause before a restart."""

    signals: tuple[int, ...] = ()
    """Signals that `on_signal` gets; a child ignores them until it sets handlers of its own."""

    def __init__(
        self,
        children: list[C],
        backoff: Callable[[int, float], float] = recovery.backoff,
    ) -> None:
        self.children = children
        self._backoff = backoff
        self.deadline: float | None = None
        self._received: list[int] = []
        self._sigpipe: Callable[[int, FrameType | None], Any] | int = signal.SIG_DFL

    # The policy

    def done(self) -> bool:
        """Return whether all is over; called before each wait, which ends at `deadline`."""
        raise NotImplementedError

    def wants(self, child: C) -> bool:  # noqa: ARG002
        """Return whether a child is to be started, now or when it is due."""
        return True

    def on_signal(self, number: int) -> None:
        """This process got one of `signals`."""

    def on_start(self, child: C) -> None:
        """A process was forked."""

    def on_start_error(self, child: C, error: OSError) -> None:
        """The system gives no process; it is tried again."""

    def on_channel(self, child: C) -> None:
        """A child's channel can be read: at its end, unless children send something."""
        child.close_channel()

    def on_exit(self, child: C, status: int) -> None:
        """A process has ended, by an exit code or by a signal below 0."""
        raise NotImplementedError

    def sources(self) -> dict[int, Callable[[], None]]:
        """Return more descriptors to wait for, and what to call when one can be read."""
        return {}

    def next_due(self) -> float | None:
        """When to call `on_due` (`time.monotonic`); None if nothing but a signal matters."""
        return None

    def on_due(self) -> None:
        """The time that `next_due` has named has come."""

    def become_child(self, child: C) -> None:
        """Release what a child must not have; called in it, right after the fork."""

    # The mechanism

    def run(self, mask: set[int] | None = None) -> tuple[C, socket.socket] | None:
        """Return None when all is over; in each child, that child and its end of the channel.

        `mask` is the signal mask to set when handlers are in place.
        """
        with self._handling_signals() as awake:
            if mask is not None:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (*self.signals, signal.SIGCHLD))
            while not self.done():
                for child in self._waiting():
                    if (
                        monotonic() >= (child.due or 0.0)
                        and (channel := self._start(child)) is not None
                    ):
                        return child, channel
                self._wait(awake)
                received, self._received = self._received, []
                for number in received:  # not those that come meanwhile: they might never end
                    self.on_signal(number)
                self._reap()
        return None

    def restart_later(self, child: C) -> float:
        """Have the next process started after a pause; return its length in seconds."""
        pause = self._backoff(child.deaths, random())
        child.due = monotonic() + pause
        return pause

    @contextmanager
    def _handling_signals(self) -> Iterator[int]:
        """Note signals as they come; yield a descriptor that can be read after each."""
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        numbers = (*self.signals, signal.SIGCHLD)
        before = {number: install(number, partial(self._note, number)) for number in numbers}
        wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        # A channel's other end may be gone: that is an error of `send`, and not the end of us.
        self._sigpipe = signal.signal(signal.SIGPIPE, signal.SIG_IGN) or signal.SIG_DFL
        process = os.getpid()
        try:
            yield reader.fileno()
        finally:
            if os.getpid() == process:
                signal.set_wakeup_fd(wakeup)
                for number, handler in before.items():
                    restore(number, handler)
                signal.signal(signal.SIGPIPE, self._sigpipe)
            reader.close()
            writer.close()

    def _note(self, number: int) -> None:
        if number != signal.SIGCHLD:
            self._received.append(number)

    def _waiting(self) -> list[C]:
        """The children that are to be started, now or later."""
        waiting = [child for child in self.children if not child.pid and child.due is not None]
        return [child for child in waiting if self.wants(child)]

    def _start(self, child: C) -> socket.socket | None:
        """Fork; return the channel in the child, None in this process."""
        # A signal reaches the handlers of this process or of the child, never a mixture.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (*self.signals, signal.SIGCHLD))
        try:
            ours, theirs = pair()
            try:
                pid = fork_quietly()
            except OSError:
                ours.close()
                theirs.close()
                raise
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            child.deaths += 1
            self.on_start_error(child, error)
            return None
        if pid == 0:
            try:
                self._become_child(child, ours)
            except BaseException:  # there is one supervisor, whatever happens
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            return theirs
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        child.pid, child.channel, child.started_at = pid, ours, monotonic()
        self.on_start(child)
        return None

    def _become_child(self, born: C, ours: socket.socket) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, self._sigpipe)
        for number in self.signals:
            # A terminal sends them to the whole group, and the supervisor decides. No SIG_IGN: a
            # subprocess of a job would inherit that.
            install(number, do_nothing)
        ours.close()
        for child in self.children:
            child.close_channel()
        self.become_child(born)

    def _wait(self, awake: int) -> None:
        """Wait for a signal, a channel, another source, or until something is due."""
        handlers = self.sources()
        for child in self.children:
            if child.channel is not None:
                handlers[child.channel.fileno()] = partial(self.on_channel, child)
        own = self.next_due()
        times = [self.deadline, own, *(child.due for child in self._waiting())]
        due = min((at for at in times if at is not None), default=monotonic() + MAX_WAIT)
        poll = select.poll()
        for descriptor in (awake, *handlers):
            poll.register(descriptor, select.POLLIN)
        ready = poll.poll(min(max(0.0, due - monotonic()), MAX_WAIT) * 1000)
        for descriptor, _ in ready:
            if descriptor == awake:
                with suppress(BlockingIOError):
                    os.read(awake, 4096)
            else:
                handlers[descriptor]()
        if own is not None and monotonic() >= own:
            self.on_due()

    def _reap(self) -> None:
        """Note the children that have ended, and let go of others.

        Those are processes whose parents have ended, if this one has the process id 1.
        """
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                for child in self.children.copy():
                    if child.pid == ended[0]:
                        child.pid = 0
                        self.on_exit(child, os.waitstatus_to_exitcode(ended[1]))


def fork_quietly() -> int:
    """Fork without Python's warning of threads.

    In a supervisor the log's is the only one, which holds no lock; a program that uses processes
    for its jobs is warned with the remedy.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets that block, whatever the program's default timeout is."""
    ends = socket.socketpair()
    for end in ends:
        end.settimeout(None)
    return ends


def describe_exit(status: int) -> str:
    """Say how a process ended: "ended with exit code 3", "was killed by SIGKILL"."""
    return f"ended with exit code {status}" if status >= 0 else f"was killed by {_name(-status)}"


def describe_death(what: str, status: int) -> str:
    """Say how a process ended before its job did, for the job's FAIL."""
    if status >= 0:
        return f"{what} {describe_exit(status)} before the job did"
    hint = ": by the system, for lack of memory?" if status == -signal.SIGKILL else ""
    return f"{what} {describe_exit(status)} before the job was done{hint}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal, most of which have no name
        return f"signal {number}"

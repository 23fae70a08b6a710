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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from random import random
from time import monotonic
from types import FrameType
from typing import Any, Final

from ...wire import recovery

MAX_WAIT: Final = 3600.0
"""Seconds that one wait takes at most: the system does not accept any number."""


class RunningJobs:
    """The ids of the jobs that a child runs, in memory that its supervisor shares.

    The child writes them, and its supervisor reads them after its death. A write is not a system
    call. There is an entry for each of the `count` jobs that run at a time.
    """

    _ENTRY: Final = 256

    def __init__(self, count: int) -> None:
        self._memory = mmap.mmap(-1, count * self._ENTRY)
        self._free = list(range(count))
        self._entries: dict[str, int] = {}

    def write(self, owner: str, jid: str | None) -> None:
        """Note which job `owner`, a thread, has; None for none. Safe to use from any thread."""
        entry = self._entries.get(owner)
        if jid is None:
            if entry is not None:
                self._put(entry, b"")
                del self._entries[owner]
                self._free.append(entry)
            return
        if entry is None:
            try:
                entry = self._entries[owner] = self._free.pop()
            except IndexError:  # more threads than entries: some hang with a job that is overdue
                return
        self._put(entry, jid.encode("utf-8", "surrogatepass"))

    def read(self) -> list[str]:
        """Return the ids, without those that are too long for an entry."""
        found = []
        for start in range(0, len(self._memory), self._ENTRY):
            size = int.from_bytes(self._memory[start : start + 2], "little")
            if size:
                found.append(self._memory[start + 2 : start + 2 + size].decode("utf-8", "replace"))
        return found

    def clear(self) -> None:
        """Forget all ids: for the next child."""
        self._memory[:] = bytes(len(self._memory))

    def _put(self, entry: int, data: bytes) -> None:
        start = entry * self._ENTRY
        size = len(data) if len(data) <= self._ENTRY - 2 else 0
        self._memory[start : start + 2] = b"\0\0"  # a kill in between leaves an empty entry
        if size:
            self._memory[start + 2 : start + 2 + size] = data
            self._memory[start : start + 2] = size.to_bytes(2, "little")


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


class Supervisor:
    """Keeps children running until `done`; `backoff` gives the pause before a restart."""

    signals: tuple[int, ...] = ()
    """Signals that `on_signal` gets; a child ignores them until it sets handlers of its own."""

    def __init__(
        self,
        children: list[Child],
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

    def wants_children(self) -> bool:
        """Return whether children that are due are to be started."""
        return True

    def on_signal(self, number: int) -> None:
        """This process got one of `signals`."""

    def on_start(self, child: Child) -> None:
        """A process was forked."""

    def on_start_error(self, child: Child, error: OSError) -> None:
        """The system gives no process; it is tried again."""

    def on_channel(self, child: Child) -> None:
        """A child's channel can be read: at its end, unless children send something."""
        child.close_channel()

    def on_exit(self, child: Child, status: int) -> None:
        """A process has ended, by an exit code or by a signal below 0."""
        raise NotImplementedError

    def sources(self) -> dict[int, Callable[[], None]]:
        """Return more descriptors to wait for, and what to call when one can be read."""
        return {}

    def become_child(self, child: Child) -> None:
        """Release what a child must not have; called in it, right after the fork."""

    # The mechanism

    def run(self, mask: set[int] | None = None) -> tuple[Child, socket.socket] | None:
        """Return None when all is over; in each child, that child and its end of the channel.

        `mask` is the signal mask to set when handlers are in place.
        """
        with self._handling_signals() as awake:
            if mask is not None:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask - {signal.SIGCHLD})
            while not self.done():
                for child in self._waiting():
                    if (
                        monotonic() >= (child.due or 0.0)
                        and (channel := self._start(child)) is not None
                    ):
                        return child, channel
                self._wait(awake)
                while self._received:
                    self.on_signal(self._received.pop(0))
                self._reap()
        return None

    def restart_later(self, child: Child) -> float:
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
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
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
                    signal.signal(number, signal.SIG_DFL if handler is None else handler)
                signal.signal(signal.SIGPIPE, self._sigpipe)
            reader.close()
            writer.close()

    def _on_signal(self, number: int, _frame: object) -> None:
        if number != signal.SIGCHLD:
            self._received.append(number)

    def _waiting(self) -> list[Child]:
        """The children that are to be started, now or later."""
        if not self.wants_children():
            return []
        return [child for child in self.children if not child.pid and child.due is not None]

    def _start(self, child: Child) -> socket.socket | None:
        """Fork; return the channel in the child, None in this process."""
        # A signal reaches the handlers of this process or of the child, never a mixture.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (*self.signals, signal.SIGCHLD))
        try:
            ours, theirs = pair()
            try:
                pid = os.fork()
            except OSError:
                ours.close()
                theirs.close()
                raise
            if pid == 0:
                self._become_child(child, ours)
                return theirs
        except OSError as error:
            child.deaths += 1
            self.on_start_error(child, error)
            return None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        child.pid, child.channel, child.started_at = pid, ours, monotonic()
        self.on_start(child)
        return None

    def _become_child(self, born: Child, ours: socket.socket) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, self._sigpipe)
        for number in self.signals:
            # A terminal sends them to the whole group, and the supervisor decides. No SIG_IGN: a
            # subprocess of a job would inherit that.
            signal.signal(number, lambda *_: None)
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
        times = [self.deadline, *(child.due for child in self._waiting())]
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

    def _reap(self) -> None:
        for child in self.children.copy():
            if child.pid:
                pid, status = os.waitpid(child.pid, os.WNOHANG)
                if pid:
                    child.pid = 0
                    self.on_exit(child, os.waitstatus_to_exitcode(status))


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

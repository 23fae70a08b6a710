"""`--processes` and `--reload`: a parent that starts workers, and others in their place.

Rules: the parent has one thread, imports nothing of the user's and runs no job, so it has nothing
to die of, and a fork of it is safe. It is told what happens by signals, and by one channel to each
worker; one that ends is of no consequence to the others. Only a worker that says, or shows by
ending before it is ready, that it cannot begin counts as a failure, and five of them running end
it all. What was killed, or ended in peace, is replaced for ever.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from random import random
from time import monotonic
from typing import Final

from ..wire.recovery import backoff
from .exits import NEVER_BEGAN, Exit
from .retire import NOW, QUIET, READY, RETIRE, STOP

PATIENCE: Final = 8.0
"""Seconds that workers have to end beyond their grace period: they answer for jobs themselves."""

STEADY: Final = 10.0
"""Seconds after which a worker that ends has had a good start, and is replaced at once."""

LONGEST_WAIT: Final = 3600.0
"""Seconds that `select` is asked to wait at most: it cannot count to any number."""

TRIES: Final = 5
"""How many times running a worker may fail to begin."""

_PASSED_ON: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGTSTP, signal.SIGTTIN)
_HEARD: Final = (*_PASSED_ON, signal.SIGCHLD)

log = logging.getLogger("faktory.parent")


class Place:
    """One of the N workers, and who had the place before it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid = 0
        self.channel: socket.socket | None = None
        self.ready = False
        self.retiring = False
        self.began = 0.0
        self.due: float | None = 0.0
        """When to start the next worker here (`time.monotonic`), None: not by itself."""
        self.failures = 0
        """How many workers running could not begin."""
        self.deaths = 0
        """How many workers running did not last."""

    def __str__(self) -> str:
        return f"worker {self.number} (process {self.pid})"

    def tell(self, word: bytes) -> None:
        """Send the worker a word, if it still listens."""
        if self.channel is not None:
            with suppress(OSError):
                self.channel.send(word)

    def end(self, word: bytes) -> None:
        """Have the worker end as a word says, at once if it has not begun to work."""
        # No signal where a word will do: Python sees one too late that comes just as it begins
        # to wait.
        self.tell(word)
        if self.pid and not self.ready:
            os.kill(self.pid, signal.SIGTERM)


class Parent:
    """Keeps `count` workers running until told to stop, which may take them `grace` seconds.

    `changes` is a descriptor that can be read when the program has changed (`--reload`); then a
    worker that cannot begin waits for that.
    """

    def __init__(self, count: int, grace: float, changes: int | None = None) -> None:
        self._places = [Place(number + 1) for number in range(count)]
        self._grace = grace
        self._changes = changes
        self._signals: list[int] = []
        self._quiet = False
        self._deadline: float | None = None
        self._code = Exit.STOPPED

    def run(self) -> Exit | socket.socket:
        """Return when all has ended, with the exit code.

        In each worker, which is a fork of this process, return its end of the channel.
        """
        with self._listening() as awake:
            while not (self._stopping and not any(place.pid for place in self._places)):
                for place in self._places:
                    if self._is_due(place) and (channel := self._start(place)) is not None:
                        return channel
                self._wait(awake)
                while self._signals:
                    self._answer(self._signals.pop(0))
                self._reap()
                if self._deadline is not None and monotonic() >= self._deadline:
                    self._kill()
        return self._code

    @property
    def _stopping(self) -> bool:
        return self._deadline is not None

    @contextmanager
    def _listening(self) -> Iterator[int]:
        """Hear signals; yield what can be read when there was one."""
        inner, outer = socket.socketpair()
        inner.setblocking(False)
        outer.setblocking(False)
        before = {
            number: signal.signal(number, lambda number, _: self._signals.append(number))
            for number in _HEARD
        }
        signal.set_wakeup_fd(outer.fileno(), warn_on_full_buffer=False)
        parent = os.getpid()
        try:
            yield inner.fileno()
        finally:
            if os.getpid() == parent:
                signal.set_wakeup_fd(-1)
                for number, handler in before.items():
                    signal.signal(number, handler)
            inner.close()
            outer.close()

    # Starting

    def _is_due(self, place: Place) -> bool:
        wanted = not (place.pid or self._quiet or self._stopping)
        return wanted and place.due is not None and monotonic() >= place.due

    def _start(self, place: Place) -> socket.socket | None:
        """Fork; return the channel in the worker, None in the parent."""
        ours, theirs = socket.socketpair()
        # A signal meets the parent's answers or the worker's, never the one's in the other.
        signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        try:
            pid = os.fork()
            if pid == 0:
                self._become_worker(ours)
                return theirs
        except OSError as error:
            ours.close()
            theirs.close()
            place.deaths += 1
            self._delay(place, f"worker {place.number}: cannot be started: {error}")
            return None
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)
        theirs.close()
        ours.setblocking(False)
        place.pid, place.channel, place.began = pid, ours, monotonic()
        place.ready = place.retiring = False
        log.info("%s started", place)
        return None

    def _become_worker(self, ours: socket.socket) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing is lost before it is ready
        for number in (signal.SIGINT, signal.SIGTSTP, signal.SIGTTIN):
            # A terminal sends them to all, the parent decides. No SIG_IGN: a job's subprocess
            # would inherit that.
            signal.signal(number, lambda *_: None)
        for place in self._places:
            if place.channel is not None:
                place.channel.close()
        ours.close()
        if self._changes is not None:
            os.close(self._changes)

    # Listening

    def _wait(self, awake: int) -> None:
        """Wait for a signal, a word of a worker, a change, or until something is due."""
        listened = {place.channel: place for place in self._places if place.channel is not None}
        read: list[int | socket.socket] = [awake, *listened]
        if self._changes is not None:
            read.append(self._changes)
        due = [place.due for place in self._places if not place.pid and place.due is not None]
        if self._quiet or self._stopping:
            due = []
        if self._deadline is not None:
            due.append(self._deadline)
        timeout = min(max(0.0, min(due) - monotonic()), LONGEST_WAIT) if due else None
        heard = select.select(read, [], [], timeout)[0]
        for source in heard:
            if isinstance(source, socket.socket):
                self._hear(listened[source])
            elif source == self._changes:
                self._changed()
            else:
                os.read(source, 4096)

    def _hear(self, place: Place) -> None:
        assert place.channel is not None
        try:
            words = place.channel.recv(64)
        except OSError:
            words = b""
        if not words:
            place.channel.close()
            place.channel = None
        elif READY in words:
            place.ready = True
            log.debug("%s is ready", place)
            if self._quiet:
                place.tell(QUIET)

    def _answer(self, number: int) -> None:
        running = [place for place in self._places if place.pid]
        if number == signal.SIGCHLD:
            return
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stop(running)
            return
        if number == signal.SIGTSTP and not self._quiet:
            self._quiet = True
            log.warning("quiet: no more jobs are fetched, and no worker is replaced")
        for place in running:
            if number == signal.SIGTSTP:
                place.tell(QUIET)
            elif place.ready:
                os.kill(place.pid, number)

    def _stop(self, running: list[Place]) -> None:
        """A signal to stop; the second one means at once."""
        if self._stopping:
            self._deadline = min(self._deadline or 0.0, monotonic() + PATIENCE)
            for place in running:
                place.tell(NOW)
            return
        self._deadline = monotonic() + self._grace + PATIENCE
        if running:
            log.info("stopping %d workers", len(running))
        for place in running:
            place.end(STOP)

    def _changed(self) -> None:
        assert self._changes is not None
        if not os.read(self._changes, 4096):
            os.close(self._changes)
            self._changes = None
            log.error("nobody watches the files any more, so there are no more reloads")
        if self._quiet or self._stopping:
            return
        for place in self._places:
            place.due = monotonic()
            place.retiring = True
            place.end(RETIRE)

    # Ending

    def _reap(self) -> None:
        for place in self._places:
            if place.pid:
                pid, status = os.waitpid(place.pid, os.WNOHANG)
                if pid:
                    self._ended(place, os.waitstatus_to_exitcode(status))

    def _ended(self, place: Place, code: int) -> None:
        """See to who comes next: `code` is an exit code, or a signal below 0."""
        how = f"{place} {_how(code)}"
        lasted = monotonic() - place.began
        never_began = code in NEVER_BEGAN or (code >= 0 and not place.ready)
        if place.channel is not None:
            place.channel.close()
            place.channel = None
        place.pid = 0
        place.failures = place.failures + 1 if never_began else 0
        in_peace = code == Exit.STOPPED and place.ready
        place.deaths = 0 if in_peace or lasted >= STEADY else place.deaths + 1
        if self._stopping:
            # By TERM: it had no jobs yet, or no more.
            if code == Exit.ABANDONED or (code < 0 and code != -signal.SIGTERM):
                log.error("%s", how)
                self._code = max(self._code, Exit.ABANDONED)
        elif self._quiet:
            log.warning("%s; quiet, so it is not replaced", how)
        elif in_peace or place.retiring:
            log.info("%s; another takes its place", how)
            place.due = monotonic()
        elif never_began and self._changes is not None:
            log.error("%s; waiting for a file to be saved", how)
            place.due = None
        elif place.failures >= TRIES:
            self._give_up(how)
        else:
            self._delay(place, how)

    def _delay(self, place: Place, why: str) -> None:
        pause = backoff(place.deaths, random())
        log.warning("%s; another takes its place in %.1f s", why, pause)
        place.due = monotonic() + pause

    def _give_up(self, how: str) -> None:
        log.error("%s, the %dth worker running that could not begin: giving up", how, TRIES)
        self._code = Exit.GAVE_UP
        self._stop([other for other in self._places if other.pid])

    def _kill(self) -> None:
        """The grace period is over, and so is the patience."""
        for place in self._places:
            if place.pid:
                log.error("%s does not end, and is killed", place)
                os.kill(place.pid, signal.SIGKILL)
        self._deadline = monotonic() + PATIENCE


def _how(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    known = next((exit.name for exit in Exit if exit == code), None)
    return f"ended with exit code {code}" + (f" ({known})" if known else "")

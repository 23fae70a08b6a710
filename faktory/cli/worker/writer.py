"""The writer of a log: a thread behind a bounded queue, so that no reader can stop a worker.

Rules: a line that is put in is written once, whole and in order, or counted as dropped. A thread
that logs waits a second at most for a queue that is full, and for a writer that does not get on.
Nothing here holds a lock while it can be interrupted, by a signal, a fork or an exception: the
queue is one of C. A forked child has a queue and a thread of its own, and waits for each line, as
it may end at once; one that becomes a worker does not, from `run_in_background` on.
"""

from __future__ import annotations

import atexit
import errno
import itertools
import os
import select
import stat
import sys
from _thread import LockType, allocate_lock
from collections.abc import Callable
from contextlib import suppress
from math import inf
from queue import Empty, SimpleQueue
from threading import Thread, get_ident
from time import monotonic, sleep
from typing import Final

from ...client.pushes import value_of
from . import status_line
from .status_line import StatusLine
from .turns import Turns

MAX_ENTRIES: Final = 8192
"""How many lines wait; one that is longer than a KiB counts as several: 8 MiB in all."""

MAX_BATCH: Final = 65536
"""Bytes that are written at a time, about: what a pipe holds."""

PIPE_BUF: Final = getattr(select, "PIPE_BUF", 512)
"""Bytes that a pipe takes as a whole or not at all: no process that ends tears a line of that."""

MAX_WAIT: Final = 1.0
"""Seconds that a thread waits for room in the queue, or until its line is written."""

PAUSE: Final = 0.005
"""Seconds between two writes, so that a busy worker's lines are written many at a time."""

MAX_AGE: Final = 1.0
"""Seconds for which a descriptor that subprocesses inherit, as standard error, is what it was."""

RETRY_INTERVAL: Final = 1.0
"""Seconds until what could not be written is tried again."""


class Text(bytes):
    """What a program printed, encoded: it may end within a line."""


class Writer:
    """Writes lines to a descriptor; `say_dropped` makes the line that says how many are missing.

    All methods may be called from any thread.
    """

    def __init__(self, descriptor: int, say_dropped: Callable[[int, str], str]) -> None:
        self._descriptor = descriptor
        self._say_dropped = say_dropped
        self.encoding = "utf-8"
        self._status_line: StatusLine | None = None
        self._turns = Turns()
        self._has_others = False
        """Whether this process has forked or was forked, so that others write here too."""
        self._socket, self._is_file = self._look()
        self._looked_at = -inf
        """When it was looked at last (`time.monotonic`)."""
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._reset_before_fork, after_in_child=self._reset_after_fork
            )
        atexit.register(self.close)

    @property
    def descriptor(self) -> int:
        """What it writes to."""
        return self._descriptor

    @property
    def dropped(self) -> int:
        """How many lines of this process could not be written."""
        return value_of(self._drops)

    def put(self, line: str | Text, wait: bool = False) -> None:
        """Have a line, or a program's text, written; with `wait`, return when that is done."""
        if isinstance(line, str):
            data = f"{line}\n".encode(self.encoding, "backslashreplace")
        else:
            data = line
            self._has_text = True
        if self._lines.qsize() >= MAX_ENTRIES and not self._has_room():
            next(self._drops)
            self._dropped = True
            return
        self._lines.put(data)
        for _ in range(len(data) >> 10):
            self._lines.put(b"")
        if self._thread is None:
            self._start()
        if wait or self._waits:
            self.wait()

    def wait(self) -> None:
        """Wait until all that was put in up to now is written, unless that takes long."""
        if self._lines.qsize() <= MAX_ENTRIES // 32:
            self.flush()

    def flush(self, timeout: float = MAX_WAIT) -> None:
        """Wait until all that was put in up to now is written, if the writer gets on."""
        if self._thread is None:
            if self._lines.empty():
                return
            self._start()
        since = self._since
        is_stuck = since is not None and monotonic() - since >= timeout
        if is_stuck or sys.is_finalizing() or get_ident() == self._ident:
            return
        written = allocate_lock()
        written.acquire()
        self._lines.put(written)
        _release(self._hurry)
        written.acquire(timeout=timeout)

    def use_status_line(self) -> StatusLine:
        """Return the line that is below the others from now on: the descriptor is a terminal."""
        self._status_line = self._status_line or StatusLine()
        return self._status_line

    def redraw(self) -> None:
        """Have the writer look at once whether what stands below the lines has changed."""
        self._lines.put(b"")
        _release(self._hurry)

    def close(self) -> None:
        """Write what is queued, for a second at most; from now on wait for each line."""
        if self._status_line is not None and self._status_line.has_status:
            self._status_line.show(None)
            self.redraw()
        self._waits = True
        self.flush()

    def run_in_background(self) -> None:
        """Start the thread, and wait for lines no more: this process is a worker."""
        self._waits = False
        self._start()

    def _reset(self) -> None:
        self._lines: SimpleQueue[bytes | LockType] = SimpleQueue()
        self._waits = False
        self._thread: Thread | None = None
        self._ident = 0
        self._starting = allocate_lock()
        self._hurry = allocate_lock()
        self._hurry.acquire()
        self._since: float | None = None
        """When it began to write what it writes now (`time.monotonic`)."""
        self._full_since: float | None = None
        self._failing = False
        self._error: OSError | None = None
        """Why it could not write, until that is said."""
        self._rest = b""
        self._has_text = False
        self._is_idle = False
        self._is_within = False
        """Whether what was written last ends within a line."""
        self._drops = itertools.count()  # counts without a lock
        self._dropped = False
        self._reported = 0
        self._report_at = 0.0

    def _reset_before_fork(self) -> None:
        self._has_others = True
        if self._status_line is not None:
            self._status_line.is_shared = True

    def _reset_after_fork(self) -> None:
        self._reset()  # what is queued is the parent's to write
        self._waits = True
        if self._status_line is not None:
            self._status_line.reset_after_fork()

    def _has_room(self) -> bool:
        """Wait for room, unless the queue has been full for a second."""
        if self._failing or get_ident() == self._ident:
            return False
        began = monotonic()
        self._full_since = self._full_since or began
        while self._lines.qsize() >= MAX_ENTRIES:
            since = self._full_since  # None at any moment: there was room, which others have taken
            if monotonic() - min(began, since or began) >= MAX_WAIT:
                return False
            sleep(0.01)
        return True

    # The thread

    def _start(self) -> None:
        """Start the thread, once; without one, write here."""
        if self._starting.acquire(blocking=False):
            thread = Thread(target=self._run, name="log-writer", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no more threads
                while not self._lines.empty():
                    self._write_some()
                self._starting.release()
            else:
                self._thread = thread

    def _run(self) -> None:
        self._ident = get_ident()
        while True:
            with suppress(Exception):  # no memory, say
                self._write_some()
            is_slow = self._has_status and self._lines.qsize() <= MAX_ENTRIES // 32
            pause = status_line.PAUSE if is_slow and not self._is_idle else PAUSE
            self._hurry.acquire(timeout=pause)

    @property
    def _has_status(self) -> bool:
        return self._status_line is not None and self._status_line.has_status

    def _next_entry(self) -> bytes | LockType:
        """Wait for an entry; return an empty one when it is time to look at the status."""
        if not self._has_status:
            return self._lines.get()
        self._is_idle = False
        try:
            return self._lines.get(timeout=status_line.CHECK_INTERVAL)
        except Empty:
            self._is_idle = True
            return b""

    def _write_some(self) -> None:
        """Wait for lines, and write about as many as a pipe holds."""
        batch: list[bytes] = []
        waiting: list[LockType] = []
        entry = self._next_entry()
        self._since = monotonic()
        size = 0
        while True:
            if isinstance(entry, bytes):
                batch.append(entry)
                size += len(entry)
            else:
                waiting.append(entry)
            if size >= MAX_BATCH or self._lines.empty():
                break
            entry = self._lines.get()
        self._rest = self._joined(batch) if self._has_text else b"".join(batch)
        if self._status_line is not None:
            is_own = not isinstance(next(filter(None, batch), Text()), Text)
            is_own = is_own and not self._rest.startswith(b"\n")
            self._rest = self._status_line.compose(self._rest, not self._lines.empty(), is_own)
        self._write()
        if self._lines.qsize() <= MAX_ENTRIES // 2:
            self._full_since = None
        if self._dropped:
            # After the lines that were queued before, unless they never end.
            now = monotonic()
            self._report_at = self._report_at or now + MAX_WAIT
            if self._lines.empty() or now >= self._report_at:
                self._report_dropped()
        self._since = None
        for each in waiting:
            each.release()

    def _joined(self, batch: list[bytes]) -> bytes:
        """Return entries so that those of the log begin a line."""
        parts: list[bytes] = []
        for entry in filter(None, batch):
            if self._is_within and not isinstance(entry, Text):
                parts.append(b"\n")
            parts.append(entry)
            self._is_within = not entry.endswith(b"\n")
        return b"".join(parts)

    def _report_dropped(self) -> None:
        self._dropped = False
        self._report_at = 0.0
        total = self.dropped
        count, self._reported = total - self._reported, total
        why = "they were not read in time"
        if self._error is not None:
            why = f"they could not be written: {self._error.strerror}"
            self._error = None
        if count:
            line = f"{self._say_dropped(count, why)}\n".encode(self.encoding, "backslashreplace")
            self._rest = self._joined([line])
            if self._status_line is not None:
                self._rest = self._status_line.compose(self._rest, False, False)
            self._write()

    def _write(self) -> None:
        """Write the rest, as long as it takes."""
        while self._rest:
            self._failing = False
            locked = self._has_others
            if locked:
                self._turns.acquire()
            try:
                self._write_or_fail(locked)
            except OSError as error:
                self._error = error
                self._failing = True
            finally:
                if locked:
                    self._turns.release()
            if self._failing and not self._ident:  # without a thread there is no time to wait
                self._rest = b""
            elif self._failing:
                sleep(RETRY_INTERVAL)

    def _write_or_fail(self, locked: bool) -> None:
        """Write the rest, unless another process writes here from now on, and none has the lock.

        Each call of the system that may wait has the writer wait for its next turn among the
        threads: so there are few of them. A socket of Python's, such as a connection to the server
        that has got the descriptor's number, is inherited by no subprocess: to ask for that is a
        call that does not wait.
        """
        whole = True
        try:
            while self._rest and (locked or not (whole and self._has_others)):
                try:
                    now = monotonic()
                    inherited = os.get_inheritable(self._descriptor)
                    if not inherited or now - self._looked_at > MAX_AGE:
                        self._looked_at = now
                        socket, self._is_file = self._look()
                        if socket != self._socket:
                            self._looked_at = -inf
                            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
                    end = len(self._rest) if self._is_file else self._next_end()
                    count = os.write(self._descriptor, self._rest[:end])
                except BlockingIOError:
                    self._wait_for_reader()
                    continue
                whole = self._rest[count - 1 : count] == b"\n"
                self._rest = self._rest[count:]
        except OSError:
            if not whole:  # end the line that was begun, and write the next one
                self._rest = b"\n" + self._rest.partition(b"\n")[2]
                next(self._drops)
                self._dropped = True
            raise

    def _next_end(self) -> int:
        """Return how much to write at once: lines that a pipe takes as a whole, or one longer."""
        if len(self._rest) <= PIPE_BUF:
            return len(self._rest)
        end = (self._rest.rfind(b"\n", 0, PIPE_BUF) + 1) or (self._rest.find(b"\n") + 1)
        return end or len(self._rest)

    def _look(self) -> tuple[int, bool]:
        """Return which socket the descriptor is, 0 if it is none, and whether it is a file on disk.

        Where a job has closed it, the next connection to the server has its number.
        """
        with suppress(OSError):
            found = os.fstat(self._descriptor)
            if stat.S_ISSOCK(found.st_mode):
                return found.st_ino, False
            return 0, stat.S_ISREG(found.st_mode)
        return 0, False

    def _wait_for_reader(self) -> None:
        try:
            select.select([], [self._descriptor], [], MAX_WAIT)
        except (OSError, ValueError):  # it is not a file that can be waited for
            sleep(0.05)


def _release(lock: LockType) -> None:
    with suppress(RuntimeError):  # it is released already
        lock.release()

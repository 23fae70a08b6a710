"""Jobs on processes: each job thread has a child process that runs its jobs, one at a time.

Rules: a child that dies takes down the job that ran in it, and nothing else; that job fails with
how the child died, and the next one gets a new child. What a child says of a failure is text, so
nothing has to survive pickle but the payload. A child that does not end when it is told to is
killed.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from threading import Event, Lock
from time import monotonic
from typing import IO, Any, Final, NoReturn

from ..client import Client
from ..exceptions import Shutdown, TimeLimitExceeded
from ..jobs.context import JobContext
from ..jobs.registry import Runnable
from .child import REASON, REASONS, Child
from .nursery import Ends, Nursery, NurseryGone, ended
from .outside import Outside, StandIn, stand_in

INSIST: Final[dict[type[BaseException], float]] = {TimeLimitExceeded: 5.0, Shutdown: 0.5}
"""Seconds that a job has to end after that was raised in it, before its process is killed; those
after Shutdown are part of the worker's last words."""

AGAIN: Final = 1.0
"""Seconds until a process is asked for again that the system would not give."""

_WORDS: Final = {exception: word for word, exception in REASONS.items()}


class ProcessDied(StandIn, Exception):
    """A job's process ended before the job did: the error type that its FAIL reports."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.report = ("ProcessDied", message, [])


class Processes:
    """The processes of a worker. To be made before the worker has threads.

    `find` finds what runs a job type, `runs` what there is to find now: children know of no more
    than that. `gone` hears that no job can be run any more.
    """

    def __init__(
        self,
        find: Callable[[str], Runnable],
        runs: Mapping[str, Runnable],
        make_client: Callable[[], Client],
        gone: Callable[[NurseryGone], None],
        log: logging.Logger,
    ) -> None:
        self.known = dict(runs)
        self.gone = gone
        self.log = log
        if (others := threading.active_count() - 1) > 0:
            log.warning(
                "processes are made of a program that runs %d other threads: a lock that one of "
                "them holds right now stays taken in each process. Start threads later: in a "
                'handler of "startup", or in the jobs.',
                others,
            )
        self.nursery = Nursery(partial(_be_child, find, make_client))

    def make(self) -> Outside:
        """Make the place where one thread's jobs run."""
        return Process(self)

    def close(self) -> None:
        """End all processes, at once."""
        self.nursery.close()


def _be_child(
    find: Callable[[str], Runnable], make_client: Callable[[], Client], ends: Ends
) -> NoReturn:
    Child(ends, find, make_client).run()


class Process:
    """One thread's child process, and the next one when that has died."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._pid = 0
        """0: there is none."""
        self._channel: socket.socket | None = None
        self._answers: IO[bytes] | None = None
        self._reasons = self._obituary = -1
        self._number = 0
        """Which job this is: what interrupts one leaves the next alone."""
        self._raised: type[BaseException] | None = None
        self._woken = Event()
        self._lock = Lock()
        """Held to close the descriptors, and where that must not be."""

    def run(self, context: JobContext, job: Runnable) -> None:
        """Run a job in the child; see `Outside`."""
        late = None if self._processes.known.get(context.jobtype) is job else _pickled(job)
        with self._lock:
            self._number += 1
            self._raised = None
            self._woken.clear()
        if self._pid and self._is_gone():
            self.close()  # it died between two jobs, so none is to blame
        while not self._pid:
            self._start()
        assert self._channel is not None
        assert self._answers is not None
        outcome: Any = 0.0
        try:
            self._channel.sendall(pickle.dumps((self._number, context.payload, late)))
            while isinstance(outcome, float):  # when its reservation ends: it has more time
                outcome = pickle.load(self._answers)
                if isinstance(outcome, float):
                    context._ends = outcome
        except (OSError, EOFError, pickle.UnpicklingError):
            raise self._died() from None
        if outcome is not None:
            raise stand_in(*outcome)

    def interrupt(self, exception: type[BaseException]) -> float | None:
        """Raise in the child; the second time, kill it."""
        with self._lock:
            if self._raised is exception:
                self._signal(signal.SIGKILL)
                return None
            self._raised = exception
            self._woken.set()
            if self._pid:
                with suppress(OSError):  # it has just ended
                    os.write(self._reasons, REASON.pack(_WORDS[exception], self._number))
                self._signal(signal.SIGTERM)
        return monotonic() + INSIST[exception]

    def kill(self) -> bool:
        """Kill the child."""
        self._signal(signal.SIGKILL)
        return True

    def _signal(self, number: signal.Signals) -> None:
        if pid := self._pid:
            self._processes.nursery.signal(pid, number)

    def close(self) -> None:
        """Let the child end, which has nothing to do."""
        with self._lock:
            if self._channel is None or self._answers is None:
                return
            self._pid = 0
            self._answers.close()
            self._channel.close()
            os.close(self._obituary)
            os.close(self._reasons)
            self._channel = self._answers = None

    def _start(self) -> None:
        """Get a child, or try to; raise what the job was interrupted by meanwhile."""
        ours, theirs = socket.socketpair()
        reasons, self._reasons = os.pipe()
        self._obituary, obituary = os.pipe()
        os.set_blocking(self._reasons, False)
        self._channel, self._answers = ours, ours.makefile("rb")
        try:
            pid = self._processes.nursery.fork((theirs.fileno(), reasons), obituary)
        except NurseryGone as error:
            self.close()
            self._processes.gone(error)
            raise
        except OSError as error:
            self.close()
            self._processes.log.error(
                "the system gives no process for a job, trying again: %s", error
            )
            self._woken.wait(AGAIN)
        else:
            self._pid = pid
        finally:
            theirs.close()
            os.close(reasons)
            os.close(obituary)
        if self._raised is not None:
            raise self._raised

    def _is_gone(self) -> bool:
        assert self._channel is not None
        try:
            return not self._channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _died(self) -> BaseException:
        """Wait for the end of a child that says no more, and tell how it came."""
        self._signal(signal.SIGKILL)
        code = ended(self._obituary)
        self.close()
        if code is None:
            self._processes.gone(NurseryGone())
        if self._raised is not None:
            name = self._raised.__name__
            message = f"{self._raised()}, did not end within {INSIST[self._raised]:g} s"
            return stand_in((name, f"{message}, and was killed", []), name, "")
        return ProcessDied(_how(code))


def _how(code: int | None) -> str:
    if code is None:
        return "the job's process was killed, and the one that starts such processes before it"
    if code >= 0:
        return f"the job's process ended with exit code {code} before the job did"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = ": by the system, for lack of memory?" if code == -signal.SIGKILL else ""
    return f"the job's process was killed by {name} before the job was done{hint}"


def _pickled(job: Runnable) -> bytes:
    try:
        return pickle.dumps(job)
    except Exception as error:
        raise TypeError(
            f"{job.origin} was registered after run() began, and cannot be sent to a process "
            f"({error}): register it before."
        ) from None

"""`use_threads=False`: a process for each processor, which runs its jobs one at a time.

Rules: a child that dies takes down the job that ran in it, and nothing else: that job fails with
how the child died, and the next one gets a new child, which `fork_server` forks. What a child
sends is not unpickled, and anything but an answer to its job ends it. A child that does not end
when it is interrupted is killed. A job waits while the system gives it no process.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import select
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from random import getrandbits, random
from threading import Event, Lock
from time import monotonic
from typing import Any, Final

from ...client import Client
from ...exceptions import Shutdown
from ...jobs.context import JobContext
from ...jobs.registry import Runnable
from ...jobs.retries import Verdict
from ...jobs.runner import JobRunner
from ...wire.log import Log
from ..timing import Timing
from .base import RemoteError, Shortage, make_remote_error
from .fork_server import KILL, NUMBER, ForkServerClient, ForkServerDied
from .job_process import HEAD, INTERRUPTS, MAX_ANSWER, JobProcess, Outcomes
from .supervisor import describe_death

_ORDERS: Final = {exception: order for order, exception in INTERRUPTS.items()}

_END_WAIT: Final = 2.0
"""Seconds from the end of a channel to the end of its process, or a job has closed the channel."""

_KILLED: Final = "the job's process was killed by faktory-worker, because the job %s"


class ProcessDied(RemoteError, Exception):
    """A job's process ended before the job did: the error type that its FAIL reports."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.report = ("ProcessDied", message, [])


class ProcessBackends:
    """The processes of a worker, made before the worker has threads.

    Children know what `runner` finds now. `on_fork_server_died` is called when no job can be run
    any more.
    """

    def __init__(
        self,
        runner: JobRunner,
        make_client: Callable[[], Client],
        on_fork_server_died: Callable[[ForkServerDied], None],
        log: logging.Logger,
        timing: Timing,
    ) -> None:
        self.known: Mapping[str, Runnable] = {name: runner.find(name) for name in runner.jobtypes}
        self.on_fork_server_died = on_fork_server_died
        self.log = log
        self.timing = timing
        if (others := threading.active_count() - 1) > 0:
            Log(log).warning(
                "processes are made of a program that runs %d other threads: a lock that one of "
                "them holds right now stays acquired in each process. Start threads later: in a "
                'handler of "startup", or in the jobs.',
                others,
            )
        self.shortage = Shortage(log, "the system gives no process for a job")
        self.outcomes = Outcomes()
        self.fork_server = ForkServerClient(
            lambda channel, interrupts: JobProcess(
                channel, interrupts, runner, make_client, self.outcomes, timing.flush_grace
            ).run()
        )

    def make(self) -> ProcessBackend:
        """Make the backend of one processor."""
        return ProcessBackend(self)

    def stop(self) -> None:
        """Let jobs know that the worker stops."""
        self.outcomes.stopping = True

    def close(self) -> None:
        """End all processes; what their Producers hold is pushed first, in a bounded time."""
        self.fork_server.close(self.timing.flush_grace + _END_WAIT)


class ProcessBackend:
    """Runs the jobs of one processor in a child, and in the next one when that has died."""

    own_errors: tuple[type[BaseException], ...] = (ForkServerDied,)

    def __init__(self, backends: ProcessBackends) -> None:
        self._backends = backends
        self._fork_server = backends.fork_server
        self._timing = backends.timing
        self._pid = 0
        """0: there is no child."""
        self._channel: Connection | None = None
        self._received = bytearray()
        """What came through it, and is not complete yet."""
        self._entry = backends.outcomes.new_entry()
        self._poll = select.poll()
        """Waits for a message, or for the child's end."""
        self._end: Connection
        """Where the fork server writes how the child ended."""
        self._status: int | None = None
        """How it ended, once that has been read."""
        self._served = False
        """Whether this child has finished a job."""
        self._deaths = 0
        """How many children in a row have finished none."""
        self._due = 0.0
        """When to fetch the next job (`time.monotonic`)."""
        self._number = 0
        """Which job this is, at random: what interrupts one leaves the next alone, and nothing
        that the job writes into the channel is taken for its outcome."""
        self._interrupted: type[BaseException] | None = None
        self._woken = Event()
        self._lock = Lock()

    def run(self, task: Runnable, job: JobContext) -> None:
        """Run a job in the child; see `Backend`."""
        late = None if self._backends.known.get(job.jobtype) is task else _pickled(task)
        with self._lock:
            self._number = getrandbits(62)
            self._interrupted = None
            self._woken.clear()
        if self._channel is not None and (self._received or self._poll.poll(0)):
            self.close()  # it died between two jobs, so none is to blame
        channel = self._channel or self._start_child()
        try:
            channel.send_bytes(pickle.dumps((self._number, self._entry, job.payload, late)))
            while (reply := self._receive(channel)).keys() == {"ends"}:
                job.extend(reply["ends"])
        except (OSError, EOFError, ValueError) as error:
            death = self._death(error)
            self.close()
            outcome = self._backends.outcomes.read(self._entry, self._number)
            if outcome is None or self._interrupted is not None:
                raise death from None
            reply = outcome
        self._served = True
        self._deaths = 0
        self._due = 0.0
        if reply:
            errtype, message, backtrace = reply["report"]
            report = (errtype, message, backtrace)
            verdict = Verdict(*reply["verdict"])
            raise make_remote_error(report, reply["control"], reply["traceback"], verdict)

    def pause(self) -> float:
        """Return for how long to fetch no job: the last children have finished none."""
        return max(0.0, self._due - monotonic()) if self._due else 0.0

    def interrupt(self, exception: type[BaseException]) -> float | None:
        """Raise in the child; the second time, kill it."""
        with self._lock:
            insist = self._interrupted is exception
            self._interrupted = exception
            self._woken.set()
            self._order(KILL if insist else _ORDERS[exception])
        return None if insist else monotonic() + self._grace(exception)

    def kill(self) -> bool:
        """Kill the child."""
        self._order(KILL)
        return True

    def close(self) -> None:
        """Let the child end, which has nothing to do."""
        with self._lock:
            self._pid = 0
        if self._channel is not None:
            self._poll = select.poll()
            self._channel.close()
            self._received.clear()
            self._end.close()
            self._channel = None
            if not self._served and self._interrupted is None:
                self._deaths += 1
                self._due = monotonic() + self._timing.backoff(self._deaths, random())

    def _start_child(self) -> Connection:
        """Wait for a child; raise what the job is interrupted by meanwhile."""
        attempts = 0
        while self._channel is None:
            if attempts:
                self._woken.wait(self._timing.backoff(attempts, random()))
            if self._interrupted is not None:
                self._backends.shortage.ends()
                raise self._interrupted
            try:
                pid, self._channel, self._end = self._fork_server.fork()
            except ForkServerDied as error:
                self._backends.on_fork_server_died(error)
                raise
            except OSError as error:
                attempts += 1
                self._backends.shortage.begins(error)
            else:
                self._backends.shortage.ends()
                self._poll.register(self._channel, select.POLLIN)
                self._poll.register(self._end, select.POLLIN)
                self._served = False
                self._status = None
                with self._lock:
                    self._pid = pid
                    if self._interrupted is not None:
                        self._order(_ORDERS[self._interrupted])
        return self._channel

    def _receive(self, channel: Connection) -> dict[str, Any]:
        """Return the next message about the job; EOFError when the child has died.

        ValueError if something else came.
        """
        received = self._received
        while (message := self._next_message()) is None:
            # A process that the job has forked may hold the channel open after the child's death.
            if any(descriptor == channel.fileno() for descriptor, _ in self._poll.poll()):
                received += (data := os.read(channel.fileno(), 65536))
                if not data:
                    raise EOFError
            elif self._read_status() is not None:
                raise EOFError
            else:
                self._poll.unregister(self._end)  # the fork server is gone, but the child is not
        return message

    def _next_message(self) -> dict[str, Any] | None:
        """Take a message out of what was received; None if there is no complete one."""
        received = self._received
        if not NUMBER.pack(self._number).startswith(received[: NUMBER.size]):
            raise ValueError
        if len(received) < HEAD.size:
            return None
        _, size = HEAD.unpack_from(received)
        if size > MAX_ANSWER:
            raise ValueError
        if len(received) < HEAD.size + size:
            return None
        message = json.loads(received[HEAD.size : HEAD.size + size])
        del received[: HEAD.size + size]
        if type(message) is not dict:
            raise ValueError
        return message

    def _read_status(self) -> int | None:
        """Wait for how the child ended; return None if no fork server is left to say that."""
        if self._status is None:
            with suppress(EOFError):
                self._status = int(NUMBER.unpack(self._end.recv_bytes())[0])
        return self._status

    def _order(self, what: bytes) -> None:
        if pid := self._pid:
            self._fork_server.order(what, pid, self._number)

    def _grace(self, exception: type[BaseException]) -> float:
        return self._timing.kill_grace if exception is Shutdown else self._timing.time_limit_grace

    def _death(self, error: Exception) -> BaseException:
        """Return how the child ended, after it was killed if it is still there."""
        wrote = isinstance(error, ValueError)
        # One that has died closes its channel a little earlier than its end is known.
        ended = not wrote and self._end.poll(_END_WAIT)
        status = self._read_status() if ended else None
        if status is not None:
            message = describe_death("the job's process", status)
        else:
            self._order(KILL)
            what = "wrote into" if wrote else "closed"
            message = _KILLED % f"{what} the descriptor that connects it to the worker"
            if self._read_status() is None:
                message = (
                    "the job's process is gone, and the one that starts such processes before it"
                )
                self._backends.on_fork_server_died(ForkServerDied())
        if self._interrupted is None:
            return ProcessDied(message)
        name, grace = self._interrupted.__name__, self._grace(self._interrupted)
        message = (
            f"{self._interrupted()}, did not end within {grace:g} s, and was killed by "
            "faktory-worker"
        )
        return make_remote_error((name, message, []), name, "")


def _pickled(task: Runnable) -> bytes:
    try:
        return pickle.dumps(task)
    except Exception as error:
        raise TypeError(
            f"{task.origin} was registered after run() began, and cannot be sent to a process "
            f"({error}): register it before."
        ) from None

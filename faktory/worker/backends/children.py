"""`use_threads=False`: a process for each processor, which runs its jobs one at a time.

Rules: a child that dies takes down the job that ran in it, and nothing else: that job fails with
how the child died, and the next one gets a new child, which `fork_server` forks. What a child
sends is JSON with the number of its job, and is not unpickled. A child that does not end when it
is interrupted is killed.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from random import random
from threading import Event, Lock
from time import monotonic
from typing import Any, Final, NoReturn

from ...client import Client
from ...exceptions import Shutdown, TimeLimitExceeded
from ...jobs.context import JobContext
from ...jobs.registry import Runnable
from ...jobs.runner import JobRunner, in_context
from ...wire import failure
from ...wire.failure import MAX_BACKTRACE
from ...wire.log import Log
from ..timing import Timing
from .base import RemoteError, control_of, make_remote_error
from .fork_server import KILL, NUMBER, ORDER, ForkServerClient, ForkServerDied
from .supervisor import describe_death

_INTERRUPTS: Final[dict[bytes, type[BaseException]]] = {b"s": Shutdown, b"t": TimeLimitExceeded}
_ORDERS: Final = {exception: order for order, exception in _INTERRUPTS.items()}

_MAX_MESSAGE: Final = 1_000_000
"""Bytes: a report has 50 lines of 1000 bytes at most, and its traceback once more."""


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
        self.fork_server = ForkServerClient(
            lambda channel, interrupts: JobProcess(channel, interrupts, runner, make_client).run()
        )

    def make(self) -> ProcessBackend:
        """Make the backend of one processor."""
        return ProcessBackend(self)

    def close(self) -> None:
        """End all processes, at once."""
        self.fork_server.close()


class ProcessBackend:
    """Runs the jobs of one processor in a child, and in the next one when that has died."""

    def __init__(self, backends: ProcessBackends) -> None:
        self._backends = backends
        self._fork_server = backends.fork_server
        self._timing = backends.timing
        self._pid = 0
        """0: there is no child."""
        self._channel: Connection | None = None
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
        """Which job this is: what interrupts one leaves the next alone."""
        self._interrupted: type[BaseException] | None = None
        self._woken = Event()
        self._lock = Lock()

    def run(self, task: Runnable, job: JobContext) -> None:
        """Run a job in the child; see `Backend`."""
        late = None if self._backends.known.get(job.jobtype) is task else _pickled(task)
        with self._lock:
            self._number += 1
            self._interrupted = None
            self._woken.clear()
        if self._channel is not None and self._poll.poll(0):
            self.close()  # it died between two jobs, so none is to blame
        channel = self._channel or self._start_child()
        try:
            channel.send_bytes(pickle.dumps((self._number, job.payload, late)))
            while (reply := self._receive(channel)).keys() == {"ends"}:
                job._ends = reply["ends"]  # the job has asked for more time
        except (OSError, EOFError, ValueError) as error:
            raise self._death(error) from None
        self._served = True
        self._deaths = 0
        self._due = 0.0
        if reply:
            errtype, message, backtrace = reply["report"]
            report = (errtype, message, backtrace)
            raise make_remote_error(report, reply["control"], reply["traceback"])

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
                raise self._interrupted
            try:
                pid, self._channel, self._end = self._fork_server.fork()
            except ForkServerDied as error:
                self._backends.on_fork_server_died(error)
                raise
            except OSError as error:
                attempts += 1
                Log(self._backends.log).error(
                    "the system gives no process for a job, trying again: %s", error
                )
            else:
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
        """Return the next message about the job; EOFError when the child has died."""
        while True:
            # A process that the job has forked may hold the channel open after the child's death.
            if all(descriptor != channel.fileno() for descriptor, _ in self._poll.poll()):
                if self._read_status() is not None:
                    raise EOFError
                self._poll.unregister(self._end)  # the fork server is gone, but the child is not
                continue
            message = json.loads(channel.recv_bytes(_MAX_MESSAGE))
            if not isinstance(message, list) or len(message) != 2 or type(message[1]) is not dict:
                raise ValueError
            if message[0] == self._number:
                reply: dict[str, Any] = message[1]
                return reply

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
        """Kill the child, if it is still there, and return how it ended."""
        self._order(KILL)
        if (status := self._read_status()) is not None:
            message = describe_death("the job's process", status)
        else:
            message = (
                "the job's process was killed, and the one that starts such processes before it"
            )
            self._backends.on_fork_server_died(ForkServerDied())
        if isinstance(error, ValueError) or str(error) == "bad message length":
            message = (
                "the job's process was killed, since the job wrote into the descriptor that "
                "connects it to the worker"
            )
        self.close()
        if self._interrupted is None:
            return ProcessDied(message)
        name, grace = self._interrupted.__name__, self._grace(self._interrupted)
        message = f"{self._interrupted()}, did not end within {grace:g} s, and was killed"
        return make_remote_error((name, message, []), name, "")


class JobProcess:
    """A child: runs the jobs that come through its channel, one at a time.

    It has one thread, and what the worker had when the fork server was forked, but none of its
    connections. A TERM means something only if the fork server has sent why: then it is raised in
    the running job, once. When the channel is closed, the process ends.
    """

    def __init__(
        self,
        channel: Connection,
        interrupts: socket.socket,
        runner: JobRunner,
        make_client: Callable[[], Client],
    ) -> None:
        self._channel = channel
        self._interrupts = interrupts
        self._runner = runner
        self._client = make_client()
        self._pid = os.getpid()
        self._number = 0
        self._interruptible = False

    def run(self) -> NoReturn:
        """Run jobs until the worker is gone."""
        os.register_at_fork(after_in_child=self._close_after_fork)
        signal.signal(signal.SIGTERM, self._on_term)
        while True:
            try:
                self._number, payload, late = pickle.loads(self._channel.recv_bytes())
            except (EOFError, OSError):
                os._exit(0)
            reply = self._run_job(payload, late)
            with suppress(Exception):  # or what was printed would be lost with this process
                sys.stdout.flush()
                sys.stderr.flush()
            self._send(reply)

    def _run_job(self, payload: dict[str, Any], late: bytes | None) -> dict[str, Any]:
        """Run a job; return what the worker is to know of its failure, nothing if it is done."""
        done = False
        try:
            job = JobContext(payload, self._client)
            job.on_more_time = lambda ends: self._send({"ends": ends})
            task = self._runner.find(job.jobtype) if late is None else pickle.loads(late)
            self._interruptible = True
            self._on_term()  # the interrupt may have come earlier
            in_context(job, lambda: self._runner.call(task, job))
            done = True
            self._interruptible = False
        except BaseException as error:
            self._interruptible = False
            return {} if done else _describe(error, payload.get("backtrace") or 0)
        return {}

    def _on_term(self, *_: object) -> None:
        """Raise the interrupt that was sent, if one is there for this job."""
        if not self._interruptible or os.getpid() != self._pid:
            return
        with suppress(BlockingIOError):
            while order := self._interrupts.recv(ORDER.size, socket.MSG_DONTWAIT):
                what, _, number = ORDER.unpack(order)
                if number == self._number:
                    self._interruptible = False
                    raise _INTERRUPTS[what]

    def _send(self, body: dict[str, Any]) -> None:
        if os.getpid() == self._pid:
            self._channel.send_bytes(json.dumps([self._number, body]).encode())

    def _close_after_fork(self) -> None:
        """In a process that a job forks: it must not hold the channel open when this one ends."""
        self._channel.close()
        self._interrupts.close()


def _describe(error: BaseException, backtrace: int) -> dict[str, Any]:
    report = failure.describe(error, backtrace=backtrace)
    try:
        lines = failure.describe(error, backtrace=MAX_BACKTRACE)[2]
    except BaseException:
        lines = []
    text = "".join(f"{line}\n" for line in lines)
    return {"report": report, "control": control_of(error), "traceback": text}


def _pickled(task: Runnable) -> bytes:
    try:
        return pickle.dumps(task)
    except Exception as error:
        raise TypeError(
            f"{task.origin} was registered after run() began, and cannot be sent to a process "
            f"({error}): register it before."
        ) from None

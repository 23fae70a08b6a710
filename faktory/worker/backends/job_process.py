"""A process of `use_threads=False`: it runs the jobs that the worker sends it, one at a time.

Rules: a job cannot be kept from its process's descriptors, but what it does with them harms that
job alone. Each answer begins with the number of its job, which is random, so that anything else in
the channel shows at once. The channel is not among the low descriptors, and no process that a job
starts inherits it. A job that has closed it leaves its outcome in memory that the worker shares.
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
import pickle
import signal
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from threading import Event, Thread
from typing import Any, Final, NoReturn

from ...client import Client, fork
from ...client.descriptors import copy_high
from ...exceptions import Shutdown, TimeLimitExceeded
from ...jobs.context import C, JobContext
from ...jobs.registry import Runnable
from ...jobs.retries import judge
from ...jobs.runner import JobRunner, in_context
from ..signals import install
from .base import describe_remote
from .fork_server import ORDER

INTERRUPTS: Final[dict[bytes, type[BaseException]]] = {b"s": Shutdown, b"t": TimeLimitExceeded}

HEAD: Final = struct.Struct("=qI")
"""Before each answer, which is JSON: the number of its job, and how many bytes it has."""

LOOK_INTERVAL: Final = 0.1
"""Seconds between two looks whether the worker stops, for a job that wants to know at once."""

MAX_ANSWER: Final = 1_000_000
"""Bytes: a report has 50 lines of 1000 bytes at most, and its traceback once more."""


class Outcomes:
    """Memory that the children share with the worker: it has the last outcome of each of them.

    For a child whose job has closed the channel. Where two use one entry, the jobs'
    numbers show whose outcome it is. A byte behind them says whether the worker stops.
    """

    _ENTRY: Final = 8192
    _COUNT: Final = 128
    _SIZE: Final = _COUNT * _ENTRY

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, self._SIZE + 1)
        self._turns = itertools.count()

    @property
    def stopping(self) -> bool:
        """Whether the worker stops."""
        return self._memory[self._SIZE] != 0

    @stopping.setter
    def stopping(self, value: bool) -> None:
        self._memory[self._SIZE] = value

    def new_entry(self) -> int:
        """Return the next entry."""
        return next(self._turns) % self._COUNT * self._ENTRY

    def write(self, entry: int, number: int, body: dict[str, Any]) -> None:
        """Note the outcome of a job, without its traceback if that is too long."""
        if len(data := _encoded(number, body)) > self._ENTRY:
            kind, message, _ = body["report"]
            data = _encoded(number, {**body, "report": (kind, message, []), "traceback": ""})
        self._memory[entry : entry + len(data)] = data

    def read(self, entry: int, number: int) -> dict[str, Any] | None:
        """Return the outcome of a job, None if there is none."""
        found, size = HEAD.unpack_from(self._memory, entry)
        if found != number:
            return None
        first = entry + HEAD.size
        body: dict[str, Any] = json.loads(self._memory[first : first + size])
        return body


class ChildJob(JobContext):
    """A job in a child; it looks itself whether the worker stops."""

    def __init__(self, payload: dict[str, Any], client: Client, outcomes: Outcomes) -> None:
        super().__init__(payload, client)
        self._outcomes = outcomes
        self._ended: Event | None = None

    @property
    def stopping(self) -> bool:
        """Whether the worker stops."""
        return self._outcomes.stopping

    def on_stopping(self, callback: C) -> C:
        """See `JobContext.on_stopping`; the first callback starts the thread that calls all."""
        super().on_stopping(callback)
        if self._ended is None and self._callbacks:
            self._ended = Event()
            Thread(target=self._watch, name="faktory-stopping", daemon=True).start()
        return callback

    def _on_end(self) -> None:
        """Call none from now on, and let the thread end."""
        super()._on_end()
        if self._ended is not None:
            self._ended.set()

    def _watch(self) -> None:
        assert self._ended is not None
        while not self._ended.wait(LOOK_INTERVAL):
            if self.stopping:
                self._call_back()
                return


class JobProcess:
    """A child: runs the jobs that come through its channel, one at a time.

    It has one thread, and another one for a job with `on_stopping`, and what the worker had when
    the fork server was forked, but none of its connections. A TERM means something only if the fork
    server has sent why: then it is raised in the running job, once. When the channel is closed, the
    process ends; its Producers have `flush_grace` seconds then.
    """

    def __init__(
        self,
        channel: Connection,
        interrupts: socket.socket,
        runner: JobRunner,
        make_client: Callable[[], Client],
        outcomes: Outcomes,
        flush_grace: float,
    ) -> None:
        self._channel, self._interrupts = channel, interrupts
        if (high := copy_high(channel.fileno())) is not None:
            channel.close()
            self._channel = Connection(high)
        if (high := copy_high(interrupts.fileno())) is not None:
            interrupts.close()
            self._interrupts = socket.socket(fileno=high)
        self._interrupts.setblocking(False)
        self._runner = runner
        self._client = make_client()
        self._outcomes = outcomes
        self._entry = 0
        self._flush_grace = flush_grace
        self._pid = os.getpid()
        self._number = 0
        self._job: ChildJob | None = None
        self._interruptible = False

    def run(self) -> NoReturn:
        """Run jobs until the worker is gone."""
        os.register_at_fork(after_in_child=self._close_after_fork)
        install(signal.SIGTERM, self._on_term)
        while True:
            try:
                message = self._channel.recv_bytes()
            except (EOFError, OSError):
                fork.end_process(0, self._flush_grace)
            self._number, self._entry, payload, late = pickle.loads(message)
            outcome = self._run_job(payload, late)
            if self._job is not None:
                self._job._on_end()
            with suppress(Exception):  # or what was printed would be lost with this process
                sys.stdout.flush()
                sys.stderr.flush()
            try:
                self._send(outcome)
            except OSError:
                self._outcomes.write(self._entry, self._number, outcome)
                fork.end_process(1, self._flush_grace)

    def _run_job(self, payload: dict[str, Any], late: bytes | None) -> dict[str, Any]:
        """Run a job; return what the worker is to know of its failure, nothing if it is done."""
        done = False
        task: Runnable | None = None
        self._job = job = ChildJob(payload, self._client, self._outcomes)
        try:
            job.on_more_time = lambda ends: self._send({"ends": ends})
            task = self._runner.find(job.jobtype) if late is None else pickle.loads(late)
            self._interruptible = True
            self._on_term()  # the interrupt may have come earlier
            in_context(job, lambda: self._runner.call(task, job))
            done = True
            self._interruptible = False
        except BaseException as error:
            self._interruptible = False
            if done:
                return {}
            report, control, text = describe_remote(error, payload.get("backtrace") or 0)
            verdict = judge(task, job, error)
            return {"report": report, "control": control, "traceback": text, "verdict": verdict}
        return {}

    def _on_term(self, *_: object) -> None:
        """Raise the interrupt that was sent, if one is there for this job."""
        if not self._interruptible or os.getpid() != self._pid:
            return
        with suppress(OSError):  # there is none, or the job has closed where it would come
            while order := self._interrupts.recv(ORDER.size):
                what, _, number = ORDER.unpack(order)
                if number == self._number:
                    self._interruptible = False
                    raise INTERRUPTS[what]

    def _send(self, body: dict[str, Any]) -> None:
        if os.getpid() == self._pid:
            data = memoryview(_encoded(self._number, body))
            while data:
                data = data[os.write(self._channel.fileno(), data) :]

    def _close_after_fork(self) -> None:
        """In a process that a job forks: it must not hold the channel open when this one ends."""
        for each in (self._channel, self._interrupts):
            with suppress(OSError):  # the job has closed all that is open
                each.close()


def _encoded(number: int, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    return HEAD.pack(number, len(data)) + data

"""A process that runs the jobs of one slot, one at a time, as its worker sends them.

Rules: it has one thread, and what the worker had when it was forked, but no connection of it. The
worker decides: a TERM means something only if the worker has written why, and strikes a job that
runs, once. When the channel to the worker is closed, the process ends.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from datetime import datetime
from typing import Any, Final, NoReturn

from ..client import Client
from ..exceptions import Shutdown, TimeLimitExceeded
from ..jobs.context import JobContext, run_in
from ..jobs.registry import Runnable
from ..wire import failure
from ..wire.failure import MAX_BACKTRACE
from .executor import call, end_child, with_middleware
from .nursery import Ends
from .outside import OWN, Report

REASONS: Final[dict[bytes, type[BaseException]]] = {b"s": Shutdown, b"t": TimeLimitExceeded}
"""What the worker writes before it sends TERM, and what is raised then."""

REASON: Final = struct.Struct("=cq")
"""Why a child is interrupted, and in which of its jobs."""

Outcome = tuple[Report, str | None, str]
"""A failure: its report, which of `OWN` it is, its traceback as text."""


class _Context(JobContext):
    """A job that tells the worker when it is given more time."""

    def __init__(self, payload: dict[str, Any], client: Client, tell: Callable[[Any], None]):
        super().__init__(payload, client)
        self._say = tell

    def track_progress(
        self,
        percent: float,
        desc: str | None = None,
        *,
        reserve_until: datetime | str | float | None = None,
    ) -> None:
        before = self._ends
        super().track_progress(percent, desc, reserve_until=reserve_until)
        if self._ends != before:
            self._say(self._ends)


class Child:
    """The child's own side; `find` gives what runs a job type, as it does in the worker."""

    def __init__(
        self, ends: Ends, find: Callable[[str], Runnable], make_client: Callable[[], Client]
    ) -> None:
        self._channel = socket.socket(fileno=ends[0])
        self._reasons = ends[1]
        self._find = find
        self._client = make_client()
        self._pid = os.getpid()
        self._number = 0
        """Which job this is, as the worker counts."""
        self._open = False
        """Whether an interrupt may strike."""

    def run(self) -> NoReturn:
        """Run jobs until the worker is gone."""
        os.set_blocking(self._reasons, False)
        os.register_at_fork(after_in_child=self._let_go)
        signal.signal(signal.SIGTERM, self._struck)
        requests = self._channel.makefile("rb")
        while True:
            try:
                self._number, payload, late = pickle.load(requests)
            except (EOFError, ConnectionError):
                os._exit(0)
            outcome = self._outcome(payload, late)
            with suppress(Exception):  # or what was printed would be lost with this process
                sys.stdout.flush()
                sys.stderr.flush()
            self._tell(outcome)

    def _outcome(self, payload: dict[str, Any], late: bytes | None) -> Outcome | None:
        done = False
        try:
            job = self._find(payload["jobtype"]) if late is None else pickle.loads(late)
            context = _Context(payload, self._client, self._tell)

            def run() -> None:
                call(context, with_middleware(job.run))

            self._open = True
            self._struck()  # it may have come earlier
            copy_context().run(run_in, context, run)
            done = True
            self._open = False
        except BaseException as error:
            self._open = False
            if os.getpid() != self._pid:
                end_child(error)
            return None if done else _told(error, payload.get("backtrace") or 0)
        if os.getpid() != self._pid:
            end_child(None)
        return None

    def _struck(self, *_: object) -> None:
        """Raise what the worker wrote, if it was the worker who sent the signal."""
        if not self._open or os.getpid() != self._pid:
            return
        with suppress(BlockingIOError):
            while True:
                word, number = REASON.unpack(os.read(self._reasons, REASON.size))
                if number == self._number:
                    self._open = False
                    raise REASONS[word]

    def _tell(self, what: Any) -> None:
        if os.getpid() == self._pid:
            self._channel.sendall(pickle.dumps(what))

    def _let_go(self) -> None:
        """In a process that a job forks: it must not keep the channel open when this one ends."""
        os.close(self._channel.detach())
        os.close(self._reasons)


def _told(error: BaseException, backtrace: int) -> Outcome:
    own = next((name for name, kind in OWN.items() if isinstance(error, kind)), None)
    report = failure.describe(error, backtrace=backtrace)
    try:
        lines = failure.describe(error, backtrace=MAX_BACKTRACE)[2]
    except BaseException:
        lines = []
    return report, own, "".join(f"{line}\n" for line in lines)

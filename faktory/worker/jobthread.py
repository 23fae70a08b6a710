"""A job thread: fetches, runs and answers, one job at a time, over a connection of its own.

Rules: the report of a job goes out in one write with the next FETCH. A report stays in hand until
the server has answered it, over as many connections as that takes: ACK and FAIL may be repeated.
A FETCH that is under way is waited for, and what it brings is run, or failed if it comes too late.
A thread whose job was taken out of its hands ends with that job: another one has its place.
A connection that breaks is replaced at once; only when that fails is the server lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from random import random
from threading import Event, Thread
from time import monotonic
from typing import Any

from ..client import Client
from ..exceptions import FaktoryAuthenticationError, FaktoryError
from ..jobs.context import JobContext
from ..jobs.registry import Runnable
from ..wire import commands, recovery
from ..wire.commands import Command
from ..wire.session import Answer
from .executor import Slot, with_middleware
from .lifecycle import Lifecycle
from .outage import Outage
from .outside import Outside

_PAUSE_AFTER_REFUSAL = 1.0
"""Seconds before FETCH is sent again after the server refused it."""

_LONGEST_PAUSE_STOPPING = 1.0
"""Seconds between two attempts to deliver a report when the worker has no time to lose."""


@lru_cache(maxsize=64)  # more orders than that, of many queues with weights, are made anew
def _fetch(queues: tuple[str, ...]) -> Command[Any]:
    return commands.fetch(queues, skip_check=True)


class JobThread(Thread):
    """Works until the lifecycle says to fetch no more and nothing is left to report.

    `find` gives what runs a job, or raises; `outside` is where that is, if not on this thread; for
    `failed` and `limited` see `Slot`; `ended` is called at the very end, with the error that ended
    it, if one did.
    `stopping` wakes it from waiting for the server, `giving_up` from trying to deliver a report.
    """

    def __init__(
        self,
        name: str,
        client: Client,
        lifecycle: Lifecycle,
        queues: Callable[[], Sequence[str]],
        find: Callable[[str], Runnable],
        outage: Outage,
        failed: Callable[[JobContext, BaseException], None],
        limited: Callable[[], None],
        ended: Callable[[JobThread, BaseException | None], None],
        log: logging.Logger,
        outside: Outside | None = None,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.slot = Slot(log.getChild("job"), failed, limited)
        self.slot.outside = outside
        self.stopping = Event()
        self.giving_up = Event()
        self._client = client
        self._lifecycle = lifecycle
        self._queues = queues
        self._find = find
        self._outage = outage
        self._ended = ended
        self._log = log
        self._anew = False
        self._report: Command[None] | None = None
        self._reported_before = False

    @property
    def has_report(self) -> bool:
        """Whether there is a report that the server has not answered."""
        return self._report is not None

    def connect_anew(self) -> None:
        """Greet the server again, before the next command."""
        self._anew = True

    def run(self) -> None:
        """Fetch, run and answer until told otherwise."""
        error: BaseException | None = None
        try:
            self._work()
        except BaseException as caught:
            error = caught
            self._report_once_more()
        self._client.close()
        if self.slot.outside is not None:
            self.slot.outside.close()
        self._ended(self, error)

    def _work(self) -> None:
        failures = 0
        while sent := self._next_commands():
            if self._anew:
                self._anew = False
                self._client.disconnect()
            asked_at = monotonic()
            try:
                answers = self._client.exchange(*sent)
            except FaktoryAuthenticationError:
                raise
            except FaktoryError as broken:
                failures += 1
                self._reported_before = True
                if self.giving_up.is_set():
                    self._log_undelivered(broken)
                    return
                if failures > 1:
                    self._outage.begins(broken)
                    self._pause(recovery.backoff(failures - 1, random()))
                else:
                    self._log.debug("connecting anew: %s", broken)
                continue
            failures = 0
            self._outage.ends(asked_at)
            self._digest(answers)

    def _next_commands(self) -> list[Command[Any]]:
        sent: list[Command[Any]] = []
        if self._report is not None:
            sent.append(self._report)
        if self._lifecycle.fetches and not self.slot.disowned:
            sent.append(_fetch(tuple(self._queues())))
        return sent

    def _pause(self, seconds: float) -> None:
        """Wait before the next attempt: not for long with a report in hand while stopping."""
        if not self.stopping.is_set():
            self.stopping.wait(seconds)
        elif self._report is not None:
            self.giving_up.wait(min(seconds, _LONGEST_PAUSE_STOPPING))

    def _digest(self, answers: list[Answer]) -> None:
        if self._report is not None:
            reported = answers.pop(0)
            if self._reported_before:
                reported = recovery.resolve_resent(reported)
            if reported.error is not None:
                self._log.warning("the server refused %s: %s", self._named(), reported.error)
            self._report = None
        for answer in answers:
            if answer.error is not None:
                self._log.warning("the server refused FETCH: %s", answer.error)
                self.stopping.wait(_PAUSE_AFTER_REFUSAL)
            elif answer.value is not None:
                self._report = self.slot.run(JobContext(answer.value, self._client), self._run)
                self._reported_before = False

    def _run(self, context: JobContext) -> object:
        job = self._find(context.jobtype)
        self.slot.limit(job.time_limit)
        if self.slot.outside is not None:
            return self.slot.outside.run(context, job)
        return with_middleware(job.run)(context)

    def _report_once_more(self) -> None:
        """The thread ends by an error; its job has ended before, and is answered for."""
        if self._report is not None:
            try:
                self._digest(self._client.exchange(self._report))
            except Exception as error:
                self._log_undelivered(error)

    def _log_undelivered(self, error: Exception) -> None:
        if self._report is not None:
            self._log.error("%s could not be delivered: %s", self._named(), error)

    def _named(self) -> str:
        assert self._report is not None
        return f"{self._report.name} of {self._report.jids[0]}"

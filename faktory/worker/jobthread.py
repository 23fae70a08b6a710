"""A job thread: fetches, runs and answers, one job at a time, over a connection of its own.

Rules: the report of a job goes out in one write with the next FETCH. A report stays in hand until
the server has answered it, over as many connections as that takes: ACK and FAIL may be repeated.
A FETCH that is under way is waited for, and what it brings is run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from random import random
from threading import Event, Thread
from typing import Any

from ..client import Client
from ..exceptions import FaktoryAuthenticationError, FaktoryError
from ..jobs.context import JobContext
from ..wire import commands, recovery
from ..wire.commands import Command
from ..wire.session import Answer
from .executor import Slot
from .lifecycle import Lifecycle
from .outage import Outage

_PAUSE_AFTER_REFUSAL = 1.0
"""Seconds before FETCH is sent again after the server refused it."""


class JobThread(Thread):
    """Works until the lifecycle says to fetch no more and nothing is left to report.

    `find` gives what runs a job, or raises; `ended` is called at the very end, with the error
    that ended it, if one did. `stopping` wakes it from waiting for the server, `giving_up` from
    trying to deliver a report.
    """

    def __init__(
        self,
        name: str,
        client: Client,
        lifecycle: Lifecycle,
        queues: Callable[[], Sequence[str]],
        find: Callable[[str], Callable[[JobContext], object]],
        outage: Outage,
        ended: Callable[[JobThread, BaseException | None], None],
        log: logging.Logger,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.slot = Slot(log)
        self.stopping = Event()
        self.giving_up = Event()
        self._client = client
        self._lifecycle = lifecycle
        self._queues = queues
        self._find = find
        self._outage = outage
        self._ended = ended
        self._log = log
        self._report: Command[None] | None = None

    def run(self) -> None:
        """Fetch, run and answer until told otherwise."""
        error: BaseException | None = None
        try:
            failures = 0
            while not self.giving_up.is_set() and (sent := self._next_commands()):
                try:
                    answers = self._client.exchange(*sent)
                except FaktoryAuthenticationError:
                    raise
                except FaktoryError as broken:
                    failures += 1
                    self._outage.begins(broken)
                    event = self.giving_up if self._report else self.stopping
                    event.wait(recovery.backoff(failures, random()))
                    continue
                failures = 0
                self._outage.ends()
                self._digest(answers)
            self._client.close()
        except BaseException as caught:
            error = caught
        self._ended(self, error)

    def _next_commands(self) -> list[Command[Any]]:
        sent: list[Command[Any]] = []
        if self._report is not None:
            sent.append(self._report)
        if self._lifecycle.fetches:
            sent.append(commands.fetch(self._queues()))
        return sent

    def _digest(self, answers: list[Answer]) -> None:
        if self._report is not None:
            reported = recovery.settle(answers.pop(0))
            if reported.error is not None:
                jid = self._report.jids[0]
                self._log.warning(
                    "the server refused %s: %s", f"{self._report.name} of {jid}", reported.error
                )
            self._report = None
        for answer in answers:
            if answer.error is not None:
                self._log.warning("the server refused FETCH: %s", answer.error)
                self.stopping.wait(_PAUSE_AFTER_REFUSAL)
            elif answer.value is not None:
                self._report = self.slot.run(answer.value, self._run)

    def _run(self, context: JobContext) -> object:
        return self._find(context.jobtype)(context)

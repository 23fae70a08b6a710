"""The reports of the jobs that a worker had when it died: a process of its own sends them.

Rules: it waits for the server, which the supervisor must not, for REPORT_TIMEOUT at most. It ends
with 0 if every job is reported, or is not this worker's any more.
"""

from __future__ import annotations

import logging
import mmap
import os
from collections.abc import Callable, Mapping
from random import random
from time import monotonic, sleep
from typing import Final, NoReturn

from ...client import Client
from ...exceptions import FaktoryAuthenticationError, FaktoryError
from ...wire import commands, recovery
from ...wire.log import Log
from ...worker.backends.supervisor import Child, Unreported
from ...worker.counts import Page
from ..exits import Exit
from . import logs
from .supervised import Ready

REPORT_TIMEOUT: Final = 30.0
"""Seconds in which the jobs of a worker that died are reported, if the server can be reached."""

log = Log(logging.getLogger("faktory.parent"))  # the name that programs configure


_IS_FAILED, _WAS_REPORTED = 1, 2


class Unanswered:
    """What is counted of the jobs that a worker had, by the answers to their reports.

    The process that sends these writes the answers, and the supervisor counts them at its end.
    """

    def __init__(self, page: Page, jids: list[str]) -> None:
        self._page = page
        self._jids = jids
        self._held = page.count_dead(jids)
        self._answers = mmap.mmap(-1, len(jids) + 1)

    def note(self, jid: str, is_failed: bool) -> None:
        """Note whether the server has failed a job by our report."""
        self._answers[self._jids.index(jid)] = _IS_FAILED if is_failed else _WAS_REPORTED

    def count(self) -> None:
        """Count each that has an answer, by what the worker has reported if the server had that."""
        for jid, answer in zip(self._jids, self._answers[:], strict=False):
            held = self._held[jid]
            if answer == _WAS_REPORTED and held.if_reported is not None:
                self._page.add(held.if_reported)
            elif answer:
                self._page.add(held.if_failed)


class Reporter(Child):
    """A process that reports the jobs of a worker that died: it waits for the server."""

    def __init__(
        self,
        number: int,
        known: Ready,
        jobs: dict[str, Unreported],
        message: str,
        counted: Unanswered | None = None,
    ) -> None:
        super().__init__(number)
        self._counted = counted
        self.known = known
        self.jobs = jobs
        self.message = message

    def __str__(self) -> str:
        return f"the report of the jobs of worker {self.number}"

    def count_answers(self) -> None:
        """Count the jobs, in the supervisor, when the process has ended (`--health`)."""
        if self._counted is not None:
            self._counted.count()

    def run(
        self, url: str, load: Callable[[], object], backoff: Callable[[int, float], float]
    ) -> NoReturn:
        """Send the reports to the worker's server, else to that of `url`, and end the process.

        If the worker has an ssl_context, `load` imports the program, which makes it.
        """
        code = Exit.ABANDONED
        try:
            if self.known.has_context:
                _load(load)
            client = Client(self.known.url or url, worker_id=self.known.worker_id or None)
            until = monotonic() + REPORT_TIMEOUT
            note = None if self._counted is None else self._counted.note
            if report_death(client, self.jobs, self.message, until, backoff, note):
                code = Exit.DONE
        except BaseException:
            log.exception("%s fails", self)
        finally:
            logs.close()
            os._exit(code)


def _load(load: Callable[[], object]) -> None:
    """Import the program; if that fails, the system's certificates may do."""
    try:
        load()
    except BaseException as error:
        log.error("the program, which makes the ssl_context, cannot be imported: %r", error)


def report_death(
    client: Client,
    jobs: Mapping[str, Unreported],
    message: str,
    until: float,
    backoff: Callable[[int, float], float] = recovery.backoff,
    note: Callable[[str, bool], None] | None = None,
) -> bool:
    """Report jobs as failed, as often as it takes until then (`time.monotonic`).

    Return whether all are reported. Those that were pushed again, or whose chain goes on, are
    acknowledged. `jobs` has until when each can be reported (`time.monotonic`), in time for the
    next one that gets the same jid; after that it is left alone. `note` is called with the jid of
    each that is reported, and whether the server has failed it by that.
    """
    failures = 0
    while any(job.until > monotonic() for job in jobs.values()):
        jids: list[str] = list(jobs)
        try:
            client.connect()  # what can be reported then?
            if not (jids := [jid for jid, job in jobs.items() if job.until > monotonic()]):
                break
            answers = client.exchange(
                *[
                    commands.ack(jid, in_time=True)
                    if jobs[jid].ack
                    else commands.fail(jid, "ProcessDied", message, [])
                    for jid in jids
                ]
            )
        except FaktoryAuthenticationError:
            raise
        except FaktoryError as error:
            failures += 1
            pause = backoff(failures, random())
            if monotonic() + pause > until:
                log.error("%s could not be reported: %s", ", ".join(jids), error)
                return False
            sleep(pause)
            continue
        client.close()
        for jid, answer in zip(jids, answers, strict=True):
            if note is not None:
                note(jid, answer.error is None and not jobs[jid].ack)
            if answer.error is not None:
                # The worker may have reported it, and died before it read the answer.
                is_reported = "Job not found" in str(answer.error)
                level = logging.DEBUG if is_reported else logging.WARNING
                name = answer.command.name
                log.log(level, "the server refused %s of %s: %s", name, jid, answer.error)
        return True
    return True

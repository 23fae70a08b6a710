"""`--processes` and `--reload`: a supervisor that starts workers, and others in their place.

Rules: the supervisor imports nothing of the user's. It gets signals, and words through one channel
to each worker; a worker that ends does not concern the others. The jobs that it was running are
failed at once, with how it died: their ids are in memory that the supervisor shares. Only a worker
whose exit code says that it cannot begin, or that ends before it is ready, counts as a failed
start, and five of them in a row end the supervisor. A worker that was killed, or that stopped, is
always replaced.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from random import random
from time import monotonic, sleep
from typing import Final, NoReturn

from ...client import Client
from ...exceptions import FaktoryAuthenticationError, FaktoryError
from ...wire import commands, recovery
from ...wire.log import Log
from ...worker import Worker
from ...worker.backends.supervisor import (
    Child,
    RunningJobs,
    Supervisor,
    describe_death,
    describe_exit,
)
from ..exits import NEVER_BEGAN, Exit
from .supervised import FINISH, QUIET, READY, STOP, STOP_NOW, attach

MAX_FAILED_STARTS: Final = 5
"""How many workers in a row may fail to begin."""

STEADY_AFTER: Final = 10.0
"""Seconds after which a worker that ends is replaced at once."""

STOP_GRACE: Final = 8.0
"""Seconds that workers have to end beyond their grace period: they report jobs themselves."""

REPORT_TIMEOUT: Final = 30.0
"""Seconds in which the jobs of a worker that died are reported, if the server can be reached."""

log = Log(logging.getLogger("faktory.parent"))  # the name that programs configure


class WorkerChild(Child):
    """One of the N workers."""

    def __init__(self, number: int, concurrency: int) -> None:
        super().__init__(number)
        self.jobs = RunningJobs(concurrency)
        self.worker_id = ""
        """Empty until it is ready."""
        self.process = 0
        """The pid of the worker that runs, or ran last."""
        self.finishing = False
        self.failed_starts = 0
        """How many workers in a row could not begin."""

    def __str__(self) -> str:
        return f"worker {self.number} (process {self.process})"

    @property
    def ready(self) -> bool:
        """Whether the worker has begun to work."""
        return bool(self.worker_id)

    def send(self, word: bytes) -> None:
        """Send the worker a word, if it still reads."""
        if self.channel is not None:
            with suppress(OSError):
                self.channel.send(word, socket.MSG_DONTWAIT)

    def end(self, word: bytes) -> None:
        """Have the worker end as a word says, at once if it has not begun to work."""
        # No signal where a word will do: Python sees one too late that comes just as it begins
        # to wait.
        self.send(word)
        if not self.ready:
            self.signal(signal.SIGTERM)


class Reporter(Child):
    """A process that reports the jobs of a worker that died: it waits for the server."""

    def __init__(self, worker: WorkerChild, jobs: dict[str, float], message: str) -> None:
        super().__init__(worker.number)
        self.worker_id = worker.worker_id
        self.jobs = jobs
        """When each reservation ends, by jid."""
        self.message = message

    def __str__(self) -> str:
        return f"the report of the jobs of worker {self.number}"


class WorkerSupervisor(Supervisor[WorkerChild | Reporter]):
    """Keeps `count` workers running until stopped, which may take them `grace` seconds.

    `url` is the server that jobs of dead workers are reported to. `changes` is a descriptor that
    can be read when the program has changed (`--reload`); then a worker that cannot begin waits
    for that.
    """

    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGTSTP, signal.SIGTTIN)

    def __init__(
        self,
        count: int,
        concurrency: int,
        grace: float,
        url: str,
        changes: int | None = None,
        *,
        stop_grace: float = STOP_GRACE,
        backoff: Callable[[int, float], float] = recovery.backoff,
    ) -> None:
        self._workers = [WorkerChild(number + 1, concurrency) for number in range(count)]
        super().__init__([*self._workers], backoff)
        self._grace = grace
        self._stop_grace = stop_grace
        self._url = url
        self._changes = changes
        self._quiet = False
        self.code = Exit.STOPPED

    def start(self) -> Callable[[Worker], None] | None:
        """Return None when all workers have ended; in each of them, what attaches it to this."""
        if (born := self.run()) is None:
            return None
        child, channel = born
        if isinstance(child, Reporter):
            self._report(child)
        return partial(attach, jobs=child.jobs, channel=channel)

    # The policy

    def done(self) -> bool:
        """Return whether all have ended after a signal to stop; kill those that do not."""
        if not self._stopping:
            return False
        if monotonic() >= (self.deadline or 0.0):
            self._kill()
        return not any(child.pid or isinstance(child, Reporter) for child in self.children)

    def wants(self, child: WorkerChild | Reporter) -> bool:
        """Start workers until quiet or stopped, reporters in any case."""
        return isinstance(child, Reporter) or not (self._quiet or self._stopping)

    def sources(self) -> dict[int, Callable[[], None]]:
        """Wait for changes of the program, too."""
        return {} if self._changes is None else {self._changes: self._on_change}

    @property
    def _stopping(self) -> bool:
        return self.deadline is not None

    def become_child(self, child: WorkerChild | Reporter) -> None:
        """Let TERM end a worker until it is ready, since nothing is lost, and a reporter never."""
        if isinstance(child, WorkerChild):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if self._changes is not None:
            os.close(self._changes)

    def on_start(self, child: WorkerChild | Reporter) -> None:
        """Await that a worker is ready."""
        if isinstance(child, WorkerChild):
            child.process = child.pid
            child.worker_id = ""
            child.finishing = False
            log.info("%s started", child)

    def on_start_error(self, child: WorkerChild | Reporter, error: OSError) -> None:
        """Try again, later each time."""
        pause = self.restart_later(child)
        log.warning("%s: cannot be started: %s; trying again in %.1f s", child, error, pause)

    def on_channel(self, child: WorkerChild | Reporter) -> None:
        """Note that a worker is ready."""
        assert child.channel is not None
        try:
            words = child.channel.recv(4096)
        except OSError:
            words = b""
        if not words:
            child.close_channel()
        elif isinstance(child, WorkerChild) and words.startswith(READY):
            child.worker_id = words[len(READY) :].decode()
            log.debug("%s is ready", child)
            if self._quiet:
                child.send(QUIET)

    def on_signal(self, number: int) -> None:
        """Pass a signal on: in words, as far as there are some."""
        running = [worker for worker in self._workers if worker.pid]
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stop(running)
            return
        if number == signal.SIGTSTP and not self._quiet:
            self._quiet = True
            log.warning("quiet: no more jobs are fetched, and no worker is replaced")
        for worker in running:
            if number == signal.SIGTSTP:
                worker.send(QUIET)
            elif worker.ready:
                worker.signal(number)

    def on_exit(self, child: WorkerChild | Reporter, status: int) -> None:
        """Report the jobs of a worker that died, and decide who comes next."""
        child.close_channel()
        if isinstance(child, Reporter):
            self.children.remove(child)
            return
        exit_code = next((f" ({exit.name})" for exit in Exit if exit == status), "")
        how = f"{child} {describe_exit(status)}{exit_code}"
        had_jobs = self._fail_jobs(child, status)
        never_began = status in NEVER_BEGAN or (status >= 0 and not child.ready)
        stopped = status == Exit.STOPPED and child.ready
        steady = monotonic() - child.started_at >= STEADY_AFTER
        child.failed_starts = child.failed_starts + 1 if never_began else 0
        child.deaths = 0 if stopped or steady else child.deaths + 1
        if self._stopping:
            # By TERM: it had not begun.
            killed = status < 0 and status != -signal.SIGTERM
            if had_jobs or killed or status == Exit.ABANDONED:
                log.error("%s", how)
                self.code = max(self.code, Exit.ABANDONED)
        elif self._quiet:
            log.warning("%s; quiet, so it is not replaced", how)
        elif stopped or child.finishing:
            log.info("%s; another takes its place", how)
            child.due = monotonic()
        elif never_began and self._changes is not None:
            log.error("%s; waiting for a file to be saved", how)
            child.due = None
        elif child.failed_starts >= MAX_FAILED_STARTS:
            self._give_up(how)
        else:
            pause = self.restart_later(child)
            log.warning("%s; another takes its place in %.1f s", how, pause)

    def _kill(self) -> None:
        for child in self.children.copy():
            if child.pid:
                log.error("%s does not end, and is killed", child)
                child.signal(signal.SIGKILL)
            elif isinstance(child, Reporter):
                log.error("%s cannot be started: its jobs wait out their reservations", child)
                self.children.remove(child)
        self.deadline = monotonic() + self._stop_grace

    def _stop(self, running: list[WorkerChild]) -> None:
        """Stop; the second signal ends the grace period."""
        if self._stopping:
            self.deadline = min(self.deadline or 0.0, monotonic() + self._stop_grace)
            for worker in running:
                worker.send(STOP_NOW)
            return
        self.deadline = monotonic() + self._grace + self._stop_grace
        if running:
            log.info("stopping %d workers", len(running))
        for worker in running:
            worker.end(STOP)

    def _on_change(self) -> None:
        assert self._changes is not None
        if not os.read(self._changes, 4096):
            os.close(self._changes)
            self._changes = None
            log.error("nobody watches the files any more, so there are no more reloads")
        if self._quiet or self._stopping:
            return
        for worker in self._workers:
            worker.due = monotonic()
            worker.finishing = True
            worker.end(FINISH)

    def _give_up(self, how: str) -> None:
        log.error(
            "%s, the %dth worker in a row that could not begin: giving up", how, MAX_FAILED_STARTS
        )
        self.code = Exit.GAVE_UP
        self._stop([worker for worker in self._workers if worker.pid])

    # The jobs of a worker that died

    def _fail_jobs(self, worker: WorkerChild, status: int) -> bool:
        """Report the jobs that a worker has left as failed; return whether there are any.

        A process of its own does that: it waits for the server, which this one must not.
        """
        # Past its reservation the server has failed a job, and another worker may have it.
        now = monotonic()
        jobs = {jid: until for jid, until in worker.jobs.take().items() if until > now}
        if not jobs:
            return False
        how = describe_exit(status)
        text = "%s %s with jobs that it had not reported, which fail by that: %s"
        log.error(text, worker, how, ", ".join(jobs))
        message = describe_death("the worker's process", status)
        self.children.append(Reporter(worker, jobs, message))
        if self.deadline is not None:  # it gets the time that workers have
            self.deadline = max(self.deadline, now + self._stop_grace)
        return True

    def _report(self, reporter: Reporter) -> NoReturn:
        try:
            client = Client(self._url, worker_id=reporter.worker_id or None)
            until = monotonic() + REPORT_TIMEOUT
            report_death(client, reporter.jobs, reporter.message, until, self._backoff)
        except BaseException:
            log.exception("%s fails", reporter)
        finally:
            os._exit(0)


def report_death(
    client: Client,
    jobs: Mapping[str, float],
    message: str,
    until: float,
    backoff: Callable[[int, float], float] = recovery.backoff,
) -> None:
    """Report jobs as failed, as often as it takes until then (`time.monotonic`).

    `jobs` has the end of each reservation, after which a job is left alone.
    """
    failures = 0
    while jids := [jid for jid, ends in jobs.items() if ends > monotonic()]:
        try:
            answers = client.exchange(
                *[commands.fail(jid, "ProcessDied", message, []) for jid in jids]
            )
        except FaktoryAuthenticationError:
            raise
        except FaktoryError as error:
            failures += 1
            pause = backoff(failures, random())
            if monotonic() + pause > until:
                log.error("%s could not be reported: %s", ", ".join(jids), error)
                return
            sleep(pause)
            continue
        client.close()
        for jid, answer in zip(jids, answers, strict=True):
            if answer.error is not None:
                # The worker may have reported it, and died before it read the answer.
                is_reported = "Job not found" in str(answer.error)
                level = logging.DEBUG if is_reported else logging.WARNING
                log.log(level, "the server refused FAIL of %s: %s", jid, answer.error)
        return

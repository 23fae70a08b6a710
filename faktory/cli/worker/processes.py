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
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from random import random
from time import monotonic, sleep
from typing import Final, NoReturn

from ...client import Client
from ...exceptions import FaktoryAuthenticationError, FaktoryError
from ...wire import commands, recovery
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

log = logging.getLogger("faktory.parent")  # the name that programs configure


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
                self.channel.send(word)

    def end(self, word: bytes) -> None:
        """Have the worker end as a word says, at once if it has not begun to work."""
        # No signal where a word will do: Python sees one too late that comes just as it begins
        # to wait.
        self.send(word)
        if not self.ready:
            self.signal(signal.SIGTERM)


class WorkerSupervisor(Supervisor):
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
        self._reporters: set[int] = set()
        self.code = Exit.STOPPED

    def start(self) -> Callable[[Worker], None] | None:
        """Return None when all workers have ended; in each of them, what attaches it to this."""
        if (born := self.run()) is None:
            return None
        child, channel = born
        assert isinstance(child, WorkerChild)
        return partial(attach, jobs=child.jobs, channel=channel)

    # The policy

    def done(self) -> bool:
        """Return whether all workers have ended after a signal to stop; kill those that do not."""
        self._reap_reporters()
        if self.deadline is not None and monotonic() >= self.deadline:
            self._kill()
        return self._stopping and not self._reporters and not any(w.pid for w in self._workers)

    def wants_children(self) -> bool:
        """Start workers until quiet or stopped."""
        return not (self._quiet or self._stopping)

    def sources(self) -> dict[int, Callable[[], None]]:
        """Wait for changes of the program, too."""
        return {} if self._changes is None else {self._changes: self._on_change}

    @property
    def _stopping(self) -> bool:
        return self.deadline is not None

    def become_child(self, child: Child) -> None:  # noqa: ARG002
        """Until the worker is ready, TERM ends it: nothing is lost."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if self._changes is not None:
            os.close(self._changes)

    def on_start(self, child: Child) -> None:
        """Await that the worker is ready."""
        assert isinstance(child, WorkerChild)
        child.process = child.pid
        child.worker_id = ""
        child.finishing = False
        log.info("%s started", child)

    def on_start_error(self, child: Child, error: OSError) -> None:
        """Try again, later each time."""
        pause = self.restart_later(child)
        log.warning(
            "worker %d: cannot be started: %s; trying again in %.1f s", child.number, error, pause
        )

    def on_channel(self, child: Child) -> None:
        """Note that a worker is ready."""
        assert isinstance(child, WorkerChild)
        assert child.channel is not None
        try:
            words = child.channel.recv(4096)
        except OSError:
            words = b""
        if not words:
            child.close_channel()
        elif words.startswith(READY):
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

    def on_exit(self, child: Child, status: int) -> None:
        """Report the jobs of a worker that died, and decide who comes next."""
        assert isinstance(child, WorkerChild)
        exit_code = next((f" ({exit.name})" for exit in Exit if exit == status), "")
        how = f"{child} {describe_exit(status)}{exit_code}"
        had_jobs = self._fail_jobs(child, status)
        child.close_channel()
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
        for worker in self._workers:
            if worker.pid:
                log.error("%s does not end, and is killed", worker)
                worker.signal(signal.SIGKILL)
        for pid in self._reporters:
            log.error("jobs of a worker that died wait until their reservations end")
            os.kill(pid, signal.SIGKILL)
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
        jids = worker.jobs.read()
        worker.jobs.clear()
        if not jids:
            return False
        log.error(
            "%s %s with jobs that it had not reported, which fail by that: %s",
            worker,
            describe_exit(status),
            ", ".join(jids),
        )
        try:
            pid = os.fork()
        except OSError as error:
            log.error("its jobs wait until their reservations end: %s", error)
            return True
        if pid == 0:
            self._report(worker, jids, describe_death("the worker's process", status))
        self._reporters.add(pid)
        return True

    def _report(self, worker: WorkerChild, jids: list[str], message: str) -> NoReturn:
        try:
            for number in (*self.signals, signal.SIGCHLD):
                signal.signal(number, lambda *_: None)
            signal.set_wakeup_fd(-1)
            for other in self._workers:
                other.close_channel()
            client = Client(self._url, worker_id=worker.worker_id or None)
            until = monotonic() + REPORT_TIMEOUT
            report_death(client, jids, message, until, self._backoff)
        except BaseException:
            log.exception("the jobs of %s cannot be reported", worker)
        finally:
            os._exit(0)

    def _reap_reporters(self) -> None:
        for pid in self._reporters.copy():
            if os.waitpid(pid, os.WNOHANG)[0]:
                self._reporters.discard(pid)


def report_death(
    client: Client,
    jids: list[str],
    message: str,
    until: float,
    backoff: Callable[[int, float], float] = recovery.backoff,
) -> None:
    """Report jobs as failed, as often as it takes until then (`time.monotonic`)."""
    failures = 0
    while True:
        try:
            answers = client.exchange(
                *[commands.fail(jid, "ProcessDied", message, []) for jid in jids]
            )
            break
        except FaktoryAuthenticationError:
            raise
        except FaktoryError as error:
            failures += 1
            pause = backoff(failures, random())
            if monotonic() + pause > until:
                log.error("%s could not be reported: %s", ", ".join(jids), error)
                return
            sleep(pause)
    client.close()
    for jid, answer in zip(jids, answers, strict=True):
        if answer.error is not None:  # it had been reported, or its reservation was over
            log.debug("the server refused FAIL of %s: %s", jid, answer.error)

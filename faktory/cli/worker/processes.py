"""`--processes` and `--reload`: a supervisor that starts workers, and others in their place.

Rules: the supervisor imports nothing of the user's. It gets signals, and words through one channel
to each worker; a worker that ends does not concern the others. The jobs that it was running are
failed at once, with how it died: their ids are in memory that the supervisor shares. Only a worker
whose exit code says that it cannot begin, or that ends before it is ready, counts as a failed
start, and five of them in a row end the supervisor. A worker that was killed, or that stopped, is
always replaced; in place of a quiet one comes one that is quiet from its first moment on. A reload
by HUP replaces one worker after the other, so that a program that cannot begin stops one at most.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final

from ...jobs.context import reservation_clock
from ...wire import recovery
from ...wire.amounts import counted
from ...wire.log import Log
from ...worker import Worker, counts
from ...worker.backends.supervisor import (
    Child,
    RunningJobs,
    Supervisor,
    describe_death,
    describe_exit,
)
from ...worker.counts import PROCESS, Page
from ...worker.signals import GROUP_SIGNALS
from ...worker.texts import is_terminal
from ..exits import NEVER_BEGAN, Exit
from . import logs
from .reports import Reporter, Unanswered
from .supervised import DRAINED, FINISH, QUIET, QUIT, READY, STOP, STOP_NOW, Ready, attach

if TYPE_CHECKING:
    from ...worker.health import HealthServer

MAX_FAILED_STARTS: Final = 5
"""How many workers in a row may fail to begin."""

STEADY_AFTER: Final = 10.0
"""Seconds after which a worker that ends is replaced at once."""

STOP_GRACE: Final = 10.0
"""Seconds that workers have to end beyond their grace period: to report jobs that are left, for
which a FETCH that goes on may have to end first, and for the hooks of `faktory.aio.on_shutdown`."""

log = Log(logging.getLogger("faktory.parent"))  # the name that programs configure


class WorkerChild(Child):
    """One of the N workers."""

    def __init__(self, number: int, concurrency: int, page: Page | None = None) -> None:
        super().__init__(number)
        self.page = page
        """What it counts (`--health`)."""
        self.jobs = RunningJobs(concurrency)
        self.known = Ready()
        """Without a worker's id until it is ready."""
        self.process = 0
        """The pid of the worker that runs, or ran last."""
        self.finishing = False
        self.quiet = False
        """Whether the worker is quiet, and not because it finishes."""
        self.drained = False
        """Whether the worker ends because there is nothing left to do."""
        self.misread = False  # so that this is logged once
        self.failed_starts = 0
        """How many workers in a row could not begin."""

    def __str__(self) -> str:
        return f"worker {self.number} (process {self.process})"

    @property
    def ready(self) -> bool:
        """Whether the worker has begun to work."""
        return bool(self.pid and self.known.worker_id)

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


class WorkerSupervisor(Supervisor[WorkerChild | Reporter]):
    """Keeps `count` workers running until stopped, which may take them `grace` seconds.

    `url` is the server that jobs of dead workers are reported to, unless a worker has another by
    `faktory.configure`; `load` imports the program, where the report needs its ssl_context.
    `changes` is a descriptor that can be read when the program has changed (`--reload`); then a
    worker that cannot begin waits for that. With `burst` a worker that has
    nothing left to do is not replaced, and all is over when the last one has ended. `health` has a
    page for each worker, and is served here.
    """

    signals: tuple[int, ...] = (*GROUP_SIGNALS, signal.SIGUSR1, signal.SIGUSR2)

    def __init__(
        self,
        count: int,
        concurrency: int,
        grace: float,
        url: str,
        changes: int | None = None,
        *,
        load: Callable[[], object] = lambda: None,
        burst: bool = False,
        health: HealthServer | None = None,
        stop_grace: float = STOP_GRACE,
        backoff: Callable[[int, float], float] = recovery.backoff,
    ) -> None:
        pages = [None] * count if health is None else health.probes.pages
        self._workers = [WorkerChild(number, concurrency, p) for number, p in enumerate(pages, 1)]
        super().__init__([*self._workers], backoff)
        self._grace = grace
        self._stop_grace = stop_grace
        self._url = url
        self._load = load
        self._changes = changes
        self._burst = burst
        self._health = health
        if health is not None:
            health.probes.absent = self._absent
        self._quiet = False
        self._reloading: list[WorkerChild] = []
        """Those that are to be replaced, one after the other."""
        self._reloads_since: float | None = None
        """When the last reload by HUP began (`time.monotonic`), if there was one."""
        self.code = Exit.STOPPED
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # by nohup
            self.signals = tuple(each for each in self.signals if each != signal.SIGHUP)

    @property
    def has_begun(self) -> bool:
        """Whether a worker was started."""
        return any(worker.process for worker in self._workers)

    def start(self) -> Callable[[Worker], None] | None:
        """Return None when all workers have ended; in each of them, what attaches it to this."""
        if (born := self.run()) is None:
            return None
        child, channel = born
        if isinstance(child, Reporter):
            child.run(self._url, self._load, self._backoff)
        if child.page is not None:
            counts.enable(child.page).dropped = logs.dropped
        return partial(attach, number=child.number, jobs=child.jobs, channel=channel)

    # The policy

    def done(self) -> bool:
        """Return whether all have ended, and none is to be replaced.

        Kill those that do not end after a signal to stop.
        """
        if self._stopping and monotonic() >= (self.deadline or 0.0):
            self._kill()
        if not (self._stopping or (self._burst and not self._waiting())):
            return False
        return not any(child.pid or isinstance(child, Reporter) for child in self.children)

    def wants(self, child: WorkerChild | Reporter) -> bool:
        """Start workers until quiet or stopped, reporters in any case."""
        return isinstance(child, Reporter) or not (self._quiet or self._stopping)

    def sources(self) -> dict[int, Callable[[], None]]:
        """Wait for changes of the program, too, and for probes."""
        found = {} if self._changes is None else {self._changes: self._on_change}
        if self._health is not None:
            found[self._health.fileno()] = self._health.serve
        return found

    def next_due(self) -> float | None:
        """Return when a probe takes too long."""
        return None if self._health is None else self._health.due()

    def on_due(self) -> None:
        """Close the connection of a probe that takes too long."""
        if self._health is not None:
            self._health.serve()

    def _absent(self) -> str:
        return "stopping" if self._stopping else "quiet" if self._quiet else "starting"

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
            if child.page is not None:
                child.page.head[PROCESS] = child.pid
            child.known = Ready()
            child.finishing = child.drained = child.misread = False
            log.info("%s started%s", child, ", quiet as the one before" if child.quiet else "")
            if child.quiet:
                child.send(QUIET)

    def on_start_error(self, child: WorkerChild | Reporter, error: OSError) -> None:
        """Try again, later each time."""
        pause = self.restart_later(child)
        log.warning("%s: cannot be started: %s; trying again in %.1f s", child, error, pause)

    def on_channel(self, child: WorkerChild | Reporter) -> None:
        """Note that a worker is ready."""
        if child.channel is None:
            return
        try:
            words = child.channel.recv(65536, socket.MSG_DONTWAIT)
        except OSError:
            words = b""
        if not words:
            child.close_channel()
        for word in words.split(b"\n"):
            if not isinstance(child, WorkerChild):
                continue  # a reporter says nothing
            if word.startswith(READY):
                child.known = Ready.read(word)
                if child.known.worker_id:
                    log.debug("%s is ready", child)
                    self._reload_next()
                elif not child.misread:
                    child.misread = True
                    log.warning("%s: the line that it is ready by cannot be read", child)
            elif word == DRAINED:
                child.drained = True
            elif word == QUIET:
                child.quiet = True
                log.debug("%s is quiet, and so is each that takes its place", child)

    def on_signal(self, number: int) -> None:
        """Pass a signal on: in words, as far as there are some."""
        running = [worker for worker in self._workers if worker.pid]
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stop(running, hint=number == signal.SIGINT and is_terminal(sys.stderr))
            return
        if number in (signal.SIGUSR1, signal.SIGUSR2):
            name = signal.Signals(number).name
            log.warning("%s is ignored: TERM stops the workers, HUP replaces them", name)
            return
        if number == signal.SIGHUP:
            self._reload()
            return
        if number == signal.SIGQUIT:
            for worker in running:
                worker.send(QUIT)
            self._stop(running)
            return
        if number == signal.SIGTSTP and not self._quiet:
            self._quiet = True
            log.warning(
                "quiet: the workers fetch no more jobs, no worker is replaced; running jobs go on, "
                "TERM or Ctrl-C stops them; they do not fetch again: start others for that",
                event="quiet",
            )
        for worker in running:
            if number == signal.SIGTSTP:
                worker.send(QUIET)
            elif worker.ready:
                worker.signal(number)

    def on_exit(self, child: WorkerChild | Reporter, status: int) -> None:
        """Report the jobs of a worker that died, and decide who comes next."""
        self.on_channel(child)  # what it sent just before its end
        child.close_channel()
        if isinstance(child, Reporter):
            self.children.remove(child)
            child.count_answers()
            if status and (self._stopping or self._burst):
                self.code = max(self.code, Exit.ABANDONED)
            return
        exit_code = next((f" ({exit.name})" for exit in Exit if exit == status), "")
        how = f"{child} {describe_exit(status)}{exit_code}"
        had_jobs = self._fail_jobs(child, status)
        ready = bool(child.known.worker_id)
        never_began = status in NEVER_BEGAN or (status >= 0 and not (ready or child.finishing))
        stopped = status == Exit.STOPPED and ready
        steady = monotonic() - child.started_at >= STEADY_AFTER
        child.failed_starts = child.failed_starts + 1 if never_began else 0
        child.deaths = 0 if stopped or steady else child.deaths + 1
        # By TERM when all stop: it had not begun.
        killed = status < 0 and not (self._stopping and status == -signal.SIGTERM)
        failed = had_jobs or killed or status == Exit.ABANDONED
        drained = self._burst and (child.drained or (stopped and child.quiet))
        if failed and (self._stopping or drained):
            self.code = max(self.code, Exit.ABANDONED)
        if self._stopping:
            log.log(logging.ERROR if failed else logging.DEBUG, "%s", how)
        elif drained:
            level = logging.ERROR if failed else logging.INFO
            log.log(level, "%s; it is not replaced (--burst)", how)
            child.due = None
        elif self._quiet:
            log.warning("%s; quiet, so it is not replaced", how)
        elif stopped or child.finishing:
            log.info("%s; another takes its place", how)
            child.due = monotonic()
        elif never_began and self._changes is not None:
            log.error("%s; waiting for a file to be saved", how)
            child.due = None
        elif child.failed_starts >= MAX_FAILED_STARTS and not self._survives(child):
            self._give_up(how)
        else:
            pause = self.restart_later(child)
            log.warning("%s; another takes its place in %.1f s", how, pause)
            if never_began and self._reloading:
                self._reloading.clear()
                log.error("the reload ends here: the other workers go on with the old program")

    def _kill(self) -> None:
        for child in self.children.copy():
            if child.pid:
                log.error("%s does not end, and is killed", child)
                child.signal(signal.SIGKILL)
            elif isinstance(child, Reporter):
                log.error("%s cannot be started: its jobs wait out their reservations", child)
                self.children.remove(child)
                self.code = max(self.code, Exit.ABANDONED)
        self.deadline = monotonic() + self._stop_grace

    def _stop(self, running: list[WorkerChild], hint: bool = False) -> None:
        """Stop; the second signal ends the grace period, which `hint` has said."""
        if self._stopping:
            self.deadline = min(self.deadline or 0.0, monotonic() + self._stop_grace)
            for worker in running:
                worker.send(STOP_NOW)
            return
        self.deadline = monotonic() + self._grace + self._stop_grace
        if running:
            text = "stopping %s%s"
            whose = "its" if len(running) == 1 else "their"
            again = f"; Ctrl-C again interrupts {whose} jobs" if hint else ""
            log.info(text, counted(len(running), "worker"), again, event="stop")
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

    def _reload(self) -> None:
        """Replace one worker after the other, each when its jobs have finished."""
        if self._quiet or self._stopping:
            log.warning("SIGHUP is ignored: %s", "quiet" if self._quiet else "stopping")
            return
        log.info("SIGHUP: the workers are replaced, one after the other")
        self._reloads_since = monotonic()
        self._reloading = self._workers.copy()
        for worker in self._workers:
            if not worker.pid:
                worker.due = monotonic()
        self._reload_next()

    def _reload_next(self) -> None:
        """Have the next worker finish, when the one before is replaced by one that is ready."""
        while self._reloading and not self._stopping:
            worker = self._reloading[0]
            if worker.started_at >= (self._reloads_since or 0.0) and worker.ready:
                self._reloading.pop(0)
                continue
            if worker.pid and worker.started_at < (self._reloads_since or 0.0):
                worker.finishing = True
                worker.end(FINISH)
            return

    def _survives(self, failed: WorkerChild) -> bool:
        """Return whether to go on: other workers have an older program, which is not at fault."""
        others = [worker for worker in self._workers if worker is not failed]
        return self._reloads_since is not None and any(worker.ready for worker in others)

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
        ahead = reservation_clock() - now
        had = worker.jobs.take()
        ends = {jid: job._replace(until=job.until - ahead) for jid, job in had.items()}
        jobs = {jid: job for jid, job in ends.items() if job.until > now}
        counted = None if worker.page is None else Unanswered(worker.page, list(jobs))
        if not jobs:
            return False
        how = describe_exit(status)
        if failing := [jid for jid, job in jobs.items() if not job.ack]:
            text = "%s %s with jobs that it had not reported, which fail by that: %s"
            log.error(text, worker, how, ", ".join(failing))
        message = describe_death("the worker's process", status)
        self.children.append(Reporter(worker.number, worker.known, jobs, message, counted))
        if self.deadline is not None:  # it gets the time that workers have
            self.deadline = max(self.deadline, now + self._stop_grace)
        return True

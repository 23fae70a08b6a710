"""How the outcome of a job gets to the server: in one step, or in a few.

Rules: a step is commands that are sent together, and the next one follows its answer; FETCH goes
with the last one only. No job is lost, whatever ends the connection or this process between two
steps: the job stays reserved until something else is known to stand for it.

A job that is pushed again is pushed while it is reserved, so its PUSH has a time (`at`) some
seconds ahead. Until then the same bytes may be sent any number of times, since the scheduled job is
the same entry each time (`storage/sorted_redis.go: AddElement`). From then on another worker may
have reserved the same jid, and an ACK would end that reservation (`manager/working.go`: it is
found by the jid), so none is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from math import inf
from time import localtime, strftime, time
from typing import Any, Final

from ..client import Client
from ..exceptions import FaktoryConnectionError, FaktoryError, FaktoryOutcomeUnknown, Retry
from ..jobs import retries
from ..jobs.chains import ChainBroken
from ..jobs.context import JobContext, reservation_clock, run_in
from ..jobs.options import fix_expiry
from ..jobs.retries import Verdict
from ..wire import commands, recovery
from ..wire.commands import Command
from ..wire.log import Log
from ..wire.session import Answer
from ..wire.validate import clip
from .backends.base import Report
from .texts import fields_of, server_wait

FIRST_DELAY, LONGEST_DELAY = 5.0, 600.0
"""Seconds ahead, doubling, for a job that is pushed once more, the outcome before being unknown:
the copies stay few, however long connections go on breaking."""

CLOCK_INTERVAL: Final = 60.0
"""Seconds for which the time of the server counts by its last INFO."""

Mark = Callable[[bool, float | None], None]
"""Called with what this process's supervisor is to do with the job if the process dies: ACK it or
not, and until when (`reservation_clock`); None: leave it to its reservation."""


class Delivery:
    """ACK or FAIL, and what goes with it: one step, which may be sent again."""

    is_last = True
    """Whether a FETCH may go with it."""

    is_timed = False
    """Whether what is to be sent depends on the time: connect first, then `advance`."""

    if_lost = "its job runs again after its reservation"
    """What follows if it cannot be delivered, for the log."""

    def __init__(self, *sent: Command[None]) -> None:
        self.commands: tuple[Command[Any], ...] = sent
        """What is to be sent; `advance` brings it up to date."""
        self.repeated = False
        """Whether it was sent before."""

    def __str__(self) -> str:
        command = self.commands[0]
        return f"{command.name} of {clip(command.jids[0])}"

    def advance(self) -> Delivery | None:
        """Return what is to be sent now, None if nothing is any more."""
        return self

    def on_answers(self, answers: Sequence[Answer], log: Log) -> Delivery | None:
        """Return what follows the answers to `commands`; None: it is delivered."""
        for answer in answers:
            if answer.error is not None:
                _log_refusal(recovery.resolve_resent(answer) if self.repeated else answer, log)
        return None

    def on_error(self, error: BaseException) -> None:  # noqa: ARG002
        """Note that an exchange broke."""
        self.repeated = True


class ServerClock:
    """How far the server's clock is ahead of this machine's. From any thread."""

    def __init__(self) -> None:
        self.lead = 0.0
        """Seconds; 0 if it is behind, which does no harm."""
        self._known_until = -inf

    @property
    def is_known(self) -> bool:
        """Whether the server was asked a short time ago."""
        return reservation_clock() < self._known_until

    def learn(self, info: object, asked_at: float) -> None:
        """Note the answer to an INFO that was sent then (`time.time`); None if it was refused."""
        try:
            now = datetime.fromisoformat(info["now"]).timestamp()  # type: ignore[index]
            self.lead = max(0.0, now - asked_at)
        except (KeyError, TypeError, ValueError, OverflowError):  # an older server
            self.lead = 0.0
        self._known_until = reservation_clock() + CLOCK_INTERVAL


class PushAgain(Delivery):
    """PUSH of a reserved job for later, then its ACK.

    `verdict` says for when, `report` what its failure was; one that a stopping worker returns
    keeps the record of its failures. `fail` is sent instead if the server refuses that. If the
    outcome is unknown when its time has come, the job is left to its reservation: the server fails
    it then, unless the pushed one has ended by that time. Without retries that would lose the job:
    then it is pushed once more and never ACKed, and the server drops the copy that is reserved.
    """

    is_last = False
    is_timed = True

    def __init__(
        self,
        job: JobContext,
        verdict: Verdict,
        report: Report,
        fail: Command[None],
        mark: Mark,
        log: Log,
        given_back: bool = False,
        clock: ServerClock | None = None,
    ) -> None:
        self._job, self._verdict, self._report = job, verdict, report
        self._fail, self._mark, self._log = fail, mark, log
        self._given_back = given_back
        self._clock = clock or ServerClock()
        self._delay = 0.0
        self._unknown = False  # whether the server may have queued it, for a time that has come
        self._is_acked = True
        super().__init__(self._encode(verdict.delay))
        self._asks = clock is not None and not clock.is_known
        self._asked_at = time()
        if self._asks:
            self.commands = (commands.info(),)
        mark(False, None)

    @property
    def at(self) -> str:
        """The local time of the next run: "12:34:56", with the date if that is not within a day."""
        ahead = self._at - reservation_clock()
        shown = "%H:%M:%S" if ahead < 86400 else "%Y-%m-%d %H:%M:%S"
        return strftime(shown, localtime(time() + ahead))

    def advance(self) -> Delivery | None:
        """Return what is to be sent now: what is too late is made again, or left."""
        if self._asks:
            self._asked_at = time()
            return self
        ahead = self._at - reservation_clock()
        if ahead > (0.0 if self.is_last else recovery.REPEAT_MARGIN):
            return self
        if self.is_last:
            text = (
                "%s was pushed again, and that run's time came before this one's ACK: this "
                "reservation runs out, so the job may run once more"
            )
            self._log.warning(text, self._job)
            return None
        if self._job.time_remaining() < 0:
            text = "%s was not pushed again in its reservation: the server has failed it by that"
            self._log.warning(text, self._job)
            return None
        if self._unknown:
            if self._job.retries_remaining:
                text = (
                    "whether %s was pushed again is unknown: it stays reserved, and runs again "
                    "after its reservation if it was not"
                )
                self._log.warning(text, self._job)
                return None
            self._is_acked = False
            self._delay = min(2 * self._delay or FIRST_DELAY, LONGEST_DELAY)
        self.commands = (self._encode(self._delay),)
        about = partial(self._log.info, "%s again at %s", self._job, self.at)
        run_in(self._job, partial(about, **fields_of(self._job, "retried")))
        return self

    def on_answers(self, answers: Sequence[Answer], log: Log) -> Delivery | None:
        """Return the ACK after the PUSH, and FAIL if that was refused."""
        (answer,) = answers
        if self._asks:
            self._asks = False
            self._clock.learn(answer.value, self._asked_at)
            self.commands = (self._encode(self._verdict.delay),)
            return self
        if self.is_last:
            _log_refusal(answer, log)
            return None
        if answer.error is not None:
            text = "the server refused to queue %s again, so it fails: %s"
            log.warning(text, self._job, clip(str(answer.error), 1000))
            return self._failing()
        if not self._is_acked:
            return None
        self.is_last = True
        self.if_lost = "its job was pushed again and stays reserved, so it may run once more"
        self._mark(True, self._at)
        self.commands = (commands.ack(self._job.jid, in_time=True),)
        return self

    def on_error(self, error: BaseException) -> None:
        """Note that an exchange broke, perhaps after the server had queued the job."""
        if self._asks:
            return
        was_sent = isinstance(error, FaktoryOutcomeUnknown)
        self._unknown |= was_sent or not isinstance(error, FaktoryConnectionError)

    def _failing(self) -> Delivery:
        self._mark(False, self._job._ends)
        return Delivery(self._fail)

    def _encode(self, delay: float) -> Command[None]:
        clock = reservation_clock()  # first: what passes until `now` makes `_at` early, not late
        now = datetime.now(UTC) + timedelta(seconds=self._lead())
        verdict = self._verdict._replace(delay=delay)
        fetched = self._job.as_fetched()
        job = retries.again(fetched, verdict, self._report, now)
        if self._given_back and "failure" in job:  # nothing has failed this time
            job["failure"] = fetched["failure"]
        self._at = clock + (datetime.fromisoformat(job["at"]) - now).total_seconds()
        return commands.push_in_time(job)

    def _lead(self) -> float:
        """Return how far the server's clock is ahead, in seconds, by what it said and by the job.

        By a clock that is behind, the server would find the time of the next run come at once. It
        had queued the job before it was fetched, and noted when.
        """
        try:
            queued = datetime.fromisoformat(self._job.payload["enqueued_at"]).timestamp()
        except (KeyError, TypeError, ValueError, OverflowError):
            return self._clock.lead
        return max(self._clock.lead, queued + reservation_clock() - self._job._began - time())


class PushNext(Delivery):
    """PUSH of the next job of a chain, repeated until its outcome is known; then the ACK.

    A PUSH that arrives twice queues that job twice, under one jid. If the server refuses it, the
    job fails, since nothing else stands for the rest of the chain.
    """

    is_last = False

    def __init__(self, job: JobContext, following: dict[str, Any], mark: Mark, log: Log) -> None:
        super().__init__(commands.push_exactly(following))
        self._job, self._next, self._mark, self._log = job, following, mark, log

    def advance(self) -> Delivery | None:
        """Return the PUSH; after its reservation the job is the server's, which tries it again."""
        if self._job.time_remaining() >= 0:
            if "expires_in" in (self._next.get("custom") or {}):  # from its own push on
                fix_expiry(self._next)
                self.commands = (commands.push_exactly(self._next),)
            return self
        text = "the next job of the chain of %s was not pushed in its reservation: it runs again"
        self._log.warning(text, self._job)
        return None

    def on_answers(self, answers: Sequence[Answer], log: Log) -> Delivery | None:
        """Return the ACK, or FAIL if the PUSH was refused."""
        (answer,) = answers
        jid = self._job.jid
        if answer.error is None:
            self._mark(True, self._job._ends)
            return Delivery(commands.ack(jid))
        text = (
            f"the job is done, but the server refused the next one of its chain, "
            f"{clip(self._next['jobtype'])} {clip(self._next['jid'])}: "
            f"{clip(str(answer.error), 500)}"
        )
        about = partial(log.error, "%s fails: %s", self._job, text)
        run_in(self._job, partial(about, **fields_of(self._job, "failed")))
        return Delivery(commands.fail(jid, ChainBroken.__name__, text, []))


def report_of(
    job: JobContext,
    verdict: Verdict,
    report: Report,
    mark: Mark,
    log: Log,
    *,
    is_wanted: bool = False,
    given_back: bool = False,
    clock: ServerClock | None = None,
) -> Delivery:
    """Return how a job is reported that has failed, asks for a retry, or is returned.

    `log` gets a line if it is tried again, with the reason where nothing has failed, or buried. A
    `clock` that is not known has the server asked for its time before a job is pushed again.
    """
    fail = commands.fail(job.jid, *report)
    if verdict.outcome == "bury":
        text = "%s is buried: its retry_on has no %s"
        log.warning(text, job, report[0], **fields_of(job, "other"))
        kill = commands.mutate("kill", "retries", jids=[job.jid])
        assert kill is not None
        return Delivery(fail, kill)
    if verdict.outcome == "again":
        try:
            delivery = PushAgain(job, verdict, report, fail, mark, log, given_back, clock)
        except Exception as error:  # another client's job, which this one cannot send
            text = "%s cannot be pushed again, so the server's own wait counts: %s"
            log.error(text, job, error)
        else:
            uncounted = "" if verdict.counted else ", not counted as an attempt"
            reason = f": {report[1]}" if is_wanted or given_back else ""
            fields = fields_of(job, "retried")
            log.info("%s again at %s%s%s", job, delivery.at, uncounted, reason, **fields)
            return delivery
    elif is_wanted:
        wait = server_wait(job)
        log.info("%s again in about %s: %s", job, wait, report[1], **fields_of(job, "retried"))
    return Delivery(fail)


def give_back(job: JobContext) -> Verdict:
    """Return what follows for a job that a worker with `give_back` interrupts as it stops."""
    return retries.judge(None, job, Retry(after=retries.LEAST_AHEAD, count=False))


def deliver(
    client: Client, deliveries: Sequence[Delivery], log: Log
) -> list[tuple[Delivery, FaktoryError] | None]:
    """Send reports step by step, each step of all in one write; return what is left, and why.

    After a broken connection each is sent once more, as far as it may be.
    """
    left: dict[int, Delivery] = dict(enumerate(deliveries))
    failed: list[tuple[Delivery, FaktoryError] | None] = [None] * len(deliveries)
    breaks = 0
    while left:
        try:
            if any(each.is_timed for each in left.values()):
                client.connect()
            left = {key: now for key, each in left.items() if (now := each.advance()) is not None}
            sent = [command for each in left.values() for command in each.commands]
            answers = client.exchange(*sent) if sent else []
        except FaktoryError as error:
            breaks += 1
            for key, each in left.items():
                each.on_error(error)
                failed[key] = (each, error)
            if breaks == 2:
                return failed
            continue
        failed = [None] * len(deliveries)
        following = {}
        for key, each in left.items():
            answered = [answers.pop(0) for _ in each.commands]
            if (after := each.on_answers(answered, log)) is not None:
                following[key] = after
        left = following
    return failed


def _log_refusal(answer: Answer, log: Log) -> None:
    if answer.error is not None:
        command = answer.command
        text = "the server refused %s of %s: %s"
        log.warning(text, command.name, clip(command.jids[0]), clip(str(answer.error), 1000))

"""How a report goes out step by step, with a clock that a test moves and a client with a script."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from faktory import Retry
from faktory.exceptions import (
    FaktoryConnectionError,
    FaktoryError,
    FaktoryOutcomeUnknown,
    FaktoryServerError,
)
from faktory.jobs import chains, retries
from faktory.jobs.context import JobContext
from faktory.jobs.retries import Verdict
from faktory.wire import commands
from faktory.wire.commands import Command
from faktory.wire.log import Log
from faktory.wire.session import Answer
from faktory.worker import delivery
from faktory.worker.delivery import Delivery, PushNext, ServerClock, deliver, report_of

LOG = logging.getLogger("test.delivery")
LOST = FaktoryConnectionError("nothing listens")
UNKNOWN = FaktoryOutcomeUnknown("the connection broke after PUSH")
REFUSED = FaktoryServerError("ERR no memory for this job")
REPORT = ("ValueError", "wrong", ["a line"])
JOB = {
    "jid": "jid-0001",
    "jobtype": "work",
    "queue": "default",
    "args": [1],
    "retry": 3,
    "created_at": "2026-01-02T03:04:05Z",
    "enqueued_at": "2026-01-02T03:04:05Z",
    "reserve_for": 60,
}


class Clock:
    """The clock of reservations, moved by `pass_time`."""

    def __init__(self) -> None:
        self.offset = 0.0
        self._real = delivery.reservation_clock

    def __call__(self) -> float:
        return self._real() + self.offset

    def pass_time(self, seconds: float) -> None:
        self.offset += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(delivery, "reservation_clock", clock)
    monkeypatch.setattr(JobContext, "_now", staticmethod(clock))

    class Now(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(datetime.now(UTC).timestamp() + clock.offset, UTC)

    monkeypatch.setattr(delivery, "datetime", Now)
    return clock


Outcome = FaktoryError | None


class Server:
    """Answers commands by a script: an error of the connection ends an exchange, one of the server
    answers its first command; with the end of the script all is well.

    A callable is called in place of an exchange, and its result counts.
    """

    def __init__(self, *script: Outcome | Callable[[], Outcome]) -> None:
        self.script = list(script)
        self.sent: list[list[tuple[str, dict[str, Any]]]] = []
        self.lines: list[bytes] = []

    def connect(self) -> bool:
        return True

    def exchange(self, *sent: Command[Any]) -> list[Answer]:
        self.sent.append([_parsed(command) for command in sent])
        self.lines.append(b"".join(command.data for command in sent))
        outcome = self.script.pop(0) if self.script else None
        if callable(outcome):
            outcome = outcome()
        if isinstance(outcome, FaktoryConnectionError):
            raise outcome
        answers = [Answer(command, None, None) for command in sent]
        if outcome is not None:
            answers[0] = Answer(sent[0], None, outcome)
        return answers

    @property
    def verbs(self) -> list[str]:
        return [" ".join(verb for verb, _ in step) for step in self.sent]

    def jobs(self) -> list[dict[str, Any]]:
        """The jobs that were pushed, each PUSH as often as it was sent."""
        return [job for step in self.sent for verb, job in step if verb in ("PUSH", "PUSHB")]


def _parsed(command: Command[Any]) -> tuple[str, dict[str, Any]]:
    verb, _, text = command.data.decode().partition(" ")
    value = json.loads(text)
    return verb, value[0] if verb == "PUSHB" else value


class Marks:
    """What the supervisor would do with the job."""

    def __init__(self) -> None:
        self.all: list[str] = []

    def __call__(self, ack: bool, until: float | None) -> None:
        self.all.append("leave" if until is None else "ACK" if ack else "FAIL")


@pytest.fixture
def marks() -> Marks:
    return Marks()


def again(marks: Marks, counted: bool = True, delay: float = 0.0, **fields: Any) -> Delivery:
    """The report of a job that is to be pushed again."""
    verdict = Verdict("again", delay, counted)
    return report_of(JobContext({**JOB, **fields}), verdict, REPORT, marks, Log(LOG))


def send(server: Server, report: Delivery, rounds: int = 20) -> Delivery | None:
    """Send a report as a processor does: as often as it takes, or so many rounds."""
    current: Delivery | None = report
    for _ in range(rounds):
        current = None if current is None else current.advance()
        if current is None:
            return None
        try:
            answers = server.exchange(*current.commands)  # type: ignore[arg-type]
        except FaktoryError as error:
            current.on_error(error)
        else:
            current = current.on_answers(answers, Log(LOG))
    return current


# A job that is pushed again


def test_a_job_is_pushed_again_and_acknowledged_after_the_answer(marks: Marks) -> None:
    server = Server()
    assert send(server, again(marks, delay=60)) is None
    assert server.verbs == ["PUSHB", "ACK"]
    (job,) = server.jobs()
    assert (job["jid"], job["created_at"], job["args"]) == ("jid-0001", JOB["created_at"], [1])
    ahead = (datetime.fromisoformat(job["at"]) - datetime.now(UTC)).total_seconds()
    assert 50 < ahead <= 60
    assert job["failure"]["retry_count"] == 0
    assert job["failure"]["remaining"] == 3
    assert (job["failure"]["errtype"], job["failure"]["message"]) == REPORT[:2]
    assert marks.all == ["leave", "ACK"]


def test_no_fetch_goes_with_the_push_since_an_ack_follows(marks: Marks) -> None:
    report = again(marks)
    assert not report.is_last
    (push,) = report.commands
    after = report.on_answers([Answer(push, None, None)], Log(LOG))
    assert after is not None
    assert after.is_last


def test_a_push_whose_outcome_is_unknown_is_repeated_with_the_same_bytes(marks: Marks) -> None:
    server = Server(UNKNOWN, UNKNOWN, LOST)
    send(server, again(marks))
    assert server.verbs == ["PUSHB"] * 4 + ["ACK"]
    assert len(set(server.lines[:4])) == 1


def test_the_connection_never_repeats_a_push_or_an_ack_that_has_a_time(marks: Marks) -> None:
    report = again(marks)
    (push,) = report.commands
    report.on_answers([Answer(push, None, None)], Log(LOG))
    assert push.send_once
    assert report.commands[0].send_once


def test_a_push_that_the_server_did_not_get_is_made_again_when_its_time_has_come(
    clock: Clock, marks: Marks
) -> None:
    def late() -> Outcome:
        clock.pass_time(30)
        return LOST

    server = Server(late)
    send(server, again(marks))
    assert server.verbs == ["PUSHB", "PUSHB", "ACK"]
    first, second = (datetime.fromisoformat(job["at"]) for job in server.jobs())
    assert 29 < (second - first).total_seconds() < 32


def test_the_time_is_ahead_on_the_clock_of_the_server_as_far_as_the_job_shows_it(
    marks: Marks,
) -> None:
    queued = datetime.now(UTC) + timedelta(seconds=1000)  # it was fetched after that
    server = Server()
    send(server, again(marks, delay=60, enqueued_at=queued.isoformat()))
    (job,) = server.jobs()
    assert 1059 < (datetime.fromisoformat(job["at"]) - datetime.now(UTC)).total_seconds() < 1061
    for nonsense in ("yesterday", None, 5, "9999-12-31T23:59:59-23:00"):
        server = Server()
        send(server, again(marks, delay=60, enqueued_at=nonsense))
        assert server.verbs in (["PUSHB", "ACK"], ["FAIL"])


def test_a_push_is_not_sent_within_the_last_second_before_its_time(
    clock: Clock, marks: Marks
) -> None:
    report = again(marks)
    clock.pass_time(retries.LEAST_AHEAD - 0.9)
    server = Server()
    send(server, report)
    (job,) = server.jobs()
    at = datetime.fromisoformat(job["at"])
    assert (at - datetime.now(UTC)).total_seconds() > retries.LEAST_AHEAD


@pytest.mark.parametrize("counted", [True, False])
def test_a_job_stays_reserved_if_it_is_unknown_whether_it_was_pushed_and_its_time_has_come(
    clock: Clock, marks: Marks, counted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def late() -> Outcome:
        clock.pass_time(30)
        return UNKNOWN

    server = Server(late)
    send(server, again(marks, counted))
    assert server.verbs == ["PUSHB"]
    assert marks.all == ["leave"]
    assert "whether work jid-0001 was pushed again is unknown: it stays reserved" in caplog.text


@pytest.mark.parametrize("retry", [0, -1])
def test_a_job_without_retries_is_pushed_once_more_then_and_its_reservation_runs_out(
    clock: Clock, marks: Marks, retry: int
) -> None:
    def late() -> Outcome:
        clock.pass_time(10)
        return UNKNOWN

    server = Server(late, late)
    send(server, again(marks, counted=False, retry=retry, reserve_for=1800))
    assert server.verbs == ["PUSHB"] * 3  # a FAIL would lose it, an ACK end another's reservation
    ats = [datetime.fromisoformat(job["at"]).timestamp() for job in server.jobs()]
    waits = [at - start for at, start in zip(ats, (0, ats[0], ats[1]), strict=True)][1:]
    assert waits[1] > waits[0]  # so that the copies stay few
    assert marks.all == ["leave"]


def test_a_job_is_not_pushed_again_after_its_reservation(
    clock: Clock, marks: Marks, caplog: pytest.LogCaptureFixture
) -> None:
    report = again(marks)
    clock.pass_time(61)
    server = Server()
    assert send(server, report) is None
    assert server.sent == []
    assert "was not pushed again in its reservation" in caplog.text


def test_an_ack_is_repeated_until_the_time_of_the_next_run(clock: Clock, marks: Marks) -> None:
    server = Server(None, UNKNOWN, LOST)
    send(server, again(marks))
    assert server.verbs == ["PUSHB", "ACK", "ACK", "ACK"]


@pytest.mark.parametrize("outcome", [UNKNOWN, LOST])
def test_an_ack_is_not_sent_once_the_next_run_may_have_begun(
    clock: Clock, marks: Marks, caplog: pytest.LogCaptureFixture, outcome: Outcome
) -> None:
    def late() -> Outcome:
        clock.pass_time(retries.LEAST_AHEAD + 0.1)
        return outcome

    server = Server(None, late)
    assert send(server, again(marks)) is None
    assert server.verbs == ["PUSHB", "ACK"]
    (message,) = [message for message in caplog.messages if "jid-0001" in message]
    assert "this reservation runs out, so the job may run once more" in message


def test_a_push_that_is_answered_after_its_time_is_not_followed_by_an_ack(
    clock: Clock, marks: Marks
) -> None:
    server = Server(lambda: clock.pass_time(5))
    assert send(server, again(marks)) is None
    assert server.verbs == ["PUSHB"]


def test_a_job_that_the_server_does_not_queue_again_fails_with_its_own_failure(
    marks: Marks, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(REFUSED)
    send(server, again(marks))
    assert server.verbs == ["PUSHB", "FAIL"]
    assert server.sent[1][0][1] == {
        "jid": "jid-0001",
        "errtype": "ValueError",
        "message": "wrong",
        "backtrace": ["a line"],
    }
    assert marks.all == ["leave", "FAIL"]
    assert "the server refused to queue work jid-0001 again, so it fails" in caplog.text


def test_a_job_that_this_client_cannot_send_fails(
    marks: Marks, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server()
    send(server, again(marks, args=[2**60]))
    assert server.verbs == ["FAIL"]
    assert marks.all == []
    assert "cannot be pushed again, so the server's own wait counts" in caplog.text


def test_the_time_of_the_next_run_is_logged(marks: Marks, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    again(marks, delay=60)
    again(marks, delay=3 * 86400, counted=False)
    today, later = caplog.messages
    time = r"\d\d:\d\d:\d\d"
    assert re.fullmatch(f"work jid-0001 again at {time}", today)
    date = r"\d{4}-\d\d-\d\d"
    text = f"work jid-0001 again at {date} {time}, not counted as an attempt"
    assert re.fullmatch(text, later)


# A job that is buried


def test_a_job_is_buried_by_fail_and_mutate_in_one_step(
    marks: Marks, caplog: pytest.LogCaptureFixture
) -> None:
    job = JobContext({**JOB, "jid": 'a "b" \\ c*é'})
    report = report_of(job, retries.BURY, REPORT, marks, Log(LOG))
    server = Server(UNKNOWN, FaktoryServerError("ERR Job not found"))
    assert send(server, report) is None
    assert server.verbs == ["FAIL MUTATE"] * 2
    assert report.is_last
    mutate = report.commands[1].data.rstrip()
    assert mutate.count(b" ") == 1
    assert json.loads(mutate.split(b" ", 1)[1]) == {
        "cmd": "kill",
        "target": "retries",
        "filter": {"jids": ['a "b" \\ c*é']},
    }
    assert "refused" not in caplog.text
    assert "is buried: its retry_on has no ValueError" in caplog.text


# A chain


def following(marks: Marks, **fields: Any) -> Delivery:
    after = {"jid": "jid-0002", "jobtype": "next", "args": []}
    job = JobContext({**JOB, "custom": {"faktory_chain": [after]}, **fields})
    pushed = chains.next_job(job.as_fetched())
    assert pushed is not None
    return PushNext(job, pushed, marks, Log(LOG))


def test_the_next_job_of_a_chain_is_pushed_before_the_ack(marks: Marks) -> None:
    server = Server()
    report = following(marks)
    assert not report.is_last
    assert send(server, report) is None
    assert server.verbs == ["PUSH", "ACK"]
    assert server.jobs()[0]["jid"] == "jid-0002"
    assert "at" not in server.jobs()[0]
    assert server.sent[1][0][1] == {"jid": "jid-0001"}
    assert marks.all == ["ACK"]


def test_what_a_chained_job_has_until_it_expires_counts_from_its_own_push(marks: Marks) -> None:
    job = JobContext(JOB)
    after = {"jid": "jid-0002", "jobtype": "next", "args": [], "custom": {"expires_in": 60}}
    pushed = PushNext(job, after, marks, Log(LOG))
    begun = datetime.now(UTC)
    assert pushed.advance() is pushed
    (command,) = pushed.commands
    custom = json.loads(command.data.removeprefix(b"PUSHB "))[0]["custom"]
    assert "expires_in" not in custom
    left = datetime.fromisoformat(custom["expires_at"]) - begun
    assert timedelta(seconds=60) <= left < timedelta(seconds=120)


@pytest.mark.parametrize("value", [None, {}, {"now": 7}, {"now": "soon"}, []])
def test_a_server_whose_answer_has_no_time_has_this_machines(value: object) -> None:
    clock = ServerClock()
    assert not clock.is_known
    clock.learn(value, time.time())
    assert clock.is_known
    assert clock.lead == 0.0


def test_a_job_is_pushed_for_a_time_that_is_ahead_on_the_servers_clock(marks: Marks) -> None:
    clock = ServerClock()
    report = report_of(JobContext(JOB), Verdict("again", 3.0), REPORT, marks, Log(LOG), clock=clock)
    asked = report.advance()
    assert asked is report
    (command,) = report.commands
    assert command.data == b"INFO\r\n"
    report.on_error(UNKNOWN)  # the INFO may be asked again
    assert report.advance() is report
    now = datetime.now(UTC) + timedelta(seconds=100)
    answer = Answer(command, {"now": now.isoformat()}, None)
    assert report.on_answers([answer], Log(LOG)) is report
    assert report.advance() is report
    (push,) = report.commands
    at = datetime.fromisoformat(json.loads(push.data.removeprefix(b"PUSHB "))[0]["at"])
    assert 102 < (at - datetime.now(UTC)).total_seconds() < 130
    assert clock.is_known
    second = report_of(JobContext(JOB), Verdict("again", 3.0), REPORT, marks, Log(LOG), clock=clock)
    assert second.commands[0].name == "PUSHB"


def test_the_next_job_is_pushed_until_its_outcome_is_known(marks: Marks) -> None:
    server = Server(UNKNOWN, LOST, UNKNOWN)
    send(server, following(marks))
    assert server.verbs == ["PUSH"] * 4 + ["ACK"]
    assert {job["jid"] for job in server.jobs()} == {"jid-0002"}


def test_a_job_whose_next_one_is_refused_fails_and_names_it(marks: Marks) -> None:
    server = Server(REFUSED)
    send(server, following(marks))
    assert server.verbs == ["PUSH", "FAIL"]
    failed = server.sent[1][0][1]
    assert failed["errtype"] == "ChainBroken"
    assert "next jid-0002" in failed["message"]
    assert "no memory for this job" in failed["message"]


def test_the_next_job_is_not_pushed_after_the_reservation(
    clock: Clock, marks: Marks, caplog: pytest.LogCaptureFixture
) -> None:
    report = following(marks)
    clock.pass_time(61)
    server = Server()
    assert send(server, report) is None
    assert server.sent == []
    assert "was not pushed in its reservation" in caplog.text


# Several reports at once, as a worker sends them that abandons its jobs


def plain(jid: str) -> Delivery:
    return Delivery(commands.fail(jid, "Shutdown", "the worker stopped", []))


def test_each_step_of_all_reports_goes_out_in_one_write(marks: Marks) -> None:
    server = Server()
    reports = [again(marks), plain("jid-0002"), again(marks, jid="jid-0003")]
    assert deliver(server, reports, Log(LOG)) == [None] * 3  # type: ignore[arg-type]
    assert server.verbs == ["PUSHB FAIL PUSHB", "ACK ACK"]


def test_reports_are_sent_once_more_after_a_break_and_then_given_up(marks: Marks) -> None:
    server = Server(UNKNOWN)
    assert deliver(server, [again(marks), plain("jid-0002")], Log(LOG)) == [None] * 2  # type: ignore[arg-type]
    assert server.verbs == ["PUSHB FAIL", "PUSHB FAIL", "ACK"]
    server = Server(None, UNKNOWN, LOST)
    left = deliver(server, [again(marks), plain("jid-0002")], Log(LOG))  # type: ignore[arg-type]
    assert left[1] is None
    assert left[0] is not None
    assert (str(left[0][0]), left[0][1]) == ("ACK of jid-0001", LOST)
    assert "may run once more" in left[0][0].if_lost


def test_a_job_that_is_given_back_is_not_counted() -> None:
    verdict = delivery.give_back(JobContext(dict(JOB)))
    assert (verdict.outcome, verdict.counted) == ("again", False)
    assert 0 < verdict.delay < 10
    for custom in ({"bid": "b-1"}, {"unique_for": 60}, {"track": 1}):
        verdict = delivery.give_back(JobContext({**JOB, "custom": custom}))
        assert verdict.outcome == "fail"
        assert verdict.note


def test_a_wanted_retry_says_why(marks: Marks, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    job = JobContext(dict(JOB))
    verdict = retries.judge(None, job, Retry("rate limited", after=60))
    report_of(job, verdict, ("Retry", "rate limited", []), marks, Log(LOG), is_wanted=True)
    assert caplog.messages[0].endswith(": rate limited")

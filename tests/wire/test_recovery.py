from __future__ import annotations

from datetime import UTC, datetime

import pytest

from faktory.exceptions import (
    FaktoryConnectionResetError,
    FaktoryNotUnique,
    FaktoryOutcomeUnknown,
    FaktoryServerError,
    FaktoryTimeout,
)
from faktory.wire import commands, recovery
from faktory.wire.recovery import (
    Backoff,
    ConnectionBroken,
    backoff,
    count_sent,
    error_for,
    may_resend,
    resolve_resent,
)
from faktory.wire.session import Answer

PUSH_A = commands.push({"jid": "aaaaaaaa", "jobtype": "A", "args": []})
PUSH_B = commands.push({"jid": "bbbbbbbb", "jobtype": "B", "args": []})
BULK = commands.push_bulk_line(b"PUSHB [{},{}]\r\n", ["cccccccc", "dddddddd"])
ACK = commands.ack("aaaaaaaa")
FAIL = commands.fail("aaaaaaaa", "E", "m", [])
FETCH = commands.fetch(["default"])
INFO = commands.info()

a, b, ack, fetch = (len(command.data) for command in (PUSH_A, PUSH_B, ACK, FETCH))


@pytest.mark.parametrize(
    ("unanswered", "sent", "gone", "repeat"),
    [
        # alone: unsent, partly sent, sent but for its line end, sent
        ([PUSH_A], 0, 0, True),
        ([PUSH_A], 1, 0, True),
        ([PUSH_A], a - 1, 0, True),
        ([PUSH_A], a, 1, False),
        ([BULK], len(BULK.data), 1, False),
        ([FETCH], fetch, 1, False),
        ([ACK], 0, 0, True),
        ([ACK], ack - 1, 0, True),
        ([ACK], ack, 1, True),
        ([FAIL], len(FAIL.data), 1, True),
        # a report with the FETCH behind it
        ([ACK, FETCH], 0, 0, True),
        ([ACK, FETCH], ack, 1, True),
        ([ACK, FETCH], ack + fetch - 1, 1, True),
        ([ACK, FETCH], ack + fetch, 2, False),
        ([FETCH, ACK], fetch - 1, 0, True),
        ([FETCH, ACK], fetch, 1, False),
        # pairs that may not be repeated
        ([PUSH_A, PUSH_B], a - 1, 0, True),
        ([PUSH_A, PUSH_B], a, 1, False),
        ([PUSH_A, PUSH_B], a + b - 1, 1, False),
        ([PUSH_A, PUSH_B], a + b, 2, False),
        ([], 0, 0, True),
    ],
)
def test_a_command_may_be_sent_again_if_it_is_idempotent_or_incomplete(
    unanswered, sent, gone, repeat
):
    assert count_sent(unanswered, sent) == gone
    assert may_resend(unanswered, sent) is repeat


@pytest.mark.parametrize("with_fetch", [False, True])
def test_a_command_whose_time_counts_is_never_sent_again_by_the_connection(
    with_fetch: bool,
) -> None:
    job = {"jid": "aaaaaaaa", "jobtype": "A", "args": [], "at": "2100-01-01T00:00:00Z"}
    for command in (commands.push_in_time(job), commands.ack("aaaaaaaa", in_time=True)):
        unanswered = [command, FETCH] if with_fetch else [command]
        for sent in (0, 1, len(command.data)):
            assert not may_resend(unanswered, sent)
            assert not may_resend(unanswered, sent, at_least_once=True, now=0.0)
    assert commands.ack("aaaaaaaa", in_time=True).data == ACK.data
    assert commands.push_in_time(job).data == commands.push_bulk([job]).data


LATER = {"args": [], "at": "2030-01-01T00:00:10Z", "created_at": "2030-01-01T00:00:00Z"}
DUE = datetime(2030, 1, 1, 0, 0, 10, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("now", "repeat"),
    [(DUE - 3600, True), (DUE - 1.5, True), (DUE - 0.5, False), (DUE, False), (DUE + 5, False)],
)
def test_a_scheduled_job_may_be_pushed_again_until_shortly_before_its_time(now, repeat):
    one = commands.push({"jid": "aaaaaaaa", "jobtype": "A", **LATER})
    many = commands.push_bulk(
        [
            {"jid": "bbbbbbbb", "jobtype": "B", **LATER, "at": "2030-01-01T06:00:00+01:00"},
            {"jid": "cccccccc", "jobtype": "B", **LATER},
        ]
    )
    for command in (one, many):
        size = len(command.data)
        assert may_resend([command], size, now=now) is repeat
        assert may_resend([command], size - 1, now=DUE)  # it never arrived
        assert not may_resend([command], size)  # nobody says what time it is
        assert type(error_for([command], size, FaktoryTimeout("late"))) is FaktoryOutcomeUnknown


@pytest.mark.parametrize(
    "change",
    [
        {"created_at": None},
        {"at": None},
        {"at": "tomorrow"},
        {"at": 5},
        {"custom": {"bid": "b-1"}},
        {"custom": {"a": 1, "unique_for": 60}},
        {"custom": {"track": 1}},
    ],
    ids=repr,
)
def test_a_job_of_which_a_copy_would_count_is_not_pushed_again(change):
    jobs = [{"jid": "aaaaaaaa", "jobtype": "A", **LATER}]
    jobs.append({**jobs[0], **change})
    for command in (commands.push(jobs[1]), commands.push_bulk(jobs)):
        assert not may_resend([command], len(command.data), now=DUE - 3600)


def test_commands_that_may_be_sent_again_fail_with_the_connections_own_error():
    cause = FaktoryTimeout("no answer")
    assert error_for([ACK], ack, cause) is cause
    assert error_for([PUSH_A], a - 1, cause) is cause
    assert error_for([], 0, cause) is cause


def test_a_push_that_was_sent_and_not_answered_has_an_unknown_outcome():
    cause = FaktoryConnectionResetError("gone")
    error = error_for([PUSH_A], a, cause)
    assert type(error) is FaktoryOutcomeUnknown
    assert error.jids == ["aaaaaaaa"]
    assert str(error) == (
        "the connection broke after PUSH of aaaaaaaa was sent and before it was answered; "
        "it may or may not have happened: gone"
    )
    assert error.__cause__ is cause


def test_many_jobs_are_counted_in_the_text_and_named_in_the_attribute():
    error = error_for([PUSH_A, BULK], a + len(BULK.data), FaktoryTimeout("late"))
    assert "after PUSH and PUSHB of 3 jobs was sent" in str(error)
    assert error.jids == ["aaaaaaaa", "cccccccc", "dddddddd"]


def test_a_job_that_was_not_sent_is_not_unknown():
    error = error_for([PUSH_A, PUSH_B], a + b - 1, FaktoryTimeout("late"))
    assert error.jids == ["aaaaaaaa"]
    assert "PUSH of aaaaaaaa was sent" in str(error)


def test_an_idempotent_command_is_not_unknown():
    error = error_for([ACK, FETCH], ack + fetch, FaktoryTimeout("late"))
    assert type(error) is FaktoryOutcomeUnknown
    assert error.jids == []
    assert "after FETCH was sent" in str(error)
    assert "ACK" not in str(error)


@pytest.mark.parametrize(
    ("reply", "closing"),
    [
        (FaktoryServerError("ERR shutdown in progress"), True),
        (FaktoryServerError("shutdown in progress"), True),
        (FaktoryServerError("ERR too many connections: 2001"), True),
        (FaktoryServerError("ERR Job not found shutdown in progress"), False),
        (FaktoryNotUnique("NOTUNIQUE Job not unique"), False),
        (FaktoryServerError(""), False),
        ("shutdown in progress", False),
        (b"too many connections", False),
        (None, False),
    ],
)
def test_only_two_errors_mean_that_the_server_closes_and_ran_nothing(reply, closing):
    assert recovery.is_closing(reply) is closing


def test_job_not_found_means_success_for_a_fail_that_was_sent_before():
    error = FaktoryServerError("ERR Job not found aaaaaaaa")
    assert resolve_resent(Answer(FAIL, None, error)) == Answer(FAIL, None, None)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(FAIL, None, None),
        Answer(FAIL, None, FaktoryServerError("ERR invalid FAIL: Job not found")),
        Answer(ACK, None, FaktoryServerError("ERR Job not found aaaaaaaa")),
        Answer(INFO, {"faktory": {}}, None),
    ],
    ids=repr,
)
def test_any_other_answer_stays_as_it_is(answer):
    assert resolve_resent(answer) is answer


def test_the_delay_doubles_from_half_a_second_to_fifteen():
    waits = [backoff(attempt, 0.0) for attempt in range(1, 8)]
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    assert backoff(10**6, 0.0) == 15.0


def test_other_delays_may_be_chosen():
    fast = Backoff(first=0.1, longest=0.3)
    assert [fast.delay(attempt, 0.0) for attempt in range(1, 4)] == [0.1, 0.2, 0.3]
    assert Backoff(0.0, 0.0).delay(9, 0.5) == 0.0


def test_chance_takes_up_to_half_of_the_delay_away():
    assert backoff(1, 1.0) == 0.25
    assert backoff(99, 0.5) == 11.25


def test_a_broken_connection_carries_answers_and_bytes_sent():
    cause = FaktoryTimeout("late")
    answers = [Answer(ACK, None, None)]
    broken = ConnectionBroken(answers, 7, cause)
    assert (broken.answers, broken.sent, broken.cause) == (answers, 7, cause)
    assert str(broken) == "late"

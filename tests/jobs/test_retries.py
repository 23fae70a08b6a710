"""What follows from a failure, decided by the error and what the job declares."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import inf, nan
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faktory import Discard, Retry, Shutdown, TimeLimitExceeded, backoff
from faktory.exceptions import MAX_DELAY
from faktory.jobs.context import JobContext
from faktory.jobs.retries import (
    BURY,
    DISCARD,
    FAIL,
    LEAST_AHEAD,
    Policy,
    Verdict,
    again,
    judge,
    outcome_of,
    take_policy,
)
from faktory.wire.payload import prepare
from faktory.worker.backends.base import make_remote_error
from faktory.worker.task import Task

NOW = datetime(2026, 1, 2, 3, 4, 5, 600000, tzinfo=UTC)
REPORT = ("ConnectionError", "away", ["line 1", "line 2"])


class NotFound(Exception):
    pass


class Declaration(NamedTuple):
    policy: Policy | None


def task(**options: Any) -> Declaration:
    return Declaration(take_policy(options))


def job(retry: int | None = 5, **fields: Any) -> JobContext:
    return JobContext(
        {
            "jid": "12345678",
            "jobtype": "sync",
            "args": [1, {"a": [2]}],
            "queue": "default",
            "retry": retry,
            "created_at": "2026-01-02T03:00:00Z",
            "enqueued_at": "2026-01-02T03:00:01Z",
            **fields,
        }
    )


def failed(count: int, remaining: int | None = 1, **fields: Any) -> dict[str, Any]:
    return {"retry_count": count, "remaining": remaining, **fields}


FULL = {
    "retry_on": (ConnectionError, KeyError),
    "discard_on": NotFound,
    "backoff": lambda n: 10 * n,
}


@pytest.mark.parametrize(
    ("options", "error", "verdict"),
    [
        ({}, ConnectionError(), FAIL),
        ({}, Discard(), DISCARD),
        ({}, Retry(after=60), Verdict("again", 60)),
        ({}, Retry(after=timedelta(minutes=2), count=False), Verdict("again", 120, False)),
        ({}, Retry(), FAIL),
        ({}, Retry(count=False), Verdict("again", 15, False)),
        ({}, Retry(after=0), Verdict("again", LEAST_AHEAD)),
        (FULL, ConnectionError(), Verdict("again", 10)),
        (FULL, ConnectionResetError(), Verdict("again", 10)),
        (FULL, NotFound(), DISCARD),
        (FULL, ValueError(), BURY),
        (FULL, SystemExit(), BURY),
        (FULL, TimeLimitExceeded(), BURY),
        (FULL, Shutdown(), FAIL),
        (FULL, Discard(), DISCARD),
        (FULL, Retry(), Verdict("again", 10)),
        (FULL, Retry(after=60), Verdict("again", 60)),
        (FULL, Retry(count=False), Verdict("again", 10, False)),
        ({"retry_on": Exception}, ValueError(), FAIL),
        ({"retry_on": (OSError, TimeLimitExceeded)}, TimeLimitExceeded(), FAIL),
        ({"retry_on": OSError, "discard_on": ConnectionError}, ConnectionError(), DISCARD),
        ({"discard_on": BaseException}, Shutdown(), FAIL),
        ({"discard_on": Exception}, Retry(after=9), Verdict("again", 9)),
        ({"backoff": backoff.constant(timedelta(minutes=1))}, ValueError(), Verdict("again", 60)),
        ({"backoff": lambda _: timedelta(seconds=7)}, ValueError(), Verdict("again", 7)),
        ({"backoff": lambda _: 0.5}, ValueError(), Verdict("again", LEAST_AHEAD)),
    ],
)
def test_the_verdict_follows_from_the_class_of_the_error(
    options: dict[str, Any], error: BaseException, verdict: Verdict
) -> None:
    assert judge(task(**options), job(), error) == verdict


def test_a_backoff_gets_the_number_of_the_attempt_that_failed() -> None:
    seen: list[int] = []
    counting = task(backoff=lambda attempt: seen.append(attempt) or 10)
    for failure in (None, failed(0), failed(1), failed(3)):
        judge(counting, job(failure=failure), ValueError())
    assert seen == [1, 2, 3, 5]


@pytest.mark.parametrize("error", [ConnectionError(), ValueError(), Retry(after=60), Retry()])
@pytest.mark.parametrize(
    "last",
    [job(retry=0), job(retry=-1), job(retry=1, failure=failed(0)), job(failure=failed(7))],
    ids=["retry 0", "retry -1", "the second of 2", "beyond"],
)
def test_after_the_last_attempt_the_server_decides(error: Exception, last: JobContext) -> None:
    assert last.retries_remaining == 0
    assert judge(task(**FULL), last, error) == FAIL


def test_a_run_that_is_not_counted_is_possible_in_the_last_attempt_too() -> None:
    verdict = judge(task(), job(retry=0), Retry(after=60, count=False))
    assert verdict == Verdict("again", 60, False)


@pytest.mark.parametrize(
    "nonsense", [None, "soon", True, -1, nan, inf, [30], MAX_DELAY * 2, timedelta(seconds=-1)]
)
def test_a_backoff_that_returns_nonsense_leaves_the_job_to_the_server(nonsense: object) -> None:
    outcome, _, _, note, is_fault = judge(task(backoff=lambda _: nonsense), job(), ValueError())
    assert (outcome, is_fault) == ("fail", True)
    assert note.startswith("its backoff returned no wait: the wait is ")
    assert note.endswith("; the server's own wait counts instead")


class Unspeakable(BaseException):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("error", [ZeroDivisionError("by 0"), SystemExit(3), Unspeakable()])
def test_a_backoff_that_raises_leaves_the_job_to_the_server(error: BaseException) -> None:
    def wrong(_: int) -> float:
        raise error

    outcome, _, _, note, is_fault = judge(task(backoff=wrong), job(), ValueError())
    assert (outcome, is_fault) == ("fail", True)
    assert note.startswith(f"its backoff raised {type(error).__name__}: ")
    assert note.endswith("; the server's own wait counts instead")


def test_judge_raises_for_nothing() -> None:
    class Odd(type):
        def __subclasscheck__(cls, other: type) -> bool:
            raise RuntimeError("no check")

    class Strange(Exception, metaclass=Odd):
        pass

    class Broken(Retry):
        after = property(lambda self: self.missing)

        def __init__(self):
            pass

    class Short(Retry):
        def __init__(self):
            pass

    assert judge(task(), job(), Broken())[::4] == ("fail", True)
    assert judge(task(), job(), Short())[::4] == ("fail", False)  # as Retry()
    strange = Declaration(Policy((Strange,), (), None))
    verdict = judge(strange, job(), ValueError())
    assert verdict.outcome == "fail"
    assert "RuntimeError: no check" in verdict.note
    assert judge(None, job(), ValueError()) == FAIL
    assert judge(None, job(), Retry(after=60)).outcome == "again"


@pytest.mark.parametrize(
    ("custom", "what"),
    [
        ({"bid": "b-1"}, "is in a batch"),
        ({"_bid": "b-1"}, "is the callback of a batch"),
        ({"unique_for": 60}, "is unique"),
        ({"track": 1}, "is tracked"),
    ],
)
def test_a_job_of_which_enterprise_keeps_more_is_left_to_the_server(
    custom: dict[str, Any], what: str
) -> None:
    for error in (ConnectionError(), Retry(after=60), Retry(after=60, count=False)):
        verdict = judge(task(**FULL), job(custom=custom), error)
        assert verdict == Verdict("fail", note=f"it {what}, so the server's own wait counts")
    assert judge(task(**FULL), job(custom=custom), ValueError()) == BURY
    assert judge(task(**FULL), job(custom={"track": 0, "x": 1}), KeyError()).outcome == "again"


def test_a_registered_task_has_no_policy() -> None:
    registered = Task("sync", lambda: None, False)
    assert (registered.policy, list(registered.exhausted_handlers)) == (None, [])
    assert judge(registered, job(), ValueError()) == FAIL
    assert judge(registered, job(), Retry(after=60)) == Verdict("again", 60)


def test_a_verdict_is_plain() -> None:
    assert list(Verdict("again", 60, False, "why")) == ["again", 60, False, "why", False]
    assert Verdict(*["fail", 0.0, True, ""]) == FAIL


# The job that is pushed again.


def test_a_job_is_pushed_again_with_its_jid_and_the_record_of_its_failure() -> None:
    pushed = again(job().as_fetched(), Verdict("again", 60), REPORT, NOW)
    assert pushed == {
        "jid": "12345678",
        "jobtype": "sync",
        "args": [1, {"a": [2]}],
        "queue": "default",
        "retry": 5,
        "created_at": "2026-01-02T03:00:00Z",
        "at": "2026-01-02T03:05:05.600000Z",
        "failure": {
            "retry_count": 0,
            "remaining": 5,
            "failed_at": "2026-01-02T03:04:05.600000Z",
            "next_at": "2026-01-02T03:05:05.600000Z",
            "errtype": "ConnectionError",
            "message": "away",
            "backtrace": ["line 1", "line 2"],
        },
    }
    prepared = prepare(pushed)
    assert prepared == pushed


@pytest.mark.parametrize(
    ("before", "counted", "count", "remaining"),
    [
        (failed(0, 5), True, 1, 4),
        (failed(3, 2), True, 4, 1),
        (failed(3, 0), True, 4, 0),
        ({"retry_count": 3}, True, 4, 0),
        ({"remaining": 3}, True, 1, 2),
        (failed(3, None), True, 4, 0),
        (failed(3, 2), False, 3, 2),
    ],
)
def test_the_record_counts_on(
    before: dict[str, Any], counted: bool, count: int, remaining: int
) -> None:
    before = {**before, "errtype": "Old", "message": "old", "backtrace": ["old"]}
    fetched = job(failure=before).as_fetched()
    failure = again(fetched, Verdict("again", 60, counted), ("New", "new", []), NOW)["failure"]
    assert (failure["retry_count"], failure["remaining"]) == (count, remaining)
    assert (failure["errtype"], failure["message"]) == ("New", "new")
    assert failure["failed_at"] == "2026-01-02T03:04:05.600000Z"
    assert "backtrace" not in failure


def test_before_the_first_failure_a_run_that_is_not_counted_has_no_record() -> None:
    pushed = again(job().as_fetched(), Verdict("again", 60, False), REPORT, NOW)
    assert "failure" not in pushed
    after = JobContext(pushed)
    assert (after.attempt, after.retries_remaining, after.last_error) == (1, 5, None)


@pytest.mark.parametrize("delay", [0.0, 1.0, 2.999])
def test_the_next_attempt_is_never_less_than_3_seconds_ahead(delay: float) -> None:
    pushed = again(job().as_fetched(), Verdict("again", delay), REPORT, NOW)
    assert datetime.fromisoformat(pushed["at"]) - NOW == timedelta(seconds=LEAST_AHEAD)


def test_the_longest_wait_can_be_sent() -> None:
    pushed = again(job().as_fetched(), Verdict("again", MAX_DELAY), REPORT, NOW)
    assert pushed["at"].startswith("2057-")


@given(st.integers(0, 30), st.lists(st.booleans(), max_size=40))
def test_attempts_and_retries_remaining_hold_over_any_number_of_pushes(
    retry: int, counts: list[bool]
) -> None:
    context, attempt = job(retry=retry), 1
    for counted in counts:
        verdict = judge(task(), context, Retry("x", after=5, count=counted))
        if verdict.outcome == "fail":
            assert counted
            assert context.retries_remaining == 0
            break
        context = JobContext(again(context.as_fetched(), verdict, REPORT, NOW))
        attempt += counted
        assert (context.attempt, context.retries_remaining) == (attempt, retry + 1 - attempt)
        record = context.payload.get("failure")
        if record:  # as in that of the server
            assert record["remaining"] == retry - record["retry_count"]


# What a middleware asks


@pytest.mark.parametrize(
    ("options", "fields", "error", "outcome"),
    [
        ({}, {}, ValueError(), "failed"),
        ({}, {"retry": 0}, ValueError(), "exhausted"),
        ({}, {"retry": -1}, ValueError(), "exhausted"),
        ({}, {"retry": 2, "failure": failed(0)}, ValueError(), "failed"),
        ({}, {"retry": 2, "failure": failed(1)}, ValueError(), "exhausted"),
        ({}, {"retry": None}, ValueError(), "failed"),
        ({}, {"retry": 0}, Discard(), "discarded"),
        ({}, {}, Retry(), "retried"),
        ({}, {"retry": 0}, Retry(after=5), "exhausted"),
        ({}, {"retry": 0}, Retry(count=False), "retried"),
        ({}, {"retry": 0, "custom": {"bid": "b"}}, Retry(count=False), "exhausted"),
        ({}, {}, Shutdown(), "failed"),
        ({}, {"retry": 0}, Shutdown(), "exhausted"),
        ({}, {}, TimeLimitExceeded(), "failed"),
        (FULL, {}, ConnectionError(), "failed"),
        (FULL, {"retry": 0}, ConnectionError(), "exhausted"),
        (FULL, {}, ValueError(), "exhausted"),
        (FULL, {}, TimeLimitExceeded(), "exhausted"),
        (FULL, {}, NotFound(), "discarded"),
        (FULL, {}, Shutdown(), "failed"),
    ],
)
def test_a_middleware_can_ask_what_follows(
    options: Any, fields: Any, error: BaseException, outcome: str
) -> None:
    running = job(**fields)
    running._policy = task(**options).policy
    assert outcome_of(running, error) == outcome
    verdict = judge(task(**options), running, error)
    expected = {"discard": {"discarded"}, "bury": {"exhausted"}, "again": {"failed", "retried"}}
    left = {"failed", "retried"} if running.retries_remaining else {"exhausted"}
    assert outcome in expected.get(verdict.outcome, left)


@pytest.mark.parametrize(
    ("verdict", "retry", "outcome"),
    [
        (FAIL, 1, "failed"),
        (FAIL, 0, "exhausted"),
        (BURY, 1, "exhausted"),
        (DISCARD, 1, "discarded"),
        (Verdict("again", 5, False), 0, "failed"),
    ],
)
def test_an_error_of_another_process_was_judged_there(
    verdict: Verdict, retry: int, outcome: str
) -> None:
    error = make_remote_error(("NotFound", "gone", []), None, "", verdict)
    running = job(retry)
    running._policy = task(**FULL).policy
    assert outcome_of(running, error) == outcome

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from time import time
from typing import Any
from unittest.mock import ANY

import pytest

import faktory
from faktory import Client, testing
from faktory.testing import assert_enqueued, assert_not_enqueued

WHEN = datetime(2999, 1, 2, 3, 4, 5, 678_901, UTC)


pytestmark = pytest.mark.usefixtures("fake")


@pytest.fixture
def work() -> Any:
    """A job that was pushed three times."""
    work = faktory.external("work", queue="low", retry=3, custom={"pair": [1, 2]})
    work.perform_async(1, "é")
    work.perform_async(2, ("a", {"b": (3,)}))
    work.set(queue="high").perform_at(WHEN, 1.5)
    faktory.external("other").perform_async()
    return work


HOLDS: list[dict[str, Any]] = [
    {},
    {"count": 3},
    {"args": (1, "é"), "count": 1},
    {"args": [2, ["a", {"b": [3]}]]},
    {"args": (2, ("a", {"b": (3,)}))},
    {"args": (2, ANY)},
    {"args": (pytest.approx(1.5000001),), "count": 1},
    {"queue": "low", "count": 2},
    {"retry": 3, "count": 3},
    {"custom": {"pair": (1, 2)}, "count": 3},
    {"at": WHEN, "count": 1},
    {"at": WHEN.astimezone(timezone(timedelta(hours=5)))},
    {"at": "2999-01-02T04:04:05.678901+01:00"},
    {"at": WHEN.timestamp()},
    {"at": pytest.approx(WHEN.timestamp() + 1, abs=2)},
    {"args": (9,), "count": 0},
]
FAILS: list[dict[str, Any]] = [
    {"count": 2},
    {"count": 0},
    {"args": ()},
    {"args": (1,)},
    {"args": (1, "e")},
    {"args": (1, "é"), "queue": "high"},
    {"args": (1, "é"), "count": 2},
    {"queue": "default"},
    {"retry": 4},
    {"nothing": 1},
    {"at": WHEN + timedelta(seconds=1)},
    {"at": WHEN.timestamp() + 1},
    {"at": pytest.approx(WHEN.timestamp() + 3, abs=2)},
]


@pytest.mark.parametrize("wanted", HOLDS, ids=str)
def test_a_matching_job_passes_assert_enqueued(work: Any, wanted: dict[str, Any]) -> None:
    assert_enqueued(work, **wanted)
    assert_enqueued("work", **wanted)


@pytest.mark.parametrize("wanted", FAILS, ids=str)
def test_without_a_matching_job_assert_enqueued_fails(work: Any, wanted: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match="Enqueued as work"):
        assert_enqueued(work, **wanted)


@pytest.mark.parametrize("wanted", [w for w in HOLDS if w.get("count") != 0], ids=str)
def test_a_matching_job_fails_assert_not_enqueued(work: Any, wanted: dict[str, Any]) -> None:
    wanted = {name: value for name, value in wanted.items() if name != "count"}
    with pytest.raises(AssertionError, match="expected none"):
        assert_not_enqueued(work, **wanted)


@pytest.mark.parametrize("wanted", [w for w in FAILS if "count" not in w], ids=str)
def test_without_a_matching_job_assert_not_enqueued_passes(
    work: Any, wanted: dict[str, Any]
) -> None:
    assert_not_enqueued(work, **wanted)
    assert_not_enqueued("nothing", **wanted)


def test_jobs_that_have_run_are_not_enqueued_any_more() -> None:
    @faktory.job
    def work() -> None: ...

    work.perform_async()
    assert_enqueued(work)
    work.drain()
    assert_not_enqueued(work)


def test_a_time_may_be_approximate() -> None:
    work = faktory.external("work")
    work.perform_in(60)
    assert_enqueued(work, at=pytest.approx(time() + 60, abs=5))
    assert_not_enqueued(work, at=pytest.approx(time() + 90, abs=5))


def test_a_job_without_a_time_matches_no_time() -> None:
    work = faktory.external("work")
    work.perform_async()
    assert_not_enqueued(work, at=ANY)


@pytest.mark.parametrize("number", range(20))
def test_a_time_in_epoch_seconds_matches_the_pushed_one(number: int) -> None:
    work = faktory.external("work")
    when = time() + 60 + number / 7
    work.perform_at(when)
    assert_enqueued(work, at=when)


def test_a_class_is_a_job_too() -> None:
    class Work(faktory.Job):
        faktory_options = {"name": "named"}

        def perform(self) -> None: ...

    Work.perform_async()
    assert_enqueued(Work)
    assert_enqueued("named", count=1)


@pytest.mark.parametrize("what", [print, None, 3])
def test_anything_but_a_job_is_a_type_error(what: object) -> None:
    with pytest.raises(TypeError, match="neither a declared job nor"):
        assert_enqueued(what)
    with pytest.raises(TypeError, match="neither a declared job nor"):
        assert_not_enqueued(what)


def test_outside_a_mode_an_assertion_is_a_runtime_error() -> None:
    with testing.disable(), pytest.raises(RuntimeError, match="only a test mode"):
        assert_not_enqueued("work")


# The message of a failing assertion.


def failure(*args: Any, **wanted: Any) -> list[str]:
    """Return the lines of the error of assert_enqueued, with JID for each jid."""
    with pytest.raises(AssertionError) as raised:
        assert_enqueued(*args, **wanted)
    return re.sub(r"\b[0-9a-f]{24}\b", "JID", str(raised.value)).splitlines()


def test_a_failure_lists_the_differences_of_jobs_of_the_type(work: Any) -> None:
    assert failure(work, args=(1, "è"), queue="low") == [
        'Enqueued as work, args [1, "è"], queue "low": 0 jobs; expected at least one.',
        "Others of this type:",
        '  JID: args [1, "é"], not [1, "è"]',
        '  JID: args [2, ["a", {"b": [3]}]], not [1, "è"]',
        '  JID: args [1.5], not [1, "è"]; queue "high", not "low"',
    ]


def test_a_failure_by_count_lists_the_matching_jobs(work: Any) -> None:
    assert failure(work, queue="low", count=1) == [
        'Enqueued as work, queue "low": 2 jobs; expected 1.',
        '  JID: work[1, "é"]',
        '  JID: work[2, ["a", {"b": [3]}]]',
        "Others of this type:",
        '  JID: queue "high", not "low"',
    ]


def test_a_failure_without_jobs_of_the_type_lists_the_others() -> None:
    assert failure("work") == [
        "Enqueued as work: 0 jobs; expected at least one.",
        "There are no jobs at all.",
    ]
    faktory.external("other").perform_async(1)
    assert failure("work")[1:] == ["Jobs of other types:", "  JID: other[1]"]


def test_a_failure_shows_times_in_comparable_form(work: Any) -> None:
    lines = failure(work, at=pytest.approx(WHEN.timestamp() + 5, abs=2))
    shown = f"at {WHEN.timestamp()} (2999-01-02T03:04:05.678901Z), not {WHEN.timestamp() + 5}"
    assert lines[-1].startswith(f"  JID: {shown}")
    assert "at null, not" in lines[2]


def test_a_failure_lists_ten_jobs_and_counts_the_rest() -> None:
    work = faktory.external("work")
    work.perform_bulk([(number,) for number in range(13)])
    lines = failure(work, args=(99,))
    assert len(lines) == 2 + 10 + 1
    assert lines[-1] == "  and 3 more"
    assert len(failure(work, count=1)) == 1 + 10 + 1


def test_a_failure_shows_values_that_are_not_json() -> None:
    Client().push({"jobtype": "work", "args": [1]})
    assert "not <ANY>" not in failure("work", args=(object(),))[-1]
    assert "object object" in failure("work", args=(object(),))[-1]

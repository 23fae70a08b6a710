"""When a job runs: `set(jid=, at=)`, debounced jobs, and many jobs at a time or spread."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import faktory
from faktory import testing
from faktory.exceptions import FaktoryPayloadError
from faktory.jobs import Next, schedule
from faktory.jobs.push import BULK_CHUNK
from faktory.proto import JobTemplate

from .support import FakeServer

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now.timestamp()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What time pushes take it to be: noon, until `clock.now` is set."""
    clock = Clock()
    monkeypatch.setattr(schedule, "time", clock)
    return clock


@pytest.fixture
def resize(server: FakeServer) -> Any:
    @faktory.job(queue="images")
    def resize(image: object, size: str = "thumb") -> None: ...

    return resize


def when(job: dict[str, Any], name: str = "at") -> datetime:
    return datetime.fromisoformat(job[name])


# set(jid=, at=)


def test_set_gives_a_job_its_jid_and_its_time(
    server: FakeServer, resize: Any, clock: Clock
) -> None:
    at = NOON + timedelta(hours=1)
    for given_at in (at, at.isoformat(), at.timestamp()):
        assert resize.set(jid="order-0012", at=given_at).perform_async(1) == "order-0012"
    assert resize.set(at=at).set(jid="order-0012").message(1).push() == "order-0012"
    for job in server.jobs:
        assert (when(job), when(job, "created_at")) == (at, NOON)
        assert (job["jid"], job["queue"]) == ("order-0012", "images")


def test_none_resets_jid_time_and_queue(server: FakeServer, resize: Any, clock: Clock) -> None:
    job = resize.set(jid="order-0012", at=NOON + timedelta(hours=1), debounce=None)
    jid = job.set(jid=None, at=None, queue=None).perform_async(1)
    assert jid != "order-0012"
    assert server.jobs == [
        {"jid": jid, "jobtype": "resize", "args": [1], "queue": "default", "retry": 25}
    ]


def test_a_time_of_set_that_is_past_is_not_sent(
    server: FakeServer, resize: Any, clock: Clock
) -> None:
    resize.set(at=NOON - timedelta(seconds=1)).perform_async(1)
    resize.perform_bulk([(1,)], at=NOON - timedelta(seconds=1))
    assert not any("at" in job or "created_at" in job for job in server.jobs)


def test_every_scheduled_push_says_when_it_was_made(
    server: FakeServer, resize: Any, clock: Clock
) -> None:
    resize.perform_in(60, 1)
    resize.perform_at(NOON + timedelta(minutes=1), 1)
    resize.perform_bulk([(1,), (2,)], at=NOON + timedelta(minutes=1))
    assert [when(job, "created_at") for job in server.jobs] == [NOON] * 4
    assert [when(job) for job in server.jobs] == [NOON + timedelta(minutes=1)] * 4
    resize.perform_async(1)
    resize.perform_in(0, 1)
    assert "created_at" not in server.jobs[-1].keys() | server.jobs[-2].keys()


LATER = NOON + timedelta(hours=1)


@pytest.mark.parametrize(
    ("push", "error"),
    [
        (lambda job: job.set(jid="short"), "jid is 'short': it must be text of 8 bytes or more"),
        (lambda job: job.set(jid=5), "jid is 5"),
        (lambda job: job.set(at="tomorrow"), "at is 'tomorrow': .* RFC 3339"),
        (lambda job: job.set(at=datetime(2030, 1, 1)), "naive"),
        (lambda job: job.set(debounce=0.5), "debounce is 0.5 .*1 second or more"),
        (lambda job: job.set(debounce=-5), "debounce is -5 .*1 second or more"),
        (lambda job: job.set(debounce="30"), "debounce is '30': pass seconds or a timedelta"),
        (lambda job: job.set(debounce=float("nan")), "debounce is nan"),
        (lambda job: job.set(debounce=1e15).perform_async(1), "ends after the year 9999"),
        (lambda job: job.set(debounce=30, jid="12345678"), "debounce and jid=.*reset it"),
        (lambda job: job.set(at=LATER).set(debounce=30), "debounce and at=.*reset it"),
        (lambda job: job.set(at=LATER).perform_in(5, 1), r"perform_in .*set\(at=.*set\(at=None\)"),
        (lambda job: job.set(at=LATER).perform_at(LATER, 1), r"perform_at .*set\(at=None\)"),
        (lambda job: job.set(debounce=30).perform_in(5, 1), r"perform_in .*set\(debounce=None\)"),
        (lambda job: job.set(debounce=30).perform_at(LATER, 1), r"set\(debounce=None\)"),
        (lambda job: job.set(debounce=9).perform_bulk([(1,)], at=LATER), r"set\(debounce=None\)"),
        (lambda job: job.set(debounce=9).perform_bulk([(1,)], over=9), r"set\(debounce=None\)"),
        (lambda job: job.set(at=LATER).perform_bulk([(1,)], at=LATER), r"set\(at=None\)"),
        (lambda job: job.set(jid="12345678").perform_bulk([(1,)]), r"many jobs.*set\(jid=None\)"),
        (lambda job: job.set(debounce=9, unique_for=9).perform_async(1), "unique_for"),
        (lambda job: job.perform_bulk([(1,)], over=-1), "over is -1 .*0 seconds or more"),
        (lambda job: job.perform_bulk([(1,)], over="60"), "over is '60'"),
        (
            lambda job: job.perform_bulk([(1,)], over=1e15),
            r"over is 10+\.0 .*: it ends after",
        ),
        (lambda job: job.perform_bulk([(1,)], at="tomorrow"), "at is 'tomorrow'"),
        (lambda job: job.perform_bulk([(1,)], at=datetime(2030, 1, 1), over=5), "naive"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_remedy(
    server: FakeServer, resize: Any, push: Callable[[Any], object], error: str
) -> None:
    with pytest.raises(FaktoryPayloadError, match=error):
        push(resize)
    assert server.jobs == []


@pytest.mark.parametrize("name", ["jid", "at", "debounce"])
def test_what_is_for_one_push_cannot_be_declared(name: str) -> None:
    for declare in (
        lambda: faktory.job(**{name: "12345678"}),
        lambda: faktory.external("Resize", **{name: "12345678"}),
        lambda: faktory.default_job_options.update({name: "12345678"}),
        lambda: type("Resize", (faktory.Job,), {"faktory_options": {name: "12345678"}}),
    ):
        with pytest.raises(TypeError, match=rf"cannot have {name}.*job\.set\({name}=\.\.\.\)"):
            declare()


# Debounced jobs


def test_a_debounced_job_has_one_jid_and_time_in_a_window(
    server: FakeServer, resize: Any, clock: Clock
) -> None:
    for seconds in (0, 0.001, 27.999):
        clock.now = NOON + timedelta(seconds=seconds)
        resize.set(debounce=30).perform_async({"b": 1, "a": [2]})
        resize.set(debounce=timedelta(seconds=30)).perform_async(image={"a": [2], "b": 1})
    clock.now = NOON + timedelta(seconds=28)
    resize.set(debounce=30).perform_async({"b": 1, "a": [2]})
    *first, later = server.jobs
    end = NOON + timedelta(seconds=30)
    assert {(when(job), when(job, "created_at")) for job in first} == {(end, end)}
    assert len({job["jid"] for job in first}) == 1
    assert when(later) == when(later, "created_at") == NOON + timedelta(seconds=60)
    assert later["jid"] != first[0]["jid"]


def test_the_jid_of_a_debounced_job_is_the_same_on_every_machine(
    server: FakeServer, resize: Any, clock: Clock
) -> None:
    jid = resize.set(debounce=30).perform_async({"b": 1.5, "a": "é"}, "full")
    assert jid == "913c2fc12d085a0548f3313d"


@pytest.mark.parametrize(
    "other",
    [
        lambda job: job.perform_async(2),
        lambda job: job.perform_async("1"),
        lambda job: job.perform_async(1, "full"),
        lambda job: job.set(queue="low").perform_async(1),
        lambda job: job.set(retry=1).perform_async(1),
        lambda job: job.set(custom={"tenant": 7}).perform_async(1),
    ],
)
def test_debounced_jobs_that_differ_never_share_a_jid(
    server: FakeServer, resize: Any, clock: Clock, other: Callable[[Any], str]
) -> None:
    job = resize.set(debounce=30)
    assert other(job) != job.perform_async(1)


@given(st.floats(0, 4e9), st.floats(1, 1e6) | st.integers(1, 100_000), st.floats(0, 5))
def test_a_debounced_job_runs_2_seconds_ahead_at_least_and_in_its_window(
    moment: float, seconds: float, later: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        made = []
        for now in (moment, moment + later):
            patch.setattr(schedule, "time", lambda now=now: now)
            made.append({"jobtype": "T", "args": []})
            schedule.debounce(made[-1], round(seconds * 1_000_000))
        ends = [when(job).timestamp() for job in made]
    assert moment + 1.99 <= ends[0] <= moment + 2.01 + seconds
    assert (ends[0] == ends[1]) is (made[0]["jid"] == made[1]["jid"])
    assert ends[1] - ends[0] <= later + seconds + 1e-3


def test_a_middleware_counts_and_gets_the_jid_that_is_pushed(
    server: FakeServer, resize: Any, clock: Clock
) -> None:
    seen = []

    @faktory.client_middleware.add
    def add_tenant(payload: dict[str, Any], call_next: Next) -> object:
        payload["custom"] = {"tenant": tenants.pop()}
        seen.append(call_next())
        return seen[-1]

    tenants = [2, 1, 1]
    job = resize.set(debounce=30)
    while tenants:
        assert job.perform_async(1) == seen[-1]
    assert [each["jid"] for each in server.jobs] == seen
    assert seen[0] == seen[1] != seen[2]


def test_a_debounced_job_cannot_join_a_batch(server: FakeServer, resize: Any, clock: Clock) -> None:
    batch = faktory.Batch(success="Done")
    with batch.jobs(), pytest.raises(FaktoryPayloadError, match="outside of the batch"):
        resize.set(debounce=30).perform_async(1)


def test_rows_of_a_debounced_job_are_debounced_each(
    server: FakeServer, resize: Any, clock: Clock
) -> None:
    first, second, third = resize.set(debounce=30).perform_bulk([(1,), (2,), (1,)])
    assert first == third != second
    assert first == resize.set(debounce=30).perform_async(1)
    assert server.sizes == [3, 1]
    assert {when(job) for job in server.jobs} == {NOON + timedelta(seconds=30)}


def test_a_debounced_job_expires_some_time_after_its_window(
    server: FakeServer, resize: Any, clock: Clock
) -> None:
    job = resize.set(debounce=30, expires_in=60)
    for seconds in (0, 10, 20):
        clock.now = NOON + timedelta(seconds=seconds)
        job.perform_async(1)
    assert server.jobs[0] == server.jobs[1] == server.jobs[2]
    assert server.jobs[0]["custom"] == {"expires_at": "2030-01-01T12:01:30Z"}


def test_in_fake_mode_a_debounced_job_that_is_pushed_twice_waits_once() -> None:
    ran: list[int] = []

    @faktory.job
    def press(number: int) -> None:
        ran.append(number)

    with testing.fake() as memory:
        for number in (1, 2, 1, 1):
            press.set(debounce=10_000).perform_async(number)
        assert [job["args"] for job in press.jobs] == [[2], [1]]
        assert memory.drain() == 2
        assert ran == [2, 1]


# Many jobs


@pytest.mark.parametrize("plain", [True, False], ids=["template", "middleware"])
def test_rows_are_spread_evenly_from_now_on(
    server: FakeServer, resize: Any, clock: Clock, plain: bool
) -> None:
    if not plain:
        faktory.client_middleware.add(lambda payload, call_next: call_next())
    count = BULK_CHUNK + 200
    jids = resize.perform_bulk(((number,) for number in range(count)), over=timedelta(hours=1))
    assert [job["jid"] for job in server.jobs] == jids
    assert [job["args"] for job in server.jobs] == [[number] for number in range(count)]
    assert server.sizes == [BULK_CHUNK, 200]
    gaps = {when(b) - when(a) for a, b in pairwise(server.jobs)}
    assert gaps == {timedelta(seconds=3)}
    assert when(server.jobs[0]) == NOON
    assert {job["created_at"] for job in server.jobs} == {"2030-01-01T12:00:00Z"}


def test_rows_that_are_spread_expire_each_in_its_time(
    server: FakeServer, resize: Any, clock: Clock
) -> None:
    resize.set(expires_in=60).perform_bulk([(1,), (2,)], at=LATER, over=10)
    assert [when(job["custom"], "expires_at") - when(job) for job in server.jobs] == [
        timedelta(seconds=60)
    ] * 2


@pytest.mark.parametrize("by_set", [True, False])
def test_rows_are_spread_from_their_time_on(
    server: FakeServer, resize: Any, clock: Clock, by_set: bool
) -> None:
    if by_set:
        resize.set(at=LATER).perform_bulk([(1,), (2,), (3,), (4,)], over=60)
    else:
        resize.perform_bulk([(1,), (2,), (3,), (4,)], LATER, 60)
    seconds = [(when(job) - LATER).total_seconds() for job in server.jobs]
    assert seconds == [0, 15, 30, 45]


def test_no_rows_and_no_time_to_spread_them_over(
    server: FakeServer, resize: Any, clock: Clock
) -> None:
    assert resize.perform_bulk([], over=60) == resize.perform_bulk(iter(()), at=LATER) == []
    assert server.jobs == []
    resize.perform_bulk([(1,), (2,)], at=LATER, over=0)
    assert {when(job) for job in server.jobs} == {LATER}


def test_scheduled_rows_are_rendered_from_one_template(
    server: FakeServer, resize: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def template(jobtype: str, fields: dict[str, Any]) -> JobTemplate:
        made.append(jobtype)
        return JobTemplate(jobtype, fields)

    monkeypatch.setattr("faktory.jobs.push.JobTemplate", template)
    resize.perform_bulk([(number,) for number in range(2 * BULK_CHUNK)], at=LATER)
    resize.perform_bulk([(number,) for number in range(2 * BULK_CHUNK)], over=60)
    assert made == ["resize"] * 2


def test_a_wrong_row_of_spread_rows_is_named(server: FakeServer, resize: Any) -> None:
    with pytest.raises(TypeError, match=r"rows\[1\]: .*too many"):
        resize.perform_bulk([(1,), (1, 2, 3)], over=60)
    assert server.jobs == []


def test_a_class_takes_the_time_of_its_rows_too(server: FakeServer, clock: Clock) -> None:
    class Resize(faktory.Job):
        def perform(self, image: int) -> None: ...

    Resize.perform_bulk([(1,), (2,)], at=LATER, over=10)
    Resize.set(debounce=30).perform_async(1)
    assert [when(job) for job in server.jobs] == [
        LATER,
        LATER + timedelta(seconds=5),
        NOON + timedelta(seconds=30),
    ]

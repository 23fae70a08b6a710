from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import faktory
from faktory.client.pool import Pool
from faktory.exceptions import (
    FaktoryBulkError,
    FaktoryConnectionError,
    FaktoryEnterpriseRequired,
    FaktoryPayloadError,
    FaktoryServerError,
    FaktoryTimeout,
)
from faktory.jobs.push import BULK_CHUNK, Signature

from ..support import FakeNetwork
from .conftest import Line


def no_defaults(a: int, b: int) -> None: ...
def defaults(a: int, b: int = 2, c: int = 3) -> None: ...
def rest(a: int, *more: int) -> None: ...
def default_and_rest(a: int, b: int = 2, *more: int) -> None: ...
def positional(a: int, b: int = 2, /, c: int = 3) -> None: ...
def nothing() -> None: ...


# Arguments


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "positions"),
    [
        (no_defaults, (1, 2), {}, (1, 2)),
        (no_defaults, (1,), {"b": 2}, (1, 2)),
        (no_defaults, (), {"b": 2, "a": 1}, (1, 2)),
        # Defaults fill gaps, and no more: the worker's own are not shadowed by ours.
        (defaults, (1,), {}, (1,)),
        (defaults, (1,), {"c": 9}, (1, 2, 9)),
        (defaults, (1,), {"b": 9}, (1, 9)),
        (defaults, (), {"a": 1}, (1,)),
        (defaults, (1,), {"b": 2}, (1, 2)),
        (rest, (1,), {}, (1,)),
        (rest, (1, 2, 3), {}, (1, 2, 3)),
        (rest, (), {"a": 1}, (1,)),
        (default_and_rest, (1, 5, 6), {}, (1, 5, 6)),
        (default_and_rest, (), {"a": 1}, (1,)),
        (default_and_rest, (1,), {"b": 3}, (1, 3)),
        (positional, (1,), {"c": 4}, (1, 2, 4)),
        (nothing, (), {}, ()),
    ],
)
def test_arguments_become_positions(
    function: Callable[..., None], args: Any, kwargs: Any, positions: Any
) -> None:
    bound = Signature(function).bind(args, kwargs)
    assert tuple(bound) == positions
    function(*bound)


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (no_defaults, (1,), {}),
        (no_defaults, (1, 2, 3), {}),
        (no_defaults, (1,), {"c": 2}),
        (no_defaults, (1, 2), {"a": 1}),
        (defaults, (), {"b": 2}),
        (rest, (), {}),
        (positional, (), {"a": 1}),
        (nothing, (1,), {}),
    ],
)
def test_wrong_arguments_are_a_type_error(
    function: Callable[..., None], args: Any, kwargs: Any
) -> None:
    with pytest.raises(TypeError):
        Signature(function).bind(args, kwargs)
    with pytest.raises(TypeError):
        function(*args, **kwargs)  # as Python itself has it


def gap(a: int, zone: object = UTC, n: int = 1) -> None: ...


def test_a_default_that_no_job_can_carry_is_named_where_it_fills_a_gap(line: Line) -> None:
    job = faktory.job(gap)
    with pytest.raises(TypeError, match=r"gap: the default of zone, .*utc, .* pass a value for it"):
        job.perform_async(1, n=2)
    assert line.opened == []
    job.perform_async(1, "UTC", n=2)
    job.perform_async(1)
    assert [job["args"] for job in line.jobs] == [[1, "UTC", 2], [1]]


@given(
    st.sampled_from([no_defaults, defaults, rest, default_and_rest, positional, nothing]),
    st.lists(st.integers(10, 19), max_size=5),
    st.dictionaries(st.sampled_from("abcd"), st.integers(20, 29), max_size=3),
)
def test_positions_say_what_the_call_said(
    function: Callable[..., None], args: list[int], kwargs: dict[str, int]
) -> None:
    taken = inspect.signature(function)
    try:
        asked = taken.bind(*args, **kwargs)
    except TypeError:
        with pytest.raises(TypeError):
            Signature(function).bind(args, kwargs)
        return
    positions = Signature(function).bind(args, kwargs)
    sent = taken.bind(*positions)
    assert positions[: len(args)] == args
    assert not positions or len(positions) == len(args) or positions[-1] in kwargs.values()
    asked.apply_defaults()
    sent.apply_defaults()
    assert sent == asked


def test_wrong_arguments_fail_where_the_job_is_pushed(line: Line) -> None:
    job = faktory.job(no_defaults)
    for push in (
        job.perform_async,
        lambda *args: job.perform_in(5, *args),
        lambda *args: job.perform_at(datetime.now(UTC), *args),
        job.set(queue="other").perform_async,
    ):
        with pytest.raises(TypeError, match="'b'"):
            push(1)
    assert line.opened == []


# One


def test_a_bare_job_has_the_defaults_of_every_client(line: Line) -> None:
    jid = faktory.job(defaults).perform_async(1, c=4)
    assert line.jobs == [
        {"jid": jid, "jobtype": "defaults", "args": [1, 2, 4], "queue": "default", "retry": 25}
    ]


def test_all_options_go_out_as_the_server_has_them(line: Line) -> None:
    job = faktory.job(
        name="Resize",
        queue="images",
        retry=0,
        reserve_for=timedelta(minutes=2, milliseconds=1),
        backtrace=20,
        custom={"tenant": 7},
        unique_for=60,
        track=True,
    )(nothing)
    jid = job.perform_async()
    assert job.jobtype == "Resize"
    assert line.jobs == [
        {
            "jid": jid,
            "jobtype": "Resize",
            "args": [],
            "queue": "images",
            "retry": 0,
            "reserve_for": 121,
            "backtrace": 20,
            "custom": {"tenant": 7, "unique_for": 60, "track": 1},
        }
    ]


def test_set_leaves_the_job_as_it_was(line: Line) -> None:
    job = faktory.job(queue="a", custom={"x": {"y": 1}})(nothing)
    job.set(queue="b", custom={"x": {"z": 2}}).set(retry=1).perform_async()
    job.perform_async()
    first, second = line.jobs
    assert (first["queue"], first["retry"], first["custom"]) == ("b", 1, {"x": {"y": 1, "z": 2}})
    assert (second["queue"], second["retry"], second["custom"]) == ("a", 25, {"x": {"y": 1}})


def test_a_job_that_cannot_be_json_is_refused_with_its_place(line: Line) -> None:
    with pytest.raises(FaktoryPayloadError, match=r"args\[1\]"):
        faktory.job(no_defaults).perform_async(1, datetime.now())  # type: ignore[arg-type]
    with pytest.raises(FaktoryPayloadError, match="queue is 'a b'"):
        faktory.job(queue="a b")(nothing).perform_async()
    assert line.jobs == []


def test_a_job_that_the_server_refuses_raises(line: Line) -> None:
    line.refuse = lambda job: "no more room"
    with pytest.raises(FaktoryServerError, match="no more room"):
        faktory.job(nothing).perform_async()


@pytest.mark.parametrize("pool", ["tcp://other:1", faktory.Client("tcp://other:1")])
def test_what_is_no_pool_is_refused_with_the_remedy(line: Line, pool: Any) -> None:
    with pytest.raises(TypeError, match=r'pool is of type .*: .* like faktory\.Pool\(.*"tcp:'):
        faktory.job(rest).set(pool=pool)
    assert line.opened == []


def test_a_job_goes_to_the_pool_that_it_is_set_to(line: Line) -> None:
    other = Pool(lambda: faktory.Client("tcp://other:2"), size=1)
    job = faktory.job(nothing)
    job.set(pool=other).perform_async()
    job.set(pool=other).set(retry=1).perform_bulk([()])
    job.perform_async()
    assert line.opened == ["other:2", "stand-in:1"]
    other.close()


# Later


def test_perform_in_says_when_in_utc(line: Line) -> None:
    job = faktory.job(rest)
    for delay in (90, 90.5, timedelta(seconds=90)):
        before = datetime.now(UTC)
        job.perform_in(delay, 1, 2)
        at = line.jobs[-1]["at"]
        assert at.endswith("Z")
        wait = delay if isinstance(delay, timedelta) else timedelta(seconds=delay)
        assert before + wait <= datetime.fromisoformat(at) <= datetime.now(UTC) + wait
        assert line.jobs[-1]["args"] == [1, 2]


@pytest.mark.parametrize("delay", [0, -5, timedelta(0), timedelta(days=-1)])
def test_no_delay_means_now(line: Line, delay: Any) -> None:
    faktory.job(nothing).perform_in(delay)
    assert "at" not in line.jobs[0]


@pytest.mark.parametrize(
    "delay", ["5", None, True, float("nan"), float("inf"), datetime.now(UTC), 1e12, 10**400]
)
def test_what_is_no_delay_is_refused(line: Line, delay: Any) -> None:
    with pytest.raises(FaktoryPayloadError, match="the delay is"):
        faktory.job(nothing).perform_in(delay)
    assert line.jobs == []


SOON = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)


@pytest.mark.parametrize(
    "when",
    [
        SOON,
        SOON.astimezone(timezone(timedelta(hours=5, minutes=30))),
        SOON.isoformat(),
        SOON.isoformat().replace("+00:00", "Z"),
        SOON.timestamp(),
        int(SOON.timestamp()),
    ],
    ids=["utc", "another zone", "text", "text with Z", "float", "int"],
)
def test_perform_at_takes_any_way_to_say_when(line: Line, when: Any) -> None:
    faktory.job(nothing).perform_at(when)
    assert line.jobs[0]["at"] == SOON.isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize(
    "when", [datetime.now(UTC), 0, "2020-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00"]
)
def test_what_is_past_is_pushed_at_once(line: Line, when: Any) -> None:
    faktory.job(nothing).perform_at(when)
    assert "at" not in line.jobs[0]


@pytest.mark.parametrize(
    ("when", "remedy"),
    [
        (datetime.now(), "astimezone"),
        ("2030-01-01T00:00:00", "offset"),
        ("tomorrow", "RFC 3339"),
        (timedelta(hours=1), "aware datetime"),
        (True, "aware datetime"),
        (None, "aware datetime"),
        (1e20, "no time"),
        (float("nan"), "no time"),
    ],
)
def test_what_is_no_instant_is_refused_with_the_remedy(line: Line, when: Any, remedy: str) -> None:
    with pytest.raises(FaktoryPayloadError, match=remedy):
        faktory.job(nothing).perform_at(when)
    assert line.jobs == []


# Many


def test_rows_become_jobs(line: Line) -> None:
    job = faktory.job(queue="images", custom={"a": 1})(defaults)
    jids = job.perform_bulk([(1,), [2, 3]])
    assert len(set(jids)) == 2
    assert line.jobs == [
        {
            "jid": jid,
            "jobtype": "defaults",
            "args": args,
            "queue": "images",
            "retry": 25,
            "custom": {"a": 1},
        }
        for jid, args in zip(jids, ([1], [2, 3]), strict=True)
    ]


def test_no_rows_are_no_jobs(line: Line) -> None:
    assert faktory.job(nothing).perform_bulk([]) == []
    assert line.opened == []


def test_many_rows_go_out_in_chunks(line: Line) -> None:
    jids = faktory.job(rest).perform_bulk((number,) for number in range(2 * BULK_CHUNK + 1))
    assert line.sizes == [BULK_CHUNK, BULK_CHUNK, 1]
    assert [job["jid"] for job in line.jobs] == jids
    assert [job["args"] for job in line.jobs] == [[n] for n in range(2 * BULK_CHUNK + 1)]


def test_rows_are_taken_as_they_are_needed(line: Line) -> None:
    def rows() -> Iterator[tuple[int]]:
        for number in range(3 * BULK_CHUNK):
            assert number - len(line.jobs) < BULK_CHUNK
            yield (number,)

    assert len(faktory.job(rest).perform_bulk(rows())) == 3 * BULK_CHUNK


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ((1,), r"rows\[1\]: no_defaults: missing .*'b'"),
        ((1, 2, 3), r"rows\[1\]: no_defaults: too many"),
        (5, r"rows\[1\] is of type int; a row is a tuple"),
        ("ab", r"rows\[1\] is .*\(value,\)"),
        ((1, object()), r"rows\[1\]\[1\]"),
    ],
)
def test_a_wrong_row_is_refused_by_number_before_anything_is_sent(
    line: Line, row: Any, told: str
) -> None:
    with pytest.raises(TypeError, match=told):
        faktory.job(no_defaults).perform_bulk([(1, 2), row])
    assert line.opened == []


def test_a_wrong_row_after_some_that_were_sent_tells_which_were(line: Line) -> None:
    rows = [(number, 1) for number in range(BULK_CHUNK + 1)] + [(1, object())]
    with pytest.raises(FaktoryBulkError, match=r"from row 1000 on: rows\[1\]\[1\]") as caught:
        faktory.job(no_defaults).perform_bulk(rows)
    assert caught.value.jids == [job["jid"] for job in line.jobs]
    assert len(caught.value.jids) == BULK_CHUNK
    assert caught.value.unknown == caught.value.unsent == []


def test_rows_that_the_server_refuses_are_told_after_the_others_went_through(line: Line) -> None:
    line.refuse = lambda job: "NOTUNIQUE Job not unique" if job["args"] == [1] else None
    with pytest.raises(FaktoryBulkError, match=r"refused 1 of 3 jobs, .*not unique") as caught:
        faktory.job(rest).perform_bulk([(0,), (1,), (2,)])
    assert caught.value.jids == [job["jid"] for job in line.jobs]
    assert list(caught.value.refused.values()) == ["NOTUNIQUE Job not unique"]


def test_a_broken_line_tells_what_is_unknown(line: Line) -> None:
    line.break_after = 1
    with pytest.raises(FaktoryBulkError, match="500 jobs may or may not be queued") as caught:
        faktory.job(rest).perform_bulk((number,) for number in range(BULK_CHUNK + 500))
    assert len(caught.value.jids) == BULK_CHUNK
    assert len(caught.value.unknown) == 500
    assert caught.value.unsent == []


def test_a_line_that_cannot_be_had_tells_what_was_never_sent(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise FaktoryConnectionError("nothing listens")

    monkeypatch.setattr("faktory.client.network.current", FakeNetwork(refuse))
    with pytest.raises(FaktoryBulkError, match="2 jobs were not queued") as caught:
        faktory.job(rest).perform_bulk([(1,), (2,)])
    assert len(caught.value.unsent) == 2
    assert caught.value.unknown == []


def test_a_client_that_cannot_be_had_later_on_tells_which_jobs_were_sent(line: Line) -> None:
    pool = Pool(lambda: faktory.Client("tcp://stand-in:1"), size=1, timeout=0.01)
    job = faktory.job(rest).set(pool=pool)

    def rows(lent: ExitStack) -> Iterator[tuple[int]]:
        for number in range(BULK_CHUNK + 5):
            if number == BULK_CHUNK:
                lent.enter_context(pool.client())
            yield (number,)

    with (
        ExitStack() as lent,
        pytest.raises(FaktoryBulkError, match="5 jobs were not queued") as caught,
    ):
        job.perform_bulk(rows(lent))
    assert isinstance(caught.value.__cause__, FaktoryTimeout)
    assert caught.value.jids == [job["jid"] for job in line.jobs]
    assert (len(caught.value.jids), len(caught.value.unsent)) == (BULK_CHUNK, 5)
    pool.close()


def test_with_no_client_to_be_had_at_all_nothing_was_sent(line: Line) -> None:
    pool = Pool(lambda: faktory.Client("tcp://stand-in:1"), size=1, timeout=0.01)
    with pool.client(), pytest.raises(FaktoryTimeout):
        faktory.job(rest).set(pool=pool).perform_bulk([(1,)])
    assert line.jobs == []
    pool.close()


# What only Faktory Enterprise has


ENTERPRISE: list[dict[str, Any]] = [
    {"unique_for": 60},
    {"unique_for": 60, "unique_until": "start"},
    {"expires_in": 60},
    {"expires_at": "2100-01-02T00:00:00Z"},
    {"expires_at": 0},
    {"track": True},
]


@pytest.mark.parametrize("asked", ENTERPRISE)
def test_what_an_open_source_server_would_ignore_is_not_sent_to_it(
    line: Line, asked: dict[str, Any]
) -> None:
    line.description = "Faktory"
    job = faktory.job(name="work", **asked)(rest)
    plain = faktory.job(name="plain")(rest)
    name = next(iter(asked))
    told = rf"the job work is not pushed: .* would ignore .*{name}.*set\({name}=None\)"
    for push in (
        job.perform_async,
        lambda number: job.perform_in(60, number),
        lambda number: job.perform_bulk([(number,)]),
        plain.set(**asked).set(queue="low").perform_async,
    ):
        with pytest.raises(FaktoryEnterpriseRequired, match=told.replace("work", "(work|plain)")):
            push(1)
    assert line.jobs == []
    plain.perform_async(1)
    nothing_asked: dict[str, Any] = dict.fromkeys(asked)
    job.set(**nothing_asked).perform_async(1)
    assert len(line.jobs) == 2


def test_a_default_that_an_open_source_server_would_ignore_is_not_sent_to_it(line: Line) -> None:
    line.description = "Faktory"
    job = faktory.job(rest)
    faktory.default_job_options["track"] = True
    with pytest.raises(FaktoryEnterpriseRequired, match="would ignore track"):
        job.perform_async(1)
    job.set(track=False).perform_async(1)
    assert len(line.jobs) == 1
    assert "custom" not in line.jobs[0]


def test_an_enterprise_server_is_asked_once_for_each_pool(line: Line) -> None:
    other = Pool(lambda: faktory.Client("tcp://other:2"), size=1)
    job = faktory.job(unique_for=60)(rest)
    job.perform_async(1)
    job.perform_async(2)
    job.perform_bulk([(3,), (4,)])
    faktory.job(name="tracked", track=True)(rest).perform_async(5)
    assert line.said == ["INFO"]
    job.set(pool=other).perform_async(6)
    job.set(pool=other).perform_async(7)
    assert line.said == ["INFO", "INFO"]
    assert len(line.jobs) == 7
    other.close()


def test_a_plain_job_asks_no_server_what_it_is(line: Line) -> None:
    faktory.job(custom={"a": 1})(rest).perform_async(1)
    faktory.job(name="untracked", track=False)(rest).perform_async(1)
    assert line.said == []
    assert "custom" not in line.jobs[1]


def test_a_server_that_became_enterprise_is_asked_again(line: Line) -> None:
    line.description = "Faktory"
    job = faktory.job(track=True)(rest)
    with pytest.raises(FaktoryEnterpriseRequired):
        job.perform_async(1)
    line.description = "Faktory Enterprise"
    job.perform_async(1)
    assert len(line.jobs) == 1


@pytest.mark.parametrize("middleware", [False, True])
def test_of_many_jobs_none_is_sent_to_a_server_that_would_ignore_what_is_asked(
    line: Line, middleware: bool
) -> None:
    if middleware:
        faktory.client_middleware.add(lambda payload, call_next: call_next())
    line.description = "Faktory"
    with pytest.raises(FaktoryEnterpriseRequired):
        faktory.job(track=True)(rest).perform_bulk((number,) for number in range(BULK_CHUNK + 1))
    assert line.jobs == []

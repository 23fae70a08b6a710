from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import faktory
from faktory.client.pool import Pool
from faktory.exceptions import (
    FaktoryBulkError,
    FaktoryConnectionError,
    FaktoryPayloadError,
    FaktoryServerError,
)
from faktory.jobs import registry
from faktory.jobs.context import JobContext
from faktory.jobs.definition import BULK_CHUNK, Signature

from .conftest import Line


def no_defaults(a: int, b: int) -> None: ...
def defaults(a: int, b: int = 2, c: int = 3) -> None: ...
def rest(a: int, *more: int) -> None: ...
def default_and_rest(a: int, b: int = 2, *more: int) -> None: ...
def positional(a: int, b: int = 2, /, c: int = 3) -> None: ...
def nothing() -> None: ...


def run(jobtype: str, *args: object, jid: str = "12345678") -> object:
    job = registry.find(jobtype)
    assert job is not None
    return job.run(JobContext({"jid": jid, "jobtype": jobtype, "args": list(args)}))


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


def keyword_only(a: int, *, b: int = 1) -> None: ...
def any_keyword(a: int, **others: int) -> None: ...


@pytest.mark.parametrize(("function", "what"), [(keyword_only, "b: "), (any_keyword, "others")])
def test_keywords_that_cannot_be_positions_are_refused_where_the_job_is_declared(
    function: Callable[..., None], what: str
) -> None:
    with pytest.raises(TypeError, match=f"{function.__name__} takes .*{what}.* by keyword only"):
        faktory.job(function)
    with pytest.raises(TypeError, match="by keyword only"):
        type("Refused", (faktory.Job,), {"perform": lambda self, *, b: None})
    assert registry.names() == []


async def coroutine() -> None: ...
async def generator() -> Any:
    yield


@pytest.mark.parametrize("function", [coroutine, generator])
def test_an_async_job_is_refused_where_it_is_declared(function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=f"{function.__name__} is an async function"):
        faktory.job(function)
    with pytest.raises(TypeError, match="async function"):
        type("Refused", (faktory.Job,), {"perform": function})
    assert registry.names() == []


# Functions


def test_a_job_is_called_as_ever(line: Line) -> None:
    @faktory.job
    def add(a: int, b: int = 1) -> int:
        """Add."""
        return a + b

    assert add(1) == 2
    assert add(1, b=2) == 3
    assert add.__name__ == "add"
    assert add.__doc__ == "Add."
    assert add.__module__ == __name__
    assert "add" in repr(add)
    assert Path(__file__).name in repr(add)
    assert line.opened == []


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


def test_an_unknown_option_is_refused_with_the_closest_name_in_all_places() -> None:
    job = faktory.job(nothing)
    for declare, where in (
        (lambda: faktory.job(retrys=1), "@faktory.job"),
        (lambda: job.set(retrys=1), r"nothing\.set\(\)"),
        (
            lambda: type("Wrong", (faktory.Job,), {"faktory_options": {"retrys": 1}}),
            r"Wrong\.faktory_options",
        ),
    ):
        with pytest.raises(TypeError, match=rf"{where} has no option 'retrys'.*'retry'"):
            declare()


def test_options_that_are_not_keywords_are_refused() -> None:
    with pytest.raises(TypeError, match="options go by keyword"):
        faktory.job("mail")  # type: ignore[call-overload]


def test_set_leaves_the_job_as_it_was(line: Line) -> None:
    job = faktory.job(queue="a", custom={"x": {"y": 1}})(nothing)
    job.set(queue="b", custom={"x": {"z": 2}}).set(retry=1).perform_async()
    job.perform_async()
    first, second = line.jobs
    assert (first["queue"], first["retry"], first["custom"]) == ("b", 1, {"x": {"y": 1, "z": 2}})
    assert (second["queue"], second["retry"], second["custom"]) == ("a", 25, {"x": {"y": 1}})


def test_a_dict_changed_after_the_declaration_changes_no_job(line: Line) -> None:
    custom: dict[str, Any] = {"list": [1]}
    faktory_options = {"custom": custom}
    jobs = [
        faktory.job(custom=custom)(nothing),
        faktory.job(name="other")(nothing).set(custom=custom),
        type("Class", (faktory.Job,), {"faktory_options": faktory_options, "perform": rest}),
    ]
    custom["list"].append(2)
    custom["new"] = True
    faktory_options["queue"] = {}
    for job in jobs:
        job.perform_async()
    assert [job["custom"] for job in line.jobs] == [{"list": [1]}] * 3


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
        (5, r"rows\[1\] is an int; a row is a tuple"),
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

    monkeypatch.setattr("faktory.client.transport.connect", refuse)
    with pytest.raises(FaktoryBulkError, match="2 jobs were not queued") as caught:
        faktory.job(rest).perform_bulk([(1,), (2,)])
    assert len(caught.value.unsent) == 2
    assert caught.value.unknown == []


def test_a_function_runs_with_the_arguments_of_its_payload() -> None:
    @faktory.job
    def add(a: int, b: int = 10) -> int:
        return a + b

    assert run("add", 1) == 11
    assert run("add", 1, 2) == 3

"""Declared jobs whose parameters have types that JSON lacks."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import pytest
from freezegun import freeze_time

import faktory
from faktory import testing
from faktory.exceptions import FaktoryBulkError, FaktoryPayloadError
from faktory.jobs import arguments, registry
from faktory.jobs.annotations import is_plain
from faktory.proto import encode_push
from faktory.testing import assert_enqueued, assert_not_enqueued

from .support import FakeServer, run

if TYPE_CHECKING:
    from nowhere import Absent  # type: ignore[import-not-found]

pytest.importorskip("msgspec")

ID = UUID("9c87c28d-873b-43c5-baaa-628baf57a38b")
WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@dataclass
class Item:
    name: str
    price: Decimal


class Point(NamedTuple):
    x: int
    y: int


ran: list[tuple[Any, ...]] = []


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


def ship(item: Item, to: UUID | None = None, after: timedelta = timedelta(0), n: int = 1) -> None:
    ran.append((item, to, after, n))


def each(first: int, *ids: UUID) -> None:
    ran.append((first, *ids))


def later(thing: Later) -> None:  # noqa: F821
    ran.append((thing,))


def absent(thing: Absent, when: datetime) -> None:
    ran.append((thing, when))


def ambiguous(when: datetime | str, flag: bool) -> None:
    ran.append((when, flag))


def plain(a: int, b: dict[str, list[Any]], c: str | None = None, *d: object) -> None:
    ran.append((a, b, c, *d))


def bare(a, b=None):  # type: ignore[no-untyped-def]
    ran.append((a, b))


# Pushing and running


def test_arguments_are_plain_json_on_the_wire_and_typed_in_the_run(server: FakeServer) -> None:
    job = faktory.job(ship)
    job.perform_async(Item("a", Decimal("1.50")), after=timedelta(minutes=1))
    job.perform_in(60, Item("b", Decimal(2)), ID, n=3)
    assert [pushed["args"] for pushed in server.jobs] == [
        [{"name": "a", "price": "1.50"}, None, 60],
        [{"name": "b", "price": "2"}, str(ID), 0, 3],
    ]
    for pushed in server.jobs:
        run("ship", *pushed["args"])
    assert ran == [
        (Item("a", Decimal("1.50")), None, timedelta(minutes=1), 1),
        (Item("b", Decimal(2)), ID, timedelta(0), 3),
    ]


def test_the_bytes_of_a_push_are_plain_json() -> None:
    payload = faktory.job(ship).payload((Item("é", Decimal("1.50")), ID, timedelta(seconds=1.5)))
    args = '"args":[{"name":"é","price":"1.50"},"9c87c28d-873b-43c5-baaa-628baf57a38b",1.5]'
    assert args.encode() in encode_push(payload)


@pytest.mark.parametrize("middleware", [False, True])
def test_rows_are_plain_json_on_the_wire(server: FakeServer, middleware: bool) -> None:
    if middleware:
        faktory.client_middleware.add(lambda payload, call_next: call_next())
    job = faktory.job(ship)
    job.perform_bulk([(Item("a", Decimal(1)), ID), [Item("b", Decimal(2))]])
    assert [pushed["args"] for pushed in server.jobs] == [
        [{"name": "a", "price": "1"}, str(ID)],
        [{"name": "b", "price": "2"}],
    ]
    with pytest.raises(FaktoryPayloadError, match=r"rows\[1\]: args\[0\]\.price is None"):
        job.perform_bulk([(Item("a", Decimal(1)),), (Item("b", None),)])  # type: ignore[arg-type]
    with pytest.raises(FaktoryPayloadError, match=r"rows\[1\] is .*a row is a tuple"):
        job.perform_bulk([(Item("a", Decimal(1)),), Item("b", Decimal(1))])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"rows\[0\]: ship: too many"):
        job.perform_bulk([(Item("a", Decimal(1)), ID, timedelta(1), 1, 2)])
    rows = [(Item("a", Decimal(1)),)] * 1000 + [(5,)]
    with pytest.raises(FaktoryBulkError, match=r"1000 jobs were sent .*args\[0\] is 5") as caught:
        job.perform_bulk(rows)
    assert len(caught.value.jids) == 1000


def test_variable_arguments_have_the_type_of_their_annotation(server: FakeServer) -> None:
    job = faktory.job(each)
    job.perform_async(1, ID, ID)
    job.perform_async(1)
    assert [pushed["args"] for pushed in server.jobs] == [[1, str(ID), str(ID)], [1]]
    run("each", 1, str(ID))
    assert ran == [(1, ID)]
    with pytest.raises(FaktoryPayloadError, match=r"args\[2\] is 'x': .*is ids: UUID\."):
        job.perform_async(1, ID, "x")  # type: ignore[arg-type]


class Ship(faktory.Job):
    class Box(Enum):
        SMALL = "small"

    def perform(self, box: Box, item: Item) -> None:
        ran.append((box, item, faktory.current_job().args))

    @staticmethod
    def twice(box: Ship.Box) -> None: ...


@pytest.mark.parametrize("how", ["inline", "fake"])
def test_jobs_that_are_classes_get_typed_arguments_and_see_plain_ones(how: str) -> None:
    class Own(Ship):
        pass

    with testing.inline() if how == "inline" else testing.fake() as server:
        Own.perform_async(Ship.Box.SMALL, item=Item("a", Decimal(1)))
        server.drain()
    wire = ["small", {"name": "a", "price": "1"}]
    assert ran == [(Ship.Box.SMALL, Item("a", Decimal(1)), wire)]


def test_a_static_method_and_an_external_job_have_typed_arguments(server: FakeServer) -> None:
    class Jobs:
        @faktory.job
        @staticmethod
        def static(to: UUID) -> None:
            ran.append((to,))

    Jobs.static.perform_async(ID)
    faktory.external("Ship", ship, queue="ruby").perform_async(Item("a", Decimal(1)))
    faktory.external("Static", Jobs.static).perform_async(ID)
    assert [pushed["args"] for pushed in server.jobs] == [
        [str(ID)],
        [{"name": "a", "price": "1"}],
        [str(ID)],
    ]
    run("static", str(ID))
    assert ran == [(ID,)]


def test_a_decorated_function_keeps_its_annotations(server: FakeServer) -> None:
    def around(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def inner(*args: Any, **kwargs: Any) -> None:
            function(*args, **kwargs)

        return inner

    faktory.job(around(ship)).perform_async(Item("a", Decimal(1)), ID)
    assert server.jobs[0]["args"] == [{"name": "a", "price": "1"}, str(ID)]
    run("ship", *server.jobs[0]["args"])
    assert ran[0][:2] == (Item("a", Decimal(1)), ID)


def test_the_arguments_of_a_running_job_can_be_pushed_again() -> None:
    @faktory.job
    def again(item: Item, points: list[Point]) -> None:
        ran.append((item, points))
        if len(ran) == 1:
            again.perform_async(*faktory.current_job().args)

    args = Item("a", Decimal(1)), [Point(1, 2)]
    with testing.fake() as server:
        again.perform_async(*args)
        again.drain()
        assert server.jobs == []
    assert ran == [args, args]


def test_a_direct_call_and_plain_parameters_are_left_alone(server: FakeServer) -> None:
    job = faktory.job(ship)
    job("anything", "at", "all", n="x")  # type: ignore[arg-type]
    assert ran == [("anything", "at", "all", "x")]
    job.perform_async(Item("a", Decimal(1)), n="many")  # type: ignore[arg-type]
    assert server.jobs[0]["args"][3] == "many"  # of a plain annotation nothing is checked


def test_none_is_taken_where_it_is_the_default(server: FakeServer) -> None:
    def maybe(a: int = 0, to: UUID = None, n: int = 1) -> None:  # type: ignore[assignment]  # noqa: RUF013
        ran.append((a, to, n))

    maybe.__annotations__["to"] = UUID
    job = faktory.job(maybe)
    job.perform_async(1, None)  # type: ignore[arg-type]
    job.perform_async(n=2)
    assert [pushed["args"] for pushed in server.jobs] == [[1, None], [0, None, 2]]


def test_a_default_in_a_gap_is_of_its_type(server: FakeServer) -> None:
    def gap(to: UUID = ID, when: datetime = "soon", n: int = 1) -> None: ...  # type: ignore[assignment]

    job = faktory.job(gap)
    job.perform_async(when=WHEN)
    assert server.jobs[0]["args"] == [str(ID), "2026-01-02T03:04:05Z"]
    with pytest.raises(TypeError, match=r"the default of when, 'soon', .* pass a value for it"):
        job.perform_async(n=2)


def test_a_registered_function_gets_plain_arguments() -> None:
    with testing.fake() as server:
        faktory.external("plain", ship).perform_async(Item("a", Decimal(1)))
        (job,) = server.jobs
    worker = faktory.Worker("tcp://nowhere:1")
    worker.register("plain", ship)
    task = worker._manager.runner.find("plain")
    task.run(faktory.JobContext(job))
    assert ran[0][0] == {"name": "a", "price": "1"}


def test_assertions_take_arguments_as_they_were_pushed() -> None:
    job = faktory.job(ship)
    with testing.fake():
        job.perform_async(Item("a", Decimal(1)), ID)
        assert_enqueued(job, args=(Item("a", Decimal(1)), ID))
        assert_enqueued(job, args=[{"name": "a", "price": "1"}, str(ID)])
        assert_not_enqueued(job, args=(Item("b", Decimal(1)), ID))
        with pytest.raises(AssertionError, match="args "):
            assert_enqueued(job, args=(Item("a", Decimal(2)), ID))


# Wrong values


def test_a_wrong_value_is_refused_where_it_is_pushed(server: FakeServer) -> None:
    job = faktory.job(ship)
    message = r"args\[0\]\.price is 'cheap': invalid decimal string. The parameter is item: Item\."
    for push in (job.perform_async, lambda *args: job.perform_in(5, *args)):
        with pytest.raises(FaktoryPayloadError, match=message):
            push(Item("a", "cheap"))  # type: ignore[arg-type]
    assert server.opened == []


def test_a_wrong_value_of_another_program_fails_with_its_path() -> None:
    faktory.job(ship)
    with testing.fake() as server, faktory.Client() as client:
        client.push({"jobtype": "ship", "args": [{"name": "a", "price": "cheap"}], "retry": 2})
        with pytest.raises(FaktoryPayloadError, match=r"args\[0\]\.price is 'cheap'") as caught:
            server.drain()
    assert caught.value._raised_by_job
    assert ran == []


def test_an_error_of_a_job_that_runs_inline_is_not_explained() -> None:
    @faktory.job
    def outer() -> None:
        faktory.job(bare).perform_async(ID)

    with testing.inline(), pytest.raises(FaktoryPayloadError, match=r"b: UUID|a: UUID") as caught:
        outer.perform_async()
    assert str(caught.value).count("Or annotate") == 1


def test_too_many_or_too_few_arguments_are_python_s_own_error() -> None:
    faktory.job(ship)
    with pytest.raises(TypeError, match="positional"):
        run("ship", {"name": "a", "price": "1"}, None, 0, 1, 2)
    with pytest.raises(TypeError, match="item"):
        run("ship")


# Without a usable annotation


def test_a_value_without_an_annotation_is_refused_with_the_remedy(server: FakeServer) -> None:
    job = faktory.job(bare)
    message = r"args\[1\] is a UUID .*str\(value\)\. Or annotate the parameter, b: UUID\.$"
    with pytest.raises(FaktoryPayloadError, match=message):
        job.perform_async(1, ID)
    with pytest.raises(FaktoryPayloadError, match=r" is a \w*Path .* the parameter, b: Path\.$"):
        job.perform_async(1, Path("a"))
    with pytest.raises(FaktoryPayloadError, match=r"rows\[1\]\[0\] is .* the parameter, a: Item\."):
        job.perform_bulk([(1,), (Item("a", Decimal(1)),)])
    with pytest.raises(FaktoryPayloadError, match=r"args\[0\]\[1\]\[\"k\"\] .*, a: datetime\.$"):
        job.perform_async([1, {"k": WHEN}])
    with pytest.raises(FaktoryPayloadError, match=r"text: str\(value\)\.$"):
        job.perform_async(2**60)  # no annotation helps
    with pytest.raises(FaktoryPayloadError, match=r"\. Or give external\(\) a signature that anno"):
        faktory.external("x").perform_async(ID)
    assert server.opened == []


@pytest.fixture
def no_msgspec(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("faktory.jobs.converters", "faktory.jobs.changes"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "msgspec", None)


@pytest.mark.usefixtures("no_msgspec")
def test_without_the_extra_values_are_refused_with_its_name(server: FakeServer) -> None:
    job = faktory.job(ship)
    message = (
        r"args\[0\] is an Item .*asdict\(value\)\. The annotation Item cannot be used: "
        r"msgspec is not installed: pip install 'faktory-worker\[types\]'\.$"
    )
    with pytest.raises(FaktoryPayloadError, match=message):
        job.perform_async(Item("a", Decimal(1)))
    with pytest.raises(FaktoryPayloadError, match=r"a: UUID, and pip install 'faktory-worker\["):
        faktory.job(bare).perform_async(ID)
    assert server.opened == []
    job.perform_async({"any": "thing"}, "as", "before")  # type: ignore[arg-type]
    run("ship", *server.jobs[0]["args"])
    assert ran == [({"any": "thing"}, "as", "before", 1)]


def test_an_ambiguous_annotation_is_left_alone_and_named_in_the_error(server: FakeServer) -> None:
    job = faktory.job(ambiguous)
    job.perform_async("2026-01-02", True)
    run("ambiguous", *server.jobs[0]["args"])
    assert ran == [("2026-01-02", True)]
    message = r"isoformat\(\)\. The annotation datetime \| str cannot be used: Type unions may not"
    with pytest.raises(FaktoryPayloadError, match=message):
        job.perform_async(WHEN, True)


class Strange:
    pass


@pytest.mark.parametrize(
    ("hint", "fault"),
    [
        (timedelta | float, "on the wire a timedelta is a number"),
        (Point | dict[str, int], "on the wire a NamedTuple is an object"),
        (tuple[UUID, Strange], "Strange is not a type that msgspec knows"),
        (Enum("Odd", {"A": 1, "B": "b"}), "must contain either all str or all int"),
    ],
)
def test_a_type_whose_json_is_ambiguous_or_unknown_is_not_used(
    server: FakeServer, hint: Any, fault: str
) -> None:
    def odd(value):  # type: ignore[no-untyped-def]
        ran.append((value,))

    odd.__annotations__["value"] = hint
    job = faktory.job(odd)
    job.perform_async([5])
    run("odd", [5])
    assert ran == [([5],)]
    with pytest.raises(FaktoryPayloadError, match=f"cannot be used: .*{fault}"):
        job.perform_async(ID)


def test_a_type_for_type_checkers_only_is_left_alone(server: FakeServer) -> None:
    job = faktory.job(absent)
    job.perform_async("anything", WHEN)
    assert server.jobs[0]["args"] == ["anything", "2026-01-02T03:04:05Z"]
    run("absent", *server.jobs[0]["args"])
    assert ran == [("anything", WHEN)]
    message = r"The annotation Absent cannot be used: name 'Absent' is not defined\."
    with pytest.raises(FaktoryPayloadError, match=message):
        job.perform_async(Item("a", Decimal(1)), WHEN)


def test_a_class_may_be_defined_after_the_job_was_used(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = faktory.job(later)
    job.perform_async("before")  # type: ignore[arg-type]
    assert server.jobs[0]["args"] == ["before"]
    monkeypatch.setitem(globals(), "Later", Item)
    job.perform_async(Item("a", Decimal(1)))
    assert server.jobs[1]["args"] == [{"name": "a", "price": "1"}]


def test_a_name_that_stays_unknown_costs_nothing_in_the_long_run(server: FakeServer) -> None:
    def only_absent(value: Absent, other: int = 0) -> None: ...

    job = faktory.job(only_absent)
    job.perform_bulk([("a", 1)] * arguments._MOST_LOOKS)
    assert not job._signature.typed
    with pytest.raises(FaktoryPayloadError, match="cannot be used: name 'Absent' is not defined"):
        job.perform_async(Item("a", Decimal(1)))


@dataclass
class Holder:
    thing: Nowhere  # noqa: F821
    when: datetime


def test_a_class_with_an_unknown_field_type_is_left_alone(server: FakeServer) -> None:
    def hold(holder: Holder) -> None: ...

    hold.__annotations__["holder"] = Holder
    job = faktory.job(hold)
    job.perform_async({"thing": 1})  # type: ignore[arg-type]
    assert server.jobs[0]["args"] == [{"thing": 1}]
    with pytest.raises(FaktoryPayloadError, match="cannot be used: name 'Nowhere' is not defined"):
        job.perform_async(Holder(1, WHEN))


def test_an_annotation_that_raises_breaks_nothing(server: FakeServer) -> None:
    def strange(value: 1 / 0, other: "]"):  # type: ignore  # noqa
        ...

    job = faktory.job(strange)
    job.perform_async(1, 2)
    assert server.jobs[0]["args"] == [1, 2]
    with pytest.raises(FaktoryPayloadError, match=r"cannot be used: division by zero\."):
        job.perform_async(ID, 2)


# What is plain


def test_a_job_without_such_types_is_known_for_one_after_its_first_use(server: FakeServer) -> None:
    for function in (plain, bare):
        job = faktory.job(function)
        job.perform_async(1, {})
        assert not job._signature.typed
    assert not faktory.external("x")._signature.typed
    assert not faktory.job(bare)._signature.typed


@pytest.mark.parametrize(
    "hint",
    [
        *(int, str, float, bool, None, type(None), object, Any, list, dict, tuple, Strange),
        *(list[int], dict[str, Any], dict[str, list[int]], tuple[int, ...], int | None, Callable),
        *(list["Anything"], Callable[[UUID], int]),  # type: ignore[name-defined]  # noqa: F821
    ],
)
def test_json_and_unknown_types_are_plain(hint: Any) -> None:
    assert is_plain(hint)


@pytest.mark.parametrize(
    "hint",
    [
        *(UUID, list[UUID], UUID | None, dict[str, tuple[int, datetime]], dict[int, str], set),
        *(set[int], Item, Point, Decimal, timedelta, bytes, type("Own", (datetime,), {})),
    ],
)
def test_types_that_json_lacks_are_not_plain(hint: Any) -> None:
    assert not is_plain(hint)


# In other threads and processes, at other times


def test_a_job_with_options_is_pickled_with_its_types(server: FakeServer) -> None:
    job = faktory.job(ship).set(queue="low")
    job.perform_async(Item("a", Decimal(1)))
    for pushed in (job, pickle.loads(pickle.dumps(job))):
        pickle.loads(pickle.dumps(pushed)).perform_async(Item("a", Decimal(1)), ID)
        assert server.jobs[-1]["args"] == [{"name": "a", "price": "1"}, str(ID)]
    unused = pickle.loads(pickle.dumps(faktory.job(absent).set(queue="low")))
    unused.perform_async("x", WHEN)
    assert server.jobs[-1]["args"] == ["x", "2026-01-02T03:04:05Z"]


def test_the_first_use_may_be_in_many_threads_at_once(server: FakeServer) -> None:
    for _ in range(20):
        registry._jobs.clear()
        job = faktory.job(ship)
        with ThreadPoolExecutor(8) as threads:
            list(
                threads.map(
                    lambda _, job=job: job.perform_async(Item("a", Decimal(1)), ID), "12345678"
                )
            )
    assert {str(pushed["args"]) for pushed in server.jobs} == {
        str([{"name": "a", "price": "1"}, str(ID)])
    }


@pytest.mark.parametrize("used_before", [False, True])
def test_a_frozen_clock_changes_nothing(server: FakeServer, used_before: bool) -> None:
    job = faktory.job(at_time)
    if used_before:
        job.perform_async(WHEN, {"k": WHEN.date()})
    with freeze_time("2026-05-06T07:08:09Z"):
        now = datetime.now(UTC)
        job.perform_async(now, {"k": now.date()})
        assert server.jobs[-1]["args"] == ["2026-05-06T07:08:09Z", {"k": "2026-05-06"}]
        run("at_time", *server.jobs[-1]["args"])
        assert ran == [(now, {"k": now.date()})]
    run("at_time", *server.jobs[-1]["args"])
    assert ran[1] == ran[0]
    job.perform_async(WHEN, {"k": WHEN.date()})
    assert server.jobs[-1]["args"] == ["2026-01-02T03:04:05Z", {"k": "2026-01-02"}]


def at_time(when: datetime, days: dict[str, date]) -> None:
    ran.append((when, days))

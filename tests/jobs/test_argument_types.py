"""Each type of argument on its way: to plain JSON, through the server, and back."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from types import ModuleType
from typing import Annotated, Any, Literal, NamedTuple, NewType, NotRequired, Optional, TypedDict
from uuid import UUID

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faktory.exceptions import FaktoryPayloadError
from faktory.jobs.signature import Signature
from faktory.server.go import json as go

msgspec = pytest.importorskip("msgspec")
pydantic = pytest.importorskip("pydantic")

ID = UUID("9c87c28d-873b-43c5-baaa-628baf57a38b")
WHEN = datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC)
EAST = timezone(timedelta(hours=5, minutes=30))


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Item:
    name: str
    price: Decimal
    sizes: list[int] = dataclasses.field(default_factory=list)


class Point(NamedTuple):
    x: float
    y: float = 0.0
    of: UUID | None = None


class Row(TypedDict):
    id: UUID
    note: NotRequired[str]


@attrs.frozen
class Span:
    start: date
    length: timedelta = timedelta(days=1)


class Order(msgspec.Struct):
    items: list[Item]
    wait: timedelta | None = None


class Node(msgspec.Struct):
    """A type that contains itself, with a change of JSON inside."""

    wait: timedelta
    next: Optional[Node] = None  # noqa: UP045


class Circle(msgspec.Struct, tag="circle"):
    centre: Point


class Square(msgspec.Struct, tag="square", rename="camel"):
    side_length: timedelta


class Pair(msgspec.Struct, array_like=True):
    first: timedelta
    second: UUID


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    when: datetime
    price: Decimal = pydantic.Field(Decimal(1), gt=0)
    inner: list[Item] = []


Price = NewType("Price", Decimal)

# A type, a value, and its JSON.
SAMPLES: list[tuple[Any, Any, bytes]] = [
    (UUID, ID, b'"9c87c28d-873b-43c5-baaa-628baf57a38b"'),
    (datetime, WHEN, b'"2026-01-02T03:04:05.678901Z"'),
    (datetime, datetime(2026, 1, 2, 3, 4, 5), b'"2026-01-02T03:04:05"'),
    (datetime, datetime(2026, 1, 2, tzinfo=EAST), b'"2026-01-02T00:00:00+05:30"'),
    (date, date(2026, 1, 2), b'"2026-01-02"'),
    (time, time(3, 4, 5), b'"03:04:05"'),
    (time, time(3, 4, 5, 6, tzinfo=UTC), b'"03:04:05.000006Z"'),
    (timedelta, timedelta(hours=1), b"3600"),
    (timedelta, timedelta(days=-1, microseconds=1), b"-86399.999999"),
    (Decimal, Decimal("12.50"), b'"12.50"'),
    (Decimal, Decimal("Infinity"), b'"Infinity"'),
    (Colour, Colour.RED, b'"red"'),
    (Level, Level.HIGH, b"2"),
    (Rights, Rights.READ | Rights.WRITE, b"3"),
    (bytes, b"\0\xff", b'"AP8="'),
    (PurePosixPath, PurePosixPath("/a/b"), b'"/a/b"'),
    (set[int], {3, 1, 2}, b"[1,2,3]"),
    (set[Colour | int], {3, 10, Colour.BLUE}, b'["blue",10,3]'),
    (frozenset[UUID], frozenset([ID]), b'["9c87c28d-873b-43c5-baaa-628baf57a38b"]'),
    (Item, Item("a", Decimal("1.5"), [1]), b'{"name":"a","price":"1.5","sizes":[1]}'),
    (Point, Point(1.5, of=ID), b'{"x":1.5,"y":0.0,"of":"%b"}' % str(ID).encode()),
    (Row, {"id": ID}, b'{"id":"9c87c28d-873b-43c5-baaa-628baf57a38b"}'),
    (Span, Span(date(2026, 1, 2)), b'{"length":86400,"start":"2026-01-02"}'),
    (Order, Order([], timedelta(0)), b'{"items":[],"wait":0}'),
    (Order, Order([]), b'{"items":[],"wait":null}'),
    (
        Node,
        Node(timedelta(1), Node(timedelta(2))),
        b'{"wait":86400,"next":{"wait":172800,"next":null}}',
    ),
    (Circle | Square, Square(timedelta(1)), b'{"type":"square","sideLength":86400}'),
    (
        Circle | Square,
        Circle(Point(1.5)),
        b'{"type":"circle","centre":{"x":1.5,"y":0.0,"of":null}}',
    ),
    (Pair, Pair(timedelta(1), ID), b'[86400,"9c87c28d-873b-43c5-baaa-628baf57a38b"]'),
    (
        Model,
        Model(when=WHEN),
        b'{"when":"2026-01-02T03:04:05.678901Z","price":"1","inner":[]}',
    ),
    (
        list[Model | None],
        [None, Model(when=WHEN, price=Decimal(2))],
        b'[null,{"when":"2026-01-02T03:04:05.678901Z","price":"2","inner":[]}]',
    ),
    (Price, Decimal("0.10"), b'"0.10"'),
    (Annotated[timedelta, msgspec.Meta(description="x")] | None, timedelta(1), b"86400"),
    (Literal[1, "a"] | list[date], [date(2026, 1, 2)], b'["2026-01-02"]'),
    (
        dict[str, tuple[Point, ...]],
        {"k": (Point(1.5, 2.5),)},
        b'{"k":[{"x":1.5,"y":2.5,"of":null}]}',
    ),
    (tuple[date, timedelta], (date(2026, 1, 2), timedelta(1)), b'["2026-01-02",86400]'),
    (dict[UUID, Colour], {ID: Colour.BLUE}, b'{"9c87c28d-873b-43c5-baaa-628baf57a38b":"blue"}'),
    (dict[int, date], {7: date(2026, 1, 2)}, b'{"7":"2026-01-02"}'),
    (bool | timedelta, True, b"true"),
    (timedelta | list[timedelta], [timedelta(1)], b"[86400]"),
]


def signature_of(hint: object) -> Signature:
    def function(value):  # type: ignore[no-untyped-def]
        ...

    function.__annotations__["value"] = hint
    return Signature(function)


def through_server(proto: ModuleType, args: list[Any]) -> list[Any]:
    """Return arguments as they are fetched: encoded, kept by the server, decoded."""
    kept = go.dump(go.load(proto.dump_json(args).decode())).encode()
    return proto.load_json(kept)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("hint", "value", "expected"), SAMPLES)
def test_a_value_has_this_json_and_comes_back_from_it(
    proto: ModuleType, hint: Any, value: Any, expected: bytes
) -> None:
    signature = signature_of(hint)
    wire = signature.to_wire([value])
    assert proto.dump_json(wire) == b"[%b]" % expected
    (back,) = signature.from_wire(through_server(proto, wire))
    assert back == value
    assert type(back) is type(value)
    # What a running job has in current_job().args can be pushed as it is.
    assert signature.to_wire(through_server(proto, wire)) == through_server(proto, wire)


# Any type, with any value

OFFSETS = st.builds(timezone, st.builds(timedelta, minutes=st.integers(-1439, 1439)))
ZONES = st.none() | st.just(UTC) | OFFSETS
SECONDS = st.timedeltas(timedelta(days=-36_500), timedelta(days=36_500))

LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (UUID, st.uuids()),
    (datetime, st.datetimes(timezones=ZONES)),
    (date, st.dates()),
    (time, st.times(timezones=ZONES)),
    (timedelta, SECONDS),
    (Decimal, st.decimals(allow_nan=False)),
    (Colour, st.sampled_from(Colour)),
    (Level, st.sampled_from(Level)),
    (bytes, st.binary()),
    (Price, st.decimals(allow_nan=False)),
    (int, st.integers(-(2**53), 2**53)),
    (str, st.text()),
    (bool, st.booleans()),
    (float, st.floats(-1e9, 1e9)),
    (Literal["a", 3], st.sampled_from(["a", 3])),
    (Row, st.fixed_dictionaries({"id": st.uuids()}, optional={"note": st.text()})),
    (Model, st.builds(Model, when=st.just(WHEN), price=st.just(Decimal("0.5")))),
]
KEYS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (str, st.text()),
    (UUID, st.uuids()),
    (int, st.integers(-(2**53), 2**53)),
    (date, st.dates()),
    (Colour, st.sampled_from(Colour)),
]

Kind = tuple[Any, st.SearchStrategy[Any]]
Make = Callable[[Kind, Kind, Kind], Kind]


def _class_of(make: Callable[..., Any]) -> Make:
    def kind(first: Kind, second: Kind, _: Kind) -> Kind:
        cls = make([("first", first[0]), ("second", second[0])])
        return cls, st.builds(cls, first=first[1], second=second[1])

    return kind


def _typed_dict(first: Kind, second: Kind, _: Kind) -> Kind:
    cls = TypedDict("Made", {"first": first[0], "second": second[0]})  # type: ignore[misc]  # noqa: UP013
    return cls, st.fixed_dictionaries({"first": first[1], "second": second[1]})


def _optional(kind: Kind) -> Kind:
    return Optional[kind[0]], st.none() | kind[1]  # noqa: UP045


COMPOUNDS: list[Make] = [
    lambda one, _, key: (list[one[0]], st.lists(one[1], max_size=3)),  # type: ignore[name-defined]
    lambda one, _, key: _optional(one),
    lambda one, two, key: (tuple[one[0], two[0]], st.tuples(one[1], two[1])),  # type: ignore[name-defined]
    lambda one, _, key: (tuple[one[0], ...], st.lists(one[1], max_size=3).map(tuple)),  # type: ignore[name-defined]
    lambda one, _, key: (dict[key[0], one[0]], st.dictionaries(key[1], one[1], max_size=3)),  # type: ignore[name-defined]
    lambda one, _, key: (Mapping[str, one[0]], st.dictionaries(st.text(), one[1], max_size=3)),  # type: ignore[name-defined]
    lambda one, _, key: (set[key[0]], st.sets(key[1], max_size=3)),  # type: ignore[name-defined]
    lambda one, _, key: (Annotated[one[0], "a note"], one[1]),  # type: ignore[name-defined]
    _class_of(lambda fields: dataclasses.make_dataclass("Made", fields)),
    _class_of(lambda fields: NamedTuple("Made", fields)),
    _class_of(lambda fields: msgspec.defstruct("Made", fields)),
    _class_of(lambda fields: msgspec.defstruct("Made", fields, array_like=True)),
    _class_of(lambda fields: attrs.make_class("Made", {n: attrs.field(type=t) for n, t in fields})),
    _typed_dict,
]


@st.composite
def typed_values(draw: st.DrawFn) -> tuple[Any, Any]:
    kinds = [draw(st.sampled_from(LEAVES)) for _ in range(3)]
    for _ in range(draw(st.integers(0, 3))):
        compound = draw(st.sampled_from(COMPOUNDS))
        kinds = [compound(*draw(st.permutations(kinds))[:2], draw(st.sampled_from(KEYS))), *kinds][
            :3
        ]
    hint, values = kinds[0]
    return hint, draw(values)


@settings(max_examples=150)
@given(typed=typed_values())
def test_any_value_of_any_type_comes_back(proto: ModuleType, typed: tuple[Any, Any]) -> None:
    hint, value = typed
    signature = signature_of(tuple[UUID, hint])  # a plain type alone is not converted
    wire = signature.to_wire([(ID, value)])
    ((_, back),) = signature.from_wire(through_server(proto, wire))
    assert back == value
    assert type(back) is type(value)


@given(zone=st.timezones(), local=st.datetimes(datetime(1850, 1, 1), datetime(2100, 1, 1)))
def test_a_zone_with_any_offset_keeps_the_instant(zone: Any, local: datetime) -> None:
    signature = signature_of(datetime)
    value = local.replace(tzinfo=zone)
    (back,) = signature.from_wire(signature.to_wire([value]))
    assert back.astimezone(UTC) == value.astimezone(UTC)


# Wrong values

WRONG: list[tuple[Any, Any, str]] = [
    (UUID, "no", r"args\[0\] is 'no': invalid UUID. The parameter is value: UUID\."),
    (UUID, 5, r"args\[0\] is 5 \(int\): expected `uuid`, got `int`"),
    (UUID, None, r"args\[0\] is None \(NoneType\): expected `uuid`, got `null`"),
    (date, WHEN, r"args\[0\] is datetime.*: expected `date`, got `datetime`"),
    (datetime, date(2026, 1, 2), r"args\[0\] is '2026-01-02': invalid RFC3339 encoded datetime"),
    (timedelta, True, r"args\[0\] is True \(bool\): expected a number of seconds, got `bool`"),
    (timedelta, "P1D", r"args\[0\] is 'P1D': expected a number of seconds, got `str`"),
    (timedelta, 1e300, r"args\[0\]: 1e\+300 \(float\) seconds are not a timedelta"),
    (Decimal, "x", r"args\[0\] is 'x': invalid decimal string"),
    (Colour, "green", r"args\[0\] is 'green': invalid enum value 'green'"),
    (set[str], "abc", r"args\[0\] is 'abc': expected `array`, got `str`"),
    (list[UUID], [ID, 1], r"args\[0\]\[1\] is 1 \(int\): expected `uuid`"),
    (dict[str, date], {"a": 1}, r"args\[0\]\[\.\.\.\]: expected `date`, got `int`"),
    (dict[str, timedelta], {"a": 1e300}, r"args\[0\]\['a'\]: 1e\+300"),
    (Item, {"name": "a", "price": "x"}, r"args\[0\]\.price is 'x': invalid decimal string"),
    (Item, {"name": "a"}, r"args\[0\] is .*: object missing required field `price`"),
    (Item, {"name": "a", "price": 1, "sizes": ["1"]}, r"args\[0\]\.sizes\[0\] is '1': expected"),
    (Point, {"x": "1"}, r"args\[0\]\.x is '1': expected `float`, got `str`"),
    (Point, {"y": 1}, r"args\[0\]: object missing required field `x`"),
    (Point, [1, 2, 3, 4], r"args\[0\] is .*: expected `array` of length 1 to 3, got 4"),
    (list[Point], [{"x": 1, "of": 1}], r"args\[0\]\[0\]\.of is 1 \(int\): expected `uuid \| null`"),
    (Span, {"start": "2026-01-02", "length": 1e300}, r"args\[0\]\.length: 1e\+300"),
    (Node, {"wait": 1, "next": {"wait": "1"}}, r"args\[0\]\.next\.wait is '1': expected a number"),
    (Circle | Square, {"type": "x"}, r"args\[0\]\.type is 'x': invalid value 'x'"),
    (Circle | Square, {"type": "square", "sideLength": 1e300}, r"args\[0\]\.sideLength: 1e\+300"),
    (Pair, [1e300], r"args\[0\]\[0\]: 1e\+300"),
    (tuple[int, timedelta], [1, 1e300], r"args\[0\]\[1\]: 1e\+300"),
    (Model, {"when": "x"}, r"args\[0\]\.when is 'x': input should be a valid datetime"),
    (Model, {"when": "2026-01-02T03:04:05Z", "price": "0"}, r"\.price is '0': input should be gr"),
    (
        list[Model],
        [{"when": "2026-01-02T03:04:05Z", "inner": [{"name": "a", "price": "x"}]}],
        r"args\[0\]\[0\]\.inner\[0\]\.price is 'x': input should be a valid decimal",
    ),
    (PurePosixPath, 5, r"args\[0\] is 5 \(int\): expected `PurePosixPath`, got `int`"),
    (Annotated[int, msgspec.Meta(gt=3)] | date, 3, r"args\[0\] is 3 \(int\): expected `int` >= 4"),
]


@pytest.mark.parametrize(("hint", "value", "message"), WRONG)
def test_a_wrong_value_is_refused_with_its_path_here_and_there(
    hint: Any, value: Any, message: str
) -> None:
    signature = signature_of(hint)
    with pytest.raises(FaktoryPayloadError, match=message):
        signature.to_wire([value])
    if not isinstance(value, date):
        with pytest.raises(FaktoryPayloadError, match=message):
            signature.from_wire([value])


class Unknown:
    pass


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (
            Item,
            Item("a", object()),
            r"args\[0\]\.price is <object.*: expected `decimal`, got `object`",
        ),  # type: ignore[arg-type]
        (Item, Item("a", Unknown()), r"args\[0\]\.price .*`Unknown`"),  # type: ignore[arg-type]
        (Item, Item(1, Decimal(1)), r"args\[0\]\.name is 1 \(int\): expected `str`"),  # type: ignore[arg-type]
        (UUID, Decimal(1), r"args\[0\] is '1': invalid UUID"),
        (Span, Span(ID), r"args\[0\]\.start is '9c.*': invalid RFC3339 encoded date"),  # type: ignore[arg-type]
        (set[int], {"a"}, r"args\[0\]\[0\] is 'a': expected `int`, got `str`"),
        (timedelta, timedelta(999_999_999, 0, 1), r"has more digits than a JSON number keeps"),
        (timedelta, timedelta.max, r"args\[0\]: 999999999 days, .* has more digits than a JSON"),
        (list[timedelta], [timedelta.max], r"args\[0\]\[0\]: 999999999 days, .* has more digits"),
        (Item, object(), r"args\[0\] is <object .*>.*: nothing here makes JSON of it"),
        (Item | None, object(), r"args\[0\] is <object .*>.*: nothing here makes JSON of it"),
        (time, time(1, tzinfo=timezone(timedelta(seconds=1))), r"no fixed offset in minutes"),
        (datetime, datetime(1, 1, 1, tzinfo=timezone(timedelta(seconds=1))), r"in UTC .* outside"),
        (
            list[Row],
            [{"id": ID, 1: 2}, {"id": 5}],
            r"args\[0\]\[1\]\.id is 5 \(int\): expected `uuid`",
        ),
        (Circle, Circle((1, "2")), r"args\[0\]\.centre\.y is '2': expected `float`"),  # type: ignore[arg-type]
    ],
)
def test_a_value_of_another_type_is_refused_where_it_is_pushed(
    hint: Any, value: Any, message: str
) -> None:
    with pytest.raises(FaktoryPayloadError, match=message):
        signature_of(hint).to_wire([value])


@pytest.mark.parametrize(
    ("hint", "value", "sent"),
    [
        (Decimal, 5, "5"),
        (Decimal, 19.9, "19.9"),
        (Decimal | None, 5, "5"),
        (Decimal | int, 5, 5),
        (list[Decimal], [Decimal(1), 2, "3.0"], ["1", "2", "3.0"]),
        (tuple[Decimal, ...], (Decimal(1), 2), ["1", "2"]),
        (set[Decimal], {1, Decimal(2)}, ["1", "2"]),
        (dict[Decimal, Decimal], {1: 2}, {"1": "2"}),
        (Item, Item("a", 5), {"name": "a", "price": "5", "sizes": []}),  # type: ignore[arg-type]
        (Item, {"name": "a", "price": 1.5}, {"name": "a", "price": "1.5", "sizes": []}),
        (Item, {"name": "a", "price": "1.50"}, {"name": "a", "price": "1.50"}),
        (list[Item], [Item("a", 5)], [{"name": "a", "price": "5", "sizes": []}]),  # type: ignore[arg-type]
        (Point, {"x": 1}, {"x": 1}),
        (timedelta, 300.0, 300.0),
        (
            Model,
            {"when": "2026-01-02T03:04:05Z", "price": 5},
            {"when": "2026-01-02T03:04:05Z", "price": "5", "inner": []},
        ),
        (UUID, str(ID).upper(), str(ID).upper()),
    ],
)
def test_what_a_type_only_reads_is_sent_as_that_type(
    proto: ModuleType, hint: Any, value: Any, sent: Any
) -> None:
    signature = signature_of(hint)
    (plain,) = signature.to_wire([value])
    plain = proto.load_json(proto.dump_json(plain))
    assert plain == sent
    assert signature.to_wire([plain]) == [sent]


def test_a_value_that_contains_itself_is_refused() -> None:
    node = Node(timedelta(1))
    node.next = node
    with pytest.raises(FaktoryPayloadError, match=r"args\[0\] is nested too deep, or contains its"):
        signature_of(Node).to_wire([node])

"""JSON encoding: the same bytes as the standard library, or an error with place and remedy."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import ipaddress
import json
import pathlib
import struct
import sys
import threading
import time
import uuid
from collections import Counter, OrderedDict, UserDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from types import MappingProxyType, ModuleType
from typing import Any

import pytest
from hypothesis import strategies as st

from faktory import _proto_py
from faktory.exceptions import FaktoryPayloadError

from ..support import FREE_THREADED


def standard(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "not this"


class Whole(int):
    def __repr__(self) -> str:
        return "not this"

    __str__ = __repr__

    def __le__(self, other: object) -> bool:
        return True


class Real(float):
    def __repr__(self) -> str:
        return "not this"

    def __sub__(self, other: object) -> float:
        raise AssertionError("must not be called")


class Row(list[Any]):
    def __iter__(self) -> Any:
        return iter(["not this"])


class Colour(enum.IntEnum):
    RED = 3


class Mood(enum.StrEnum):
    GOOD = "good"


class Weight(float, enum.Enum):
    HEAVY = 2.5


Point = namedtuple("Point", "x y")


@dataclasses.dataclass
class Item:
    name: str


class Proxy:
    """Has the `__class__` of its target, like the lazy objects of web frameworks."""

    def __init__(self, value: object) -> None:
        self.value = value

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self.value)

    def __str__(self) -> str:
        return "a proxy"


class Rude:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


GOOD = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        9,
        10,
        11,
        99,
        100,
        101,
        999,
        1000,
        12345,
        -12345,
        10**15 - 1,
        10**15,
    ),
    *(2**53, -(2**53), 2**53 - 1, 2**30 - 1, 2**30, -(2**30), 2**31, 2**32, 2**60 % 2**53),
    *(0.0, -0.0, 0.1, 1.5, -1.5, 1e15, 1e16, 1e17, 123456789.123, 1e-4, 1e-5, 1.0, 100.0, 5e-324),
    *(
        1.7976931348623157e308,
        2.2250738585072014e-308,
        1e22,
        1e23,
        9007199254740993.0,
        0.30000000000000004,
    ),
    *(
        "",
        "a",
        "é",
        "€",
        "😀",
        "\x7f",
        "\u2028",
        "\ufeff",
        "\uffff",
        "\U0010ffff",
        "<&>/'",
        "a" * 5000,
    ),
    *(
        '"',
        "\\",
        '"' * 100,
        "\\" * 5000,
        "\x00" * 700,
        "".join(map(chr, range(0x20))),
        "\b\f\n\r\t\x0b\x1b",
    ),
    *("é" * 3000, "a" * 3000 + "é", "😀" * 2000 + '"', "\x80\xff", "ünï\ncödé", "\ud7ff\ue000"),
    *(
        [],
        {},
        (),
        [[]],
        [{}],
        {"": {}},
        {"a": []},
        [(), ((),)],
        [[], [], [[]]],
        (1, "a", None, [True]),
    ),
    {"a": 1, "b": [1, 2, {"c": None}], "": "", "é": "€", 'q"': "\n", "k" * 3000: "v" * 3000},
    {str(n): n for n in range(2000)},
    [[n] * 3 for n in range(1000)],
    list(range(-5000, 5000, 7)),
    [n / 7 for n in range(-500, 500)],
    ["x" * n for n in range(300)],
    ["x" * n + "\n" + "y" * (60 - n) for n in range(60)],
    ["é" * n + '"' + "z" * (40 - n) for n in range(40)],
    {"k" * n + "\\" + "j" * (40 - n): n for n in range(40)},
]

SUBCLASSES = [
    (Text('a"b'), b'"a\\"b"'),
    (Whole(5), b"5"),
    (Whole(-7), b"-7"),
    (Real(1.5), b"1.5"),
    (Real(-0.0), b"-0.0"),
    (Row([1, 2]), b"[1,2]"),
    (Colour.RED, b"3"),
    (Mood.GOOD, b'"good"'),
    (Weight.HEAVY, b"2.5"),
    (Point(1, "y"), b'[1,"y"]'),
    (OrderedDict([("b", 1), ("a", 2)]), b'{"b":1,"a":2}'),
    (defaultdict(list, {"a": [1]}), b'{"a":[1]}'),
    (Counter("aab"), b'{"a":2,"b":1}'),
    ({Text("k"): Text("v")}, b'{"k":"v"}'),
    ({Mood.GOOD: Colour.RED}, b'{"good":3}'),
    ([1, [Row(), {"a": Real(2)}]], b'[1,[[],{"a":2.0}]]'),
]

JSON = "a job's arguments must be JSON"
BIG = ", which the server would change"
SURROGATE = 'Send text without it: value.encode("utf-8", "replace").decode().'
PLAIN = "Send text, numbers, booleans, None, lists or dicts of them."
MOMENT = datetime.datetime(2026, 1, 2, 3, 4, 5)

BAD: list[tuple[object, str, str]] = [
    (
        2**53 + 1,
        f"the value is an integer beyond +-2^53 ({2**53 + 1}){BIG}",
        "Send text: str(value).",
    ),
    (-(2**53) - 1, f"the value is an integer beyond +-2^53 ({-(2**53) - 1}){BIG}", "Send text"),
    ([2**63], f"[0] is an integer beyond +-2^53 ({2**63}){BIG}", "Send text"),
    ([10**5000], f"[0] is an integer beyond +-2^53 (16610 bits){BIG}", "Send text"),
    (Whole(2**60), f"the value is an integer beyond +-2^53 ({2**60}){BIG}", "Send text"),
    (float("nan"), "the value is nan, which JSON lacks", "Send None or text."),
    ({"a": float("inf")}, "a is inf, which JSON lacks", "Send None or text."),
    ([1, -float("inf")], "[1] is -inf, which JSON lacks", "Send None or text."),
    (Real("inf"), "the value is inf, which JSON lacks", "Send None or text."),
    ("a\ud800b", f"the value holds the lone surrogate U+D800 at index 1{BIG}", SURROGATE),
    (["\ud83d\ude00"], f"[0] holds the lone surrogate U+D83D at index 0{BIG}", SURROGATE),
    ("é" * 99 + "\udfff", f"the value holds the lone surrogate U+DFFF at index 99{BIG}", SURROGATE),
    ({"k\udc80": 1}, f"['k\\udc80'] holds the lone surrogate U+DC80 at index 1{BIG}", SURROGATE),
    ({1: 2}, "the value has a key that is an int (1); JSON keys are text", "Send str(key)."),
    (
        {"a": [{None: 1}]},
        "a[0] has a key that is a NoneType (None); JSON keys are text",
        "Send str",
    ),
    (
        {"a": 1, b"b": 2},
        "the value has a key that is a bytes (b'b'); JSON keys are text",
        "Send str",
    ),
    ({(1, 2): 3}, "the value has a key that is a tuple ((1, 2)); JSON keys are text", "Send str"),
    (
        {"args": [1, {"items": [0, 1, 2, MOMENT]}]},
        f'args[1]["items"][3] is a datetime (2026-01-02 03:04:05); {JSON}',
        "Send text: value.isoformat().",
    ),
    (MOMENT.date(), f"the value is a date (2026-01-02); {JSON}", "Send text: value.isoformat()."),
    (
        datetime.timedelta(1),
        f"the value is a timedelta (1 day, 0:00:00); {JSON}",
        "Send a number of seconds: value.total_seconds().",
    ),
    (
        uuid.UUID(int=1),
        f"the value is a UUID (00000000-0000-0000-0000-000000000001); {JSON}",
        "Send text: str(value).",
    ),
    (decimal.Decimal("1.5"), f"the value is a Decimal (1.5); {JSON}", "Send text: str(value)."),
    (
        pathlib.PurePosixPath("/a"),
        f"the value is a PurePosixPath (/a); {JSON}",
        "Send text: str(value).",
    ),
    (1j, f"the value is a complex (1j); {JSON}", "Send text: str(value)."),
    (
        b"x",
        f"the value is a bytes (b'x'); {JSON}",
        'Send text: base64.b64encode(value).decode(), or value.decode("utf-8").',
    ),
    ({1}, f"the value is a set ({{1}}); {JSON}", "Send a list: list(value)."),
    (deque([1]), f"the value is a deque (deque([1])); {JSON}", "Send a list: list(value)."),
    (range(3), f"the value is a range (range(0, 3)); {JSON}", "Send a list: list(value)."),
    ({}.keys(), f"the value is a dict_keys (dict_keys([])); {JSON}", "Send a list: list(value)."),
    (
        Item("x"),
        f"the value is an Item (Item(name='x')); {JSON}",
        "Send a dict: dataclasses.asdict(value).",
    ),
    (MappingProxyType({}), f"the value is a mappingproxy ({{}}); {JSON}", PLAIN),
    (UserDict(a=1), f"the value is a UserDict ({{'a': 1}}); {JSON}", PLAIN),
    (Rude(), f"the value is a Rude (which cannot be shown); {JSON}", PLAIN),
    ({"a": Proxy("text")}, f"a is a Proxy (a proxy); {JSON}", PLAIN),
    ([Proxy(1)], f"[0] is a Proxy (which cannot be shown); {JSON}", PLAIN),
    (Proxy({}), f"the value is a Proxy (a proxy); {JSON}", PLAIN),
    ({"a b": [set()]}, f"['a b'][0] is a set (set()); {JSON}", "Send a list: list(value)."),
    ({"x" * 99: set()}, f"{'x' * 60}... is a set (set()); {JSON}", "Send a list: list(value)."),
    ({"s": {"y" * 99}}, f"s is a set ({{'{'y' * 58}...); {JSON}", "Send a list: list(value)."),
]


@pytest.mark.parametrize("value", GOOD, ids=range(len(GOOD)))
def test_a_value_is_encoded_like_in_the_standard_library(proto: ModuleType, value: object) -> None:
    assert proto.dump_json(value) == standard(value)


def test_plain_values_do_not_use_the_slow_reference(
    proto: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    if FREE_THREADED and proto is _proto_py:
        pytest.skip("without a GIL the standard encoder is not used")
    monkeypatch.delattr("faktory._json.write")
    deep: object = []
    for _ in range(511):
        deep = [deep]
    for value in [*GOOD, deep]:
        proto.dump_json(value)


@pytest.mark.parametrize(("value", "data"), SUBCLASSES, ids=range(len(SUBCLASSES)))
def test_a_subclass_is_encoded_as_its_base(proto: ModuleType, value: object, data: bytes) -> None:
    assert proto.dump_json(value) == data
    assert proto.dump_json([1, value, {"k": value}]) == b'[1,%b,{"k":%b}]' % (data, data)


@pytest.mark.parametrize(("value", "fault", "remedy"), BAD, ids=range(len(BAD)))
def test_a_value_that_would_change_is_rejected_with_place_and_remedy(
    proto: ModuleType, value: object, fault: str, remedy: str
) -> None:
    with pytest.raises(FaktoryPayloadError) as caught:
        proto.dump_json(value)
    assert str(caught.value).startswith(f"{fault}. {remedy}")
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ValueError)


class Generic:
    """As numpy's scalars are, by their names and methods."""

    def __init__(self, value: object) -> None:
        self.value = value

    def item(self) -> object:
        return self.value

    def __bool__(self) -> bool:
        return bool(self.value)

    def __str__(self) -> str:
        return str(self.value)


def scalar(name: str, value: object) -> object:
    generic = type("generic", (Generic,), {})
    return type(name, (generic,), {})(value)


class Model2:
    def model_dump(self, mode: str) -> object:
        return {"at": MOMENT if mode == "python" else MOMENT.isoformat()}


class Model1:
    __fields__: Mapping[str, object] = {}

    def json(self) -> str:
        return '{"at": "2026"}'


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        (scalar("bool_", True), "Send a boolean: bool(value)."),
        (scalar("bool", False), "Send a boolean: bool(value)."),
        (scalar("float32", 1.5), "Send a plain number: value.item()."),
        (scalar("datetime64", MOMENT), "Send text: str(value)."),
        (scalar("timedelta64", datetime.timedelta(1)), "Send text: str(value)."),
        (Model2(), 'Send a dict: value.model_dump(mode="json").'),
        (Model1(), "Send a dict: json.loads(value.json())."),
        (ipaddress.ip_address("10.0.0.1"), "Send text: str(value)."),
        (ipaddress.ip_address("::1"), "Send text: str(value)."),
        (ipaddress.ip_network("10.0.0.0/8"), "Send text: str(value)."),
        (ipaddress.ip_interface("10.0.0.1/8"), "Send text: str(value)."),
        (datetime.timezone.utc, "Send text: str(value)."),  # noqa: UP017
        (decimal.Decimal("1.5"), "Send text: str(value)."),
        (2**60, "Send text: str(value)."),
        (MOMENT, "Send text: value.isoformat()."),
        (datetime.timedelta(1), "Send a number of seconds: value.total_seconds()."),
        (Item("x"), "Send a dict: dataclasses.asdict(value)."),
        ({1}, "Send a list: list(value)."),
    ],
)
def test_a_remedy_is_accepted_when_it_is_followed(
    proto: ModuleType, value: object, remedy: str
) -> None:
    with pytest.raises(FaktoryPayloadError) as caught:
        proto.dump_json(value)
    assert str(caught.value).endswith(f". {remedy}")
    names = {"value": value, "json": json, "dataclasses": dataclasses}
    proto.dump_json(eval(remedy.partition(": ")[2].rstrip("."), names))


def test_a_coroutine_and_a_generator_are_rejected(proto: ModuleType) -> None:
    async def later() -> None: ...

    coroutine = later()
    with pytest.raises(FaktoryPayloadError, match="Await it first"):
        proto.dump_json(coroutine)
    coroutine.close()
    with pytest.raises(FaktoryPayloadError, match="Send a list"):
        proto.dump_json(n for n in range(3))


def test_every_ascii_character_is_right_at_every_place_of_a_text(proto: ModuleType) -> None:
    for code in range(0x80):
        for size in range(1, 36):
            for text in (chr(code) + "a" * (size - 1), "a" * (size - 1) + chr(code)):
                assert proto.dump_json(text) == standard(text)
                assert proto.dump_json({text: size}) == standard({text: size})


def test_two_stops_are_right_at_every_place(proto: ModuleType) -> None:
    for size in range(2, 36):
        for first in range(size):
            for second in range(size):
                characters = ["é" if size % 3 == 0 else "x"] * size
                characters[first], characters[second] = '"', "\x1f"
                text = "".join(characters)
                assert proto.dump_json(text) == standard(text)
                assert proto.load_json(standard(text)) == text


@pytest.mark.parametrize("around", [64, 2048, 4096, 8192, 65536])
def test_the_output_is_right_around_every_size_at_which_its_buffer_grows(
    proto: ModuleType, around: int
) -> None:
    for size in range(around - 80, around + 20):
        pad = "x" * size
        for value in (
            [pad],
            {pad: 1},
            [pad, 2**53, -1.5e-300, "é", '"', True, None],
            [pad, [[[[[[[]]]]]]], {"a": {"b": {}}}],
            [pad, "\x00" * 20],
            [pad, Whole(3)],
            {pad: [pad, pad]},
        ):
            assert proto.dump_json(value) == standard(value)


def test_many_small_values_are_right_while_the_output_grows(proto: ModuleType) -> None:
    for count in (1, 10, 100, 1000, 10_000, 100_000):
        assert proto.dump_json([1] * count) == b"[" + b",".join([b"1"] * count) + b"]"
        assert proto.dump_json([""] * count) == b"[" + b",".join([b'""'] * count) + b"]"
        assert proto.dump_json([[]] * count) == b"[" + b",".join([b"[]"] * count) + b"]"


def test_any_double_is_encoded_like_its_repr(
    proto: ModuleType, for_all: Callable[..., None]
) -> None:
    def check(bits: int) -> None:
        (number,) = struct.unpack("<d", struct.pack("<Q", bits))
        if number - number == 0:
            data = proto.dump_json(number)
            assert data == float.__repr__(number).encode()
            assert struct.pack("<d", proto.load_json(data)) == struct.pack("<Q", bits)

    for_all(st.integers(0, 2**64 - 1), check)


def test_a_decimal_is_decoded_as_the_nearest_double(
    proto: ModuleType, for_all: Callable[..., None]
) -> None:
    def check(digits: int, places: int, exponent: int | None) -> None:
        whole = str(digits).rjust(places + 1, "0")
        text = f"{whole[: len(whole) - places]}.{whole[len(whole) - places :]}0"
        text += "" if exponent is None else f"e{exponent}"
        for spelling in (text, f"-{text}"):
            number = float(spelling)
            if number - number == 0:
                (read,) = proto.load_json(f"[{spelling}]".encode())
                assert struct.pack("<d", read) == struct.pack("<d", number)
                assert proto.dump_json(number) == float.__repr__(number).encode()

    exponents = st.none() | st.integers(-30, 30) | st.integers(-350, 310)
    for_all(st.integers(0, 10**12) | st.integers(0, 10**20), st.integers(0, 25), exponents, check)


@pytest.mark.parametrize("kind", [list, tuple, dict, Row, OrderedDict])
def test_containers_can_be_nested_up_to_the_limit(proto: ModuleType, kind: type) -> None:
    def nest(levels: int) -> object:
        value: object = kind()
        for _ in range(levels - 1):
            value = kind([value]) if not issubclass(kind, dict) else kind({"k": value})
        return value

    opening, closing = (b'{"k":', b"}") if issubclass(kind, dict) else (b"[", b"]")
    innermost = b"{}" if issubclass(kind, dict) else b"[]"
    assert proto.dump_json(nest(512)) == opening * 511 + innermost + closing * 511
    place = 'k["k"]["k"]' if issubclass(kind, dict) else "[0][0][0]"
    for levels in (513, 600, 5_000):
        with pytest.raises(FaktoryPayloadError) as caught:
            proto.dump_json(nest(levels))
        assert str(caught.value) == (
            f"{place} is nested deeper than 512 levels, or contains itself. Send a flatter value."
        )


def test_a_container_that_contains_itself_is_rejected(proto: ModuleType) -> None:
    circle: list[object] = []
    circle.append(circle)
    ring: dict[str, object] = {}
    ring["a"] = {"b": [ring]}
    for value in (circle, ring, [1, circle], {"x": ring}):
        with pytest.raises(FaktoryPayloadError, match="contains itself"):
            proto.dump_json(value)


def test_a_shared_container_is_encoded_each_time(proto: ModuleType) -> None:
    shared = [1]
    assert proto.dump_json([shared, shared, {"a": shared}]) == b'[[1],[1],{"a":[1]}]'


@pytest.mark.parametrize("more", [25, 100_000])
def test_the_recursion_limit_does_not_matter(
    proto: ModuleType, recursion_limit: Callable[[int], AbstractContextManager[None]], more: int
) -> None:
    deep: object = []
    for _ in range(511):
        deep = [deep]
    deeper: object = [deep]
    for _ in range(100_000):
        deeper = (deeper,)
    with recursion_limit(more):
        data = proto.dump_json(deep)
        mixed = proto.dump_json([Row([1]), {"a": (Text("x"),)}])
        try:
            proto.dump_json(deeper)
        except FaktoryPayloadError as error:
            message = str(error)
    assert data == b"[" * 512 + b"]" * 512
    assert mixed == b'[[1],{"a":["x"]}]'
    assert "nested deeper than 512 levels" in message


def test_threads_with_a_small_stack_encode_deep_values(proto: ModuleType) -> None:
    deep: object = "x"
    for _ in range(256):
        deep = {"k": [deep]}
    results: list[bytes] = []
    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=lambda: results.append(proto.dump_json(deep)))
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert results == [b'{"k":[' * 256 + b'"x"' + b"]}" * 256]


@pytest.mark.parametrize("extra", [{}, {"slow": Text("way")}], ids=["plain", "with a subclass"])
def test_a_value_that_another_thread_changes_gives_json_or_an_error(
    proto: ModuleType, extra: dict[str, object]
) -> None:
    shared: dict[str, Any] = {"list": [], "dict": {}, **extra}
    stop = threading.Event()

    def change() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            shared[f"key{n % 50}"] = [n] * (n % 7)
            shared.pop(f"key{(n * 7) % 50}", None)
            shared["list"].append(str(n) * (n % 5))
            if n % 13 == 0:
                shared["list"].clear()
                shared["list"] = []
            shared["dict"][n % 97] = n  # sometimes a key that is not text
            shared["dict"] = {str(n): {"deep": [n]}}

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=change)
    thread.start()
    try:
        written = 0
        deadline = time.monotonic() + 0.5
        while written == 0 or time.monotonic() < deadline:
            # The interpreter can also raise one: dictionary changed size during iteration.
            with suppress(FaktoryPayloadError, RuntimeError):
                value = json.loads(proto.dump_json(shared))
                assert value.keys() >= {"list", "dict"}
                assert all(type(item) is str for item in value["list"])
                written += 1
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)


def test_a_class_that_changes_its_containers_during_encoding_does_not_crash(
    proto: ModuleType,
) -> None:
    class Vandal(dict[str, object]):
        def items(self) -> Any:
            around.clear()
            outer.clear()
            return [("a", 1)]

    for _ in range(50):
        around: list[object] = [[1, 2, 3], Vandal(), "x" * 100, [4]]
        outer = {"a": around, "b": "y" * 100}
        with suppress(FaktoryPayloadError, RuntimeError):
            json.loads(proto.dump_json(outer))


def test_an_error_of_a_class_is_raised_unchanged(proto: ModuleType) -> None:
    class Broken(dict[str, object]):
        def items(self) -> Any:
            raise KeyError("mine")

    for value in (Broken(), [1, "x" * 5000, Broken()]):
        with pytest.raises(KeyError, match="mine"):
            proto.dump_json(value)


def test_encoding_leaks_no_memory(
    proto: ModuleType, leaks: Callable[[Callable[[], object]], bool]
) -> None:
    values = [value for value in GOOD if len(str(value)) < 10_000]
    values += [value for value, _ in SUBCLASSES]
    assert not leaks(lambda: [proto.dump_json(value) for value in values])


def test_rejecting_leaks_no_memory(
    proto: ModuleType, leaks: Callable[[Callable[[], object]], bool]
) -> None:
    values = [value for value, _, _ in BAD]
    values += [["é" * 3000, "x" * 3000, value] for value, _, _ in BAD]

    def write() -> None:
        for value in values:
            with suppress(FaktoryPayloadError):
                proto.dump_json(value)

    assert not leaks(write)


def test_encoding_keeps_no_references_to_the_value(proto: ModuleType) -> None:
    items: list[object] = [Text("t"), "é€" * 9, 1e300, 2**50, [], {}, ("t",)]
    before = [sys.getrefcount(item) for item in items]
    for _ in range(100):
        proto.dump_json(items)
        with suppress(FaktoryPayloadError):
            proto.dump_json([items, object()])
    assert [sys.getrefcount(item) for item in items] == before

"""Compare the two implementations: the same input gives the same output.

Compared are values and their types, exception types and messages, bytes consumed, the size of
views, and the behaviour of a parser afterwards.
"""

from __future__ import annotations

import inspect
import json
import random
import struct
from collections import OrderedDict
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import strategies as st

Twins = tuple[ModuleType, ModuleType]
Outcome = Callable[..., tuple[str, ...]]
ForAll = Callable[..., None]


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Real(float):
    pass


class Row(list[Any]):
    pass


PIECES = [
    *(b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b"\\u", b"\\ud83d\\ude00", b"\\ud800"),
    *(b"\\n", b"\\/", b"\\u003c", b"null", b"true", b"false", b"NaN", b"-Infinity", b"0", b"-"),
    *(b"-0", b"0.0", b"1", b"12", b"1.5", b"1e5", b"1E400", b".", b"e", b"E+", b"9" * 19),
    *(b"7" * 40, b"0123456789.0123456789", b" ", b"\t\r\n", b"\x00", b"\x1f", b"\x7f", b"\xff"),
    *(b"\xc3\xa9", b"\xc3", b"\xed\xa0\x80", b"\xe2\x82\xac", b"\xf0\x9f\x98\x80", b"\xc0\xaf"),
    *(b'"a"', b'"jid":', b'"a":1', b"[1,2]", b'{"a":[]}', b'"' + b"x" * 30 + b'"', b"[" * 600),
]


class Maker(random.Random):
    """Makes input for the core: mostly valid, often at the limits."""

    def text(self) -> str:
        characters = self.choice(["ab", 'ab"\\\n\x00\x1f\x7f <', "aé€😀\uffff", 'a\ud800\udc00"é'])
        size = self.choice([0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 20, 31, 33, 60])
        return "".join(self.choices("xyz" * self.randrange(30) + characters, k=size))

    def key(self) -> str:
        names = ["jid", "args", "jobtype", "queue", "a_key_of_17_bytes"]
        return self.choice(names) if self.random() < 0.7 else self.text()

    def integer(self) -> int:
        edges = [2**53, 2**53 + 1, 2**31, 2**32, 2**63, 2**64, 10**30, 10**15]
        near = self.choice(edges) if self.random() < 0.1 else 10 ** self.randrange(17)
        return self.choice([1, -1]) * self.choice([near, near - 1, self.randrange(near + 1)])

    def real(self) -> float:
        return self.choice(
            [
                struct.unpack("<d", self.randbytes(8))[0],
                self.randrange(-(10**6), 10**6) / self.choice([1, 10, 100, 1000, 7]),
                self.choice([0.0, -0.0, 1e15, 1e16, 1e-4, 1e-5, 5e-324, 1e22, 1e23]),
                self.random(),
            ]
        )

    def leaf(self) -> Any:
        made = self.choice([self.text, self.text, self.integer, self.real, self.key])()
        return self.choice([made, made, made, None, True, False])

    def value(self, depth: int = 3) -> Any:
        if depth == 0 or self.random() < 0.4:
            return self.leaf()
        if self.random() < 0.5:
            return {self.key(): self.value(depth - 1) for _ in range(self.randrange(6))}
        items = [self.value(depth - 1) for _ in range(self.randrange(6))]
        return items if self.random() < 0.7 else tuple(items)

    def strange(self, depth: int = 3) -> Any:
        """Make a value with a part that is irregular or rejected."""
        if depth == 0 or self.random() < 0.2:
            bases = [(str, Text), (bool, bool), (int, Whole), (float, Real), (list, Row)]
            leaf = self.leaf() if self.random() < 0.8 else self.choice([[1], b"bytes", {1}, 1j])
            return next((kind(leaf) for base, kind in bases if isinstance(leaf, base)), leaf)
        if self.random() < 0.5:
            key = self.choice([Text(self.text()), self.text(), self.integer(), None])
            made = {self.key(): self.value(1), key: self.strange(depth - 1), self.key(): 1}
            return OrderedDict(made) if self.random() < 0.3 else made
        return self.choice([list, tuple, Row])([self.value(1), self.strange(depth - 1)])

    def any(self) -> Any:
        return self.value() if self.random() < 0.6 else self.strange()

    def job(self) -> Any:
        return {self.key(): self.any() for _ in range(self.randrange(5))}

    def json(self) -> bytes:
        """Make JSON like other encoders, perhaps damaged, or text that only resembles JSON."""
        if self.random() < 0.2:
            return b"".join(self.choices(PIECES, k=self.randrange(12)))
        indent = 1 if self.random() < 0.2 else None
        text = json.dumps(self.value(), ensure_ascii=self.random() < 0.5, indent=indent)
        return self.damaged(text.encode("utf-8", "surrogatepass"), self.choice([0, 0, 1, 2]))

    def damaged(self, data: bytes, times: int) -> bytes:
        for _ in range(times):
            start = self.randrange(len(data) + 1)
            end = start + self.randrange(3)
            piece = self.choice([*PIECES, b"", self.randbytes(1), self.randbytes(1)])
            data = data[:start] + piece + data[end:]
        return data

    def reply(self) -> bytes:
        kind = self.choice("$$$$+-:x")
        if kind == "$":
            body = self.json()
            return b"$%d\r\n%b\r\n" % (len(body) + self.choice([0] * 20 + [1, -1]), body)
        if kind == ":":
            return b":%d\r\n" % self.integer()
        if kind == "x":
            return self.choice([b"$-1\r\n", b"$-2\r\n", b"$0\r\n\r\n", b"\r\n", self.randbytes(4)])
        text = self.choice([self.text(), "OK", "ERR no", "NOTUNIQUE x"])
        return f"{kind}{text}\r\n".encode("utf-8", "replace")

    def stream(self) -> list[bytes]:
        """Make a sequence of replies, perhaps damaged, split anywhere."""
        data = b"".join(self.reply() for _ in range(self.randrange(1, 6)))
        data = self.damaged(data, self.choice([0, 0, 0, 1]))
        cuts = sorted(self.randrange(len(data) + 1) for _ in range(self.randrange(6)))
        return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


# Drawing each part from hypothesis takes twenty times as long.
MAKERS = st.integers(0, 2**64 - 1).map(Maker)


def same(twins: Twins, outcome: Outcome, name: str, *args: object, **named: object) -> None:
    python, compiled = (outcome(getattr(core, name), *args, **named) for core in twins)
    assert compiled == python


def test_any_value_is_encoded_or_rejected_the_same(
    twins: Twins, outcome: Outcome, for_all: ForAll
) -> None:
    for_all(MAKERS, lambda make: same(twins, outcome, "dump_json", make.any()))


def test_values_from_hypothesis_are_encoded_and_decoded_the_same(
    twins: Twins, outcome: Outcome, for_all: ForAll
) -> None:
    def check(value: object) -> None:
        same(twins, outcome, "dump_json", value)
        data = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
        same(twins, outcome, "load_json", data)

    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters())
    values = st.recursive(
        leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
    )
    for_all(values, check)


def test_any_bytes_are_decoded_or_rejected_the_same(
    twins: Twins, outcome: Outcome, for_all: ForAll
) -> None:
    def check(make: Maker, garbage: bytes) -> None:
        container = make.choice([bytes, bytearray, memoryview])
        same(twins, outcome, "load_json", container(make.json()))
        same(twins, outcome, "load_json", container(garbage))

    for_all(MAKERS, st.binary(max_size=20), check)


def test_values_are_decoded_like_in_the_standard_library(
    twins: Twins, outcome: Outcome, for_all: ForAll
) -> None:
    def finite(text: str) -> float:
        number = float(text)
        if number - number != 0:
            raise ValueError(text)
        return number

    def refuse(name: str) -> None:
        raise ValueError(name)

    def check(make: Maker) -> None:
        data = make.json()
        try:
            text = data.decode()
            expected = outcome(json.loads, text, parse_float=finite, parse_constant=refuse)
        except UnicodeDecodeError:
            expected = ("error",)
        for core in twins:
            result = outcome(core.load_json, data)
            too_deep = b"[" * 513 in data and "nested deeper" in result[2]
            if expected[0] == "error" or too_deep:
                assert result[:2] == ("error", "FaktoryJSONError")
            else:
                assert result == expected

    for_all(MAKERS, check)


def test_any_stream_split_anywhere_is_parsed_or_rejected_the_same(
    twins: Twins, outcome: Outcome, for_all: ForAll
) -> None:
    def run(
        core: ModuleType,
        pieces: list[bytes],
        limits: tuple[int, ...],
        calls: list[str],
        by_view: bool,
    ) -> list[tuple[str, ...]]:
        parser = core.ReplyParser(*limits)
        seen = []
        for piece in pieces:
            if not by_view:
                seen.append(outcome(parser.feed, piece))
            else:
                seen.append(outcome(lambda size: len(parser.get_buffer(size)), len(piece)))
                if seen[-1][0] == "value":
                    parser.get_buffer(len(piece))[: len(piece)] = piece
                    seen.append(outcome(parser.buffer_updated, len(piece)))
            seen += [outcome(getattr(parser, call)) for call in calls]
        return seen

    def check(make: Maker) -> None:
        pieces = make.stream()
        limits = make.choice([(), (), (), (30,), (30, 5), (0, 0)])
        calls = make.choices(["next", "next_json", "next_json"], k=make.randrange(1, 7))
        by_view = make.random() < 0.5
        python, compiled = (run(core, pieces, limits, calls, by_view) for core in twins)
        assert compiled == python

    for_all(MAKERS, check)


def test_random_bytes_are_parsed_or_rejected_the_same(
    twins: Twins, outcome: Outcome, for_all: ForAll
) -> None:
    def check(make: Maker, garbage: bytes) -> None:
        parsers = [core.ReplyParser() for core in twins]
        alphabet = b"+-:$0123456789\r\n\r\n\r\n\r\n x"
        pieces = [bytes(make.choices(alphabet, k=make.randrange(12))) for _ in range(6)]
        for piece in [*pieces, garbage]:
            for call in (
                lambda parser, data=piece: parser.feed(data),
                lambda parser: parser.next(),
            ):
                python, compiled = (outcome(call, parser) for parser in parsers)
                assert compiled == python

    for_all(MAKERS, st.binary(max_size=10), check)


def test_large_replies_use_buffers_of_the_same_size(twins: Twins, outcome: Outcome) -> None:
    parsers = [core.ReplyParser() for core in twins]
    sizes = [0, 1, 100, 65_000, 65_536, 65_537, 131_072, 500_000, 1_048_576, 2_000_000]
    for index, size in enumerate(sizes * 3):
        wire = b"$%d\r\n%b\r\n+ends\r\n" % (size, bytes([index]) * size)
        half = len(wire) * (index % 5) // 4
        for piece in (wire[:half], wire[half:]):
            for call in (
                lambda parser: len(parser.get_buffer()),
                lambda parser: len(parser.get_buffer(100_000)),
                lambda parser, data=piece: parser.feed(data),
                lambda parser: parser.next(),
                lambda parser, often=index % 2: parser.next() if often else None,
                lambda parser: len(parser.get_buffer(-1)),
            ):
                python, compiled = (outcome(call, parser) for parser in parsers)
                assert compiled == python


def test_any_words_are_accepted_or_rejected_the_same(
    twins: Twins, outcome: Outcome, for_all: ForAll
) -> None:
    def check(make: Maker, text: str) -> None:
        verb = make.choice(["FETCH", "MUTATE", make.text(), text])
        others = [text, make.text(), Text(text), "ACK", 1, None]
        words = make.choices(others, k=make.randrange(4))
        same(twins, outcome, "encode_command", verb, *words)
        same(twins, outcome, "encode_command", verb, *words, json=make.any())
        same(twins, outcome, "encode_command", "MUTATE", json=make.any())

    for_all(MAKERS, st.text(max_size=8), check)


def test_any_jobs_are_accepted_or_rejected_the_same(
    twins: Twins, outcome: Outcome, for_all: ForAll
) -> None:
    def check(make: Maker) -> None:
        jobs = [make.job() if make.random() < 0.9 else make.any() for _ in range(make.randrange(5))]
        same(twins, outcome, "encode_push_bulk", jobs)
        for job in jobs:
            same(twins, outcome, "encode_push", job)

    for_all(MAKERS, check)


def test_any_rows_are_accepted_or_rejected_the_same(
    twins: Twins, outcome: Outcome, for_all: ForAll
) -> None:
    def bulk(core: ModuleType, jobtype: str, options: dict[str, Any], rows: list[Any]) -> bytes:
        line, jids = core.JobTemplate(jobtype, options).encode_bulk(rows)
        for number, jid in enumerate(jids):
            assert line.count(jid.encode()) == 1
            line = line.replace(jid.encode(), b"%d" % number)
        return bytes(line)

    def check(make: Maker) -> None:
        options = make.choice([{}, {make.key(): make.value() for _ in range(2)}, make.job()])
        rows = [make.choice([list, tuple, Row])([make.any()]) for _ in range(make.randrange(4))]
        if make.random() < 0.1:
            rows.append(make.any())
        name = make.text()
        python, compiled = (outcome(bulk, core, name, options, rows) for core in twins)
        assert compiled == python

    for_all(MAKERS, check)


def public(core: ModuleType) -> dict[str, Any]:
    """Return the public names that a module defines, and the methods of its classes."""
    own = {
        name: value
        for name, value in vars(core).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == core.__name__
    }
    return own | {
        f"{name}.{method}": getattr(value, method)
        for name, value in own.items()
        if inspect.isclass(value)
        for method in vars(value)
        if not method.startswith("_")
    }


def test_names_and_docstrings_are_the_same(twins: Twins) -> None:
    python, compiled = (
        {name: inspect.getdoc(value) for name, value in public(core).items()} for core in twins
    )
    assert compiled == python
    assert all(type(text) is str for text in python.values())


@pytest.mark.parametrize("name", ["MAX_BULK", "MAX_LINE"])
def test_limits_are_the_same(twins: Twins, name: str) -> None:
    python, compiled = twins
    assert getattr(compiled, name) == getattr(python, name)


def test_the_limits_of_the_compiled_twin_are_those_of_the_reference(twins: Twins) -> None:
    from faktory import _json

    _, compiled = twins
    deep = b"[" * _json.MAX_DEPTH + b"]" * _json.MAX_DEPTH
    assert compiled.dump_json(compiled.load_json(deep)) == deep
    assert compiled.dump_json([_json.MAX_INTEGER, -_json.MAX_INTEGER])

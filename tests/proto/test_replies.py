"""Replies from a byte stream: complete, split anywhere, broken, and above the limits."""

from __future__ import annotations

import array
import gc
import sys
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest

from faktory.exceptions import (
    FaktoryEnterpriseRequired,
    FaktoryJSONError,
    FaktoryNotUnique,
    FaktoryProtocolError,
    FaktoryServerError,
)

REPLIES = [
    (b"+OK\r\n", "OK"),
    (b"+\r\n", ""),
    (b'+HI {"v":2}\r\n', 'HI {"v":2}'),
    ("+grüße 😀\r\n".encode(), "grüße 😀"),
    (b"$0\r\n\r\n", b""),
    (b"$5\r\nhello\r\n", b"hello"),
    (b"$4\r\n\r\n\r\n\r\n", b"\r\n\r\n"),
    (b"$00012\r\n$1\r\n+OK\r\n-E\r\r\n", b"$1\r\n+OK\r\n-E\r"),
    (b"$-1\r\n", None),
    (b"$-0\r\n\r\n", b""),
    (b":0\r\n", 0),
    (b":-0\r\n", 0),
    (b":42\r\n", 42),
    (b":-42\r\n", -42),
    (b":9223372036854775807\r\n", 2**63 - 1),
    (b":-9223372036854775807\r\n", -(2**63) + 1),
    (b":0000000000000000007\r\n", 7),
]

BROKEN = [  # the bytes before the first wrong byte, that byte, the error
    (b"", b"x", "a reply begins with +, -, : or $, not with b'x'"),
    (b"", b"\n", "a reply begins with +, -, : or $, not with b'\\n'"),
    (b"", b"*", "a reply begins with +, -, : or $, not with b'*'"),
    (b"", b"\x00", "a reply begins with +, -, : or $, not with b'\\x00'"),
    (b"", b"\xff", "a reply begins with +, -, : or $, not with b'\\xff'"),
    (b"+OK", b"\n", "a line ends with \\r\\n, not with b'\\n'"),
    (b"+OK\r", b"x", "a line ends with \\r\\n, not with b'x'"),
    (b"+OK\r", b"\r", "a line ends with \\r\\n, not with b'\\r'"),
    (b"-ERR x\r", b"\x00", "a line ends with \\r\\n, not with b'\\x00'"),
    (b"$", b"\r", "the length of a bulk reply ends with \\r\\n after its digits, not with b'\\r'"),
    (b"$", b"x", "the length of a bulk reply ends with \\r\\n after its digits, not with b'x'"),
    (b"$", b"+", "the length of a bulk reply ends with \\r\\n after its digits, not with b'+'"),
    (b"$1", b"_", "the length of a bulk reply ends with \\r\\n after its digits, not with b'_'"),
    (b"$1", b" ", "the length of a bulk reply ends with \\r\\n after its digits, not with b' '"),
    (b"$1", b"\n", "the length of a bulk reply ends with \\r\\n after its digits, not with b'\\n'"),
    (b"$-", b"-", "the length of a bulk reply ends with \\r\\n after its digits, not with b'-'"),
    (
        b"$",
        b"\xd9",
        "the length of a bulk reply ends with \\r\\n after its digits, not with b'\\xd9'",
    ),
    (b"$5\r", b"h", "the length of a bulk reply ends with \\r\\n, not with b'h'"),
    (b"$-2\r", b"\n", "the length of a bulk reply is -2"),
    (b"$5\r\nhello", b"!", "a bulk reply ends with \\r\\n, not with b'!'"),
    (b"$5\r\nhello\r", b"\r", "a bulk reply ends with \\r\\n, not with b'\\r'"),
    (b"$0\r\n", b"x", "a bulk reply ends with \\r\\n, not with b'x'"),
    (b"$-1\r", b"x", "the length of a bulk reply ends with \\r\\n, not with b'x'"),
    (b":", b"x", "an integer ends with \\r\\n after its digits, not with b'x'"),
    (b":-", b"\r", "an integer ends with \\r\\n after its digits, not with b'\\r'"),
    (b":1", b".", "an integer ends with \\r\\n after its digits, not with b'.'"),
    (b":1\r", b"1", "an integer ends with \\r\\n, not with b'1'"),
    (
        b":922337203685477580",
        b"8",
        "an integer is 9223372036854775808 or more, above the limit of 9223372036854775807",
    ),
    (
        b":0000000000000000000",
        b"7",
        "an integer is 7 or more, above the limit of 9223372036854775807",
    ),
    (
        b":9223372036854775807",
        b"7",
        "an integer is 92233720368547758077 or more, above the limit of 9223372036854775807",
    ),
    (
        b"$53687091",
        b"3",
        "the length of a bulk reply is 536870913 or more, above the limit of 536870912",
    ),
    (
        b"$-53687091",
        b"3",
        "the length of a bulk reply is 536870913 or more, above the limit of 536870912",
    ),
]


def by_feed(parser: Any, data: bytes) -> None:
    parser.feed(data)


def by_buffer(parser: Any, data: bytes) -> None:
    view = parser.get_buffer(len(data))
    view[: len(data)] = data
    parser.buffer_updated(len(data))


@pytest.fixture(params=[by_feed, by_buffer])
def give(request: pytest.FixtureRequest) -> Callable[[Any, bytes], None]:
    """Return one of the two ways to pass bytes to a parser."""
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize(("wire", "value"), REPLIES)
def test_a_reply_is_returned_as_its_value(proto: ModuleType, wire: bytes, value: object) -> None:
    parser = proto.ReplyParser()
    parser.feed(wire)
    reply = parser.next()
    assert reply == value
    assert type(reply) is type(value)
    assert parser.next() is proto.NEED_DATA


@pytest.mark.parametrize(("wire", "value"), REPLIES)
def test_a_reply_is_returned_once_its_last_byte_has_arrived(
    proto: ModuleType, give: Callable[[Any, bytes], None], wire: bytes, value: object
) -> None:
    parser = proto.ReplyParser()
    for position in range(len(wire)):
        assert parser.next() is proto.NEED_DATA
        assert parser.next_json() is proto.NEED_DATA
        give(parser, wire[position : position + 1])
    assert parser.next() == value
    assert parser.next() is proto.NEED_DATA


def test_replies_that_arrive_together_are_returned_one_by_one(
    proto: ModuleType, give: Callable[[Any, bytes], None]
) -> None:
    parser = proto.ReplyParser()
    give(parser, b"".join(wire for wire, _ in REPLIES) + b"+half")
    assert [parser.next() for _ in REPLIES] == [value for _, value in REPLIES]
    assert parser.next() is proto.NEED_DATA
    give(parser, b" a line\r\n")
    assert parser.next() == "half a line"


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 65_535, 65_536, 65_537, 1_000_000, 3_000_000])
@pytest.mark.parametrize("piece", [1_000, 65_536, 10_000_000])
def test_a_bulk_reply_of_any_size_survives_the_growth_of_the_buffer(
    proto: ModuleType, give: Callable[[Any, bytes], None], size: int, piece: int
) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    wire = b"+before\r\n$%d\r\n%b\r\n:7\r\n" % (size, body[:size])
    parser = proto.ReplyParser()
    replies = []
    for start in range(0, len(wire), piece):
        give(parser, wire[start : start + piece])
        while (reply := parser.next()) is not proto.NEED_DATA:
            replies.append(reply)
    assert replies == ["before", body[:size], 7]


def test_an_error_reply_is_returned_as_the_most_specific_error(proto: ModuleType) -> None:
    parser = proto.ReplyParser()
    parser.feed(
        b"-ERR unknown command\r\n-NOTUNIQUE Job not unique\r\n-SHUTDOWN\r\n-oops it broke\r\n"
    )
    parser.feed(b"-ERR Batches are only available in Faktory Enterprise\r\n-\r\n+OK\r\n")
    errors = [parser.next() for _ in range(6)]
    assert [type(error) for error in errors] == [
        FaktoryServerError,
        FaktoryNotUnique,
        FaktoryServerError,
        FaktoryServerError,
        FaktoryEnterpriseRequired,
        FaktoryServerError,
    ]
    assert [error.code for error in errors[:4]] == ["ERR", "NOTUNIQUE", "SHUTDOWN", "ERR"]
    assert errors[0].message == "unknown command"
    assert parser.next() == "OK"


def test_an_incomplete_character_is_replaced(proto: ModuleType) -> None:
    parser = proto.ReplyParser()
    parser.feed(b"-ERR gr\xc3\r\n+\xff\xfe\r\n")
    assert str(parser.next()) == "ERR gr\ufffd"
    assert parser.next() == "\ufffd\ufffd"


def test_next_json_decodes_bulk_replies_only(proto: ModuleType) -> None:
    parser = proto.ReplyParser()
    parser.feed(b'$7\r\n{"a":1}\r\n$-1\r\n+OK\r\n:3\r\n$4\r\nnull\r\n')
    assert [parser.next_json() for _ in range(5)] == [{"a": 1}, None, "OK", 3, None]
    assert parser.next_json() is proto.NEED_DATA


@pytest.mark.parametrize("body", [b"", b"{", b'{"a":}', b"nul", b"1,", b'"\xff"', b"[" * 600])
def test_broken_json_is_consumed_and_the_parser_stays_usable(
    proto: ModuleType, body: bytes
) -> None:
    parser = proto.ReplyParser()
    parser.feed(b"$%d\r\n%b\r\n+OK\r\n" % (len(body), body))
    with pytest.raises(FaktoryJSONError):
        parser.next_json()
    assert parser.next_json() == "OK"
    assert parser.next_json() is proto.NEED_DATA


@pytest.mark.parametrize(("before", "wrong", "fault"), BROKEN)
def test_the_first_wrong_byte_raises_a_protocol_error(
    proto: ModuleType,
    give: Callable[[Any, bytes], None],
    before: bytes,
    wrong: bytes,
    fault: str,
) -> None:
    parser = proto.ReplyParser()
    give(parser, before)
    assert parser.next() is proto.NEED_DATA
    give(parser, wrong)
    with pytest.raises(FaktoryProtocolError) as caught:
        parser.next()
    assert str(caught.value) == f"the peer does not speak Faktory's protocol: {fault}"


def test_a_parser_that_failed_raises_on_all_further_calls(proto: ModuleType) -> None:
    parser = proto.ReplyParser()
    parser.feed(b"HTTP/1.1 400 Bad Request\r\n+OK\r\n")
    with pytest.raises(FaktoryProtocolError, match="not with b'H'"):
        parser.next()
    for call in (
        parser.next,
        parser.next_json,
        lambda: parser.feed(b"+OK\r\n"),
        lambda: parser.get_buffer(10),
        lambda: parser.buffer_updated(0),
    ):
        with pytest.raises(FaktoryProtocolError, match="not with b'H'"):
            call()


def test_good_replies_before_a_broken_one_are_not_lost(proto: ModuleType) -> None:
    parser = proto.ReplyParser()
    parser.feed(b"+OK\r\n:1\r\n?\r\n")
    assert parser.next() == "OK"
    assert parser.next() == 1
    with pytest.raises(FaktoryProtocolError):
        parser.next()


def test_a_bulk_reply_above_the_limit_is_rejected_before_its_bytes_arrive(
    proto: ModuleType,
) -> None:
    parser = proto.ReplyParser(max_bulk=99)
    parser.feed(b"$99\r\n" + b"x" * 99 + b"\r\n$10")
    assert parser.next() == b"x" * 99
    assert parser.next() is proto.NEED_DATA
    parser.feed(b"0")
    with pytest.raises(FaktoryProtocolError, match="is 100 or more, above the limit of 99"):
        parser.next()


@pytest.mark.parametrize("kind", [b"+", b"-"])
def test_a_line_above_the_limit_is_rejected_before_its_end(proto: ModuleType, kind: bytes) -> None:
    parser = proto.ReplyParser(max_line=10)
    parser.feed(kind + b"x" * 10 + b"\r\n" + kind + b"x" * 10)
    assert str(parser.next()) == "x" * 10
    assert parser.next() is proto.NEED_DATA
    parser.feed(b"x")
    with pytest.raises(FaktoryProtocolError, match="longer than the limit of 10 bytes"):
        parser.next()


def test_a_line_that_arrives_in_many_pieces_is_searched_once(proto: ModuleType) -> None:
    parser = proto.ReplyParser()
    parser.feed(b"+")
    start = time.process_time()
    for _ in range(20_000):
        parser.feed(b"x" * 50)
        assert parser.next() is proto.NEED_DATA
    assert time.process_time() - start < 1  # otherwise it would search 10 GB


def test_unread_bytes_have_a_limit(proto: ModuleType) -> None:
    parser = proto.ReplyParser(max_bulk=1000, max_line=1000)
    for _ in range(67):
        parser.feed(b"+" + b"x" * 997 + b"\r\n")
    parser.feed(b"+" + b"x" * 533 + b"\r\n")
    assert parser.next() == "x" * 997
    parser.feed(b"x" * 1000)
    with pytest.raises(FaktoryProtocolError, match="67537 bytes wait unread, which is too many"):
        parser.feed(b"x")


def test_memory_grows_with_the_received_bytes_not_with_the_announced_length(
    proto: ModuleType,
) -> None:
    parser = proto.ReplyParser()
    tracemalloc.start()
    try:
        parser.feed(b"$536870912\r\n")
        for _ in range(1000):
            assert parser.next() is proto.NEED_DATA
            parser.feed(b"x" * 1000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000


def test_a_large_buffer_is_freed_once_it_is_empty(proto: ModuleType) -> None:
    tracemalloc.start()
    try:
        parser = proto.ReplyParser()
        parser.feed(b"$5000000\r\n")
        parser.feed(b"x" * 5_000_000)
        parser.feed(b"\r\n")
        assert tracemalloc.get_traced_memory()[0] > 5_000_000
        parser.next()
        assert tracemalloc.get_traced_memory()[0] < 200_000
    finally:
        tracemalloc.stop()


def test_a_parser_that_failed_frees_its_buffer(proto: ModuleType) -> None:
    tracemalloc.start()
    try:
        parser = proto.ReplyParser()
        parser.feed(b"x" * 500_000)
        with pytest.raises(FaktoryProtocolError):
            parser.next()
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()


def test_get_buffer_returns_at_least_the_requested_size(proto: ModuleType) -> None:
    parser = proto.ReplyParser()
    assert len(parser.get_buffer()) >= 65_536
    assert len(parser.get_buffer(-1)) >= 65_536
    assert len(parser.get_buffer(1)) >= 65_536
    assert len(parser.get_buffer(300_000)) >= 300_000


def test_buffer_updated_checks_the_count(proto: ModuleType) -> None:
    parser = proto.ReplyParser()
    room = len(parser.get_buffer())
    for count in (-1, room + 1, sys.maxsize):
        with pytest.raises(ValueError, match="do not fit into the view from get_buffer"):
            parser.buffer_updated(count)
    parser.get_buffer()[:5] = b"+OK\r\n"
    parser.buffer_updated(5)
    assert parser.next() == "OK"


def test_an_old_view_stays_readable_while_the_parser_goes_on(proto: ModuleType) -> None:
    parser = proto.ReplyParser()
    view = parser.get_buffer()
    view[:5] = b"$9\r\na"
    parser.buffer_updated(5)
    parser.feed(b"b" * 200_000)
    assert bytes(view[:5]) == b"$9\r\na"
    with pytest.raises(FaktoryProtocolError):
        parser.next()
    assert bytes(view[:5]) == b"$9\r\na"


def test_feed_accepts_any_bytes_like_object(proto: ModuleType) -> None:
    parser = proto.ReplyParser()
    parser.feed(bytearray(b"+a\r\n"))
    parser.feed(memoryview(b"+b\r\n"))
    parser.feed(memoryview(b"+-c-\r-\n-")[::2])
    parser.feed(array.array("H", b"+d\r\n"))
    parser.feed(b"")
    parser.feed(memoryview(bytearray(b"")))
    assert [parser.next() for _ in range(4)] == ["a", "b", "c", "d"]
    for wrong in ("+OK\r\n", None, 1):
        with pytest.raises(TypeError):
            parser.feed(wrong)
    assert parser.next() is proto.NEED_DATA


def test_a_bytearray_can_be_resized_after_feed(proto: ModuleType) -> None:
    data = bytearray(b"+OK\r\n")
    proto.ReplyParser().feed(data)
    data.clear()  # raises BufferError if a view still exists


def test_a_bulk_reply_is_a_separate_copy(proto: ModuleType) -> None:
    parser = proto.ReplyParser()
    parser.feed(b"$3\r\nabc\r\n")
    reply = parser.next()
    parser.feed(b"$3\r\nxyz\r\n")
    assert parser.next() == b"xyz"
    assert reply == b"abc"


class Intruder:
    """Garbage whose finalizer uses a parser."""

    def __init__(self, parser: Any) -> None:
        self.parser = parser
        self.itself = self

    def __del__(self) -> None:
        self.parser.feed(b"+x\r\n" * 20_000)
        self.parser.next()


def test_a_finalizer_that_uses_the_parser_during_decoding_does_not_crash(proto: ModuleType) -> None:
    parser = proto.ReplyParser()
    body = b"[" + b",".join([b'{"a":[{},"text","\\u00e9",1.5]}'] * 2000) + b"]"
    threshold = gc.get_threshold()
    gc.set_threshold(5)
    try:
        for _ in range(20):
            parser.feed(b"$%d\r\n%b\r\n" % (len(body), body))
            Intruder(parser)
            with suppress(FaktoryJSONError):  # its input may be overwritten or consumed
                assert type(parser.next_json()) in (list, str)
            while parser.next() is not proto.NEED_DATA:
                pass
    finally:
        gc.set_threshold(*threshold)


@pytest.mark.parametrize(
    "wire", [b"".join(wire for wire, _ in REPLIES), b"-ERR x\r\n", b"+" * 70_000]
)
def test_reading_replies_leaks_no_memory(
    proto: ModuleType, leaks: Callable[[Callable[[], object]], bool], wire: bytes
) -> None:
    def read() -> None:
        parser = proto.ReplyParser()
        parser.feed(wire)
        while parser.next() is not proto.NEED_DATA:
            pass

    assert not leaks(read)


def test_rejecting_broken_replies_leaks_no_memory(
    proto: ModuleType, leaks: Callable[[Callable[[], object]], bool]
) -> None:
    def read() -> None:
        for before, wrong, _ in BROKEN:
            parser = proto.ReplyParser()
            parser.feed(before + wrong)
            with pytest.raises(FaktoryProtocolError):
                parser.next()

    assert not leaks(read)


def test_broken_json_in_replies_leaks_no_memory(
    proto: ModuleType, leaks: Callable[[Callable[[], object]], bool]
) -> None:
    parser = proto.ReplyParser()

    def read() -> None:
        parser.feed(b'$16\r\n{"a":[1,{"b":2.x\r\n')
        with pytest.raises(FaktoryJSONError):
            parser.next_json()

    assert not leaks(read)

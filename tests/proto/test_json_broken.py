"""What is found in JSON that cannot be read: the jid of a job, to fail it by; lack of memory."""

from __future__ import annotations

import time
from types import ModuleType

import pytest

from faktory import _json
from faktory.exceptions import FaktoryJSONError, FaktoryProtocolError

DEEP = b"[" * 513 + b"]" * 513


@pytest.mark.parametrize(
    ("data", "jid"),
    [
        (b'{"jid":"abc","args":%b}' % DEEP, "abc"),
        (b'{"args":%b,"jid":"abc"}' % DEEP, "abc"),
        (b' \n{ "args" : %b ,\t"jid"\r:\n"abc"' % DEEP, "abc"),
        (b'{"custom":{"jid":"inner"},"args":[{"jid":"inner"}],"jid":"abc",', "abc"),
        (b'{"jid":"first","jid":"second",', "first"),
        (b'{"a":"\\"jid\\":\\"wrong\\"","jid":"abc",', "abc"),
        (b'{"a":"\\\\","jid":"abc",', "abc"),
        (b'{"a":"\\x","jid":"abc"}', "abc"),
        (b'{"jid":"\\u00e9\\n\xc3\xa9",', "é\né"),
        (b'{"a":"jid","jid":"abc",', "abc"),
        (b'{"jid":"",', None),
        (b'{"jid":5,', None),
        (b'{"jid":null,', None),
        (b'{"jid":["abc"],', None),
        (b'{"jid":"\\ud800",', None),
        (b'{"jid":"\\x",', None),
        (b'{"jid":"\xff",', None),
        (b'{"jid":"cut', None),
        (b'{"jid"', None),
        (b'{"jid":', None),
        (b'{"a":"cut,"jid":"abc",', None),
        (b'{"a":{"jid":"abc",', None),
        (b'{"a":1},"jid":"abc"', None),
        (b'[{"jid":"abc"', None),
        (b'"jid":"abc",', None),
        (b'x{"jid":"abc",', None),
        (b"", None),
    ],
)
def test_the_jid_of_a_broken_job_is_found(proto: ModuleType, data: bytes, jid: str | None) -> None:
    with pytest.raises(FaktoryJSONError) as direct:
        proto.load_json(data)
    parser = proto.ReplyParser()
    parser.feed(b"$%d\r\n%b\r\n+OK\r\n" % (len(data), data))
    with pytest.raises(FaktoryJSONError) as framed:
        parser.next_json()
    for error in (direct.value, framed.value):
        assert (error.jid, error.excerpt) == (jid, data[:200])
    assert parser.next() == "OK"


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 5_000_000,
        b'{"a":' + b'""' * 5_000_000,
        b"\\" * 5_000_000,
        b'{"' + b"\\" * 5_000_001,
        b'{"a":[' + b'"\\\\",' * 1_000_000,
        b" " * 5_000_000,
    ],
)
def test_looking_for_a_jid_does_not_take_long(data: bytes) -> None:
    began = time.process_time()
    assert _json.find_jid(data) is None
    assert time.process_time() - began < 10


def test_a_jid_behind_too_much_is_not_looked_for() -> None:
    short, long = (b'{"a":[' + b'"",' * count + b'0],"jid":"abc"}' for count in (1000, 200_000))
    assert _json.find_jid(short) == "abc"
    assert _json.find_jid(long) is None


def test_a_parser_without_memory_for_a_reply_says_so(proto: ModuleType) -> None:
    parser = proto.ReplyParser()
    parser.feed(b'$90000\r\n{"jid":"abc","args":["')
    for _ in range(2):
        with pytest.raises(FaktoryProtocolError, match="job abc needs more memory than there is"):
            parser.get_buffer(2**62)

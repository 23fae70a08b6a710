"""Compare the core with its peers: from a Python job to the bytes of its command, and back.

Each round gets new objects. Times are per task, so a ratio above 1 means that the first way is
faster. A difference below 10 % is a tie, which `make instructions` decides.
"""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any, NamedTuple

import hiredis
import msgspec
import orjson
import pytest
import ujson

from faktory import _proto_py as twin

core = pytest.importorskip("faktory._proto", reason="the compiled core was not built")

ROUNDS = 31

Work = Callable[[Any], object]


def small() -> dict[str, Any]:
    """Make a job of 112 bytes on the wire, like most jobs."""
    number = secrets.randbelow(100_000)
    return {
        "jid": secrets.token_hex(12),
        "jobtype": "SendEmail",
        "args": [number, f"welcome {number:05}"],
        "queue": "default",
    }


def medium() -> dict[str, Any]:
    """Make a job of 475 bytes with every kind of value, mostly text."""
    number = secrets.randbelow(100_000)
    return {
        "jid": secrets.token_hex(12),
        "jobtype": "reports.build",
        "args": [
            number,
            f"user{number}@example.com",
            {
                "name": "Annual report",
                "tags": ["a", "bb", "ccc"],
                "ratio": 0.125,
                "price": number / 100,
                "active": True,
                "parent": None,
            },
        ],
        "queue": "critical",
        "retry": 25,
        "reserve_for": 1800,
        "created_at": "2026-01-02T03:04:05.123456Z",
        "custom": {
            "trace_id": secrets.token_hex(16),
            "tenant": "acme",
            "locale": "en-GB",
            "text": "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod",
        },
    }


def large() -> dict[str, Any]:
    """Make a job of 21 kB: rows of a table, every fifth value a float of full length."""
    rows = [
        {
            "id": index,
            "name": f"item number {index}",
            "price": secrets.randbelow(10**6) * 1.1,
            "tags": ["x", "y"],
            "ok": index % 2 == 0,
        }
        for index in range(250)
    ]
    return {"jid": secrets.token_hex(12), "jobtype": "Import", "args": [rows], "queue": "default"}


FAILURE = {
    "retry_count": 2,
    "remaining": 23,
    "failed_at": "2026-01-02T03:04:05.123456789Z",
    "next_at": "2026-01-02T03:05:05.123456789Z",
    "message": "could not connect to mail.example.com: connection refused",
    "errtype": "ConnectionError",
}


def fetched(job: dict[str, Any], failure: dict[str, Any] | None = None) -> bytes:
    """Return the reply to FETCH with this job."""
    stamps = dict.fromkeys(("created_at", "enqueued_at"), "2026-01-02T03:04:05.123456789Z")
    body = {**job, **stamps, "retry": 25, **({"failure": failure} if failure else {})}
    data = json.dumps(body, separators=(",", ":"), sort_keys=True).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


def texts(alphabet: str, length: int, count: int) -> Callable[[], list[str]]:
    """Return a function that makes texts of these characters, about as long."""
    lengths = range(length // 2, length * 3 // 2)
    return lambda: ["".join(some.choices(alphabet, k=some.choice(lengths))) for _ in range(count)]


def many(make: Callable[[int], object], count: int) -> Callable[[], list[object]]:
    return lambda: [make(index) for index in range(count)]


some = random.Random(7)
LATIN = "abcdefghijklmnopqrstuvwxyz" + 4 * " "
VALUES: dict[str, Callable[[], list[Any]]] = {
    "texts, short": texts(LATIN, 12, 1000),
    "text, long": texts(LATIN, 20_000, 1),
    "texts with escapes": texts(LATIN + '"\n\\', 40, 400),
    "texts with <>&": texts(LATIN + "<>&", 40, 400),
    "texts, accents": texts(3 * LATIN + "éüöñ", 40, 400),
    "texts, Cyrillic": texts("абвгдежзиклмнопрст" + 3 * " ", 40, 300),
    "texts, Chinese": texts("我能吞下玻璃而不伤身体", 20, 300),
    "texts, emoji": texts(LATIN + "😀😃😄", 20, 300),
    "integers, small": many(lambda _: some.randrange(1000), 3000),
    "integers, 32 bits": many(lambda _: some.randrange(-(2**31), 2**31), 2000),
    "integers, 53 bits": many(lambda _: some.randrange(2**53), 1200),
    "decimals, short": many(lambda _: some.randrange(10_000) / some.choice((10, 100)), 3000),
    "floats, long": many(lambda _: some.random(), 1000),
    "floats, exponents": many(lambda _: some.random() * 10.0 ** some.randrange(-30, 30), 1000),
    "lists, nested": many(lambda index: [[index % 200], [], [[True, None]]], 1000),
    "dicts, shared keys": many(
        lambda index: {"id": index, "name": None, "active": True, "count": 5}, 400
    ),
    "dicts, own keys": many(
        lambda index: {f"{some.random()}"[:length]: index for length in (7, 10, 14)}, 400
    ),
}
"""Lists of 5 to 20 kB of one kind of value, as arguments of jobs may have."""


def as_server(value: object) -> bytes:
    """Return JSON as the server writes it, with <, > and & as escapes."""
    text = dumps(value).decode()
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def dumps(value: object) -> bytes:
    return _encode(value).encode()


class Task(NamedTuple):
    """A piece of work: the ways of doing it, and the items to do it with."""

    ways: dict[str, Work]
    make: Callable[[], Any]
    count: int


def encode_one(make: Callable[[], Any], count: int) -> Task:
    packed = msgspec.json.Encoder().encode
    ways: dict[str, Work] = {
        "cython": lambda job: core.encode_push(job),  # in a function, like the peers
        "python": lambda job: twin.encode_push(job),
        "orjson": lambda job: b"PUSH " + orjson.dumps(job) + b"\r\n",
        "msgspec": lambda job: b"PUSH " + packed(job) + b"\r\n",
        "ujson": lambda job: b"PUSH " + ujson.dumps(job, ensure_ascii=False).encode() + b"\r\n",
        "json": lambda job: b"PUSH " + dumps(job) + b"\r\n",
    }
    return Task(ways, make, count)


def encode_1000(make: Callable[[], Any]) -> Task:
    packed = msgspec.json.Encoder().encode
    ways: dict[str, Work] = {
        "cython": core.encode_push_bulk,
        "python": twin.encode_push_bulk,
        "orjson": lambda jobs: b"PUSHB " + orjson.dumps(jobs) + b"\r\n",
        "msgspec": lambda jobs: b"PUSHB " + packed(jobs) + b"\r\n",
        "ujson": lambda jobs: b"PUSHB " + ujson.dumps(jobs, ensure_ascii=False).encode() + b"\r\n",
        "json": lambda jobs: b"PUSHB " + dumps(jobs) + b"\r\n",
    }
    return Task(ways, lambda: [make() for _ in range(1000)], 1)


def from_rows() -> Task:
    def dicts(rows: Iterable[tuple[Any, ...]]) -> list[dict[str, Any]]:
        return [
            {"jobtype": "SendEmail", "queue": "default", "jid": secrets.token_hex(12), "args": row}
            for row in rows
        ]

    ways: dict[str, Work] = {
        "cython": core.JobTemplate("SendEmail", {"queue": "default"}).encode_bulk,
        "python": twin.JobTemplate("SendEmail", {"queue": "default"}).encode_bulk,
        "orjson": lambda rows: b"PUSHB " + orjson.dumps(dicts(rows)) + b"\r\n",
        "json": lambda rows: b"PUSHB " + dumps(dicts(rows)) + b"\r\n",
    }
    return Task(ways, lambda: [(number, f"welcome {number:05}") for number in range(1000)], 1)


def read_by(parser: Any) -> Work:
    def read(data: bytes) -> object:
        parser.feed(data)
        return parser.next_json()

    return read


def read_job(make: Callable[[], bytes], count: int) -> Task:
    reader = hiredis.Reader()

    def with_hiredis(decode: Work) -> Work:
        def read(data: bytes) -> object:
            reader.feed(data)
            return decode(reader.gets())

        return read

    ways: dict[str, Work] = {
        "cython": read_by(core.ReplyParser()),
        "python": read_by(twin.ReplyParser()),
        "orjson": with_hiredis(orjson.loads),
        "msgspec": with_hiredis(msgspec.json.Decoder().decode),
        "ujson": with_hiredis(ujson.loads),
        "json": with_hiredis(json.loads),
    }
    return Task(ways, make, count)


def read_lines() -> Task:
    def read_all(parser: Any, take: str, end: object) -> Work:
        def read(data: bytes) -> None:
            parser.feed(data)
            next = getattr(parser, take)
            while next() is not end:
                pass

        return read

    ways: dict[str, Work] = {
        "cython": read_all(core.ReplyParser(), "next", core.NEED_DATA),
        "python": read_all(twin.ReplyParser(), "next", twin.NEED_DATA),
        "hiredis": read_all(hiredis.Reader(notEnoughData=Ellipsis), "gets", Ellipsis),
    }
    return Task(ways, lambda: b"+OK\r\n" * 1000, 1)


def write(make: Callable[[], Any]) -> Task:
    packed = msgspec.json.Encoder().encode
    ways: dict[str, Work] = {"cython": core.dump_json, "orjson": orjson.dumps, "msgspec": packed}
    return Task(ways, make, 1)


def read(make: Callable[[], Any]) -> Task:
    unpacked = msgspec.json.Decoder().decode
    ways: dict[str, Work] = {"cython": core.load_json, "orjson": orjson.loads, "msgspec": unpacked}
    return Task(ways, lambda: as_server(make()), 1)


def twin_encodes(make: Callable[[], Any], count: int) -> Task:
    """Measure the cost of the pure core's checks, beside plain json."""
    ways: dict[str, Work] = {
        "python": twin.encode_push,
        "json": lambda job: f"PUSH {json.dumps(job)}\r\n".encode(),
    }
    return Task(ways, make, count)


def twin_reads(make: Callable[[], bytes], count: int) -> Task:
    def plain(data: bytes) -> object:
        head, _, body = data.decode().partition("\r\n")
        return json.loads(body[: int(head[1:])])

    return Task({"python": read_by(twin.ReplyParser()), "json": plain}, make, count)


TASKS: dict[str, Task] = {
    "encode one, small": encode_one(small, 500),
    "encode one, medium": encode_one(medium, 300),
    "encode one, large": encode_one(large, 4),
    "encode 1000, small": encode_1000(small),
    "encode 1000, medium": encode_1000(medium),
    "1000 jobs from rows, jids made": from_rows(),
    "reply to dict, small": read_job(lambda: fetched(small()), 300),
    "reply to dict, small with failure": read_job(lambda: fetched(small(), FAILURE), 300),
    "reply to dict, medium": read_job(lambda: fetched(medium()), 300),
    "reply to dict, large": read_job(lambda: fetched(large()), 4),
    "1000 +OK": read_lines(),
    **{f"write {kind}": write(make) for kind, make in VALUES.items()},
    **{f"read {kind}": read(make) for kind, make in VALUES.items()},
    "pure core, encode one, small": twin_encodes(small, 300),
    "pure core, encode one, medium": twin_encodes(medium, 300),
    "pure core, reply to dict, small": twin_reads(lambda: fetched(small()), 300),
    "pure core, reply to dict, medium": twin_reads(lambda: fetched(medium()), 300),
}


@pytest.mark.parametrize("about", TASKS)
def test_core(contest: Any, about: str) -> None:
    ways, make, count = TASKS[about]

    def turn(work: Work) -> dict[str, float]:
        items = [make() for _ in range(count)]
        began = perf_counter()
        for item in items:
            work(item)
        return {"ns": (perf_counter() - began) / count * 1e9}

    contest(f"Core: {about}", {name: lambda w=work: turn(w) for name, work in ways.items()}, ROUNDS)

"""The rates of the embedded server, beside those of the real one in FAKTORY_URL.

Each server is a process of its own. Commands are prepared and replies hardly read, so that the time
of the servers is measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import pytest

from faktory.proto import encode_command, encode_push, encode_push_bulk, implementation, new_jid
from faktory.server import EmbeddedServer
from faktory.wire.address import Address

from .peers.connection import Connection
from .peers.turns import ARGS, JOBTYPE

ROUNDS = 15

Connect = Callable[[int], dict[str, list[Connection]]]


@pytest.fixture
def connect(servers: dict[str, Address]) -> Iterator[Connect]:
    """`connect(count)`: open connections to each server, first to the real one if there is one."""
    opened: list[Connection] = []

    def connect(count: int) -> dict[str, list[Connection]]:
        lines = {}
        for name in sorted(servers, key=lambda name: name != "real"):
            lines[name] = [Connection(servers[name]) for _ in range(count)]
            opened.extend(lines[name])
        return lines

    yield connect
    for line in opened:
        line.close()


def jobs(queue: str, count: int) -> list[dict[str, object]]:
    return [
        {"jid": new_jid(), "jobtype": JOBTYPE, "args": ARGS, "queue": queue, "retry": 25}
        for _ in range(count)
    ]


def turns(lines: dict[str, list[Connection]], queue: str, count: int, work: Callable) -> dict:
    """Return a function for each server that does the work there, then removes the queue."""

    def turn(mine: list[Connection]) -> dict[str, float]:
        began = perf_counter()
        work(mine)
        seconds = perf_counter() - began
        mine[0].call(f"QUEUE REMOVE {queue}\r\n".encode())
        return {"jobs/s": count / seconds}

    return {name: lambda mine=mine: turn(mine) for name, mine in lines.items()}


def test_push(contest, connect):
    queue = f"bench-{new_jid()}"
    commands = [encode_push(job) for job in jobs(queue, 500)]

    def work(lines: list[Connection]) -> None:
        for command in commands:
            lines[0].call(command)

    contest("Servers: PUSH by PUSH", turns(connect(1), queue, 500, work), ROUNDS)


def test_push_bulk(contest, connect):
    queue = f"bench-{new_jid()}"
    command = encode_push_bulk(jobs(queue, 1000))

    def work(lines: list[Connection]) -> None:
        for _ in range(3):
            lines[0].call(command)

    contest("Servers: PUSHB of 1000", turns(connect(1), queue, 3000, work), ROUNDS)


def test_push_fetch_ack(contest, connect):
    queue = f"bench-{new_jid()}"
    count = 50
    fetch = f"FETCH {queue}\r\n".encode()

    def one(line: Connection) -> None:
        for job in jobs(queue, count):
            line.call(encode_push(job))
            jid = json.loads(line.call(fetch))["jid"]
            line.call(encode_command("ACK", json={"jid": jid}))

    def work(lines: list[Connection]) -> None:
        with ThreadPoolExecutor(len(lines)) as pool:
            list(pool.map(one, lines))

    ways = turns(connect(10), queue, count * 10, work)
    contest("Servers: PUSH, FETCH and ACK over 10 connections", ways, ROUNDS)


def test_start(contest):
    def start() -> dict[str, float]:
        server = EmbeddedServer()
        began = perf_counter()
        server.start()
        took = perf_counter() - began
        server.stop()
        return {"ms": 1000 * took}

    contest("Servers: start of an embedded one", {implementation: start}, 50)

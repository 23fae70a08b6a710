"""The rates of the embedded server, beside those of the real one in FAKTORY_URL, and with a file.

Each server is a process of its own. Commands are prepared and replies hardly read, so that the time
of the servers is measured.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from selectors import EVENT_READ, DefaultSelector
from time import perf_counter, sleep

import pytest

from faktory import Client
from faktory.proto import encode_command, encode_push, encode_push_bulk, implementation, new_jid
from faktory.server import EmbeddedServer
from faktory.wire.address import Address

from .conftest import embedded
from .peers.connection import Connection
from .peers.turns import ARGS, JOBTYPE
from .test_worker import PROGRAM, WARM_UP, Way, started

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


# With a file, beside memory.


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Address]]:
    """A server in memory, and two with a file: what it answers is safe from a power cut (full), or
    from the end of the process (normal)."""
    folder = tmp_path_factory.mktemp("data")
    with ExitStack() as stack:
        found = {"memory": stack.enter_context(embedded(implementation))}
        for sync in ("full", "normal"):
            flags = ("--data", str(folder / f"{sync}.db"), "--sync", sync)
            found[f"file, {sync}"] = stack.enter_context(embedded(implementation, *flags))
        yield found


@pytest.fixture
def dialled(kept: dict[str, Address]) -> Iterator[dict[str, list[Connection]]]:
    """20 connections to each of them."""
    lines = {name: [Connection(address) for _ in range(20)] for name, address in kept.items()}
    yield lines
    for connections in lines.values():
        for connection in connections:
            connection.close()


def test_file_push(contest, kept):
    count = 1500  # as many commits as fill the file of new pages once

    def turn(client: Client) -> dict[str, float]:
        began = perf_counter()
        for _ in range(count):
            client.push({"jobtype": JOBTYPE, "args": ARGS, "queue": "bench"})
        seconds = perf_counter() - began
        client.remove_queues("bench")
        return {"jobs/s": count / seconds}

    with ExitStack() as stack:
        clients = {name: stack.enter_context(Client(address.url)) for name, address in kept.items()}
        ways = {name: lambda client=client: turn(client) for name, client in clients.items()}
        contest("Servers with a file: a client pushes", ways, ROUNDS)


def test_file_push_over_connections(contest, dialled):
    count = 150

    def work(lines: list[Connection]) -> None:
        # One thread for all, so that the clients take less time than the server.
        with DefaultSelector() as selector:
            for line in lines:
                left = [encode_push(job) for job in jobs("bench", count)]
                line.socket.sendall(left.pop())
                selector.register(line.socket, EVENT_READ, left)
            while selector.get_map():
                for key, _ in selector.select():
                    assert key.fileobj.recv(100) == b"+OK\r\n"
                    if key.data:
                        key.fileobj.sendall(key.data.pop())
                    else:
                        selector.unregister(key.fileobj)

    ways = turns(dialled, "bench", count * 20, work)
    contest("Servers with a file: PUSH over 20 connections", ways, ROUNDS)


def test_file_push_bulk(contest, dialled):
    command = encode_push_bulk(jobs("bench", 1000))

    def work(lines: list[Connection]) -> None:
        for _ in range(3):
            lines[0].call(command)

    ways = turns(dialled, "bench", 3000, work)
    contest("Servers with a file: PUSHB of 1000", ways, ROUNDS)


def test_file_worker(contest, kept, tmp_path):
    program = tmp_path / "empty.py"
    program.write_text(PROGRAM.format(level="WARNING"))
    command = f"{sys.executable} -m faktory.cli.worker -r {program} -q {{queue}} -c {{concurrency}}"
    way = Way(command, {"FAKTORY_IMPL": implementation})
    with ExitStack() as stack:
        workers = {}
        for name, address in kept.items():
            client = stack.enter_context(Client(address.url))
            workers[name] = stack.enter_context(started(way, client, address, 10))
        sleep(WARM_UP)
        ways = {name: worker.work for name, worker in workers.items()}
        contest("Servers with a file: empty jobs, 10 at a time", ways, 5)

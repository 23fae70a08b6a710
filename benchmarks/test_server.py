"""What the embedded server does in a second, beside the real one in FAKTORY_URL.

The embedded one runs as a process of its own, as a real one does. Bytes are prepared beforehand and
answers are hardly looked at: it is the servers' time that is measured. They take turns.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median, quantiles
from time import perf_counter

import pytest

from faktory.proto import implementation, new_jid
from faktory.server import EmbeddedServer
from faktory.wire.address import Address

from .conftest import Line

ROUNDS = 15


def job(queue: str, number: int) -> bytes:
    fields = {
        "jid": f"{queue}{number:08}",
        "jobtype": "Resize",
        "args": [number, "thumb", {"ratio": 1.5}],
        "queue": queue,
        "retry": 25,
        "created_at": "2026-01-02T03:04:05.678Z",
    }
    return json.dumps(fields, separators=(",", ":")).encode()


def single(line: Line, queue: str) -> int:
    """PUSH by PUSH."""
    for number in range(500):
        line.say(b"PUSH " + job(queue, number) + b"\r\n")
    return 500


def bulk(line: Line, queue: str) -> int:
    """PUSHB of a thousand, prepared."""
    command = b"PUSHB [" + b",".join(job(queue, number) for number in range(1000)) + b"]\r\n"
    started = perf_counter()
    for _ in range(3):
        line.say(command)
    line.seconds = perf_counter() - started  # type: ignore[attr-defined]
    return 3000


def turn_over(lines: list[Line], queue: str) -> int:
    """PUSH, FETCH and ACK over all connections at once."""

    def one(number: int) -> None:
        line = lines[number]
        for turn in range(50):
            line.say(b"PUSH " + job(queue, number * 100 + turn) + b"\r\n")
            jid = json.loads(line.say(b"FETCH " + queue.encode() + b"\r\n"))["jid"]
            line.say(b'ACK {"jid":"' + jid.encode() + b'"}\r\n')

    with ThreadPoolExecutor(len(lines)) as pool:
        list(pool.map(one, range(len(lines))))
    return 50 * len(lines)


def compare(
    benchmark: Callable[..., object], servers: dict[str, Address], connections: int, work: Callable
) -> None:
    """Let the servers work in turn; print jobs a second."""
    rates: dict[str, list[float]] = {name: [] for name in servers}
    lines = {name: [Line(to) for _ in range(connections)] for name, to in servers.items()}
    queue = f"bench-{new_jid()}"

    def one_turn() -> None:
        for name, mine in lines.items():
            started = perf_counter()
            jobs = work(mine if connections > 1 else mine[0], queue)
            seconds = getattr(mine[0], "seconds", None) or perf_counter() - started
            rates[name].append(jobs / seconds)
            mine[0].say(f"QUEUE REMOVE {queue}\r\n".encode())

    one_turn()
    for taken in rates.values():
        taken.clear()
    benchmark.pedantic(one_turn, rounds=ROUNDS)  # type: ignore[attr-defined]
    for mine in lines.values():
        for line in mine:
            line.close()
    about = (work.__doc__ or "").rstrip(".")
    print(f"\n\n{about}; {connections} connections; Python {platform.python_version()}, ", end="")
    print(f"{implementation} core, {platform.machine()}, {os.cpu_count()} cores, n = {ROUNDS}")
    print(f"{'jobs/s':10}{'median':>10}{'spread':>10}{'vs. real':>10}")
    real = median(rates["real"]) if "real" in rates else None
    for name, taken in rates.items():
        low, _, high = quantiles(taken, n=4)
        versus = f"{median(taken) / real:9.2f}x" if real else f"{'-':>10}"
        print(f"{name:10}{median(taken):10,.0f}{high - low:10,.0f}{versus}")


@pytest.mark.benchmark(group="server: push")
def test_push(benchmark, servers):
    compare(benchmark, servers, 1, single)


@pytest.mark.benchmark(group="server: push in bulk")
def test_push_bulk(benchmark, servers):
    compare(benchmark, servers, 1, bulk)


@pytest.mark.benchmark(group="server: push, fetch, ack")
def test_push_fetch_ack(benchmark, servers):
    compare(benchmark, servers, 10, turn_over)


@pytest.mark.benchmark(group="server: start")
def test_start_and_stop(benchmark):
    """A start and a stop, in this process; a start alone may take 50 ms."""
    starts: list[float] = []

    def start_and_stop() -> None:
        server = EmbeddedServer()
        started = perf_counter()
        server.start()
        starts.append(perf_counter() - started)
        server.stop()

    benchmark.pedantic(start_and_stop, rounds=50)
    print(f"\n\nstart: median {1000 * median(starts):.2f} ms, worst {1000 * max(starts):.2f} ms")
    assert median(starts) < 0.05

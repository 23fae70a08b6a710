"""What pushing a job costs a client, beside prepared bytes on a bare socket.

Against the real server in FAKTORY_URL where there is one, else the embedded one. Both ways of
pushing take turns; CPU is this process's own, in user and system, so it is what pushing costs the
program that pushes. A ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import median, quantiles
from time import perf_counter, process_time

import pytest

import faktory
from faktory import Client, Producer
from faktory.proto import encode_push, encode_push_bulk, implementation, new_jid
from faktory.wire.address import Address

from .conftest import Line

ROUNDS = 9
ARGS = [1, "thumb", {"ratio": 1.5}]


@pytest.fixture
def address(servers: dict[str, Address]) -> Address:
    return servers.get("real") or servers["embedded"]


@pytest.fixture
def queue(address: Address) -> Iterator[str]:
    name = f"bench-{new_jid()}"
    yield name
    with Client(address.url) as client:
        client.remove_queues(name)


Work = Callable[[], int]


def compare(benchmark: object, about: str, ways: dict[str, Work], base: str) -> None:
    """Let the ways work in turn; print what each costs, beside the base."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    costs: dict[str, list[float]] = {name: [] for name in ways}

    def one_turn() -> None:
        for name, work in ways.items():
            cpu, wall = process_time(), perf_counter()
            jobs = work()
            rates[name].append(jobs / (perf_counter() - wall))
            costs[name].append((process_time() - cpu) / jobs * 1e6)

    one_turn()
    for taken in (*rates.values(), *costs.values()):
        taken.clear()
    benchmark.pedantic(one_turn, rounds=ROUNDS)  # type: ignore[attr-defined]
    print(f"\n\n{about}. {faktory.__version__}, {implementation} core, ", end="")
    print(f"Python {platform.python_version()}, {platform.machine()}, n = {ROUNDS}")
    print(f"{'':16}{'jobs/s':>10}{'spread':>10}{'vs.':>8}{'us CPU/job':>12}{'vs.':>8}")
    for name in ways:
        low, _, high = quantiles(rates[name], n=4)
        rate = median(a / b for a, b in zip(rates[name], rates[base], strict=True))
        cost = median(a / b for a, b in zip(costs[name], costs[base], strict=True))
        print(f"{name:16}{median(rates[name]):10,.0f}{high - low:10,.0f}{rate:7.2f}x", end="")
        print(f"{median(costs[name]):12.2f}{cost:7.2f}x")


@pytest.mark.benchmark(group="client: push")
def test_push(benchmark, address, queue):
    count = 1000
    line, client = Line(address), Client(address.url)
    line.socket.settimeout(None)  # with a timeout, Python asks the kernel before each step
    job = {"jobtype": "Resize", "args": ARGS, "queue": queue}
    data = encode_push({**job, "jid": new_jid(), "retry": 25})

    def prepared() -> int:
        for _ in range(count):
            line.socket.sendall(data)
            line.socket.recv(4096)
        return count

    def pushed() -> int:
        for _ in range(count):
            client.push(job)
        return count

    compare(
        benchmark,
        "Single PUSH",
        {"prepared bytes": prepared, "Client.push": pushed},
        "prepared bytes",
    )
    line.close()
    client.close()


@pytest.mark.benchmark(group="client: push in bulk")
def test_push_bulk(benchmark, address, queue):
    count = 10_000
    line, client = Line(address), Client(address.url)
    jobs = [
        {"jobtype": "Resize", "args": ARGS, "queue": queue, "jid": new_jid(), "retry": 25}
        for _ in range(1000)
    ]
    data = encode_push_bulk(jobs)
    resize = faktory.job(name=f"Resize-{queue}", queue=queue)(lambda a, b, c: None)

    def prepared() -> int:
        for _ in range(count // 1000):
            line.say(data)
        return count

    def pushed() -> int:
        assert not client.push_bulk(
            {"jobtype": "Resize", "args": ARGS, "queue": queue} for _ in range(count)
        )
        return count

    def performed() -> int:
        resize.perform_bulk([ARGS] * count)
        return count

    faktory.configure(url=address.url)
    compare(
        benchmark,
        "PUSHB of 1000",
        {"prepared bytes": prepared, "push_bulk": pushed, "perform_bulk": performed},
        "prepared bytes",
    )
    line.close()
    client.close()


@pytest.mark.benchmark(group="client: eight threads")
def test_eight_threads(benchmark, address, queue):
    threads, each = 8, 250
    clients = [Client(address.url) for _ in range(threads)]
    producer = Producer(lambda: Client(address.url))
    job = {"jobtype": "Resize", "args": ARGS, "queue": queue}

    def one_by_one(client: Client) -> None:
        for _ in range(each):
            client.push(job)

    def together(_: object) -> list[str]:
        futures = [producer.push(job) for _ in range(each)]
        return [future.result() for future in futures]

    with ThreadPoolExecutor(threads) as pool:

        def run(work: Callable[[Client], object]) -> int:
            list(pool.map(work, clients))
            return threads * each

        compare(
            benchmark,
            f"{threads} threads, {os.cpu_count()} cores",
            {"one by one": lambda: run(one_by_one), "Producer": lambda: run(together)},
            "one by one",
        )
    producer.close()
    for client in clients:
        client.close()

"""What declaring a job costs beside pushing its dict, over a transport in memory.

Nothing is sent, so this is our own work alone. The ways take turns; a difference or ratio is the
median of the rounds' own.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from statistics import median, quantiles
from time import process_time

import pytest

import faktory
from faktory import Client
from faktory.client import outlet, transport
from faktory.proto import JobTemplate, implementation
from faktory.wire.session import Answer

ROUNDS = 15
ARGS = (1, "thumb", {"ratio": 1.5})


class Memory:
    """A transport to a server that takes everything."""

    def exchange(self, sent):
        return [Answer(command, command.read(_said(command)), None) for command in sent]

    def close(self): ...
    def abandon(self): ...


def _said(command):
    return {} if command.name == "PUSHB" else "OK"


@faktory.job(queue="images", retry=3)
def resize(image: int, size: str = "full", options: dict[str, float] | None = None) -> None: ...


class Resize(faktory.Job):
    faktory_options = {"queue": "images", "retry": 3}

    def perform(self, image, size="full", options=None): ...


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    monkeypatch.setattr(transport, "connect", lambda *_: Memory())
    monkeypatch.setattr(outlet, "_settings", {})
    faktory.configure(url="tcp://memory:1")
    yield
    faktory.configure()


def measure(benchmark, about: str, ways: dict[str, Callable[[], object]], times: int) -> None:
    """Let the ways work in turn; print the CPU that each takes, beside the first one."""
    taken: dict[str, list[float]] = {name: [] for name in ways}

    def one_turn():
        for name, work in ways.items():
            began = process_time()
            for _ in range(times):
                work()
            taken[name].append((process_time() - began) / times * 1e6)

    one_turn()
    for each in taken.values():
        each.clear()
    benchmark.group = f"jobs: {about}"
    benchmark.pedantic(one_turn, rounds=ROUNDS)
    if benchmark.disabled:
        return
    base = next(iter(taken.values()))
    print(f"\n\n{about}. {faktory.__version__}, {implementation} core, ", end="")
    print(f"Python {platform.python_version()}, {platform.machine()}, n = {ROUNDS}")
    print(f"{'':24}{'us CPU':>10}{'spread':>10}{'more':>10}{'ratio':>8}")
    for name, each in taken.items():
        low, _, high = quantiles(each, n=4)
        more = median(a - b for a, b in zip(each, base, strict=True))
        ratio = median(a / b for a, b in zip(each, base, strict=True))
        print(f"{name:24}{median(each):10.2f}{high - low:10.2f}{more:10.2f}{ratio:7.2f}x")


def test_one(benchmark):
    client = Client("tcp://memory:1")
    job = {"jobtype": "resize", "args": list(ARGS), "queue": "images", "retry": 3}
    image, size, options = ARGS
    ways = {
        "client.push": lambda: client.push(job),
        "perform_async": lambda: resize.perform_async(*ARGS),
        "  by keywords": lambda: resize.perform_async(image, size=size, options=options),
        "  of a class": lambda: Resize.perform_async(*ARGS),
        "perform_in": lambda: resize.perform_in(60, *ARGS),
        "set, perform_async": lambda: resize.set(retry=0).perform_async(*ARGS),
    }
    measure(benchmark, "One job", ways, 1000)


def test_many(benchmark):
    rows = [(number, *ARGS[1:]) for number in range(1000)]
    template = JobTemplate("resize", {"queue": "images", "retry": 3})
    ways = {
        "template alone": lambda: template.encode_bulk(rows),
        "perform_bulk": lambda: resize.perform_bulk(rows),
    }
    measure(benchmark, "1000 jobs of one type", ways, 20)

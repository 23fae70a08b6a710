"""Measure the cost of a push, beside prepared bytes on a bare socket and other packages.

Each way is a separate process with one of the clients (`peers/push_*.py`). They push to the real
server in FAKTORY_URL, or else to the embedded one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from faktory import Client
from faktory.proto import new_jid

from .conftest import IMPLEMENTATIONS, Child
from .contest import Turn

ROUNDS = 15


@pytest.fixture
def queue() -> str:
    return f"bench-{new_jid()}"


@pytest.fixture
def ours(child, server, queue) -> dict[str, Child]:
    return {
        name: child("push_ours.py", queue, FAKTORY_URL=server[1].url, FAKTORY_IMPL=name)
        for name in IMPLEMENTATIONS
    }


@pytest.fixture
def others(child, server, queue, peers) -> dict[str, Child]:
    """Start a bare socket, and the clients of the other installed packages."""
    url = server[1].url
    return {
        "prepared bytes": child("push_bytes.py", queue, FAKTORY_URL=url),
        **{
            name: child(f"push_{peer.name}.py", queue, python=peer.python, FAKTORY_URL=url)
            for name, peer in peers.items()
        },
    }


Turns = Callable[..., dict[str, Turn]]


@pytest.fixture
def turns(server, queue) -> Iterator[Turns]:
    """Return a function that makes ways from programs; each turn ends with an empty queue."""
    with Client(server[1].url) as client:

        def turn(program: Child, work: str, count: int) -> dict[str, float]:
            took = program.turn(work, count)
            client.remove_queues(queue)
            return took

        def turns(programs: dict[str, Child], work: str, count: int, about: str = "") -> dict:
            return {
                f"{name}{about}": lambda program=program: turn(program, work, count)
                for name, program in programs.items()
            }

        yield turns


def test_push(contest, server, turns, ours, others):
    contest(f"Pushing one by one, {server[0]}", turns({**ours, **others}, "push", 1000), ROUNDS)


def test_push_bulk(contest, server, turns, ours, others):
    others.pop("faktory 1.0.0", None)  # has no bulk push
    ways = turns({**ours, **others}, "bulk", 10_000)
    ways |= turns(ours, "perform_bulk", 10_000, ", perform_bulk")
    contest(f"Pushing a thousand at once, {server[0]}", ways, ROUNDS)


def test_eight_threads(contest, server, turns, ours):
    ways = turns(ours, "one_by_one", 2000)
    ways |= turns(ours, "together", 2000, ", Producer")
    contest(f"Pushing on 8 threads, {os.cpu_count()} cores, {server[0]}", ways, ROUNDS)

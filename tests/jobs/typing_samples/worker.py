"""A worker as type checkers see it; for mypy and pyright only, never run."""

from __future__ import annotations

from typing import assert_type

import faktory
from faktory import Queue, Worker
from faktory.contrib.prometheus import Collector


def queues(names: list[str], weights: dict[str, int], limits: dict[str, Queue]) -> None:
    assert_type(Queue(weight=1, limit=2).weight, int)
    assert_type(faktory.Queue(limit=2).limit, int | None)
    Worker(queues=names)
    Worker(queues=("default",))
    Worker(queues=weights)
    Worker(queues=limits)
    Worker(queues={"critical": 3, "api": Queue(1, limit=2)})
    Worker(queues=["critical", {"api": Queue(limit=2)}, {"mail": 2, "bulk": 1}, weights])
    Worker(queues={"api": "2"})  # type: ignore[dict-item]
    Worker(queues=[("api", 2)])  # type: ignore[list-item]
    Queue(weight="3")  # type: ignore[arg-type]
    Queue(limits=3)  # type: ignore[call-arg]
    Queue().limit = 2  # type: ignore[misc]


def give_back(on: bool) -> None:
    Worker(give_back=on)
    Worker(give_back="yes")  # type: ignore[arg-type]


def metrics() -> None:
    assert_type(Collector(), Collector)
    Collector("jobs")  # type: ignore[call-arg]

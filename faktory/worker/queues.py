"""The queues of a worker: their order for each FETCH, strict or by weight, and their limits.

Rules: `Queue` and `Queues` are values. `Limits` counts, under its lock, the jobs that the threads
of one process run or may be given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import random
from threading import Condition
from typing import Any, Final, TypeAlias

from ..wire.validate import brief, check_queue

MOST_WEIGHT: Final = 1_000_000
"""The highest weight: draws for much higher ones would be the same number."""


@dataclass(frozen=True, slots=True)
class Queue:
    """How a worker fetches from one of its queues.

    A queue of `weight` 3 comes first three times as often as one of 1. At most `limit` of its jobs
    run at a time in the worker's process, None for any number. ValueError if one of them is not a
    whole number of 1 or more; a weight is 1,000,000 at most.
    """

    weight: int = 1
    limit: int | None = None

    def __post_init__(self) -> None:
        _check_weight("the weight of a queue", self.weight)
        if self.limit is not None and (type(self.limit) is not int or self.limit < 1):
            raise ValueError(
                f"the limit of a queue is {brief(self.limit)}: use 1 or more, or None for no "
                "limit. To run none of its jobs leave the queue out, or pause it: "
                "faktory-worker pause NAME."
            )


Shares: TypeAlias = Mapping[str, int | Queue]
"""Queues by weight: names with a weight or a `Queue`."""

Given: TypeAlias = Sequence[str | Shares] | Shares
"""The queues of a worker: in strict order, in which mappings may stand, too, or by weight."""


class Queues:
    """The queues of a worker.

    A list is strict: a queue is served when the earlier ones are empty. A mapping gives weights: a
    queue of weight 3 comes first three times as often as one of weight 1. A mapping in a list has
    its place there: ["critical", {"mail": 2, "images": faktory.Queue(limit=2)}, "low"].
    """

    def __init__(self, queues: Given) -> None:
        if isinstance(queues, str):
            raise ValueError(f"queues is the text {queues!r}: pass a list, [{queues!r}].")
        if not isinstance(queues, Iterable):
            raise ValueError(
                f"queues is {brief(queues)}: pass a list of names, ['default'], or a mapping of "
                "weights, or leave it out."
            )
        self.names: list[str] = []
        self.limits: dict[str, int] = {}
        """The queues that have a limit."""
        self._groups: list[dict[str, int]] = []
        """In strict order; those of one by weight."""
        for item in [queues] if isinstance(queues, Mapping) else queues:
            if isinstance(item, Mapping):
                self._add(item)
            elif item not in self.names:
                self._add({item: 1})
        if not self.names:
            raise ValueError("queues is empty: a worker needs one queue or more.")
        self._strict = len(self._groups) == len(self.names)

    def _add(self, shares: Shares) -> None:
        group = {}
        for name, share in shares.items():
            if name == "*":
                raise ValueError(
                    "the queue is '*', which only the command faktory-worker has, for the queues "
                    "that the loaded jobs declare: name the queues here."
                )
            if check_queue("the queue", name) in self.names:
                raise ValueError(f"the queue {name!r} is given twice: give it once.")
            if isinstance(share, Queue):
                if share.limit is not None:
                    self.limits[name] = share.limit
                share = share.weight
            elif isinstance(share, Mapping):
                raise ValueError(
                    f"the weight of queue {name!r} is {brief(share)}: use {_as_queue(share)}."
                )
            group[name] = _check_weight(f"the weight of queue {name!r}", share)
            self.names.append(name)
        if group:
            self._groups.append(group)

    def __str__(self) -> str:
        listed = ", ".join if self._strict else "; then ".join
        return listed(map(self._describe, self._groups))

    def _describe(self, group: Mapping[str, int]) -> str:
        equal = len(set(group.values())) == 1
        described = []
        for name, weight in group.items():
            notes = [] if equal else [f"weight {weight}"]
            if name in self.limits:
                notes.append(f"limit {self.limits[name]}")
            described.append(f"{name} ({', '.join(notes)})" if notes else name)
        return ", ".join(described) + (", with equal weights" if equal and len(group) > 1 else "")

    def order(self) -> list[str]:
        """Return the names for one FETCH."""
        if self._strict:
            return self.names
        return [name for group in self._groups for name in _draw(group)]


def _draw(weights: Mapping[str, int]) -> list[str]:
    """Return names in an order by weight.

    Each name draws random()**(1/weight), and the highest comes first; so a queue comes first as
    often as its weight says (Efraimidis and Spirakis, 2006).
    """
    return sorted(weights, key=lambda name: random() ** (1 / weights[name]), reverse=True)


def _as_queue(share: Mapping[Any, Any]) -> str:
    """Return what was meant by a mapping in the place of a `Queue`."""
    known = share and share.keys() <= {"weight", "limit"}
    given = share if known else {"weight": 1, "limit": 2}
    arguments = ", ".join(f"{key}={brief(value)}" for key, value in given.items())
    return f"faktory.Queue({arguments})"


def _check_weight(name: str, weight: object) -> int:
    if type(weight) is int and 1 <= weight <= MOST_WEIGHT:
        return weight
    most = "1 to 1,000,000" if type(weight) is int and weight > MOST_WEIGHT else "1 or more"
    left = " Leave out a queue that is not to be fetched." if weight == 0 else ""
    raise ValueError(f"{name} is {brief(weight)}: use {most}.{left}")


class Limits:
    """At most so many jobs of some queues at a time, over all threads of a process.

    A FETCH may bring a job of any of its queues. So a thread acquires a permit of each before it
    sends one; when that is answered, it keeps the permit of the job's queue, if there is a job, and
    releases the others. The job's permit is free again when the thread sends the job's report: then
    it acquires those of the next FETCH, or releases all. `owner` is the thread.
    """

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._free = dict(limits)
        self._held: dict[object, list[str]] = {}
        self._changed = Condition()
        self._closed = False

    def acquire(self, owner: object, names: Sequence[str]) -> list[str]:
        """Return the names whose limit is not reached, and those that have no limit.

        The owner has a permit of each then, and no other.
        """
        with self._changed:
            before = self._held.pop(owner, [])
            for name in before:
                self._free[name] += 1
            available = self._available(names)
            held = [name for name in self._free if name in available]
            for name in held:
                self._free[name] -= 1
            if held:
                self._held[owner] = held
            if held != before:
                self._changed.notify(len(before))
            return available

    def release(self, owner: object, keep: object = None) -> None:
        """Release the owner's permits, but not that of the queue `keep`."""
        with self._changed:
            held = self._held.pop(owner, [])
            kept = [name for name in held if name == keep]
            if kept:
                self._held[owner] = kept
            for name in held:
                self._free[name] += name not in kept
            self._changed.notify(len(held) - len(kept))

    def wait(self, names: Sequence[str], seconds: float) -> None:
        """Wait until one of these has a permit, for so long at most; after `close` not at all."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._available(names), seconds)

    def close(self) -> None:
        """Have nobody wait any more: the worker stops."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _available(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if self._free.get(name, 1) > 0]

"""The queues of a worker, and their order for each FETCH: as given, or by weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import random

from ..wire.validate import check_queue


class Queues:
    """The queues of a worker.

    A list is strict: a queue is served when the earlier ones are empty. A mapping gives weights: a
    queue of weight 3 comes first three times as often as one of weight 1.
    """

    def __init__(self, queues: Sequence[str] | Mapping[str, int]) -> None:
        if isinstance(queues, str):
            raise ValueError(f"queues is the text {queues!r}: pass a list, [{queues!r}].")
        if not queues:
            raise ValueError("queues is empty: a worker needs one queue or more.")
        self.names = [check_queue("the queue", name) for name in dict.fromkeys(queues)]
        self.weights = dict(queues) if isinstance(queues, Mapping) else None
        for name, weight in (self.weights or {}).items():
            if not isinstance(weight, int) or isinstance(weight, bool) or weight < 1:
                raise ValueError(f"the weight of queue {name!r} is {weight!r}: use 1 or more.")

    def __str__(self) -> str:
        if self.weights is None:
            return ", ".join(self.names)
        return ", ".join(f"{name} (weight {weight})" for name, weight in self.weights.items())

    def order(self) -> list[str]:
        """Return the names for one FETCH.

        By weight: each name draws random()**(1/weight), and the highest comes first; so a queue
        comes first as often as its weight says (Efraimidis and Spirakis, 2006).
        """
        weights = self.weights
        if weights is None:
            return self.names
        return sorted(self.names, key=lambda name: random() ** (1 / weights[name]), reverse=True)

"""Long work in slices, so that the other connections are answered in between.

Rules: a command whose work grows with what clients have sent is a generator. It yields after every
bit of work that takes a millisecond at most, and returns its result; what is true of the state at
each `yield` is seen by the other connections. The loop runs it for `SLICE` seconds at a time.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from heapq import merge
from itertools import islice
from typing import Final, TypeVar

T = TypeVar("T")

Steps = Generator[None, None, T]
"""Work that pauses at each `yield` and returns a T."""

SLICE: Final = 0.005
"""Seconds of one command's work before other connections have their turn."""

ITEMS: Final = 500
"""Items of which each takes about a microsecond, between two yields."""

SWEPT: Final = 100
"""Things that become due in one call of `sweep`: their times are the same, and others wait."""


def finish(steps: Steps[T]) -> T:
    """Do all of the work now; return its result."""
    try:
        while True:
            next(steps)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def chunks(items: Iterable[T], size: int = ITEMS) -> Iterator[list[T]]:
    """Split items into lists of `size`, the last one shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def in_order(texts: Iterable[str]) -> Steps[Iterator[str]]:
    """Sort texts; return an iterator over them."""
    runs = []
    for run in chunks(texts):
        runs.append(sorted(run))
        yield
    return iter(runs[0]) if len(runs) == 1 else merge(*runs)

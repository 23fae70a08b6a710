"""Sorted sets and glob patterns as in Redis, which the real server uses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

T = TypeVar("T")


class SortedSet(Generic[T]):
    """Members with values, ordered by score, then by the bytes of the member."""

    def __init__(self) -> None:
        self._entries: dict[bytes, tuple[int, T]] = {}
        # May hold outdated scores and removed members; `first` and `_trim` clean up.
        self._heap: list[tuple[int, bytes]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[tuple[int, bytes, T]]:
        """Iterate over (score, member, value); the set may be changed meanwhile."""
        order = sorted((score, member) for member, (score, _) in self._entries.items())
        for score, member in order:
            if (entry := self._entries.get(member)) is not None:
                yield score, member, entry[1]

    def get(self, member: bytes) -> T | None:
        """Return the value of a member, None if it is not there."""
        entry = self._entries.get(member)
        return None if entry is None else entry[1]

    def add(self, score: int, member: bytes, value: T) -> None:
        """Add a member, or replace its score and value."""
        self._entries[member] = (score, value)
        heappush(self._heap, (score, member))

    def remove(self, member: bytes) -> bool:
        """Remove a member; return whether it was there."""
        found = self._entries.pop(member, None) is not None
        self._trim()
        return found

    def clear(self) -> None:
        """Remove all."""
        self._entries.clear()
        self._heap.clear()

    def first(self) -> int | None:
        """Return the lowest score."""
        heap = self._heap
        while heap:
            score, member = heap[0]
            entry = self._entries.get(member)
            if entry is not None and entry[0] == score:
                return score
            heappop(heap)
        return None

    def pop_until(self, score: int) -> Iterator[T]:
        """Remove the members up to this score, yielding the value of each."""
        while (first := self.first()) is not None and first <= score:
            _, member = heappop(self._heap)
            yield self._entries.pop(member)[1]

    def _trim(self) -> None:
        """Keep the heap within twice the size of the set, in constant time per removal."""
        if len(self._heap) > 2 * len(self._entries) + 64:
            self._heap = [(score, member) for member, (score, _) in self._entries.items()]
            heapify(self._heap)


def glob(pattern: bytes) -> Callable[[bytes], object]:
    r"""Compile a glob pattern of Redis: `*`, `?`, `[abc]`, `[^a-z]` and `\`, over bytes."""
    parts = []
    regex = b""
    position = 0
    while position < len(pattern):
        character = pattern[position : position + 1]
        position += 1
        if character == b"*":
            # The first match of the part before this star is as good as any other. An atomic group
            # never goes back to it, so that no pattern takes exponential time.
            if regex != b".*?":
                parts.append(b"(?>" + regex + b")")
            regex = b".*?"
        elif character == b"?":
            regex += b"."
        elif character == b"[":
            part, position = _character_class(pattern, position)
            regex += part
        else:
            if character == b"\\" and position < len(pattern):
                character = pattern[position : position + 1]
                position += 1
            regex += re.escape(character)
    return re.compile(b"".join(parts) + regex, re.DOTALL).fullmatch


def _character_class(pattern: bytes, position: int) -> tuple[bytes, int]:
    """Compile the class after a `[`; return it and the position behind its `]`.

    A class without `]` ends with the pattern; an empty one matches nothing.
    """
    negated = pattern[position : position + 1] == b"^"
    position += negated
    accepted: set[int] = set()
    while position < len(pattern) and pattern[position] != ord("]"):
        if pattern[position] == ord("\\") and position + 1 < len(pattern):
            position += 1
            accepted.add(pattern[position])
        elif pattern[position + 1 : position + 2] == b"-" and position + 2 < len(pattern):
            low, high = sorted((pattern[position], pattern[position + 2]))
            accepted.update(range(low, high + 1))
            position += 2
        else:
            accepted.add(pattern[position])
        position += 1
    if not accepted:
        return (b"." if negated else b"(?!)"), position + 1
    inside = b"".join(b"\\x%02x" % code for code in sorted(accepted))
    return b"[" + b"^" * negated + inside + b"]", position + 1

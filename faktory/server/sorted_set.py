r"""Sorted sets and glob patterns as in Redis, which the real server uses.

A pattern has `*`, `?`, `[abc]`, `[^a-z]` and `\`, over bytes. To match takes time in proportion to
the text, whatever the pattern: the first match of the part before a star is as good as any other,
so nothing is tried twice.
"""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, TypeVar

from .slices import Steps

T = TypeVar("T")

MAX_PATTERN: Final = 1024
"""Bytes of a pattern; Redis has no limit, and takes exponential time."""

_MAX_REGEX: Final = 32
"""Places of a part for which `re` may be used, which goes back to try each position."""

_WINDOW = 16 * 1024
"""Bytes that `Glob.steps` searches at a time."""

_Part = list[frozenset[int]]
"""What lies between two stars: the bytes that each place may have."""

_ANY = frozenset(range(256))

_BLOCK: Final = 500
"""Keys of half a full block: what is inserted or removed moves at most twice as many."""


class SortedSet(Generic[T]):
    """Members with values, ordered by score, then by the bytes of the member.

    Each operation takes about the same time however many members there are.
    """

    def __init__(self) -> None:
        self._entries: dict[bytes, tuple[int, T]] = {}
        # (score, member) in order, cut into blocks of which none is empty, and the last of each.
        self._blocks: list[list[tuple[int, bytes]]] = []
        self._lasts: list[tuple[int, bytes]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[tuple[int, bytes, T]]:
        """Iterate over (score, member, value) in order; the set may be changed meanwhile.

        Members that are added meanwhile are included if they come after those already seen.
        """
        return self._iterate(None)

    def _iterate(self, begin: int | None) -> Iterator[tuple[int, bytes, T]]:
        number = 0 if begin is None else bisect_left(self._lasts, (begin, b""))
        while number < len(self._blocks):
            block = self._blocks[number].copy()
            if begin is not None:
                del block[: bisect_left(block, (begin, b""))]
                begin = None
            for score, member in block:
                entry = self._entries.get(member)
                if entry is not None and entry[0] == score:
                    yield score, member, entry[1]
            last = block[-1]
            number = bisect_left(self._lasts, last)
            if number < len(self._lasts) and self._lasts[number] == last:
                number += 1

    def __reversed__(self) -> Iterator[tuple[int, bytes, T]]:
        """As `__iter__`, in reversed order."""
        number = len(self._blocks) - 1
        while number >= 0:
            block = self._blocks[number].copy()
            for score, member in reversed(block):
                entry = self._entries.get(member)
                if entry is not None and entry[0] == score:
                    yield score, member, entry[1]
            number = bisect_left(self._lasts, block[0]) - 1

    def page(self, start: int, count: int, reverse: bool = False) -> list[tuple[int, bytes, T]]:
        """Return up to `count` members with scores and values, after the first `start` ones."""
        found: list[tuple[int, bytes]] = []
        for block in reversed(self._blocks) if reverse else self._blocks:
            if start >= len(block):
                start -= len(block)
                continue
            keys = block[::-1] if reverse else block
            found += keys[start : start + count - len(found)]
            start = 0
            if len(found) >= count:
                break
        return [(score, member, self._entries[member][1]) for score, member in found]

    def since(self, score: int) -> Iterator[tuple[int, bytes, T]]:
        """As `__iter__`, from this score on."""
        return self._iterate(score)

    def get(self, member: bytes) -> T | None:
        """Return the value of a member, None if it is not there."""
        entry = self._entries.get(member)
        return None if entry is None else entry[1]

    def add(self, score: int, member: bytes, value: T) -> None:
        """Add a member, or replace its score and value."""
        if member in self._entries:
            self.remove(member)
        self._entries[member] = (score, value)
        key = (score, member)
        lasts = self._lasts
        if not lasts:
            self._blocks.append([key])
            lasts.append(key)
            return
        if key > lasts[-1]:
            number = len(lasts) - 1
            block = self._blocks[number]
            block.append(key)
            lasts[number] = key
        else:
            number = bisect_left(lasts, key)
            block = self._blocks[number]
            insort(block, key)
        if len(block) > 2 * _BLOCK:
            self._blocks.insert(number + 1, block[_BLOCK:])
            del block[_BLOCK:]
            lasts.insert(number, block[-1])

    def remove(self, member: bytes) -> bool:
        """Remove a member; return whether it was there."""
        entry = self._entries.pop(member, None)
        if entry is None:
            return False
        key = (entry[0], member)
        number = bisect_left(self._lasts, key)
        block = self._blocks[number]
        del block[bisect_left(block, key)]
        if not block:
            del self._blocks[number], self._lasts[number]
        elif self._lasts[number] == key:
            self._lasts[number] = block[-1]
        return True

    def clear(self) -> Steps[None]:
        """Remove all; the steps that are returned free the memory."""
        steps = _free(self._entries, self._blocks)
        self._entries, self._blocks, self._lasts = {}, [], []
        return steps

    def first(self) -> int | None:
        """Return the lowest score."""
        return self._blocks[0][0][0] if self._blocks else None

    def last(self) -> tuple[int, bytes] | None:
        """Return the highest score with its member."""
        return self._lasts[-1] if self._lasts else None

    def pop_until(self, score: int) -> Iterator[T]:
        """Remove the members up to this score, yielding the value of each."""
        while self._blocks and self._blocks[0][0][0] <= score:
            member = self._blocks[0][0][1]
            value = self._entries[member][1]
            self.remove(member)
            yield value


def _free(entries: dict[bytes, Any], blocks: list[list[tuple[int, bytes]]]) -> Steps[None]:
    while blocks:
        for _, member in blocks.pop():
            del entries[member]
        yield


class PatternTooLong(ValueError):
    """A pattern has more than MAX_PATTERN bytes."""


class Glob:
    """A pattern; called with a text, it returns whether the text matches as a whole.

    PatternTooLong if it has more than MAX_PATTERN bytes.
    """

    def __init__(self, pattern: bytes) -> None:
        if len(pattern) > MAX_PATTERN:
            raise PatternTooLong(f"a pattern is longer than {MAX_PATTERN} bytes")
        first, *others = _parse(pattern)
        self._whole = None if others else re.compile(_regex(first), re.DOTALL).fullmatch
        *middle, last = others or [first]
        self._start = re.compile(_regex(first), re.DOTALL).match
        self._middle = [(_search(part), len(part)) for part in middle if part]
        self._end = re.compile(_regex(last), re.DOTALL).fullmatch
        self._length = len(last)

    def __call__(self, text: bytes) -> bool:
        if self._whole is not None:
            return self._whole(text) is not None
        found = self._start(text)
        if found is None:
            return False
        position = found.end()
        for search, _ in self._middle:
            position = search(text, position, len(text))
            if position < 0:
                return False
        return self._matches_end(text, position)

    def steps(self, text: bytes) -> Steps[bool]:
        """Match a long text in slices."""
        if self._whole is not None:
            return self._whole(text) is not None
        found = self._start(text)
        if found is None:
            return False
        position = found.end()
        for search, length in self._middle:
            # Windows overlap, so that each place where the part can begin is in one with its end.
            for begin in range(position, len(text), _WINDOW):
                position = search(text, begin, min(begin + _WINDOW + length - 1, len(text)))
                yield
                if position >= 0:
                    break
            else:
                return False
        return self._matches_end(text, position)

    def _matches_end(self, text: bytes, position: int) -> bool:
        begin = len(text) - self._length
        return begin >= position and self._end(text, begin) is not None


def glob(pattern: bytes) -> Glob:
    """Compile a pattern."""
    return Glob(pattern)


def _search(part: _Part) -> Callable[[bytes, int, int], int]:
    """Return a function that finds a part in text[begin:end]: where it ends, or -1."""
    length = len(part)
    if all(len(place) == 1 for place in part):
        literal = bytes(code for place in part for code in place)

        def find(text: bytes, begin: int, end: int) -> int:
            start = text.find(literal, begin, end)
            return -1 if start < 0 else start + length

        return find
    if length <= _MAX_REGEX:
        search = re.compile(_regex(part), re.DOTALL).search

        def find_regex(text: bytes, begin: int, end: int) -> int:
            found = search(text, begin, end)
            return -1 if found is None else found.end()

        return find_regex
    # Bit n of `state`: the last n + 1 bytes match the first n + 1 places (the algorithm Shift-And).
    masks = [0] * 256
    for number, place in enumerate(part):
        for code in place:
            masks[code] |= 1 << number
    goal = 1 << (length - 1)

    def shift_and(text: bytes, begin: int, end: int) -> int:
        state = 0
        for number in range(begin, end):
            state = (state << 1 | 1) & masks[text[number]]
            if state & goal:
                return number + 1
        return -1

    return shift_and


def _regex(part: _Part) -> bytes:
    return b"".join(map(_regex_class, part))


def _regex_class(place: frozenset[int]) -> bytes:
    if len(place) == 256:
        return b"."
    runs: list[list[int]] = []
    for code in sorted(place):
        if runs and runs[-1][1] == code - 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    inside = b"".join(b"\\x%02x-\\x%02x" % (low, high) for low, high in runs)
    return b"[" + inside + b"]" if inside else b"(?!)"


def _parse(pattern: bytes) -> list[_Part]:
    """Split a pattern at its stars."""
    parts: list[_Part] = [[]]
    position = 0
    while position < len(pattern):
        code = pattern[position]
        position += 1
        if code == ord("*"):
            parts.append([])
            continue
        if code == ord("?"):
            place = _ANY
        elif code == ord("["):
            place, position = _character_class(pattern, position)
        else:
            if code == ord("\\") and position < len(pattern):
                code = pattern[position]
                position += 1
            place = frozenset((code,))
        parts[-1].append(place)
    return parts


def _character_class(pattern: bytes, position: int) -> tuple[frozenset[int], int]:
    """Return the bytes of the class after a `[`, and the position behind its `]`.

    A class without `]` ends with the pattern; an empty one matches nothing. A range may end with
    `]`, and may be written backwards.
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
    return (_ANY - accepted if negated else frozenset(accepted)), position + 1

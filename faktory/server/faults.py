"""Faults on demand, for tests: what goes wrong with the next commands of a verb."""

from __future__ import annotations

from collections import deque
from typing import Literal, NamedTuple

FaultKind = Literal["drop before", "drop after", "delay", "error"]


class Fault(NamedTuple):
    """One thing that goes wrong once."""

    kind: FaultKind
    seconds: float = 0.0
    message: str = ""


class Faults:
    """The faults that were planned, by verb, in the order in which they will happen."""

    def __init__(self) -> None:
        self.held: set[bytes] = set()
        """Verbs whose commands wait until they are released."""
        self._planned: dict[bytes, deque[Fault]] = {}

    def __bool__(self) -> bool:
        return bool(self.held or self._planned)

    def plan(self, verb: str, fault: Fault, times: int) -> None:
        """Let the fault happen to the next `times` commands of this verb."""
        self._planned.setdefault(verb.encode(), deque()).extend([fault] * times)

    def pop(self, verb: bytes) -> Fault | None:
        """Remove and return the fault of the next command of this verb."""
        planned = self._planned.get(verb)
        if planned is None:
            return None
        fault = planned.popleft()
        if not planned:
            del self._planned[verb]
        return fault

    def clear(self) -> None:
        """Forget the planned faults; held verbs stay held."""
        self._planned.clear()

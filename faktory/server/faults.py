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
    """What was planned, by verb, in the order in which it will happen."""

    def __init__(self) -> None:
        self.held: set[bytes] = set()
        self._planned: dict[bytes, deque[Fault]] = {}

    def __bool__(self) -> bool:
        return bool(self.held or self._planned)

    def plan(self, verb: str, fault: Fault, times: int) -> None:
        """Let the next `times` commands of this verb meet the fault."""
        self._planned.setdefault(verb.encode(), deque()).extend([fault] * times)

    def take(self, verb: bytes) -> Fault | None:
        """Return what the next command of this verb meets."""
        planned = self._planned.get(verb)
        if planned is None:
            return None
        fault = planned.popleft()
        if not planned:
            del self._planned[verb]
        return fault

    def clear(self) -> None:
        """Forget all that was planned; what is held stays held."""
        self._planned.clear()

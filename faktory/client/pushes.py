"""How many jobs this process has pushed, by outcome, where something counts them.

Rules: where nothing counts, a push pays one comparison. Counting holds no lock, and so waits for
nothing, whatever a signal handler or the garbage collector calls meanwhile.
"""

from __future__ import annotations

from collections import deque
from itertools import count, islice
from typing import TYPE_CHECKING, Any, Final

from ..exceptions import FaktoryJSONError, FaktoryOutcomeUnknown, FaktoryServerError

if TYPE_CHECKING:
    from ..wire.commands import Command

OUTCOMES: Final = ("pushed", "refused", "failed", "unknown")
"""The server has it; the server refused it; it was not sent; the connection broke meanwhile."""

PUSHED, REFUSED, FAILED, UNKNOWN = range(len(OUTCOMES))


class Pushes:
    """Counters of pushes, one for each of OUTCOMES; `totals` has their values, to go on from."""

    def __init__(self, totals: memoryview[float]) -> None:
        self._totals = totals
        self._counters = [count(int(total)) for total in totals]

    def add(self, outcome: int, number: int) -> None:
        """Count so many jobs. From any thread."""
        counter = self._counters[outcome]
        deque(islice(counter, number), maxlen=0)  # each of its steps is one of C: none gets lost
        stored = -1
        while stored != (now := value_of(counter)):  # others count, and store, meanwhile
            self._totals[outcome] = stored = now


current: Pushes | None = None
"""Those of this process, if something counts them."""


def note(command: Command[Any], result: object) -> None:
    """Count the jobs of a command by its result, the answer's value or an error."""
    if current is None or command.name not in ("PUSH", "PUSHB"):
        return
    number = len(command.jids)
    if not isinstance(result, BaseException):
        refused = len(result) if isinstance(result, dict) else 0
        if refused:
            current.add(REFUSED, refused)
        current.add(PUSHED, max(number - refused, 0))
    elif isinstance(result, FaktoryServerError):
        current.add(REFUSED, number)
    elif isinstance(result, FaktoryOutcomeUnknown | FaktoryJSONError):
        current.add(UNKNOWN, number)
    else:
        current.add(FAILED, number)


def value_of(counter: count[int]) -> int:
    """Return the next number of a counter, and leave it there."""
    return int(repr(counter)[len("count(") : -1])  # nothing else shows it

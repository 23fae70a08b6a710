"""What `top` reads from a server, again and again: INFO, how long jobs wait, and rates of both.

Rules: a reading costs the server one INFO and a QUEUE LATENCY for each queue that is shown, however
many it has. No command shows how many jobs were pushed: that follows from the jobs that there are
and those that ended, so jobs that are deleted, or dropped when they fail, count against it.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ...exceptions import FaktoryAuthenticationError, FaktoryError
from ..exits import ExitError
from . import admin, output

if TYPE_CHECKING:
    from ...client import Client

SETS: Final = ("scheduled", "retries", "dead", "working")
"""Where a job may be beside a queue."""

CLOSE_TIMEOUT: Final = 1.0
"""Seconds for the command that is under way when the tool ends."""


class Reading(NamedTuple):
    """What a server said; `at` is when, by `time.monotonic`."""

    info: Mapping[str, Any]
    state: admin.State
    at: float
    names: Sequence[str]
    """The queues that were asked for; none: all of them."""
    shown: list[str]
    """Those to show, the largest first."""
    latencies: dict[str, float | None]
    """Seconds that the oldest job of each of them has waited, None if that is unknown."""

    def of_faktory(self, *names: str) -> object:
        """Return a value of INFO by its path below `faktory`, None if it is not there."""
        return _find(self.info.get("faktory"), names)

    def of_server(self, name: str) -> object:
        """Return a value of INFO below `server`."""
        return _find(self.info.get("server"), (name,))

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes of the queues that were asked for."""
        queues = self.state.queues
        return {name: queues.get(name, 0) for name in self.names} or queues

    @property
    def present(self) -> int:
        """How many jobs the server has, those that workers have among them."""
        state = self.state
        return sum(state.queues.values()) + sum(state.sets.get(name, 0) for name in SETS)


def _find(value: object, names: Sequence[str]) -> object:
    for name in names:
        value = admin.as_object(value).get(name)
    return value


class Rates(NamedTuple):
    """What happened between two readings, for each second; None is unknown."""

    seconds: float
    pushed: float | None = None
    processed: float | None = None
    failed: float | None = None
    commands: float | None = None


def read(client: Client, names: Sequence[str], limit: int | None) -> Reading:
    """Read a server once, with the latencies of `names`, or of the `limit` largest queues."""
    info = client.info()
    at = time.monotonic()
    state = admin.read_state(info)
    reading = Reading(info, state, at, names, [], {})
    sizes = reading.sizes
    shown = largest(sizes, len(sizes) if names or limit is None else limit)
    latencies = admin.latencies(client, {name: sizes[name] for name in shown})
    return reading._replace(shown=shown, latencies=latencies)


def largest(sizes: dict[str, int], limit: int) -> list[str]:
    """Return the names of the largest queues, those of one size by name."""
    return heapq.nsmallest(limit, sizes, key=lambda name: (-sizes[name], name))


def rates(before: Reading | None, after: Reading) -> Rates:
    """Return what happened between two readings."""
    if before is None or after.at <= before.at:
        return Rates(0.0)
    seconds = after.at - before.at
    processed = _gain(before, after, "total_processed")
    failed = _gain(before, after, "total_failures")
    if processed is None or failed is None or processed < 0 or failed < 0:
        return Rates(seconds)  # the numbers were flushed, or it is another server
    pushed = max(0, after.present - before.present + processed - failed)
    old, new = (output.number(each.of_server("command_count")) for each in (before, after))
    commands = None if old is None or new is None or new < old else (new - old) / seconds
    return Rates(seconds, pushed / seconds, processed / seconds, failed / seconds, commands)


def _gain(before: Reading, after: Reading, name: str) -> float | None:
    old, new = (output.number(each.of_faktory(name)) for each in (before, after))
    return None if old is None or new is None else new - old


class Seen(NamedTuple):
    """What a watcher has seen up to now."""

    latest: Reading
    before: Reading | None = None
    problem: str = ""
    """Why there is no answer, empty if there is one."""
    since: float = 0.0
    """When the last answer came (`time.time`)."""


class Watcher(Thread):
    """Reads a server again and again; `on_change` is called, by this thread, after each time."""

    def __init__(
        self,
        client: Client,
        names: Sequence[str],
        interval: float,
        first: Reading,
        on_change: Callable[[], object],
    ) -> None:
        super().__init__(name="faktory-top", daemon=True)
        self.rows = len(first.shown)
        """How many queues to ask about."""
        self.seen = Seen(first, since=time.time())
        self.count = 1
        """How often it was read."""
        self.error: BaseException | None = None
        """Why this thread has ended by itself."""
        self._client = client
        self._names = names
        self._interval = interval
        self._on_change = on_change
        self._ending = Event()

    def run(self) -> None:
        """Read until `stop`."""
        try:
            began = self.seen.latest.at
            while not self._ending.wait(max(0.0, began + self._interval - time.monotonic())):
                began = time.monotonic()
                self.seen = look(self._client, self._names, self.rows, self.seen)
                self.count += not self.seen.problem
                self._on_change()
        except BaseException as error:
            self.error = error
            self._on_change()

    def stop(self) -> None:
        """End it, and the command that it waits for."""
        self._on_change = _do_nothing
        self._ending.set()
        self._client.interrupt()
        with suppress(RuntimeError):  # it was not started
            self.join(CLOSE_TIMEOUT)


def _do_nothing() -> None:
    pass


def look(client: Client, names: Sequence[str], limit: int | None, seen: Seen) -> Seen:
    """Read a server once more; where that fails, note why. A refused password is raised."""
    try:
        reading = read(client, names, limit)
    except FaktoryAuthenticationError:
        raise
    except (FaktoryError, ExitError, OSError, ValueError) as error:
        return seen._replace(problem=str(error))
    # After an outage the rates are those of all of it.
    return Seen(reading, seen.latest, "", time.time())

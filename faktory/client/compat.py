"""What code written for faktory 1.0.0 relies on: `Client.queue`, and fake connections in its tests.

Rules: a job is checked for what that package checked and for nothing else, since the server's
answer decides the rest. A fake connection gets the job as a dict, never as bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from ..exceptions import FaktoryPayloadError
from ..wire.commands import Command
from ..wire.session import Answer
from ..wire.validate import check_queue
from . import fork


class FakeConnection(Protocol):
    """What a test may pass as `Client(connection=...)`: the methods of 1.0.0's own connection."""

    def connect(self) -> object:
        """Connect; return something true if that succeeded."""

    def disconnect(self) -> object:
        """Disconnect."""

    def reply(self, command: str, data: dict[str, Any], /) -> object:
        """Take a command and the dict that belongs to it."""

    def get_message(self) -> Iterator[object]:
        """Return an iterator over the answers: "OK" for a job that is queued."""


class CompatConnection:
    """A fake connection in the place of a client's own; it serves `Client.queue` alone."""

    def __init__(self, connection: FakeConnection) -> None:
        self._connection = connection
        self.is_open = False

    def open(self) -> None:
        """Connect, even if connected: a fake may count the calls."""
        self.is_open = bool(self._connection.connect())

    def close(self) -> None:
        """Disconnect, even if not connected."""
        self._connection.disconnect()
        self.is_open = False

    def interrupt(self) -> None:
        """Do nothing: `queue` waits for nothing that could be interrupted."""

    def exchange(self, *sent: Command[Any]) -> list[Answer]:
        """Refuse."""
        raise NotImplementedError(
            f"{sent[0].name}: a fake connection (Client(connection=...)) only knows `queue`. "
            "For the other methods use a server: faktory.server.EmbeddedServer."
        )

    def push(self, job: dict[str, Any]) -> str | None:
        """Hand over a job; return None if it is queued, else the answer."""
        self._connection.reply("PUSH", job)
        answer = next(self._connection.get_message())
        return None if answer == "OK" else str(answer)


class Connectable(Protocol):
    """A client, as far as its connecting goes."""

    @property
    def is_connected(self) -> bool:
        """Whether it is connected."""

    def connect(self) -> object:
        """Connect."""

    def disconnect(self) -> None:
        """Disconnect."""


class TemporaryConnections:
    """Connects a client for pushes that find it unconnected; the last one to end disconnects it.

    Threads that share the client may begin and end theirs in any order.
    """

    _lock = fork.AtFirstUse(lambda: threading.Lock())

    def __init__(self) -> None:
        self.reset_after_fork()
        fork.register(self)

    def reset_after_fork(self) -> None:
        """Forget the parent's pushes: for `fork`, in the child."""
        vars(self).pop("_lock", None)
        self._pushes = 0

    @contextmanager
    def connected(self, client: Connectable) -> Iterator[None]:
        """Keep a client connected for a `with` block."""
        with self._lock:
            temporary = self._pushes > 0 or not client.is_connected
            self._pushes += temporary
        try:
            if temporary and not client.is_connected:
                client.connect()
            yield
        finally:
            if temporary:
                with self._lock:
                    self._pushes -= 1
                    if not self._pushes:
                        client.disconnect()


def make_job(
    task: str,
    args: object,
    queue: str,
    priority: int,
    jid: str,
    custom: object,
    reserve_for: object,
    at: object,
    retry: object,
    backtrace: object,
) -> dict[str, Any]:
    """Return the job as faktory 1.0.0 sent it; ValueError where that package raised one."""
    if not task:
        raise ValueError("Empty task name")
    if not queue:
        raise ValueError("Empty queue name")
    if args is None:
        args = ()
    if not isinstance(args, (list, tuple, set, Iterator)):  # a frozenset was refused, too
        raise ValueError("Argument `args` must be an iterator, generator, list, tuple or a set")
    job: dict[str, Any] = {
        "jid": jid,
        "queue": queue,
        "jobtype": task,
        "priority": priority,
        "args": list(args),
        "retry": retry,
        "backtrace": backtrace,
    }
    optional = {"custom": custom, "reserve_for": reserve_for, "at": at}
    job.update((name, value) for name, value in optional.items() if value is not None)
    return job


def why_lost(job: dict[str, Any]) -> str | None:
    """Return why the server would answer OK and lose the job; None if it would not.

    It checks the queue's name of any other job itself, of a scheduled one when it is too late.
    """
    if job.get("at"):
        try:
            check_queue("queue", job["queue"])
        except FaktoryPayloadError as error:
            return f"{error} The server would answer OK and lose the job when it is due."
    return None

"""What code written for faktory 1.0.0 relies on: `Client.queue`, and stand-ins for a connection.

Rules: no check but that package's own; what the server would make of a job is the server's to
say. A stand-in is never shown a byte: it gets the dict.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from ..exceptions import FaktoryPayloadError, FaktoryServerError
from ..wire import commands
from ..wire.commands import Command
from ..wire.payload import DEFAULT_RETRY
from ..wire.session import Answer
from ..wire.validate import check_queue
from . import fork

if TYPE_CHECKING:
    from .client import Client


class StandIn(Protocol):
    """What `Client(connection=...)` takes in the place of a connection, from a test say."""

    def connect(self) -> Any:
        """Connect; what is true says that it went well."""

    def disconnect(self) -> Any:
        """Disconnect."""

    def reply(self, command: str, data: Any, /) -> Any:
        """Take a command and the dict that belongs to it."""

    def get_message(self) -> Iterator[Any]:
        """Return an iterator over the answers: "OK" for a job that is queued."""


class CompatConnection:
    """A stand-in in the place of a client's line; it knows `Client.queue` and no other command."""

    def __init__(self, connection: StandIn) -> None:
        self._connection = connection
        self.is_open = False

    def open(self) -> None:
        """Connect, even if connected: to a stand-in every word may matter."""
        self.is_open = bool(self._connection.connect())

    def close(self) -> None:
        """Disconnect, even if not connected."""
        self._connection.disconnect()
        self.is_open = False

    def exchange(self, *sent: Command[Any]) -> list[Answer]:
        """Refuse."""
        raise NotImplementedError(
            f"{sent[0].name}: a stand-in connection (Client(connection=...)) only knows `queue`. "
            "For the other methods use a server: faktory.server.EmbeddedServer."
        )

    def push(self, job: dict[str, Any]) -> str | None:
        """Hand over a job; return None if it is queued, else the answer."""
        self._connection.reply("PUSH", job)
        answer = next(self._connection.get_message())
        return None if answer == "OK" else str(answer)


class TemporaryConnections:
    """Pushes that find a client not connected: they connect it, and the last one disconnects it.

    Threads that share the client may come and go in any order.
    """

    def __init__(self) -> None:
        self.reset_after_fork()
        fork.register(self)

    def reset_after_fork(self) -> None:
        """Forget the parent's visits: for `fork`, in the child."""
        self._door = Lock()
        self._guests = 0

    @contextmanager
    def visit(self, client: Client) -> Iterator[None]:
        """Have the client connected in a `with` block."""
        with self._door:
            guest = self._guests > 0 or not client.is_connected
            self._guests += guest
        try:
            if guest and not client.is_connected:
                client.connect()
            yield
        finally:
            if guest:
                with self._door:
                    self._guests -= 1
                    if not self._guests:
                        client.disconnect()


def request(
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
    if not isinstance(args, (list, tuple, set, Iterator)):  # no frozenset: to the letter
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


def push(client: Client, visits: TemporaryConnections, job: dict[str, Any]) -> str | None:
    """Push a job of `request`; return why the server refuses it, or None if it is queued.

    Nobody is connected for a job that JSON cannot hold: FaktoryPayloadError.
    """
    if job["retry"] is None:
        job["retry"] = DEFAULT_RETRY  # what the server means by None; it does not keep to it
    command = commands.push(job)
    # Any other queue's name is checked by the server; when a job is due it is too late for that.
    if job.get("at"):
        try:
            check_queue("queue", job["queue"])
        except FaktoryPayloadError as error:
            return f"{error} The server would answer OK and lose the job when it is due."
    with visits.visit(client):
        # The answer is looked at, not what is raised: in inline mode that is the job's own.
        refusal = client.exchange(command)[0].error
    if refusal is not None and not isinstance(refusal, FaktoryServerError):
        raise refusal
    return None if refusal is None else str(refusal)

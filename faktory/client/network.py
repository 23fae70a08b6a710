"""How connections are opened, and the one place where a test mode takes the server's place.

Rules: the network is the process's, as in the Ruby client's test modes: every client of every
thread uses `current` from its next command on. A connection that is open stays open meanwhile,
and is used again when the network that opened it is back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..wire.address import Address
from .transport import SocketTransport, Transport

if TYPE_CHECKING:
    from ssl import SSLContext

    from ..wire.commands import Command
    from ..wire.session import Answer


class Network(Protocol):
    """Opens transports."""

    in_process: bool
    """Commands are answered in the calling thread and without a socket: there is nothing to pool,
    to batch, or to hand to another thread, and a command may be sent while another one runs."""

    def connect(
        self,
        address: Address,
        identity: Mapping[str, object],
        timeout: float,
        ssl_context: SSLContext | None,
        keepalive: float,
        begun: Callable[[Transport], object] | None = None,
    ) -> Transport:
        """Open a connection; FaktoryConnectionError or one below it where that fails.

        `begun` is called with the transport before it waits for a server, so that another thread
        can interrupt it.
        """


class SocketNetwork:
    """Opens sockets to servers."""

    in_process = False

    def connect(
        self,
        address: Address,
        identity: Mapping[str, object],
        timeout: float,
        ssl_context: SSLContext | None,
        keepalive: float,
        begun: Callable[[Transport], object] | None = None,
    ) -> Transport:
        """Open a socket, with TLS if the address says so, and shake hands."""
        return SocketTransport(address, identity, timeout, ssl_context, keepalive, begun)


class MemoryNetwork(ABC):
    """A test mode: keeps the jobs that are pushed; see `faktory.testing`."""

    in_process = True

    @abstractmethod
    def connect(
        self,
        address: Address,
        identity: Mapping[str, object],
        timeout: float,
        ssl_context: SSLContext | None,
        keepalive: float,
        begun: Callable[[Transport], object] | None = None,
    ) -> Transport:
        """Return the server in memory, whatever the address."""

    @abstractmethod
    async def exchange_on_loop(self, sent: Sequence[Command[Any]]) -> list[Answer]:
        """Answer commands of a client on an event loop, on which async jobs run in inline mode."""

    @property
    @abstractmethod
    def jobs(self) -> list[dict[str, Any]]:
        """All jobs that wait."""

    @abstractmethod
    def jobs_of(self, jobtype: str) -> list[dict[str, Any]]:
        """Return the jobs of one type that wait."""

    @abstractmethod
    def clear(self, jobtype: str | None = None) -> None:
        """Forget jobs."""

    @abstractmethod
    def drain(self, jobtype: str | None = None) -> int:
        """Run jobs; return how many."""

    @abstractmethod
    def perform_one(self, jobtype: str | None = None) -> None:
        """Run one job."""


SOCKETS: Final = SocketNetwork()

current: Network = SOCKETS
"""What all clients of this process use."""


def use(network: Network) -> None:
    """Make all clients of this process use another network."""
    global current
    current = network


def memory() -> MemoryNetwork:
    """Return the test mode that is on; RuntimeError where jobs go to a server."""
    if isinstance(current, MemoryNetwork):
        return current
    raise RuntimeError(
        "jobs go to a server: only a test mode keeps them, "
        "`with faktory.testing.fake():` say, or the fixture faktory_fake."
    )

"""Fixtures for pytest, which finds them by an entry point.

Rules: nothing is imported before a test requests a fixture, so a test run without Faktory pays
nothing. Each process of pytest-xdist has its own server.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ..server import EmbeddedServer
    from .embedded import DrainingWorker
    from .memory import MemoryServer


@pytest.fixture
def faktory_fake() -> Iterator[MemoryServer]:
    """Fake mode: pushed jobs are kept in `faktory_fake.jobs`, and run by `.drain()`."""
    from .modes import fake

    with fake() as memory:
        yield memory


@pytest.fixture
def faktory_inline() -> Iterator[MemoryServer]:
    """Inline mode: each job runs where it is pushed."""
    from .modes import inline

    with inline() as memory:
        yield memory


@pytest.fixture(scope="session")
def faktory_server_options() -> dict[str, Any]:
    """Options of the embedded server: override it to return `{"enterprise": True}`, for example."""
    return {}


@pytest.fixture(scope="session")
def _faktory_session_server(faktory_server_options: dict[str, Any]) -> Iterator[EmbeddedServer]:
    from ..server import EmbeddedServer

    with EmbeddedServer(**faktory_server_options) as server:
        yield server


@pytest.fixture
def faktory_server(_faktory_session_server: EmbeddedServer) -> Iterator[EmbeddedServer]:
    """An embedded server without jobs; everything in this process pushes to it."""
    from .embedded import pushed_to

    # A client of the test before may still send something, its END for example.
    _faktory_session_server.disconnect()
    _faktory_session_server.reset()
    with pushed_to(_faktory_session_server):
        yield _faktory_session_server


@pytest.fixture
def faktory_worker(faktory_server: EmbeddedServer) -> DrainingWorker:
    """A worker on `faktory_server`: `drain()` runs jobs until none is left."""
    from .embedded import DrainingWorker

    return DrainingWorker(faktory_server)


@pytest.fixture
def faktory_clock(request: pytest.FixtureRequest) -> Clock:
    """The clock of the test's server, in fake and inline mode too: `travel(seconds)`."""
    known = ("faktory_fake", "faktory_inline", "faktory_server", "faktory_worker")
    names = {name for name in known if name in request.fixturenames}
    if "faktory_worker" in names:
        names = (names - {"faktory_worker"}) | {"faktory_server"}
    return Clock([request.getfixturevalue(name) for name in sorted(names or {"faktory_server"})])


class Clock:
    """Moves the clocks of all servers of a test."""

    def __init__(self, servers: list[EmbeddedServer | MemoryServer]) -> None:
        self._servers = servers

    def travel(self, seconds: float, *, periodic: bool = True) -> None:
        """Move time forward; jobs that became due by then are in their queues when this returns.

        So are those of the ticks of periodic jobs, 10,000 at most; none with `periodic=False`.
        """
        from .embedded import travel
        from .memory import MemoryServer

        for server in self._servers:
            if isinstance(server, MemoryServer):
                server.travel(seconds, periodic=periodic)
            else:
                travel(server, seconds, periodic)

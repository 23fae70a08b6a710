"""Fixtures for pytest, which finds them by an entry point: nothing happens until one is asked for.

Rules: nothing is imported before that either, so that a test run that does not use Faktory pays
nothing for it. Every process of pytest-xdist has a server of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ..server import EmbeddedServer
    from .memory import MemoryServer
    from .real import DrainingWorker


@pytest.fixture
def faktory_fake() -> Iterator[MemoryServer]:
    """Fake mode: what is pushed is kept, in `faktory_fake.jobs`, and run by `.drain()`."""
    from .modes import fake

    with fake() as memory:
        yield memory


@pytest.fixture
def faktory_inline() -> Iterator[MemoryServer]:
    """Inline mode: each job is run where it is pushed."""
    from .modes import inline

    with inline() as memory:
        yield memory


@pytest.fixture(scope="session")
def faktory_server_options() -> dict[str, Any]:
    """Options for the embedded server; to be overridden, by `{"enterprise": True}` say."""
    return {}


@pytest.fixture(scope="session")
def _faktory_session_server(faktory_server_options: dict[str, Any]) -> Iterator[EmbeddedServer]:
    from ..server import EmbeddedServer

    with EmbeddedServer(**faktory_server_options) as server:
        yield server


@pytest.fixture
def faktory_server(_faktory_session_server: EmbeddedServer) -> Iterator[EmbeddedServer]:
    """An embedded server, as new, which everything in this process pushes to."""
    from .real import pushed_to

    # What a client of the test before still has to say, its END say, is not this one's.
    _faktory_session_server.disconnect()
    _faktory_session_server.reset()
    with pushed_to(_faktory_session_server):
        yield _faktory_session_server


@pytest.fixture
def faktory_worker(faktory_server: EmbeddedServer) -> DrainingWorker:
    """A worker on `faktory_server`: `drain()` runs what waits there until nothing does."""
    from .real import DrainingWorker

    return DrainingWorker(faktory_server)


@pytest.fixture
def faktory_clock(request: pytest.FixtureRequest) -> Clock:
    """The clock of the test's server, in fake and inline mode too: `travel(seconds)`."""
    asked = ("faktory_fake", "faktory_inline", "faktory_server", "faktory_worker")
    names = {name for name in asked if name in request.fixturenames}
    if "faktory_worker" in names:
        names = (names - {"faktory_worker"}) | {"faktory_server"}
    return Clock([request.getfixturevalue(name) for name in sorted(names or {"faktory_server"})])


class Clock:
    """Moves the clocks of whatever serves the test."""

    def __init__(self, servers: list[Any]) -> None:
        self._servers = servers

    def travel(self, seconds: float) -> None:
        """Move time forward: what becomes due is due when this returns."""
        for server in self._servers:
            server.travel(seconds)

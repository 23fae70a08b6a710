"""A new process and an embedded server for each test, and what both libraries have recorded."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from faktory.client import network
from faktory.testing.embedded import EmbeddedTestServer, served

from ..jobs.support import new_process


@pytest.fixture(autouse=True)
def own_process() -> Iterator[None]:
    """What a test declares or puts around jobs is unknown to the next one."""
    with new_process():
        yield
    network.use(network.SOCKETS)


@pytest.fixture
def server() -> Iterator[EmbeddedTestServer]:
    """A server to which this process pushes, with a worker that drains it."""
    with served() as server:
        yield server

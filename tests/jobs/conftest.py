"""A registry and a fake server of its own for each test of the jobs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .support import FakeServer, faked_server, new_process


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """The server that this process pushes to."""
    with faked_server() as server:
        yield server


@pytest.fixture(autouse=True)
def own_process() -> Iterator[None]:
    """What a test declares, configures or puts around jobs is unknown to the next one."""
    with new_process():
        yield

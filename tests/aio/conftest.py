"""Fixtures: a loop of each kind, and those of tests/client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..client.conftest import (  # noqa: F401
    client_tls,
    in_child,
    no_socket_is_left_open,
    scripted,
    server_tls,
)
from .support import KINDS, Adapter, use_adapters


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of loop in turn."""
    return request.param


@pytest.fixture
def adapter(kind: str) -> Iterator[type[Adapter]]:
    """The class of adapters, whose loop is of each kind in turn."""
    end = use_adapters(kind)
    yield Adapter
    end()

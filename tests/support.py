"""Functions and classes for the tests of several rooms; fixtures are in conftest.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float = 20) -> T:
    """Call `condition` until it is true, and return its result; fail after so many seconds."""
    deadline = time.monotonic() + timeout
    pause = 0.001
    while True:
        # Read before the condition: a machine that stood still does not fail a true one.
        late = time.monotonic() >= deadline
        if result := condition():
            return result
        if late:
            name = getattr(condition, "__qualname__", repr(condition))
            pytest.fail(f"{name} was still {result!r} after {timeout} seconds")
        time.sleep(pause)
        pause = min(pause * 1.2, 0.02)  # many a condition reads files, or all of /proc


class FakeNetwork:
    """A network whose transports the test makes: `connect(address, identity, timeout, context)`."""

    in_process = False

    def __init__(self, connect: Callable[..., Any]) -> None:
        self.connect = connect

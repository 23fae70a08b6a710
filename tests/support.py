"""What tests of several rooms use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class FakeNetwork:
    """A network whose transports the test makes: `connect(address, identity, timeout, context)`."""

    in_process = False

    def __init__(self, connect: Callable[..., Any]) -> None:
        self.connect = connect

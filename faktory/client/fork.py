"""Objects that reset themselves in a forked child, as the parent's connections are not its own.

Rules: they do so before anything else runs in the child, so that nothing in it can see the parent's
state, and nobody else has to check whether there was a fork.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Resettable(Protocol):
    """An object with state that a child must not share."""

    def reset_after_fork(self) -> None:
        """Drop the parent's connections, locks and work; send nothing."""


_registered: WeakSet[Resettable] = WeakSet()


def register(instance: Resettable) -> None:
    """Call `reset_after_fork` in each child, as long as the object lives."""
    _registered.add(instance)


def _reset_all() -> None:
    for instance in list(_registered):
        instance.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all)

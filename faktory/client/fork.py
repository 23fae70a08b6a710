"""What starts anew in a forked child: its parent's connections and locks are not its own.

Rules: it happens before anything else runs in the child, so that no thread of it can meet what is
the parent's, and nobody else has to ask whether there was a fork.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """What can start anew."""

    def reset_after_fork(self) -> None:
        """Let go of what is the parent's, without a word to anybody."""


_known: WeakSet[Forkable] = WeakSet()


def register(known: Forkable) -> None:
    """See that it starts anew in every child from now on, as long as it lives."""
    _known.add(known)


def _in_child() -> None:
    for known in list(_known):
        known.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)

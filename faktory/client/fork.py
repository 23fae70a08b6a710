"""Objects that reset themselves in a forked child, as the parent's connections are not its own.

Rules: they do so before anything else runs in the child, so that nothing in it can see the parent's
state, and nobody else has to check whether there was a fork.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar
from weakref import WeakSet

T = TypeVar("T")


class Resettable(Protocol):
    """An object with state that a child must not share."""

    def reset_after_fork(self) -> None:
        """Drop the parent's connections, locks and work; send nothing."""


class AtFirstUse(Generic[T]):
    """An attribute of an instance that `make` makes when it is first used: a lock.

    Made any earlier, with an object that a module holds, it would block all greenlets: gevent and
    eventlet replace what `threading` has later, and in gunicorn's workers after the fork. Removed
    from the instance's `vars`, it is made again.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> T:
        found: T = vars(instance).setdefault(self._name, self._make())
        return found


_registered: WeakSet[Resettable] = WeakSet()


def register(instance: Resettable) -> None:
    """Call `reset_after_fork` in each child, as long as the object lives."""
    _registered.add(instance)


def _reset_all() -> None:
    for instance in list(_registered):
        instance.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all)

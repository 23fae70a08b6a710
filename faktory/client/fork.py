"""What a fork needs: objects that reset themselves in the child, as the parent's connections are
not its own; modules that are imported completely, or not at all; an end that loses nothing.

Rules: they do so before anything else runs in the child, so that nothing in it can see the parent's
state, and nobody else has to check whether there was a fork. A child that is ended by `os._exit`
ends by `end_process` instead, so that its Producers push what they hold, or log how much it is.
No thread forks while another one imports what a connection needs: the child would wait for that
import, which nobody finishes there, for ever.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from threading import RLock
from typing import Final, Generic, NoReturn, Protocol, TypeVar, overload
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

    @overload
    def __get__(self, instance: None, owner: type) -> AtFirstUse[T]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object, owner: type) -> T | AtFirstUse[T]:
        if instance is None:
            return self
        found: T = vars(instance).setdefault(self._name, self._make())
        return found


_registered: WeakSet[Resettable] = WeakSet()


def register(instance: Resettable) -> None:
    """Call `reset_after_fork` in each child, as long as the object lives."""
    _registered.add(instance)


_NEEDED: Final = ("encodings.idna", "hashlib", f"{__package__}.tls")
"""What connecting imports, by itself or in the standard library (`getaddrinfo`)."""

_importing = RLock()


def preload(*, tls: bool, password: bool) -> None:
    """Import now what a connection needs; for TLS as late as can be, since gevent patches `ssl`."""
    with _importing:
        for name, needed in zip(_NEEDED, (True, password, tls), strict=True):
            if needed:
                with suppress(ImportError):  # then what needs it says so
                    import_module(name)


def _before_fork() -> None:
    """Let no import be under way, of this module's or anyone else's."""
    _importing.acquire()
    preload(tls=False, password=False)
    for name in list(sys.modules):
        if name in ("ssl", *_NEEDED) or name.startswith("faktory."):
            spec = getattr(sys.modules.get(name), "__spec__", None)
            if getattr(spec, "_initializing", False):
                with suppress(Exception):
                    import_module(name)  # waits for the thread that does so


def on_end(function: Callable[[float], object]) -> None:
    """Call `function` before `end_process` ends a process, with the seconds that it may take."""
    _on_end.append(function)


_on_end: list[Callable[[float], object]] = []


def end_process(code: int, timeout: float) -> NoReturn:
    """End this process, which was forked: push and print what it still holds, then `os._exit`.

    Pushing may take `timeout` seconds.
    """
    try:
        for function in _on_end:
            with suppress(Exception):
                function(timeout)
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
    finally:
        os._exit(code)


def _reset_all() -> None:
    for instance in list(_registered):
        instance.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all)
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_importing.release,
        after_in_child=_importing.release,
    )

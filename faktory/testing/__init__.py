"""Testing what uses Faktory: a server in memory, assertions, fixtures for pytest.

Nothing happens when this is imported, nor is much imported: each name is when it is first used.
`jobs`, `queues` and `mode` are what the test mode that is on holds; they are not part of `*`, nor
listed by `dir`: without a mode there are none, and who walks over a module's names asks for all.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .asserts import assert_enqueued, assert_not_enqueued
    from .cases import FakeMixin, InlineMixin, ServerMixin
    from .memory import EmptyQueueError, MemoryServer
    from .modes import clear_all, disable, drain_all, fake, inline

    jobs: list[dict[str, Any]]
    queues: dict[str, list[dict[str, Any]]]
    mode: str | None

_HOMES = {
    **dict.fromkeys(("assert_enqueued", "assert_not_enqueued"), "asserts"),
    **dict.fromkeys(("FakeMixin", "InlineMixin", "ServerMixin"), "cases"),
    **dict.fromkeys(("clear_all", "disable", "drain_all", "fake", "inline"), "modes"),
    **dict.fromkeys(("EmptyQueueError", "MemoryServer"), "memory"),
}
_LIVE = ("jobs", "mode", "queues")

__all__ = [
    "EmptyQueueError",
    "FakeMixin",
    "InlineMixin",
    "MemoryServer",
    "ServerMixin",
    "assert_enqueued",
    "assert_not_enqueued",
    "clear_all",
    "disable",
    "drain_all",
    "fake",
    "inline",
]

if not TYPE_CHECKING:

    def __getattr__(name):
        if name in _LIVE:
            return import_module("faktory.testing.modes").look_up(name)
        if name not in _HOMES:
            raise AttributeError(f"module 'faktory.testing' has no attribute {name!r}")
        value = getattr(import_module(f"faktory.testing.{_HOMES[name]}"), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})

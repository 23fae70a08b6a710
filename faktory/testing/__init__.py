"""Tests of code that uses Faktory: a server in memory, assertions, fixtures for pytest.

Importing this has no effect and costs little: each name is imported when it is first used.
`jobs`, `queues` and `mode` show the active test mode. Neither `*` nor `dir` lists them: without a
mode they raise, and tools like doctest read every name that is listed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .asserts import assert_enqueued, assert_not_enqueued
    from .memory import EmptyQueueError, MemoryServer
    from .modes import clear_all, disable, drain_all, fake, inline
    from .periodic import Tick, ticks
    from .unittest import FakeMixin, InlineMixin, ServerMixin

    jobs: list[dict[str, Any]]
    queues: dict[str, list[dict[str, Any]]]
    mode: str | None

_HOMES = {
    **dict.fromkeys(("assert_enqueued", "assert_not_enqueued"), "asserts"),
    **dict.fromkeys(("FakeMixin", "InlineMixin", "ServerMixin"), "unittest"),
    **dict.fromkeys(("clear_all", "disable", "drain_all", "fake", "inline"), "modes"),
    **dict.fromkeys(("EmptyQueueError", "MemoryServer"), "memory"),
    **dict.fromkeys(("Tick", "ticks"), "periodic"),
}
_LIVE = ("jobs", "mode", "queues")

__all__ = [
    "EmptyQueueError",
    "FakeMixin",
    "InlineMixin",
    "MemoryServer",
    "ServerMixin",
    "Tick",
    "assert_enqueued",
    "assert_not_enqueued",
    "clear_all",
    "disable",
    "drain_all",
    "fake",
    "inline",
    "ticks",
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

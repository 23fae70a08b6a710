"""For programs on an event loop of asyncio; each name is imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .client import AsyncClient
    from .hooks import on_shutdown, on_startup

__all__ = ["AsyncClient", "on_shutdown", "on_startup"]

_MODULES = {"AsyncClient": "client", "on_shutdown": "hooks", "on_startup": "hooks"}

if not TYPE_CHECKING:

    def __getattr__(name):
        if name not in _MODULES:
            raise AttributeError(f"module 'faktory.aio' has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})

"""Django: its tasks on Faktory, jobs of apps found, a management command that runs the worker.

`INSTALLED_APPS += ["faktory.contrib.django"]`, and a backend in `TASKS`; see docs/django.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend import FaktoryBackend, FaktoryTask

__all__ = ["FaktoryBackend", "FaktoryTask"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import backend  # needs tasks, which the app can do without

        return getattr(backend, name)

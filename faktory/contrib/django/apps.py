"""The app `faktory.contrib.django`: finds the jobs of the other apps, and prepares workers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

import django
from django.apps import AppConfig, apps
from django.utils.module_loading import autodiscover_modules

from ...jobs import registry, worker_middleware


class FaktoryConfig(AppConfig):
    """Imports `tasks` and `jobs` of every installed app once all models are loaded.

    `discovered` names these modules; a subclass in the project may name others.
    """

    name = "faktory.contrib.django"
    label = "faktory"
    verbose_name = "Faktory"

    discovered: Sequence[str] = ("tasks", "jobs")

    def ready(self) -> None:
        """Find jobs and tasks; install what a worker needs."""
        from .connections import fresh_connections

        worker_middleware.prepend(fresh_connections)
        autodiscover_modules(*self.discovered)
        if django.VERSION < (6, 0) and find_spec("django_tasks") is None:
            return  # jobs of this package only
        from . import running

        names = [f"{app.name}.{each}" for app in apps.get_app_configs() for each in self.discovered]
        running.register([sys.modules[name] for name in names if name in sys.modules])
        registry.resolver = running.resolve
        registry.other_queues.update(running.queues())

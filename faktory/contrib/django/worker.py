"""What a worker loads of a project: `faktory-worker -r faktory.contrib.django.worker`.

The project is that of DJANGO_SETTINGS_MODULE. `manage.py faktory` runs this.
"""

from __future__ import annotations

import os
import sys

import django
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured

from ...client.defaults import configure

# Where manage.py finds the project, which may have added to it: see the command `faktory`.
_path = os.environ.get("FAKTORY_DJANGO_PATH", "").split(os.pathsep)
sys.path.extend(each for each in _path if each and each not in sys.path)

django.setup()

if not apps.is_installed("faktory.contrib.django"):
    raise ImproperlyConfigured(
        "faktory.contrib.django is not in INSTALLED_APPS, so no job of the project would be found: "
        'INSTALLED_APPS += ["faktory.contrib.django"].'
    )


def _use_server() -> None:
    """Fetch from the server to which the tasks are pushed, if the settings name one."""
    from .options import worker_url
    from .running import backends

    if (url := worker_url(each.url for each in backends())) is not None:
        configure(url=url)


_use_server()

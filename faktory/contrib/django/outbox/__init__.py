"""An outbox in a Django project's database: an app with a table, its admin page and the relay.

INSTALLED_APPS += ["faktory.contrib.django.outbox"], then `manage.py migrate`, and run
`manage.py faktory_outbox` beside the workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from ....outbox import Outbox

if TYPE_CHECKING:
    from ....jobs import JobChain, Message

TABLE = "faktory_outbox"


def add(payload: Message | JobChain | Mapping[str, Any], using: str | None = None) -> None:
    """Write a job into the outbox, in the current transaction of a database.

    `payload` is a job as a dict, as for `Client.push`, or what `job.message(...)` and `chain`
    return. `using` is the alias of the database, by default the one that the routers write
    outbox rows to. ImproperlyConfigured if the app is not installed, FaktoryPayloadError for a
    job that could not be sent.
    """
    connections, alias = _database(using)
    with connections[alias].cursor() as cursor:
        _outbox().add(cursor, payload)  # type: ignore[arg-type]


def outbox_of(alias: str, faktory: str | None = None) -> Outbox:
    """Return the outbox of a database, for a relay to `faktory`, an address."""
    return Outbox(lambda: _connect(alias), TABLE, faktory=faktory)


@cache
def _outbox() -> Outbox:
    def connect() -> Any:
        raise RuntimeError("this outbox is for `add`: see outbox_of.")

    return Outbox(connect, TABLE)


def _database(using: str | None) -> tuple[Any, str]:
    from django.apps import apps
    from django.core.exceptions import ImproperlyConfigured
    from django.db import connections, router

    if not apps.is_installed(__name__):
        raise ImproperlyConfigured(
            f"{__name__!r} is not in INSTALLED_APPS: add it, and run manage.py migrate."
        )
    if using is None:
        using = router.db_for_write(apps.get_model("faktory_outbox", "OutboxJob"))
    return connections, using


def _connect(alias: str) -> Any:
    """Return a new connection of the driver, with the settings of an alias."""
    from django.db import connections

    wrapper = connections.create_connection(alias)
    # The relay keeps its connection, which a pool would miss.
    given = wrapper.settings_dict.get("OPTIONS") or {}
    kept = {name: value for name, value in given.items() if name != "pool"}
    wrapper.settings_dict = {**wrapper.settings_dict, "OPTIONS": kept}
    wrapper.connect()
    return wrapper.connection

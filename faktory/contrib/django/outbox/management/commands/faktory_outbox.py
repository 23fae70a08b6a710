"""manage.py faktory_outbox: pushes the jobs of the outbox until TERM or INT.

A thread for each database; each waits for a server or a database that is away.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread, current_thread, main_thread
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import Error, connections, router

from ......exceptions import FaktoryError
from ......outbox import Outbox
from ... import outbox_of
from ...models import OutboxJob


class Command(BaseCommand):
    """Relays the outbox of each database, or of those that are named."""

    help = "Push the jobs that transactions have written into the outbox, until TERM or INT."

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument(
            "--database",
            action="append",
            metavar="ALIAS",
            help="a database whose outbox to relay; may be repeated. Default: all that have one.",
        )
        parser.add_argument(
            "--batch", type=int, default=1000, help="rows of a round (default: 1000)"
        )
        parser.add_argument(
            "--once", action="store_true", help="push what is there now, and end; errors end it too"
        )

    def handle(self, *, database: list[str] | None, batch: int, once: bool, **_: Any) -> None:
        url = _server()
        aliases = self._aliases(database)
        outboxes = {alias: outbox_of(alias, url) for alias in aliases}
        if once:
            for alias, outbox in outboxes.items():
                self._once(alias, outbox, batch)
        else:
            self._relay(outboxes, batch)

    def _aliases(self, named: list[str] | None) -> list[str]:
        for alias in named or ():
            if alias not in connections:
                raise CommandError(
                    f"--database {alias} is not in DATABASES: {', '.join(connections)}."
                )
        aliases = list(dict.fromkeys(named or filter(_has_outbox, connections)))
        if not aliases:
            raise CommandError("no database has the table of the outbox: run manage.py migrate.")
        return aliases

    def _once(self, alias: str, outbox: Outbox, batch: int) -> None:
        try:
            count = outbox.relay_once(batch)
        except (FaktoryError, RuntimeError, ValueError, Error, _driver_error(alias)) as error:
            raise CommandError(f"the outbox of {alias}: {error}") from error
        self.stdout.write(f"{alias}: {count} jobs are pushed.")

    def _relay(self, outboxes: dict[str, Outbox], batch: int) -> None:
        stop = Event()
        failed: list[tuple[str, Exception]] = []

        def relay(alias: str, outbox: Outbox) -> None:
            try:
                outbox.relay(stop, batch)
            except Exception as error:
                failed.append((alias, error))
                stop.set()

        threads = [
            Thread(target=relay, args=each, name=f"faktory-outbox-{each[0]}")
            for each in outboxes.items()
        ]
        with _until_signal(stop):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        for alias, error in failed:
            raise CommandError(f"the outbox of {alias}: {error}") from error


@contextmanager
def _until_signal(stop: Event) -> Iterator[None]:
    """Have TERM and INT set `stop`, where this thread can."""
    if current_thread() is not main_thread():
        yield
        return
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _has_outbox(alias: str) -> bool:
    """Return whether a database has the table, or may have it: it may be away now."""
    connection = connections[alias]
    if connection.vendor == "unknown":  # an empty "default", of which nothing is used
        return False
    if not router.allow_migrate_model(alias, OutboxJob):
        return False
    try:
        return OutboxJob._meta.db_table in connection.introspection.table_names()
    except Error:
        return True
    finally:
        if not connection.in_atomic_block:  # of a test
            connection.close()


def _driver_error(alias: str) -> type[Exception]:
    """Return the errors of a database's driver, which the relay uses without Django's around it."""
    kind: type[Exception] = connections[alias].Database.Error
    return kind


def _server() -> str | None:
    """Return the address of the backends that enqueue by the outbox, if they name one."""
    tasks = getattr(settings, "TASKS", None) or {}
    options = {name: backend.get("OPTIONS") or {} for name, backend in tasks.items()}
    urls = {
        name: each.get("url")
        for name, each in options.items()
        if each.get("enqueue_on_commit") == "outbox"
    }
    if len(set(urls.values())) > 1:
        raise CommandError(
            f"the backends {', '.join(urls)} in TASKS enqueue by the outbox and have different "
            "urls, and a row of the outbox does not say which it is for: give them one."
        )
    return next(iter(urls.values()), None)

"""The OPTIONS of a backend in TASKS: their defaults, and what is wrong with them.

Rules: a mistake in the settings is found by `manage.py check`, without a connection, and raised
where a task is enqueued. So a project with one still starts its other commands.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final

from django.apps import apps
from django.conf import settings
from django.core import checks

from ...client import settings as configured
from ...wire.address import parse
from ...wire.payload import prepare
from ...wire.validate import brief, check_queue

DEFAULTS: Final[Mapping[str, Any]] = {
    "url": None,
    "enqueue_on_commit": None,
    "retry": 25,
    "reserve_for": 1800,
    "backtrace": 0,
    "priority_queues": None,
}
"""Each option with its default."""

OF_TASKS: Final = ("retry", "reserve_for", "backtrace")
"""Those that a task may have of its own."""

OUTBOX: Final = "faktory.contrib.django.outbox"
"""The app with the table of `enqueue_on_commit="outbox"`."""


def find_url(url: str | None) -> str:
    """Return the address of a backend's server; ValueError for one that cannot be read.

    That is its option `url`, else what `faktory.configure` or the variables say.
    """
    return parse(configured.current.find_url() if url is None else url).url


def problems(
    alias: str, queues: Iterable[object], options: Mapping[str, Any]
) -> Iterator[checks.Error]:
    """Yield what is wrong with a backend of TASKS, for `manage.py check`."""
    where = f"TASKS[{alias!r}]"
    levels = options.get("priority_queues")
    named = [*queues, *(levels.values() if isinstance(levels, Mapping) else ())]
    for name in named:
        try:
            check_queue("a queue", name)
        except ValueError as error:
            yield checks.Error(
                f"{where} names a queue that cannot be: {error}",
                hint="Rename it in QUEUES or priority_queues, and in the tasks that name it.",
                id="faktory.E001",
            )
    url = options.get("url")
    try:
        find_url(url)
    except (ValueError, AttributeError, TypeError) as error:
        source = "faktory.configure or a variable" if url is None else "OPTIONS['url']"
        yield checks.Error(
            f"the address of {where} cannot be read, it is from {source}: {error}",
            hint="Write it like tcp://:password@host:7419, or tcp+tls://... for TLS.",
            id="faktory.E002",
        )
    for text, hint in _others(options):
        yield checks.Error(f"{where}: {text}", hint=hint, id="faktory.E003")
    yield from _commit_problems(where, options.get("enqueue_on_commit"))


def _others(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield text and hint for unknown options, and for values that no job can have."""
    for name in options:
        if name not in DEFAULTS:
            close = get_close_matches(str(name), DEFAULTS, 1)
            hint = f"Did you mean {close[0]!r}?" if close else f"There are {', '.join(DEFAULTS)}."
            yield f"OPTIONS has no option {name!r}", hint
    for name in OF_TASKS:
        if (text := fault_of_option(name, options.get(name))) is not None:
            yield text, "See the options of a job in docs/jobs.md."
    levels = options.get("priority_queues")
    if levels is not None and not (
        isinstance(levels, Mapping)
        and levels
        and all(isinstance(key, int) and -100 <= key <= 100 for key in levels)
    ):
        yield (
            f"priority_queues is {brief(levels)}",
            'It is a dict from priorities, -100 to 100, to queues: {100: "critical", 0: "default"}',
        )


def fault_of_option(name: str, value: object) -> str | None:
    """Return what is wrong with the value of one option of tasks; None if nothing is."""
    try:
        prepare({"jobtype": "task", "args": [], name: value})
    except ValueError as error:
        return str(error)
    return None


def _commit_problems(where: str, value: object) -> Iterator[checks.Error]:
    if value is None or (value in list(settings.DATABASES) and value != "outbox"):
        return
    if value == "outbox":
        if not apps.is_installed(OUTBOX):
            yield checks.Error(
                f'{where} has enqueue_on_commit="outbox", and the app of the outbox is not there.',
                hint=f'INSTALLED_APPS += ["{OUTBOX}"], then manage.py migrate.',
                id="faktory.E004",
            )
        return
    yield checks.Error(
        f"{where} has enqueue_on_commit={brief(value)}, which is not an alias in DATABASES.",
        hint='It is None, an alias such as "default", or "outbox".',
        id="faktory.E005",
    )


def worker_url(urls: Iterable[str | None]) -> str | None:
    """Return the server of a worker for backends with these options `url`; None for the default.

    ValueError if they have several: then FAKTORY_URL has to say which.
    """
    given = {url for url in urls if url is not None}
    if len(given) > 1 and not (os.environ.get("FAKTORY_URL") or os.environ.get("FAKTORY_PROVIDER")):
        shown = ", ".join(sorted(str(parse(url)) for url in given))
        raise ValueError(
            f"the backends in TASKS have {len(given)} servers, {shown}, and a worker has one: say "
            "which by the variable FAKTORY_URL."
        )
    return given.pop() if len(given) == 1 else None

"""`manage.py faktory`: the worker of the project.

Rules: all arguments are those of `faktory-worker`, but for Django's --settings, --pythonpath and
--skip-checks. The process becomes that command, so that its processes, signals and reloads are the
same; it does not keep the project that `manage.py` has loaded.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn

from django.core.management.base import BaseCommand, CommandError

LOADED: Final = "faktory.contrib.django.worker"

PATH: Final = "FAKTORY_DJANGO_PATH"
"""The variable with the end of sys.path: manage.py may have added folders there."""

_OF_DJANGO: Final = ("--settings", "--pythonpath")


class Command(BaseCommand):
    """Runs the jobs of the project."""

    help = "Runs the jobs of this project; the arguments are those of faktory-worker."

    def run_from_argv(self, argv: Sequence[str]) -> None:
        """Become `faktory-worker`, with the arguments behind the command's name."""
        given = list(argv[2:])
        try:
            if "--skip-checks" in given:
                given.remove("--skip-checks")
            elif not {"-h", "--help", "-V", "--version"}.intersection(given):
                self.check()
            become(command(given), environment())
        except CommandError as error:
            self.stderr.write(f"{error.__class__.__name__}: {error}")
            sys.exit(error.returncode)

    def print_help(self, prog_name: str, subcommand: str) -> None:  # noqa: ARG002
        """Print the help of `faktory-worker`: for `manage.py help faktory`."""
        become(command(["--help"]), environment())

    def handle(self, *_: Any, **__: Any) -> None:
        """Refuse to run inside a program, whose process would be gone."""
        raise CommandError(
            "faktory replaces the process, so it is run as `manage.py faktory` only. In a program "
            "use faktory.Worker."
        )


def command(given: Iterable[str]) -> list[str]:
    """Return the command line of the worker, for the arguments of `manage.py faktory`."""
    arguments = list(_without_djangos(given))
    flags = [f"-W{each}" for each in sys.warnoptions]
    flags += [f"-X{key}{'' if value is True else f'={value}'}" for key, value in _x_options()]
    start = [sys.executable, *flags, "-m", "faktory.cli.worker", "-r", LOADED]
    return [*start, *arguments, *_by_priority(arguments)]


def environment() -> dict[str, str]:
    """Return the variables of the worker: where to import the project from, and its server."""
    from ...options import worker_url

    env = dict(os.environ)
    # `python -m` looks in the current folder, and not in that of manage.py, nor in what this added.
    before, behind = _places()
    if before and before != [os.getcwd()]:
        env["PYTHONPATH"] = os.pathsep.join(before)
    env[PATH] = os.pathsep.join(behind)
    try:
        url = worker_url(each.url for each in _backends())
    except ValueError as error:
        raise CommandError(str(error)) from None
    if url is not None:  # for a supervisor, which does not import the project
        env["FAKTORY_URL"] = url
        env.pop("FAKTORY_PROVIDER", None)
    return env


def become(line: list[str], env: Mapping[str, str]) -> NoReturn:
    """Replace this process."""
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name == "nt":  # where another process would start, and the shell not wait for it
        sys.exit(subprocess.call(line, env=env))
    os.execve(line[0], line, env)


def _places() -> tuple[list[str], list[str]]:
    """Return what is on sys.path before the standard library, and what is behind it."""
    library = sysconfig.get_path("stdlib")
    middle = sys.path.index(library) if library in sys.path else 1
    existing = [each for each in sys.path[:middle] if os.path.exists(each)]
    return existing, sys.path[middle:]


def _without_djangos(given: Iterable[str]) -> Iterable[str]:
    """Yield the arguments without --settings and --pythonpath, which Django has used already."""
    arguments = iter(given)
    for each in arguments:
        if each in _OF_DJANGO:
            next(arguments, None)
        elif not each.startswith(tuple(f"{name}=" for name in _OF_DJANGO)):
            yield each


def _by_priority(arguments: Sequence[str]) -> list[str]:
    """Return -q flags in the order of `priority_queues`, unless the queues are given otherwise."""
    own = ("-q", "-C", "--queue", "--config")
    if any(each.startswith(own) for each in arguments) or any(
        os.environ.get(name) for name in ("FAKTORY_WORKER_QUEUE", "FAKTORY_WORKER_CONFIG")
    ):
        return []
    levels: dict[str, int] = {}
    for backend in _backends():
        for level, queue in (backend.priority_queues or {}).items():
            levels[queue] = max(level, levels.get(queue, level))
    if not levels:
        return []
    # Queues without a priority, those of priority 0 among them, are fetched alike: in place of *.
    order = {**{queue: level for queue, level in levels.items() if level != 0}, "*": 0}
    return [f"-q{name}" for name in sorted(order, key=lambda name: -order[name])]


def _backends() -> list[Any]:
    from django.apps import apps

    if not apps.is_installed("faktory.contrib.django"):
        return []
    try:
        from ...running import backends
    except Exception:  # no tasks in this Django; the worker says what is wrong, if anything is
        return []
    return backends()


def _x_options() -> Iterable[tuple[str, object]]:
    return sys._xoptions.items()

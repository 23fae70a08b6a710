"""The options of `faktory-worker`: from the command line, the variables and the file.

Rules: the command line goes before variables, these before the table of -e, that before the top
of the file. An error names the place where it stands. An unknown key is an error; an unknown
variable is not, since others set them too (Kubernetes: FAKTORY_WORKER_SERVICE_HOST).
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from ..exits import UsageError
from ..parser import closest
from . import file
from .command_line import parse
from .flags import FLAGS, PREFIX
from .values import LEVELS


class ConfigError(UsageError):
    """An option is wrong; `log_format` is the format in which to say so."""

    def __init__(self, message: str, log_format: str) -> None:
        super().__init__(message)
        self.log_format = log_format


def load(argv: Sequence[str], environ: Mapping[str, str]) -> Namespace:
    """Return every option, in `warnings` sentences about what may be a mistake, and in
    `queue_source` where the queues come from.

    All three sources are read even if there is an error, and ConfigError raised for the first one:
    an error on the command line is logged in the format that the file asks for.
    """
    errors: list[str] = []
    warnings: list[str] = []
    variables, flags = _from_variables(environ, errors), parse(argv, errors)
    given = {**_with_level(variables), **_with_level(flags)}
    env = given.get("env")
    found = file.read(given.get("config"), errors, warnings)
    tables = {name: _with_level(options) for name, options in found.tables.items()}
    if tables and env not in tables:
        existing = ", ".join(map(found.header, filter(None, tables))) or "no table at all"
        errors.append(
            f"-e {env}: {found.path} has no table {found.header(env)}: there is {existing}"
        )
    if env is not None and not (tables or errors):
        warnings.append(
            f"-e {env}: there is no file that could have such a table: name one by -C, or go to "
            f"the folder whose {file.PYPROJECT} has [{file.TABLE}]"
        )
    if errors:
        # Without the right -e any table may be the one that counts: who reads JSON gets JSON.
        sources = [given] if "log_format" in given else tables.values()
        json = any(options.get("log_format") == "json" for options in sources)
        raise ConfigError(errors[0], "json" if json else "text")
    defaults = {flag.attribute: flag.default for flag in FLAGS}
    options = {**defaults, **tables.get(None, {}), **tables.get(env, {}), **given}
    warnings += _about_variables(environ) + _about_labels(options["label"])
    queue_source = "no -q: default and every queue that the jobs declare"
    if options["queue"]:
        other = f"{PREFIX}QUEUE" if "queue" in variables else found.path
        queue_source = f"from {'-q' if 'queue' in flags else other}"
    return Namespace(**options, warnings=warnings, queue_source=queue_source)


def _with_level(source: dict[str, Any]) -> dict[str, Any]:
    """Return the options of one source, with what -v says about the level of the log."""
    return {"log_level": "DEBUG", **source} if source.get("verbose") else source


def _from_variables(environ: Mapping[str, str], errors: list[str]) -> dict[str, Any]:
    found = {}
    for flag in FLAGS:
        text = environ.get(flag.variable)
        if not text or flag.of_client:  # set to nothing is how a variable is taken back
            continue
        try:
            found[flag.attribute] = flag.value_type.from_text(text)
        except ValueError as error:
            errors.append(f"{flag.variable}: {error}")
    return found


def _about_variables(environ: Mapping[str, str]) -> list[str]:
    known = {flag.attribute.upper(): flag.variable for flag in FLAGS}
    found = []
    for name in sorted(environ):
        rest = name.removeprefix(PREFIX)
        if rest == name or known.get(rest) == name:
            continue
        if close := closest(rest, known):
            found.append(f"the variable {name} has no meaning. Did you mean {known[close]}?")
    return found


def _about_labels(labels: Sequence[str]) -> list[str]:
    return [
        f"-l {label} is a label of this worker, which the server's pages show. The level of the "
        f"log is --log-level {label.lower()}"
        for label in labels
        if label.upper() in LEVELS
    ]

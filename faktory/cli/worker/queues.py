"""What -q says: queues with weights and limits, and '*' for those that the jobs declare.

Rules: the flags of the command line, the strings of a variable and the keys of the file are written
in one way, `NAME[,WEIGHT][,limit=N]`; a table in a list of the file is a list of them. What jobs
declare is handed in, since a supervisor never imports the program.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Final, NamedTuple, TypeAlias

from ...worker.queues import Given, Queue

ALL: Final = "*"
"""As a name: `default`, and the queues that the loaded jobs declare."""

MOST_LISTED: Final = 10
"""The most queues that a warning names."""

MOST_DIGITS: Final = 20
"""Of a number: Python refuses to read 4301, by an error that would not help."""


Flags: TypeAlias = Sequence[str | list[str]]
"""What -q says; a list in it is a table, whose queues have their place together, by weight."""


class Setting(NamedTuple):
    """What one -q says about its queue, None for what it does not say."""

    weight: int | None = None
    limit: int | None = None


def parse(flags: Flags) -> dict[str, Setting]:
    """Return what -q flags say by name, in their order; ValueError with the flag that is wrong."""
    found: dict[str, Setting] = {}
    for flag in [each for item in flags for each in ([item] if isinstance(item, str) else item)]:
        name, *parts = flag.split(",")
        given: dict[str, int] = {}
        for part in parts:
            key, equals, number = part.rpartition("=")
            key = key if equals else "weight"
            if key not in Setting._fields:
                raise ValueError(f"-q {flag}: {part!r} is neither a weight nor a limit. {_LIKE}")
            if key in given:
                raise ValueError(f"-q {flag}: it has two {key}s. {_LIKE}")
            given[key] = _number(flag, key, number)
        setting = Setting(**given)
        if (known := found.setdefault(name, setting)) != setting:
            different = "weights" if known.weight != setting.weight else "limits"
            raise ValueError(f"-q {name} is given twice, with different {different}: give it once.")
    return found


_LIKE: Final = "Write it like -q mail,3 or -q mail,limit=2 or -q mail,3,limit=2"


def _number(flag: str, key: str, text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < MOST_DIGITS else 0
    if number < 1:
        raise ValueError(
            f"-q {flag}: the {key} {text!r} is not a whole number of 1 or more. {_LIKE}"
        )
    try:
        Queue(**{key: number})
    except ValueError as error:
        raise ValueError(f"-q {flag}: {error}") from None
    return number


def choose(flags: Flags, declared: Iterable[str]) -> Given:
    """Return the queues of a worker: what -q flags say; without any, '*'.

    By weight if one of them has a weight, then one without has 1; else in strict order, with equal
    weights for all that '*' stands for. With tables the order is strict.
    """
    settings = parse(flags or [ALL])
    rest = sorted({*declared} - {"default"} - settings.keys())
    if "default" not in settings:
        rest.insert(0, "default")
    groups = {}
    for name, (weight, limit) in settings.items():
        queue = Queue(weight or 1, limit)
        groups[name] = dict.fromkeys(rest if name == ALL else [name], queue)
    tables = [item for item in flags if not isinstance(item, str)]
    if tables:
        for name, setting in parse([item for item in flags if isinstance(item, str)]).items():
            if setting.weight is not None:
                raise ValueError(
                    f"{name},{setting.weight} has a weight, and a list with a table has a strict "
                    "order: put it into the table, or leave the weight out."
                )
        merged: set[str] = set()
        for first, *others in map(parse, tables):
            if twice := merged.intersection((first, *others)):
                raise ValueError(f"-q {min(twice)} is given twice: give it once.")
            merged.update((first, *others))
            for name in others:
                groups[first] |= groups.pop(name)
    if tables or all(setting.weight is None for setting in settings.values()):
        return [*groups.values()]
    return {name: queue for group in groups.values() for name, queue in group.items()}


def includes_declared(flags: Flags) -> bool:
    """Return whether what the jobs declare is fetched, all of it."""
    return not flags or ALL in parse(flags)


def left_out(flags: Flags, declared: Iterable[str]) -> str:
    """Return a warning that names the declared queues without a flag, and the flags; "" for none.

    It also says which flag may be misspelt.
    """
    settings, known = parse(flags), {*declared}
    missing = sorted(known - settings.keys())
    if includes_declared(flags) or not missing:
        return ""
    listed, add = ", ".join(missing[:MOST_LISTED]), "-q '*'"
    if len(missing) > MOST_LISTED:
        listed += f" and {len(missing) - MOST_LISTED} more"
    else:
        add = " ".join(f"-q {name}" for name in missing) + f", or {add} for all"
    text = f"jobs declare queues that this worker does not fetch: {listed}. To fetch them: {add}"
    hints = []
    lower = {name.lower(): name for name in missing}
    for name in [name for name in settings if name not in known][:MOST_LISTED]:
        if close := get_close_matches(name.lower(), lower, 1):  # 30 ms with 200 queues
            hints.append(f"-q {name}: did you mean {lower[close[0]]}?")
    return ". ".join(filter(None, (text, " ".join(hints))))

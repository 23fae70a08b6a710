"""The options of a job: what they are called, how they add up, what they are on the wire.

Rules: options are plain dicts, never changed in place and never handed out: what is merged, and
each job's `custom`, is a copy of its own. Nested dicts add up key by key, all else is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from difflib import get_close_matches
from typing import Any, TypedDict, get_type_hints

from ..exceptions import FaktoryPayloadError
from ..wire.payload import seconds


class Options(TypedDict, total=False):
    """What may be said of a job where it is declared or by `set`.

    `retry`: attempts after the first (25), 0 to drop it at once, -1 to bury it at once.
    `reserve_for`: seconds that a worker has for it (1800). `backtrace`: lines of traceback kept
    with a failure (0). `unique_for`, `unique_until` ("success" or "start"), `expires_in` and
    `track` need Faktory Enterprise.
    """

    queue: str
    retry: int
    reserve_for: float | timedelta
    backtrace: int
    custom: Mapping[str, Any]
    unique_for: float | timedelta
    unique_until: str
    expires_in: float | timedelta
    track: bool


NAMES = frozenset(get_type_hints(Options))
_IN_CUSTOM = ("unique_for", "unique_until", "expires_in", "track")


def check(options: Mapping[str, Any], where: str) -> None:
    """Refuse options that do not exist: TypeError with the closest name."""
    for name in options:
        if name not in NAMES:
            close = get_close_matches(name, NAMES, 1)
            hint = f"Did you mean {close[0]!r}?" if close else f"There are {sorted(NAMES)}."
            raise TypeError(f"{where} has no option {name!r}. {hint}")


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay options over others; nested dicts add up. What is returned shares nothing with either."""
    merged = {name: _copied(value) for name, value in base.items()}
    for name, value in over.items():
        below = merged.get(name)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[name] = merge(below, value)
        else:
            merged[name] = _copied(value)
    return merged


def to_wire(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a job's wire dict that the options make."""
    fields = {name: _copied(value) for name, value in options.items() if name not in _IN_CUSTOM}
    custom = {name: options[name] for name in _IN_CUSTOM if options.get(name) is not None}
    for name in ("unique_for", "expires_in"):
        if name in custom:
            custom[name] = _whole(name, custom[name])
    if "unique_until" in custom and custom["unique_until"] not in ("success", "start"):
        raise FaktoryPayloadError(
            f"unique_until is {custom['unique_until']!r}: it is 'success' or 'start'."
        )
    if "track" in custom:
        custom["track"] = int(bool(custom["track"]))
    if custom:
        fields["custom"] = merge(fields.get("custom") or {}, custom)
    return fields


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _copied(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value


def _whole(name: str, value: object) -> int:
    number = seconds(name, value)
    if number < 1:
        raise FaktoryPayloadError(f"{name} is {value!r}: it must be 1 second or more.")
    return int(number)

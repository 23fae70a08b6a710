"""The options of a job: what they are called, how they add up, what they are on the wire.

Rules: options are plain dicts, never changed in place and never handed out: what is merged, and
each job's `custom`, is a copy of its own. Nested dicts add up key by key, all else is replaced.
What a job says wins over `default_job_options`, which count as they are when it is pushed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from datetime import datetime, timedelta
from difflib import get_close_matches
from itertools import count
from types import MappingProxyType
from typing import Any, Final, TypedDict, get_type_hints

from ..exceptions import FaktoryPayloadError
from ..proto import encode_push
from ..wire.payload import prepare
from ..wire.validate import check_duration, check_instant


class Options(TypedDict, total=False):
    """What may be said of a job where it is declared or by `set`.

    `queue`: where it waits ("default"). `retry`: attempts after the first (25), 0 to drop it with
    its first failure, -1 to bury it with that. `reserve_for`: seconds that a worker has for it
    (1800; 60 at least, 86,400 at most). `backtrace`: lines of traceback kept with a failure (0; the
    server keeps 50 at most). `custom`: a dict of JSON that travels with it.

    With Faktory Enterprise only, else FaktoryEnterpriseRequired when it is pushed: `unique_for`,
    seconds in which a second one with the same type, arguments and queue is refused;
    `unique_until`, "success" (as without it) or "start"; `expires_in`, seconds, or `expires_at`, a
    time, after which it is not run any more; `track`, whether it may report progress.
    """

    queue: str
    retry: int
    reserve_for: float | timedelta
    backtrace: int
    custom: Mapping[str, Any]
    unique_for: float | timedelta | None
    unique_until: str | None
    expires_in: float | timedelta | None
    expires_at: datetime | str | float | None
    track: bool


EXPIRY: Final = {"expires_in", "expires_at"}


class Declared(Options, total=False):
    """What may be said of a job where it is declared.

    `time_limit`: seconds after which the worker raises `TimeLimitExceeded` in the job. The job
    that is pushed does not carry it.
    """

    time_limit: float | timedelta | None


NAMES: Final = frozenset(get_type_hints(Options))

ENTERPRISE: Final = ("unique_for", "unique_until", "expires_in", "expires_at", "track")
"""Options that go into `custom`, where an open-source server would ignore them in silence."""


def check(options: Mapping[str, Any], where: str) -> None:
    """Refuse options that do not exist: TypeError with the closest name."""
    for name in options:
        if name == "time_limit":
            raise TypeError(
                f"{where} cannot have a time_limit, which does not travel with a job: "
                "the worker takes it from where the job is declared."
            )
        if name not in NAMES:
            close = get_close_matches(name, NAMES, 1)
            hint = f"Did you mean {close[0]!r}?" if close else f"There are {sorted(NAMES)}."
            raise TypeError(f"{where} has no option {name!r}. {hint}")


def take_time_limit(options: dict[str, Any]) -> float | None:
    """Remove a job's time limit from its declared options; return it in seconds."""
    limit = options.pop("time_limit", None)
    if limit is None:
        return None
    number = check_duration("time_limit", limit)
    if number <= 0:
        raise FaktoryPayloadError(f"time_limit is {limit!r}: it must be more than 0 seconds.")
    return number


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay options over others; nested dicts add up. What is returned shares nothing with either."""
    merged = {name: copy_of(value) for name, value in base.items()}
    if over.keys() & EXPIRY:  # two ways to say the same
        merged = {name: value for name, value in merged.items() if name not in EXPIRY}
    for name, value in over.items():
        below = merged.get(name)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[name] = merge(below, value)
        else:
            merged[name] = copy_of(value)
    return merged


def to_wire(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a job's wire dict that the options make."""
    fields = {name: copy_of(value) for name, value in options.items() if name not in ENTERPRISE}
    custom = enterprise(options)
    for name in ("unique_for", "expires_in"):
        if name in custom:
            custom[name] = _whole(name, custom[name])
    if "expires_at" in custom:
        if "expires_in" in custom:
            raise FaktoryPayloadError("expires_in and expires_at say the same: give one of them.")
        custom["expires_at"] = check_instant("expires_at", custom["expires_at"])
    if "unique_until" in custom and custom["unique_until"] not in ("success", "start"):
        raise FaktoryPayloadError(
            f"unique_until is {custom['unique_until']!r}: it is 'success' or 'start'."
        )
    if "track" in custom:
        custom["track"] = 1
    if custom:
        fields["custom"] = merge(fields.get("custom") or {}, custom)
    return fields


def to_fields(options: Mapping[str, Any], jobtype: str = "any") -> dict[str, Any]:
    """Return the fields that the options make, checked and completed as those of a whole job.

    An option that is None is one that nobody gave.
    """
    fields = {name: value for name, value in to_wire(options).items() if value is not None}
    checked = prepare({**fields, "jobtype": jobtype, "args": []})
    encode_push(checked)  # refuses what `custom` may not hold
    for name in ("jid", "jobtype", "args"):
        del checked[name]
    return checked


def enterprise(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are given and need Faktory Enterprise."""
    said = {name: options.get(name) for name in ENTERPRISE}
    said["track"] = said["track"] or None  # 0 is off too
    return {name: value for name, value in said.items() if value is not None and value is not False}


def copy_of(value: Any) -> Any:
    """Return the value, with dicts and lists of its own."""
    if isinstance(value, Mapping):
        return {name: copy_of(item) for name, item in value.items()}
    if isinstance(value, list):
        return [copy_of(item) for item in value]
    return value


def read_only(value: Any) -> Any:
    """Return the value: its dicts refuse to be changed, its lists are copies."""
    if isinstance(value, Mapping):
        return MappingProxyType({name: read_only(item) for name, item in value.items()})
    return copy_of(value)


class Defaults(MutableMapping[str, Any]):
    """Options of all jobs of this process that do not say otherwise.

    `version` is another one after every change. What is read out cannot be changed in place.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        if not isinstance(options, Mapping):
            raise TypeError(f"faktory.default_job_options is {options!r}: it must be a dict.")
        check(options, "faktory.default_job_options")
        self._change(copy_of(options))

    def __getitem__(self, name: str) -> Any:
        return read_only(self._options[name])

    def __setitem__(self, name: str, value: Any) -> None:
        check({name: value}, "faktory.default_job_options")
        self._change({**self._options, name: copy_of(value)})

    def __delitem__(self, name: str) -> None:
        rest = dict(self._options)
        del rest[name]
        self._change(rest)

    def __iter__(self) -> Iterator[str]:
        return iter(self._options)

    def __len__(self) -> int:
        return len(self._options)

    def __repr__(self) -> str:
        return repr(self._options)

    def _change(self, options: dict[str, Any]) -> None:
        try:
            to_fields(options)
        except FaktoryPayloadError as error:
            raise FaktoryPayloadError(f"faktory.default_job_options: {error}") from None
        self._options = options
        self.version = next(_versions)


_versions = count()

default_job_options = Defaults({})


def set_defaults(options: Mapping[str, Any]) -> Defaults:
    """Have other default options for all jobs of this process; return them."""
    global default_job_options
    default_job_options = options if isinstance(options, Defaults) else Defaults(options)
    return default_job_options


def _whole(name: str, value: object) -> int:
    number = check_duration(name, value)
    if number < 1:
        raise FaktoryPayloadError(f"{name} is {value!r}: it must be 1 second or more.")
    return int(number)

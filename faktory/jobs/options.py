"""The options of a job: their names, how they are merged, their fields on the wire.

Rules: options are plain dicts, never changed in place and never handed out: a merged dict and each
job's `custom` are copies. Nested dicts are merged key by key, all other values are replaced. The
options of a job win over `default_job_options`, which count as they are when it is pushed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, MutableMapping
from datetime import datetime, timedelta
from difflib import get_close_matches
from itertools import count
from types import MappingProxyType
from typing import Any, Final, TypedDict, get_type_hints

from ..exceptions import FaktoryPayloadError
from ..proto import encode_push
from ..wire.payload import prepare
from ..wire.validate import check_duration, check_instant
from .backoff import Backoff


class Options(TypedDict, total=False):
    """The options of a job, where it is declared or by `set`. None is as good as not given.

    `queue`: where the job waits ("default"). `retry`: attempts after the first (25); with 0 the job
    is dropped with its first failure, with -1 it is buried. `reserve_for`: seconds that a worker
    has for it (1800; 60 at least, 86,400 at most). `backtrace`: lines of traceback kept with a
    failure (0; the server keeps 50 at most). `custom`: a dict of JSON that goes with the job.

    With Faktory Enterprise only, else FaktoryEnterpriseRequired when the job is pushed:
    `unique_for`, seconds in which a second job with the same type, arguments and queue is refused;
    `unique_until`, "success" (the default) or "start"; `expires_in`, seconds, or `expires_at`, a
    time, after which the job is not run any more; `track`, whether it may report progress.
    """

    queue: str | None
    retry: int | None
    reserve_for: float | timedelta | None
    backtrace: int | None
    custom: Mapping[str, object] | None
    unique_for: float | timedelta | None
    unique_until: str | None
    expires_in: float | timedelta | None
    expires_at: datetime | str | float | None
    track: bool | None


EXPIRY: Final = {"expires_in", "expires_at"}


class Declared(Options, total=False):
    """The options of a job where it is declared.

    `time_limit`: seconds after which the worker raises `TimeLimitExceeded` in the job. It is not
    part of the pushed job.

    Of its failures, for the worker that runs it: `retry_on`, a class or several of the exceptions
    after which it is tried again (all), any other buries it at once; `discard_on`, those that end
    it without a retry, as `Discard` does; `backoff`, a function from the number of the attempt that
    failed, from 1, to the seconds or the timedelta until the next (the server's own wait), like
    `faktory.backoff.exponential(30)`.
    """

    time_limit: float | timedelta | None
    retry_on: type[BaseException] | Collection[type[BaseException]] | None
    discard_on: type[BaseException] | Collection[type[BaseException]] | None
    backoff: Backoff | None


_POLICY: Final = frozenset({"retry_on", "discard_on", "backoff"})


NAMES: Final = frozenset(get_type_hints(Options))

ENTERPRISE: Final = ("unique_for", "unique_until", "expires_in", "expires_at", "track")
"""Options that go into `custom`; an open-source server ignores them without an error."""


def check(options: Mapping[str, Any], where: str) -> None:
    """Raise TypeError, with the closest name, for an option that does not exist."""
    for name in options:
        if name == "time_limit":
            raise TypeError(
                f"{where} cannot have a time_limit, which is not part of a pushed job: "
                "the worker takes it from the declaration of the job."
            )
        if name in _POLICY:
            raise TypeError(
                f"{where} cannot have {name}, which is not part of a pushed job: the worker takes "
                "it from the declaration, @faktory.job or faktory_options."
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
    """Return the options of both, those of `over` win; the result shares nothing with either."""
    merged = {name: copy_of(value) for name, value in base.items()}
    if over.keys() & EXPIRY:  # two options with one meaning
        merged = {name: value for name, value in merged.items() if name not in EXPIRY}
    for name, value in over.items():
        below = merged.get(name)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[name] = merge(below, value)
        else:
            merged[name] = copy_of(value)
    return merged


def to_wire(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options as fields of a job's wire dict."""
    fields = {name: copy_of(value) for name, value in options.items() if name not in ENTERPRISE}
    custom = enterprise(options)
    for name in ("unique_for", "expires_in"):
        if name in custom:
            custom[name] = _whole_seconds(name, custom[name])
    if "expires_at" in custom:
        if "expires_in" in custom:
            raise FaktoryPayloadError("expires_in and expires_at mean the same: give one of them.")
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
    """Return the options as wire fields, checked and completed as those of a whole job.

    An option that is None counts as not given.
    """
    fields = {name: value for name, value in to_wire(options).items() if value is not None}
    checked = prepare({**fields, "jobtype": jobtype, "args": []})
    encode_push(checked)  # raises for a value in `custom` that is not JSON
    for name in ("jid", "jobtype", "args"):
        del checked[name]
    return checked


def enterprise(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are given and need Faktory Enterprise."""
    given = {name: options.get(name) for name in ENTERPRISE}
    given["track"] = given["track"] or None  # False and 0 are off
    return {name: value for name, value in given.items() if not (value is None or value is False)}


def copy_of(value: Any) -> Any:
    """Return the value, its dicts and lists copied."""
    if isinstance(value, Mapping):
        return {name: copy_of(item) for name, item in value.items()}
    if isinstance(value, list):
        return [copy_of(item) for item in value]
    return value


def read_only(value: Any) -> Any:
    """Return the value with read-only dicts, and copies of its lists."""
    if isinstance(value, Mapping):
        return MappingProxyType({name: read_only(item) for name, item in value.items()})
    return copy_of(value)


class Defaults(MutableMapping[str, Any]):
    """The default options of all jobs of this process.

    `version` is a new number after every change. A value that is read cannot be changed in place.
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
    """Replace the default options of all jobs of this process; return the new ones."""
    global default_job_options
    default_job_options = options if isinstance(options, Defaults) else Defaults(options)
    return default_job_options


def _whole_seconds(name: str, value: object) -> int:
    number = check_duration(name, value)
    if number < 1:
        raise FaktoryPayloadError(f"{name} is {value!r}: it must be 1 second or more.")
    return int(number)

"""The options of a job: their names, how they are merged, their fields on the wire.

Rules: options are plain dicts, never changed in place and never handed out: a merged dict and each
job's `custom` are copies. Nested dicts are merged key by key, all other values are replaced. The
options of a job win over `default_job_options`, which count as they are when it is pushed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from itertools import count
from types import MappingProxyType
from typing import Any, Final, TypedDict, get_type_hints

from ..exceptions import FaktoryPayloadError
from ..proto import encode_push
from ..wire.payload import prepare
from ..wire.validate import check_duration, check_instant, check_timeout
from . import chains, elsewhere
from .backoff import Backoff


class Options(TypedDict, total=False):
    """The options of a job, where it is declared or by `set`. None is as good as not given.

    `unique_for`, `unique_until` and `track` are of Faktory Enterprise: on another server the push
    raises FaktoryEnterpriseRequired.

    Args:
        queue: Where the job waits ("default").
        retry: Attempts after the first (25); with 0 the job is dropped with its first failure, with
            -1 it is buried.
        reserve_for: Seconds that a worker has for it (1800; 60 at least, 86,400 at most).
        backtrace: Lines of traceback kept with a failure (0; the server keeps 50 at most).
        custom: A dict of JSON that goes with the job.
        time_limit: Seconds after which the worker raises `TimeLimitExceeded` in the job.
        expires_in: Seconds, from the push or from the time of a scheduled job, after which it is
            not run any more: the server drops it, or a worker of this package does.
        expires_at: The time after which it is not run any more.
        unique_for: Seconds in which a job with the same type, arguments and queue is refused.
        unique_until: "success" (the default) or "start".
        track: Whether it may report progress.
    """

    queue: str | None
    retry: int | None
    reserve_for: float | timedelta | None
    backtrace: int | None
    custom: Mapping[str, object] | None
    time_limit: float | timedelta | None
    unique_for: float | timedelta | None
    unique_until: str | None
    expires_in: float | timedelta | None
    expires_at: datetime | str | float | None
    track: bool | None


EXPIRY: Final = {"expires_in", "expires_at"}


class Declared(Options, total=False):
    """The options of a job where it is declared.

    A `time_limit` is then not part of the pushed job: the worker has it from the declaration.

    Three options are for the worker that runs the job, when it fails:

    Args:
        retry_on: A class or several of the exceptions after which it is tried again (all); any
            other buries it at once.
        discard_on: Those that end it without a retry, as `Discard` does.
        backoff: A function from the number of the attempt that failed, from 1, to the seconds or
            the timedelta until the next (the server's own wait), like
            `faktory.backoff.exponential(30)`.
    """

    retry_on: type[BaseException] | Collection[type[BaseException]] | None
    discard_on: type[BaseException] | Collection[type[BaseException]] | None
    backoff: Backoff | None


_POLICY: Final = ("retry_on", "discard_on", "backoff")

OF_DECLARATION: Final = (*_POLICY, "name")
"""What a declaration has besides the options."""


class PushOptions(Options, total=False):
    """The options of `set`, three of which are for one push only.

    Args:
        jid: The job's id, 8 bytes or more without spaces, instead of a random one; the server does
            not notice a jid that it has already.
        at: When the job is to run.
        debounce: Seconds, 1 or more: at most one job of these arguments and options in each window
            of so many seconds, which runs at the window's end.
    """

    jid: str | None
    at: datetime | str | float | None
    debounce: float | timedelta | None


NAMES: Final = frozenset(get_type_hints(Options))

OF_ONE_PUSH: Final = ("jid", "at", "debounce")

ENTERPRISE: Final = ("unique_for", "unique_until", "track")
"""Options that an open-source server ignores without an error."""

IN_CUSTOM: Final = (*ENTERPRISE, *sorted(EXPIRY))
"""Options that go into `custom`."""


def check(options: Mapping[str, Any], where: str, others: Iterable[str] = ()) -> None:
    """Raise TypeError, with the closest name, for an option that does not exist.

    `others` are names that `where` takes, too, and that are not among these options any more.
    """
    for name in options:
        if name in OF_ONE_PUSH:
            raise TypeError(
                f"{where} cannot have {name}, which is for a single push: "
                f"job.set({name}=...).perform_async(...)."
            )
        if name in _POLICY:
            raise TypeError(
                f"{where} cannot have {name}, which is not part of a pushed job: the worker takes "
                "it from the declaration, @faktory.job or faktory_options."
            )
        if name == "on_exhausted":
            raise TypeError(
                f"{where} has no option {name!r}: it is a decorator of the declared job, for the "
                "function to be called, @job.on_exhausted."
            )
        if name not in NAMES:
            known = sorted({*NAMES, *others})
            raise TypeError(f"{where} has no option {name!r}. {_hint(name, known)}")


def _hint(name: str, known: list[str]) -> str:
    if remedy := elsewhere.REMEDIES.get(name):
        return remedy
    every = {*known, *_POLICY}
    there = elsewhere.OPTIONS.get(name)
    close = [there] if there in every else get_close_matches(name, every, 1)
    return f"Did you mean {close[0]!r}?" if close else f"There are {known}."


def take_time_limit(options: dict[str, Any]) -> float | None:
    """Take a job's time limit out of its declared options; return it in seconds.

    None stays in its place: that of the default options does not go with the job.
    """
    limit = check_time_limit(options.get("time_limit"))
    if limit is not None:
        options["time_limit"] = None
    return limit


def check_time_limit(limit: object) -> float | None:
    """Return a time limit in seconds; None for none."""
    return None if limit is None else check_timeout("time_limit", limit, allow_zero=False)


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
    fields = {name: copy_of(value) for name, value in options.items() if name not in IN_CUSTOM}
    custom = _given(options, IN_CUSTOM)
    if (limit := check_time_limit(fields.pop("time_limit", None))) is not None:
        custom["time_limit"] = limit
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
    own = fields.get("custom")
    if isinstance(own, Mapping) and chains.KEY in own:
        raise FaktoryPayloadError(
            f"custom has {chains.KEY!r}, where a chain keeps its jobs: take another name, or "
            "faktory.chain(...) for jobs that run one after another."
        )
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
    return _given(options, ENTERPRISE)


def _given(options: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    given = {name: options.get(name) for name in names}
    given["track"] = given["track"] or None  # False and 0 are off
    return {name: value for name, value in given.items() if not (value is None or value is False)}


def fix_expiry(payload: dict[str, Any]) -> None:
    """Make a job's `expires_in` the time at which it expires; called when the job is pushed.

    It counts from the job's `at` if that is ahead, else from now. A value of another program's is
    left alone.
    """
    custom = payload["custom"]
    seconds = custom.get("expires_in") if isinstance(custom, dict) else None
    if not isinstance(seconds, (int, float)) or seconds is True or "expires_at" in custom:
        return
    at = payload.get("at")
    try:
        start = datetime.now(UTC)
        if at is not None:
            start = max(start, datetime.fromisoformat(check_instant("at", at)))
        end = check_instant("expires_in", start + timedelta(seconds=seconds))
    except (OverflowError, ValueError):  # after the year 9999; or the push refuses the `at`
        return
    payload["custom"] = {name: item for name, item in custom.items() if name != "expires_in"}
    payload["custom"]["expires_at"] = end


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

    `version` is a new number after every change, `time_limit` is in seconds. A value that is read
    cannot be changed in place.
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
        self.time_limit = check_time_limit(options.get("time_limit"))
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

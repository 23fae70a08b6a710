"""The options of Faktory Enterprise in a job's `custom`: batch, lock, expiry, tracking.

Rules: a job with an invalid option is rejected; how the real server replies to it is not known.
Names that begin with "_" are the server's own.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from ..errors import CommandError
from ..go import json as go_json
from ..go import time as go_time
from ..go.time import SECOND
from ..job import StoredJob

MAX_SECONDS: Final = 1_000_000_000
"""Seconds of `unique_for` and `expires_in`, some 31 years."""

MAX_CUSTOM: Final = 64 * 1024
"""Characters of `custom`, which is read whenever something happens to the job."""


class EnterpriseOptions(NamedTuple):
    """The options of one job; times in nanoseconds."""

    bid: str | None = None
    """The batch that the job is a member of."""
    callback_of: str | None = None
    """The batch that the job is a callback of (`_bid`)."""
    unique_for: int | None = None
    until_start: bool = False
    """The lock of a unique job ends when a worker fetches it, not when it is acknowledged."""
    expires_at: int | None = None
    expires_in: int | None = None
    track: bool = False


_NONE = EnterpriseOptions()


def read_options(custom: str | None) -> EnterpriseOptions:
    """Read the options in the JSON of `custom`; CommandError for an invalid one."""
    if custom is None:
        return _NONE
    if len(custom) > MAX_CUSTOM:
        raise CommandError(
            f"custom is longer than {MAX_CUSTOM} characters: that is the limit of this embedded "
            "server with Enterprise features"
        )
    get = go_json.load(custom).get
    return EnterpriseOptions(
        bid=_text("bid", get("bid")),
        callback_of=_text("_bid", get("_bid")),
        unique_for=_seconds("unique_for", get("unique_for")),
        until_start=_until_start(get("unique_until")),
        expires_at=_instant("expires_at", get("expires_at")),
        expires_in=_seconds("expires_in", get("expires_in")),
        track=get("track") not in (None, False, 0),
    )


def set_custom(job: StoredJob, options: dict[str, str | None]) -> None:
    """Set options in a job's `custom`, None removing one; the caller renders the job."""
    fields = {} if job.custom is None else go_json.load(job.custom)
    for name, value in options.items():
        fields.pop(name, None)
        if value is not None:
            fields[name] = value
    job.custom = go_json.dump(fields) if fields else None


def _text(name: str, value: Any) -> str | None:
    if value is None or type(value) is str:
        return value or None
    raise CommandError(f"custom.{name} must be a string, not {go_json.dump(value)}")


def _seconds(name: str, value: Any) -> int | None:
    if value is None:
        return None
    number = go_json.to_float(value)
    if number is None or not 0 < number <= MAX_SECONDS:
        raise CommandError(
            f"custom.{name} must be a number of seconds above 0 and up to {MAX_SECONDS}, "
            f"not {go_json.dump(value)}"
        )
    return round(number * SECOND)


def _until_start(value: Any) -> bool:
    if value not in (None, "", "success", "start"):
        raise CommandError(
            f'custom.unique_until must be "success" or "start", not {go_json.dump(value)}'
        )
    return bool(value == "start")


def _instant(name: str, value: Any) -> int | None:
    text = _text(name, value)
    if text is None:
        return None
    try:
        return go_time.read(text)
    except ValueError as error:
        raise CommandError(
            f"invalid timestamp for 'custom.{name}': {go_json.quote(text)}: {error}"
        ) from None

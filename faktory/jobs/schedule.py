"""When a job runs, where its push says so: at a time, after a delay, spread, or debounced.

Rules: a job that is scheduled goes out with `created_at`, so that its push can be repeated until
its time without a second job (`wire/commands.py: times_of`). A time that is past is not sent: the
job can run at once. All times are the wall clock's, in UTC.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from time import time
from typing import Any, Final, NamedTuple

from ..exceptions import FaktoryPayloadError
from ..proto import dump_json, load_json, new_jid
from ..wire.payload import check_jid
from ..wire.validate import check_duration, check_instant, show

DEBOUNCE_MARGIN: Final = 2
"""Seconds before the end of a window from which on a push counts for the next one: after its time,
the server would queue the same job again."""

_MICROSECONDS: Final = 1_000_000

_MICROSECOND: Final = timedelta(microseconds=1)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def now() -> datetime:
    """Return the time."""
    return datetime.fromtimestamp(time(), UTC)


class OnePush(NamedTuple):
    """What `set` says of a single push: its jid, its time, or the window of its debouncing."""

    jid: str | None = None
    at: str | None = None
    """RFC 3339."""
    window: int | None = None
    """Microseconds."""

    def options(self) -> dict[str, Any]:
        """Return them as the options of `set`."""
        seconds = None if self.window is None else self.window / _MICROSECONDS
        given = {"jid": self.jid, "at": self.at, "debounce": seconds}
        return {name: value for name, value in given.items() if value is not None}

    def merged(self, over: Mapping[str, Any], jobtype: str) -> OnePush:
        """Return the same with these options, checked; one that is None is reset."""
        new: dict[str, Any] = self._asdict()
        if "jid" in over:
            new["jid"] = None if over["jid"] is None else check_jid("jid", over["jid"])
        if "at" in over:
            new["at"] = None if over["at"] is None else check_instant("at", over["at"])
        if "debounce" in over:
            new["window"] = None if over["debounce"] is None else _window(over["debounce"])
        for name in ("jid", "at"):
            if new["window"] is not None and new[name] is not None:
                raise FaktoryPayloadError(
                    f"{jobtype}.set() has debounce and {name}={new[name]!r}: debounce makes the "
                    "jid and the time itself. Leave one out, or reset it with None."
                )
        return OnePush(**new)

    def require_no_jid(self, call: str) -> None:
        """Raise for a call that pushes many jobs."""
        if self.jid is not None:
            raise FaktoryPayloadError(
                f"{call} pushes many jobs, and set(jid={self.jid!r}) is for a single one: use "
                "perform_async, or reset it with set(jid=None)."
            )

    def require_no_time(self, call: str) -> None:
        """Raise for a call that says itself when the job runs."""
        for name, value in self.options().items():
            if name != "jid":
                raise FaktoryPayloadError(
                    f"{call} says when the job runs, and so does set({name}={value!r}): use "
                    f"perform_async, or reset it with set({name}=None)."
                )

    def apply(self, payload: dict[str, Any]) -> None:
        """Write them into the wire dict of a job."""
        if self.window is not None:
            debounce(payload, self.window)
        if self.jid is not None:
            payload["jid"] = self.jid
        if self.at is not None:
            put_time(payload, if_ahead(self.at))


def put_time(payload: dict[str, Any], at: str | None) -> None:
    """Schedule a job; None leaves it as it is."""
    if at is not None:
        payload["at"] = at
        payload["created_at"] = created_at()


def after(delay: object) -> str | None:
    """Return the time after a delay, seconds or a timedelta; None if that is now or past."""
    wait = check_duration("the delay", delay)
    if wait <= 0:
        return None
    try:
        return check_instant("at", now() + timedelta(seconds=wait))
    except OverflowError:
        raise FaktoryPayloadError(f"the delay is {delay!r}: it ends after the year 9999.") from None


def if_ahead(at: str) -> str | None:
    """Return a time if it is not past yet, in UTC."""
    when = datetime.fromisoformat(at)
    return check_instant("at", when) if when > now() else None


def created_at() -> str:
    """Return the time as a job's `created_at`."""
    return check_instant("created_at", now())


# Debounced jobs.


def _window(seconds: object) -> int:
    number = check_duration("debounce", seconds)
    if number < 1:
        raise FaktoryPayloadError(f"debounce is {show(seconds)}: it must be 1 second or more.")
    return round(number * _MICROSECONDS)


def debounce(payload: dict[str, Any], window: int) -> None:
    """Give a job the jid and the times that all jobs like it have in the current window.

    `window` is its length, in microseconds; windows are counted from the epoch. The jid is a hash
    of the whole job, so that two jobs that differ never share one.
    """
    custom = payload.get("custom") or {}
    for name, remedy in (
        ("bid", "push it outside of the batch"),
        ("unique_for", "leave out one of them"),
    ):
        if name in custom:
            raise FaktoryPayloadError(
                f"{payload['jobtype']} has debounce and custom[{name!r}]: the server would count "
                f"each push of the one job. {remedy[0].upper()}{remedy[1:]}."
            )
    current = (now() - _EPOCH) // _MICROSECOND + DEBOUNCE_MARGIN * _MICROSECONDS
    end = (current // window + 1) * window
    try:
        at = check_instant("at", _EPOCH + timedelta(microseconds=end))
    except OverflowError:
        raise FaktoryPayloadError(
            f"debounce is {window // _MICROSECONDS} seconds: the window ends after the year 9999."
        ) from None
    payload["at"] = payload["created_at"] = at
    payload["jid"] = _hash_of({**payload, "jid": None})


def _hash_of(payload: Mapping[str, Any]) -> str:
    """Return 24 hex digits, the same wherever the job is the same.

    The order of the keys of objects does not count: the server sorts them, too.
    """
    import json  # both take long to load
    from hashlib import sha256

    plain = load_json(dump_json(payload))  # a subclass of int, say, may look different to `json`
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()[:24]


# Many jobs.


class Spread:
    """The times of many jobs: evenly from one on, for so many seconds."""

    def __init__(self, at: str | None, over: object, count: int) -> None:
        seconds = check_duration("over", over)
        if seconds < 0:
            raise FaktoryPayloadError(
                f"over is {show(over)}: it must be 0 seconds or more; jobs are spread over the "
                "time from `at` on, or from now."
            )
        start = now() if at is None else datetime.fromisoformat(at)
        self._start = (start - _EPOCH) // _MICROSECOND
        self._length = round(seconds * _MICROSECONDS)
        self._count = count
        try:
            _EPOCH + timedelta(microseconds=self._start + self._length)
        except OverflowError:
            raise FaktoryPayloadError(
                f"over is {show(over)}: it ends after the year 9999."
            ) from None

    def times(self, first: int, count: int) -> list[str]:
        """Return the times of `count` jobs, from that of number `first`, from 0, on."""
        found: list[str] = []
        current = None
        for number in range(first, first + count):
            moment = self._start + self._length * number // self._count
            second, fraction = divmod(moment, _MICROSECONDS)
            if second != current:  # the text of a date takes the longest
                current = second
                text = (_EPOCH + timedelta(seconds=second)).isoformat()[:-6]
            found.append(f"{text}.{fraction:06d}Z")
        return found


class PlaceForTimes:
    """A text in the place of the time of each job of a rendered PUSHB."""

    def __init__(self) -> None:
        self.text = new_jid()  # 96 random bits: nothing else in there is equal to it
        self._mark = self.text.encode()

    def fill(self, line: bytes, times: Sequence[str]) -> bytes:
        """Return the line with each time in its place."""
        pieces = line.split(self._mark)
        if len(pieces) != len(times) + 1:
            raise RuntimeError("the rendered jobs hold a random text that none of them has")
        inside: Iterator[bytes] = chain.from_iterable(
            zip(pieces, (at.encode() for at in times), strict=False)
        )
        return b"".join(inside) + pieces[-1]

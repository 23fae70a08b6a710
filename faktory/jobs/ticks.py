"""Periodic jobs: when they are due, and the job that each tick pushes.

Rules: whatever is wrong is an error where the schedule is declared. The job of a tick is the same
on every machine, to the byte, since each worker pushes it and the server keeps one entry of what is
the same: its jid and times come from the schedule's name and the tick, its arguments from the tick
alone, and the client middleware is passed by.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final, NamedTuple, TypeVar, overload

from ..wire import commands
from ..wire.validate import check_duration, check_instant, show, signature_of
from . import options as job_options
from . import registry
from .context import SCHEDULE, TICK
from .cron import Expression
from .sending import Sender
from .spec import DeclaredJob, spec_of
from .validation import deferred

J = TypeVar("J", bound=DeclaredJob)

Arguments = Callable[[datetime], Sequence[object]]
"""Makes the arguments of a tick's job."""

LEAST_INTERVAL: Final = timedelta(seconds=10)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PROMPT: Final = "the prompt"
_HERE: Final = os.path.dirname(os.path.abspath(__file__))


class _Place(NamedTuple):
    """Where a schedule is declared."""

    text: str
    """The file and the line."""
    file: str
    load: object
    """What stands for one load of the module: another one after a reload, or as `__main__`."""


class Schedule:
    """When a job runs, and with which arguments."""

    def __init__(
        self,
        job: Sender,
        expression: str | None,
        every: timedelta | None,
        tz: tzinfo,
        args: Arguments | None,
        name: str,
        place: _Place,
    ) -> None:
        self._job, self._args, self._tz, self._every = job, args, tz, every
        self._expression = None if expression is None else Expression(expression, tz)
        self._name, self._place = name, place
        self._when = f"every {every}" if expression is None else expression
        self._what = (job.jobtype, self._when, str(tz))

    def __repr__(self) -> str:
        return f"<schedule {self._name}: {self._when}>"

    @property
    def name(self) -> str:
        """Its name, one of a kind in this process."""
        return self._name

    @property
    def jobtype(self) -> str:
        """The type of the job that it pushes."""
        return self._job.jobtype

    @property
    def when(self) -> str:
        """The expression as it was written, or "every 1:00:00"."""
        return self._when

    @property
    def place(self) -> str:
        """The file and the line of the declaration."""
        return self._place.text

    def ticks(self, after: datetime, until: datetime | None = None) -> Iterator[datetime]:
        """Yield the ticks after one moment, and until another if given, in the schedule's zone.

        ValueError for a naive moment.
        """
        start = _aware("after", after)
        end = None if until is None else _aware("until", until)
        return self._ticks(start, end)

    def next(self, after: datetime) -> datetime:
        """Return the first tick after a moment; ValueError for a naive one, or without a tick."""
        tick = next(self.ticks(after), None)
        if tick is None:
            raise ValueError(f"the schedule {self._name!r} has no tick after {after}.")
        return tick

    def payload(self, tick: datetime) -> dict[str, Any]:
        """Return the wire dict of the tick's job; raises what `args` raises.

        TypeError or FaktoryPayloadError for arguments that the job cannot have, ValueError for
        default options, set since, with which a tick would run more than once.
        """
        _check_alike(self._job)
        args = () if self._args is None else self._args(tick)
        if not isinstance(args, (tuple, list)):
            raise TypeError(
                f"args returned {show(args)}: it must be a tuple or a list, for a single argument "
                "(value,)."
            )
        at = check_instant("tick", tick)
        made = self._job.payload(args)
        custom = dict(made.get("custom") or {})
        if (seconds := custom.pop("expires_in", None)) is not None:  # from the tick on
            end = tick.astimezone(UTC) + timedelta(seconds=seconds)
            custom["expires_at"] = check_instant("expires_in", end)
        custom[SCHEDULE], custom[TICK] = self._name, tick.isoformat()
        made.update(jid=_jid(self._name, at), created_at=at, at=at, custom=custom)
        commands.push(made)  # raises for what JSON cannot hold
        return made

    def is_as(self, other: Schedule) -> bool:
        """Return whether another one, of the same name, is the same declaration.

        A module that is loaded again declares its schedules again, changed or not. At a prompt any
        is the same: who defines a name again means the new one.
        """
        mine, others = self._place, other._place
        if mine.file == others.file and mine.load is not others.load:
            return True
        same = mine.text == others.text
        return same and (mine.text == _PROMPT or self._what == other._what)

    def _ticks(self, after: datetime, until: datetime | None) -> Iterator[datetime]:
        found = self._cron(after) if self._every is None else self._interval(after, self._every)
        for tick in found:
            if until is not None and tick.astimezone(UTC) > until:
                return
            yield tick

    def _cron(self, after: datetime) -> Iterator[datetime]:
        assert self._expression is not None
        return self._expression.ticks(after)

    def _interval(self, after: datetime, every: timedelta) -> Iterator[datetime]:
        try:
            tick = _EPOCH + ((after - _EPOCH) // every + 1) * every
            while True:
                yield tick.astimezone(self._tz)
                tick += every
        except OverflowError:  # after the year 9999
            return


def schedules() -> list[Schedule]:
    """Return the schedules of this process, in the order in which they were declared."""
    return list(registry.schedules.values())


@overload
def periodic(
    expression: str | None = None,
    job: None = None,
    *,
    every: float | timedelta | None = None,
    tz: str | tzinfo | None = None,
    args: Arguments | None = None,
    name: str | None = None,
) -> Callable[[J], J]: ...


@overload
def periodic(
    expression: str | None,
    job: J,
    *,
    tz: str | tzinfo | None = None,
    args: Arguments | None = None,
    name: str | None = None,
) -> J: ...


@overload
def periodic(
    expression: str | None = None,
    *,
    job: J,
    every: float | timedelta | None = None,
    tz: str | tzinfo | None = None,
    args: Arguments | None = None,
    name: str | None = None,
) -> J: ...


def periodic(
    expression: str | None = None,
    job: Any = None,
    *,
    every: float | timedelta | None = None,
    tz: str | tzinfo | None = None,
    args: Arguments | None = None,
    name: str | None = None,
) -> Any:
    """Have each worker push a job at its times; return the job, or a decorator without one.

    ValueError or TypeError for what is wrong in any argument, or for a name that is taken.

    Args:
        expression: A cron expression of five fields (extra `cron`), or @hourly, @daily, @weekly,
            @monthly or @yearly.
        job: What to push, a declared job; without it a decorator is returned.
        every: In place of an expression: seconds or a timedelta, 10 s at least, which count from
            1970-01-01 00:00 UTC.
        tz: The zone of the expression, by default UTC.
        args: Makes the arguments of the tick, an aware datetime in the zone; it must depend on
            nothing else.
        name: The schedule's name, by default the job type.
    """
    place = _place()
    if not isinstance(expression, str | None):
        raise TypeError(
            f"the expression is {show(expression)}: it must be text with five fields, like "
            '"*/5 * * * *". A job comes second, and an interval goes by every=.'
        )

    def declare(job: J) -> J:
        _declare(job, expression, every, tz, args, name, place)
        return job

    return declare if job is None else declare(job)


def schedule_job(
    job: J,
    when: str | float | timedelta,
    tz: str | tzinfo | None,
    args: Arguments | None,
    name: str | None,
) -> J:
    """Declare as `periodic` does: by an expression, or by an interval."""
    if isinstance(when, str):
        return periodic(when, job, tz=tz, args=args, name=name)
    return periodic(every=when, job=job, tz=tz, args=args, name=name)


def _declare(
    job: object,
    expression: str | None,
    every: object,
    tz: object,
    args: object,
    name: object,
    place: _Place,
) -> None:
    spec = _checked_job(job)
    if (expression is None) == (every is None):
        raise TypeError(
            f"the schedule of {spec.jobtype} needs an expression or every=, and not both: "
            'periodic("*/5 * * * *", job) or periodic(every=timedelta(minutes=5), job=job).'
        )
    interval = None if every is None else _checked_interval(every)
    zone = _checked_zone(tz)
    takes = _checked_args(spec, args)
    called = spec.jobtype if name is None else name
    if not isinstance(called, str) or not called or not called.isprintable():
        raise ValueError(f"the name is {show(name)}: it must be text without line ends.")
    made = Schedule(spec, expression, interval, zone, takes, called, place)
    known = registry.schedules.get(called)
    if known is not None and not known.is_as(made):
        raise ValueError(
            f"the schedule {called!r} is declared twice: at {known.place}, and at {made.place}. "
            "Give one of them another name=."
        )
    registry.schedules[called] = made


def _checked_job(job: object) -> Sender:
    spec = spec_of(job)
    if isinstance(spec, Sender) and spec is not job and not isinstance(job, type):
        raise TypeError(
            f"{show(job)} is an instance, and a worker makes one for each job: pass the class, "
            f"{type(job).__name__}."
        )
    if not isinstance(spec, Sender):
        raise TypeError(
            f"{show(job)} is not a declared job: put @faktory.periodic above @faktory.job, or pass "
            "a job, a class below faktory.Job, or what faktory.external returned."
        )
    if spec.pool is not None:
        raise ValueError(
            f"{spec.jobtype} has a pool of its own, and a schedule is pushed to the worker's "
            "server: leave out set(pool=...)."
        )
    _check_alike(spec)
    return spec


def _check_alike(spec: Sender) -> None:
    """Raise ValueError for options with which a tick would not be the same entry each time."""
    given = job_options.merge(job_options.default_job_options, spec.options)
    for option in (*job_options.OF_ONE_PUSH, *job_options.enterprise(given)):
        if given.get(option) is not None:
            raise ValueError(
                f"{spec.jobtype} has {option}={show(given[option])}, and each worker pushes a "
                f"tick: only what is the same entry each time runs once. Use set({option}=None)."
            )


def _checked_interval(every: object) -> timedelta:
    try:
        interval = timedelta(seconds=check_duration("every", every))
    except OverflowError:
        interval = timedelta.max
    if not LEAST_INTERVAL <= interval <= timedelta(days=36525):
        raise ValueError(
            f"every is {show(every)}: it must be 10 seconds or more, and not centuries."
        )
    return interval


def _checked_zone(tz: object) -> tzinfo:
    tz = getattr(tz, "zone", None) or tz  # of pytz, whose zones are for localize() only
    if tz is None or tz == "UTC":
        return UTC
    if isinstance(tz, tzinfo):
        if datetime(2026, 1, 1).replace(tzinfo=tz).utcoffset() is None:
            raise ValueError(f"tz is {tz!r}, by which times stay naive: pass a zone's name.")
        return tz
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # takes long to load

    if not isinstance(tz, str):
        raise TypeError(f'tz is {show(tz)}: pass the name of a zone, like "Europe/Berlin".')
    try:
        return ZoneInfo(tz)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f'tz is {show(tz)}, an unknown zone: pass a name like "Europe/Berlin". Where the '
            "system has no database of zones, as on Windows: pip install tzdata."
        ) from None


def _checked_args(spec: Sender, args: object) -> Arguments | None:
    if args is None:
        try:
            spec.payload(())
        except TypeError as error:
            raise TypeError(
                f"the schedule of {error}. Give args=, a function from the tick to the arguments."
            ) from None
        return None
    if not callable(args):
        raise TypeError(
            f"args is {show(args)}: it must be a function of the tick, like "
            "lambda tick: (tick.date().isoformat(),)."
        )
    if kind := deferred(args):
        raise TypeError(f"args is {kind}, and nothing awaits it: pass a plain function.")
    try:
        parameters = list(signature_of(args).parameters.values())
    except (TypeError, ValueError):  # written in C
        return args
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(parameters) != 1 or parameters[0].kind not in positional:
        raise TypeError(
            f"args of the schedule of {spec.jobtype} takes "
            f"({', '.join(map(str, parameters))}): it must take the tick and nothing else."
        )
    return args


def _aware(name: str, moment: datetime) -> datetime:
    return datetime.fromisoformat(check_instant(name, moment))


def _jid(name: str, at: str) -> str:
    from hashlib import sha256  # takes long to load

    return sha256(f"{name}\0{at}".encode()).hexdigest()[:24]


def _place() -> _Place:
    """Return where, outside of this room, a schedule is declared.

    At a prompt, and in a notebook, all are declared at the same place.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and os.path.dirname(frame.f_code.co_filename) == _HERE:
        frame = frame.f_back
    # A module that is loaded twice, as the program and by its name, has two names of its file.
    file = os.path.realpath(frame.f_code.co_filename)
    at_prompt = frame.f_globals.get("__name__") == "__main__" and hasattr(sys, "ps1")
    text = _PROMPT if at_prompt else f"{file}:{frame.f_lineno}"
    return _Place(text, file, frame.f_globals.get("__spec__"))  # each load makes a spec

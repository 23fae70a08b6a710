"""Jobs as users declare them: `@job` on a function, or a class below `Job`.

Both are pushed alike: arguments are bound to the signature when they are pushed, so that wrong
ones fail at the call site, and keywords become positions, so that workers in any language
understand them. The parameters are seen by type checkers, too.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import (
    Any,
    ClassVar,
    Concatenate,
    Generic,
    ParamSpec,
    Protocol,
    TypeVar,
    Unpack,
    overload,
)

from ..client import outlet
from ..client.bulk import push_chunk
from ..client.pool import Pool
from ..exceptions import (
    FaktoryBulkError,
    FaktoryPayloadError,
)
from ..proto import JobTemplate
from ..wire import commands
from ..wire.payload import DEFAULT_RETRY, instant, prepare, seconds
from . import options as job_options
from . import registry
from .context import JobContext, current_job
from .options import Options

P = ParamSpec("P")
R = TypeVar("R")
Instant = datetime | str | float
Duration = float | timedelta

BULK_CHUNK = 1000
"""Jobs in one PUSHB: enough to forget the round trip, far from the server's 5 s for it."""


class Signature:
    """What a job's function takes: binds arguments and makes positions of them."""

    def __init__(self, function: Callable[..., Any], *, method: bool = False) -> None:
        self._signature = inspect.signature(function)
        parameters = list(self._signature.parameters.values())
        if method:
            parameters = parameters[1:]
            self._signature = self._signature.replace(parameters=parameters)
        for parameter in parameters:
            if parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD):
                raise TypeError(
                    f"{function.__qualname__} takes {parameter} by keyword only, and a job's "
                    "arguments are a list: make it positional, or take a dict."
                )
        positional = [p for p in parameters if p.kind is not p.VAR_POSITIONAL]
        self._least = sum(p.default is p.empty for p in positional)
        self._most = len(positional) if len(positional) == len(parameters) else None
        self._names = [p.name for p in positional]

    def bind(self, args: Sequence[object], kwargs: Mapping[str, object]) -> Sequence[object]:
        """Return the arguments as positions; TypeError where the function would not take them."""
        if not kwargs and self.fits(len(args)):
            return args
        bound = self._signature.bind(*args, **kwargs)
        given = [name in bound.arguments for name in self._names]
        bound.apply_defaults()
        if len(args) <= len(self._names) and True in given:
            return bound.args[: len(given) - given[::-1].index(True)]
        return bound.args

    def fits(self, count: int) -> bool:
        """Tell whether the function takes that many positions."""
        return self._least <= count and (self._most is None or count <= self._most)


class Push(Generic[P]):
    """A job type with options, ready to be pushed."""

    def __init__(
        self,
        jobtype: str,
        signature: Signature,
        options: Mapping[str, Any],
        pool: Pool | None = None,
    ) -> None:
        self._jobtype = jobtype
        self._signature = signature
        self._options = options
        self._pool = pool

    @property
    def jobtype(self) -> str:
        """The type under which it goes to the server."""
        return self._jobtype

    def set(self, *, pool: Pool | None = None, **options: Unpack[Options]) -> Push[P]:
        """Return the same job with other options, or for another `pool` of clients."""
        job_options.check(options, f"{self._jobtype}.set()")
        merged = job_options.merge(self._options, options)
        return Push(self._jobtype, self._signature, merged, pool or self._pool)

    def perform_async(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Push the job with these arguments; return its jid."""
        return self._push(args, kwargs, None)

    def perform_in(self, delay: Duration, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Push the job to be run after `delay`, seconds or a timedelta; not later than now at once.

        Returns its jid.
        """
        wait = seconds("the delay", delay)
        try:
            at = datetime.now(UTC) + timedelta(seconds=wait) if wait > 0 else None
        except OverflowError:
            raise FaktoryPayloadError(f"the delay is {delay!r}: no calendar goes so far.") from None
        return self._push(args, kwargs, at)

    def perform_at(self, when: Instant, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Push the job to be run at a point in time: an aware datetime, RFC 3339 or epoch seconds.

        One that is past is pushed at once. Returns its jid.
        """
        at = datetime.fromisoformat(instant("when", when))
        return self._push(args, kwargs, at if at > datetime.now(UTC) else None)

    def perform_bulk(self, rows: Iterable[Sequence[object]]) -> list[str]:
        """Push a job for each row of arguments, many at a time; return their jids.

        FaktoryBulkError where some did not go through: it says which, and why.
        """
        pushed: list[str] = []
        refused: dict[str, str] = {}
        template = JobTemplate(self._jobtype, self._fields())
        source = iter(rows)
        while True:
            try:
                chunk = list(islice(source, BULK_CHUNK))
                self._check_rows(chunk)
                line, jids = template.encode_bulk(chunk)
            except Exception as error:  # a row that cannot be sent, or what `rows` raised
                before = len(pushed) + len(refused)
                if not before:
                    raise
                raise FaktoryBulkError(
                    f"{before} jobs were sent, then came trouble with the rows, "
                    f"counted from row {before} on: {error}",
                    jids=pushed,
                    refused=refused,
                ) from error
            if not chunk:
                break
            try:
                with (self._pool or outlet.default_pool()).client() as client:
                    said_no = push_chunk(client.call, commands.push_bulk_line(line, jids))
            except FaktoryBulkError as broken:
                broken.jids, broken.refused = pushed, refused
                raise
            refused.update(said_no)
            pushed.extend(jid for jid in jids if jid not in said_no)
        if refused:
            jid, reason = next(iter(refused.items()))
            raise FaktoryBulkError(
                f"the server refused {len(refused)} of {len(pushed) + len(refused)} jobs, "
                f"{jid} for example: {reason}",
                jids=pushed,
                refused=refused,
            )
        return pushed

    def _push(
        self, args: Sequence[object], kwargs: Mapping[str, object], at: datetime | None
    ) -> str:
        payload = {
            **self._fields(),
            "jobtype": self._jobtype,
            "args": self._bind(args, kwargs),
        }
        if at is not None:
            payload["at"] = at
        with (self._pool or outlet.default_pool()).client() as client:
            return client.push(payload)

    def _bind(self, args: Sequence[object], kwargs: Mapping[str, object]) -> Sequence[object]:
        try:
            return self._signature.bind(args, kwargs)
        except TypeError as error:
            raise TypeError(f"{self._jobtype}: {error}") from None

    def _fields(self) -> dict[str, Any]:
        """The wire fields that the options make, checked as those of a whole job."""
        fields = job_options.to_wire(self._options)
        checked = prepare({"retry": DEFAULT_RETRY, **fields, "jobtype": self._jobtype, "args": []})
        return {name: checked[name] for name in checked if name not in ("jid", "jobtype", "args")}

    def _check_rows(self, rows: Sequence[Sequence[object]]) -> None:
        for index, row in enumerate(rows):
            if isinstance(row, (list, tuple)) and not self._signature.fits(len(row)):
                try:
                    self._bind(row, {})
                except TypeError as error:
                    raise TypeError(f"rows[{index}]: {error}") from None


class FunctionJob(Push[P], Generic[P, R]):
    """A function declared as a job: call it as ever, or push it."""

    def __init__(
        self, function: Callable[P, R], name: str | None, options: Mapping[str, Any]
    ) -> None:
        _refuse_async(function)
        self.__wrapped__ = function
        self.__name__ = function.__name__
        self.__qualname__ = function.__qualname__
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__
        own = job_options.merge({}, options)
        super().__init__(name or function.__name__, Signature(function), own)
        registry.register(self._jobtype, self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.__wrapped__(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<faktory job {self._jobtype} of {self.origin}>"

    @property
    def origin(self) -> str:
        """Where the function was defined."""
        return _origin(self.__wrapped__)

    def run(self, context: JobContext) -> object:
        """Run the function with the arguments of a job."""
        function: Callable[..., object] = self.__wrapped__
        return function(*context.args)


@overload
def job(function: Callable[P, R], /) -> FunctionJob[P, R]: ...


@overload
def job(
    *, name: str | None = None, **options: Unpack[Options]
) -> Callable[[Callable[P, R]], FunctionJob[P, R]]: ...


def job(
    function: Callable[..., Any] | None = None, /, *, name: str | None = None, **options: Any
) -> Any:
    """Declare a function as a job, bare or with options: `@job` or `@job(queue="mail")`.

    The job type is the function's name unless `name` says otherwise. See `Options`.
    """
    job_options.check(options, "@faktory.job")
    if function is not None:
        if not callable(function):
            raise TypeError('options go by keyword, like @faktory.job(queue="mail").')
        return FunctionJob(function, name, options)
    return lambda function: FunctionJob(function, name, options)


class _Performs(Protocol[P]):
    """A job class with this signature of `perform`."""

    def perform(self, *args: P.args, **kwargs: P.kwargs) -> Any: ...


class _PerformAsync:
    def __get__(self, _: object, owner: type[_Performs[P]]) -> Callable[P, str]:
        return _push_of(owner).perform_async


class _PerformIn:
    def __get__(
        self, _: object, owner: type[_Performs[P]]
    ) -> Callable[Concatenate[Duration, P], str]:
        return _push_of(owner).perform_in


class _PerformAt:
    def __get__(
        self, _: object, owner: type[_Performs[P]]
    ) -> Callable[Concatenate[Instant, P], str]:
        return _push_of(owner).perform_at


class _Setter(Protocol[P]):
    def __call__(self, *, pool: Pool | None = None, **options: Unpack[Options]) -> Push[P]: ...


class _Set:
    def __get__(self, _: object, owner: type[_Performs[P]]) -> _Setter[P]:
        return _push_of(owner).set


class Job:
    """The base of jobs that are classes: define `perform`, and options in `faktory_options`.

    The job type is the class's name unless `faktory_options` has a `name`. Options are inherited,
    a name is not. Each run has an instance of its own.
    """

    faktory_options: ClassVar[Mapping[str, Any]] = {}
    _push: ClassVar[Push[Any] | None] = None
    _context: JobContext | None = None

    perform_async = _PerformAsync()
    perform_in = _PerformIn()
    perform_at = _PerformAt()
    set = _Set()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        name = vars(cls).get("faktory_options", {}).get("name") or cls.__name__
        options: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            options = job_options.merge(options, vars(base).get("faktory_options", {}))
        options.pop("name", None)
        job_options.check(options, f"{cls.__name__}.faktory_options")
        perform = getattr(cls, "perform", None)
        if perform is None or getattr(perform, "__isabstractmethod__", False):
            cls._push = None  # a base of other jobs, with options for them
            return
        _refuse_async(perform)
        takes_self = inspect.isfunction(inspect.getattr_static(cls, "perform"))
        cls._push = Push(name, Signature(perform, method=takes_self), options)
        registry.register(name, _ClassJob(cls))

    @classmethod
    def perform_bulk(cls, rows: Iterable[Sequence[object]]) -> list[str]:
        """Push a job for each row of arguments; see `Push.perform_bulk`."""
        return _push_of(cls).perform_bulk(rows)

    @property
    def jid(self) -> str:
        """The id of the job that runs."""
        return self._running().jid

    @property
    def bid(self) -> str | None:
        """The id of the batch that it belongs to."""
        bid = self.custom.get("bid")
        return None if bid is None else str(bid)

    @property
    def custom(self) -> dict[str, Any]:
        """The custom values of the job that runs."""
        return self._running().custom

    @property
    def logger(self) -> logging.Logger:
        """A logger named after the job's type."""
        return logging.getLogger(f"faktory.job.{_push_of(type(self)).jobtype}")

    def _running(self) -> JobContext:
        return self._context or current_job()


class _ClassJob:
    """Runs jobs of a class: a new instance for each."""

    def __init__(self, cls: type[Job]) -> None:
        self._class = cls

    @property
    def origin(self) -> str:
        return _origin(self._class)

    def run(self, context: JobContext) -> object:
        instance: Any = self._class()
        instance._context = context
        return instance.perform(*context.args)


def _push_of(owner: type) -> Push[Any]:
    push: Push[Any] | None = owner._push  # type: ignore[attr-defined]
    if push is None:
        raise TypeError(f"{owner.__name__} has no perform method, so there is nothing to push.")
    return push


def _refuse_async(function: Callable[..., Any]) -> None:
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{function.__qualname__} is an async function; a worker runs plain ones. "
            "Declare a plain function that calls asyncio.run(...)."
        )


def _origin(definition: Any) -> str:
    """Where a function or class was defined: in its own file, not in that of a decorator."""
    definition = inspect.unwrap(definition)
    if definition.__module__ == "__main__" and not hasattr(sys.modules["__main__"], "__file__"):
        file = "__main__"  # a notebook: each cell counts as a file, and each run as a new one
    else:
        try:
            file = inspect.getfile(definition)
        except (TypeError, OSError):
            file = definition.__module__
    return f"{file}:{definition.__qualname__}"

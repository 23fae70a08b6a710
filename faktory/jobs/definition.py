"""Declaring jobs: `@job` on a function, a class below `Job`, `external` for another program's.

All are pushed alike, see `push.py`. Type checkers see the parameters, too.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime, tzinfo
from typing import (
    Any,
    ClassVar,
    Concatenate,
    Final,
    Generic,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    Unpack,
    overload,
)

from ..client import Pool, Producer
from ..wire.validate import is_async
from . import elsewhere, registry, retries, validation
from . import options as job_options
from .context import JobAttributes, JobContext, current_job
from .declaration import find_declaration
from .message import Message
from .options import Declared, Options, PushOptions
from .push import Duration, Instant, Push
from .registry import ExhaustedHandler
from .signature import AnyArguments, Signature, check_call
from .ticks import Arguments, schedule_job

P = ParamSpec("P")
R = TypeVar("R")
H = TypeVar("H", bound=ExhaustedHandler)


class _NotGiven:
    """The function of `@job(...)`, which comes with the next call; None is an error of the user."""

    def __repr__(self) -> str:
        return "..."


_NOT_GIVEN: Final = _NotGiven()


class FunctionJob(Push[P], Generic[P, R]):
    """A function declared as a job: call it as before, or push it.

    A call of an async one gives its coroutine.
    """

    def __init__(
        self,
        function: Callable[P, R],
        name: str | None,
        options: Mapping[str, object],
        time_limit: float | None,
        policy: retries.Policy | None = None,
    ) -> None:
        function = validation.check_function(function, name)
        self.__wrapped__ = function
        self.__name__ = function.__name__
        self.__qualname__ = function.__qualname__
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__
        self.is_async = is_async(function)
        self.time_limit = time_limit
        self.policy = policy
        self.exhausted_handlers: list[ExhaustedHandler] = []
        own = job_options.merge({}, options)
        jobtype = function.__name__ if name is None else name
        super().__init__(jobtype, Signature(function, jobtype), own)
        registry.register(self._jobtype, self, find_declaration(function, function))

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.__wrapped__(*args, **kwargs)

    def __get__(self, _: object, owner: type | None = None) -> FunctionJob[P, R]:
        return self  # not bound to an instance; help() needs the method to show a function

    def __reduce__(self) -> str:
        return self.__qualname__  # pickled by module and name, as a function is

    def __repr__(self) -> str:
        return f"<faktory job {self._jobtype} of {self.origin}>"

    @property
    def origin(self) -> str:
        """The file and the qualified name of the function."""
        return _origin(self.__wrapped__)

    def on_exhausted(self, handler: H) -> H:
        """Have `handler(job, error)` called when a job of this type has failed permanently.

        That is before the failure of its last attempt is reported, or of one that buries it; after
        the handlers of `faktory.on("exhausted")`. One that raises is logged. Returns the handler,
        so this can be a decorator.
        """
        self.exhausted_handlers.append(validation.check_handler(handler))
        return handler

    def run(self, context: JobContext) -> object:
        """Run the function with the arguments of a job; an async one returns its coroutine."""
        function: Callable[..., object] = self.__wrapped__
        args = self.typed_args(context.args)
        try:
            return function(*args)
        except TypeError as error:
            check_call(error, function, args, self._jobtype)
            raise


@overload
def job(function: Callable[P, R], /) -> FunctionJob[P, R]: ...


@overload
def job(
    *, name: str | None = None, **options: Unpack[Declared]
) -> Callable[[Callable[P, R]], FunctionJob[P, R]]: ...


def job(
    function: Callable[P, R] | _NotGiven = _NOT_GIVEN,
    /,
    *,
    name: str | None = None,
    **options: Unpack[Declared],
) -> FunctionJob[P, R] | Callable[[Callable[P, R]], FunctionJob[P, R]]:
    """Declare a function as a job, bare or with options: `@job` or `@job(queue="mail")`.

    The job type is `name`, or else the function's name. An option that is None is as good as not
    given. Wherever seconds are, a timedelta may be. See `Options` and `Declared`.

    Args:
        queue: Where the job waits ("default").
        retry: Attempts after the first (25); with 0 it is dropped with its first failure, with -1
            buried.
        reserve_for: Seconds that a worker has for it (1800; 60 to 86,400).
        time_limit: Seconds after which the worker raises TimeLimitExceeded in it.
        retry_on: An exception class or several after which it is tried again (all).
        discard_on: Those that end it without a retry.
        backoff: A function from the attempt that failed, from 1, to the seconds until the next.
        backtrace: Lines of traceback kept with a failure (0; 50 at most).
        custom: A dict of JSON that goes with the job.
        expires_in: Seconds after which it is not run any more.
        expires_at: The time after which it is not run any more.
        unique_for: Seconds without a second such job, with Faktory Enterprise only.
        unique_until: "success" (the default) or "start".
        track: Whether it may report progress, with Faktory Enterprise only.
    """
    pushed: dict[str, object] = {**options}
    time_limit = job_options.take_time_limit(pushed)
    policy = retries.take_policy(pushed)
    job_options.check(pushed, "@faktory.job", job_options.OF_DECLARATION)

    def declare(function: Callable[P, R]) -> FunctionJob[P, R]:
        return FunctionJob(function, name, pushed, time_limit, policy)

    return declare if isinstance(function, _NotGiven) else declare(function)


@overload
def external(name: str, /, **options: Unpack[Options]) -> Push[...]: ...


@overload
def external(
    name: str, /, signature: Callable[P, object], **options: Unpack[Options]
) -> Push[P]: ...


def external(
    name: str, /, signature: Callable[..., object] | None = None, **options: Unpack[Options]
) -> Push[...]:
    """Return a job that another program runs, in any language: it can only be pushed.

    `signature` is a function with the parameters of the job; it is never called. Without one,
    arguments go by position and are not checked.
    """
    job_options.check(options, f"external({name!r})")
    if signature is not None and not callable(signature):
        raise TypeError(
            f"the signature of {name} is {signature!r}: it must be a function. Options go by "
            'keyword, like queue="images".'
        )
    parameters = AnyArguments() if signature is None else Signature(signature, name)
    push: Push[...] = Push(name, parameters, job_options.merge({}, options))
    registry.external.add(name)
    return push


class _HasNoPerform(TypeError, AttributeError):
    """A base of jobs has none of a job's attributes: hasattr() and help() look for them."""


class _Performs(Protocol[P]):
    """A job class with these parameters of `perform`."""

    def perform(self, *args: P.args, **kwargs: P.kwargs) -> object: ...


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


class _APerform:
    def __get__(
        self, _: object, owner: type[_Performs[P]]
    ) -> Callable[P, Coroutine[Any, Any, str]]:
        return _push_of(owner).aperform


class _APerformIn:
    def __get__(
        self, _: object, owner: type[_Performs[P]]
    ) -> Callable[Concatenate[Duration, P], Coroutine[Any, Any, str]]:
        return _push_of(owner).aperform_in


class _APerformAt:
    def __get__(
        self, _: object, owner: type[_Performs[P]]
    ) -> Callable[Concatenate[Instant, P], Coroutine[Any, Any, str]]:
        return _push_of(owner).aperform_at


class _MessageOf:
    def __get__(self, _: object, owner: type[_Performs[P]]) -> Callable[P, Message]:
        return _push_of(owner).message


class _Setter(Protocol[P]):
    def __call__(
        self, *, pool: Pool | Producer | None = None, **options: Unpack[PushOptions]
    ) -> Push[P]: ...


class _Set:
    def __get__(self, _: object, owner: type[_Performs[P]]) -> _Setter[P]:
        return _push_of(owner).set


class _Jobs:
    def __get__(self, _: object, owner: type) -> list[dict[str, Any]]:
        return _push_of(owner).jobs


class Job(JobAttributes):
    """The base of jobs that are classes: define `perform`, and options in `faktory_options`.

    The job type is the class's name unless `faktory_options` has a `name`. Options are inherited,
    a name is not; they are read once, where the class is defined. Each run has its own instance.
    """

    faktory_options: ClassVar[Mapping[str, object]] = job_options.read_only({})
    _push: ClassVar[Push[Any] | None] = None
    _exhausted_handlers: ClassVar[list[ExhaustedHandler]] = []
    _context: JobContext | None = None

    perform_async = _PerformAsync()
    perform_in = _PerformIn()
    perform_at = _PerformAt()
    aperform = _APerform()
    aperform_in = _APerformIn()
    aperform_at = _APerformAt()
    message = _MessageOf()
    set = _Set()
    jobs = _Jobs()

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        own = vars(cls).get("faktory_options", {})
        if not isinstance(own, Mapping):
            raise TypeError(f"{cls.__name__}.faktory_options is {own!r}: it must be a dict.")
        if "faktory_options" in vars(cls):
            cls.faktory_options = job_options.read_only(own)
        options: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            options = job_options.merge(options, vars(base).get("faktory_options", {}))
        options.pop("name", None)
        time_limit = job_options.take_time_limit(options)
        policy = retries.take_policy(options)
        where = f"{cls.__name__}.faktory_options"
        job_options.check(options, where, job_options.OF_DECLARATION)
        perform: Any = getattr(cls, "perform", None)
        if perform is None or getattr(perform, "__isabstractmethod__", False):
            cls._push = None  # a base with options for other jobs
            return
        validation.check_class(cls, perform)
        takes_self = inspect.isfunction(inspect.getattr_static(cls, "perform"))
        name = cls.__name__ if own.get("name") is None else own["name"]
        cls._push = Push(name, Signature(perform, name, method=takes_self), options)
        place = find_declaration(cls, vars(cls).get("perform"))
        registry.register(name, _ClassJob(cls, time_limit, policy), place)

    @classmethod
    def on_exhausted(cls, handler: H) -> H:
        """Have `handler(job, error)` called when a job of this class has failed permanently.

        Returns the handler. The classes below inherit it. See `FunctionJob.on_exhausted`.
        """
        if cls is Job:
            raise TypeError(
                'Job.on_exhausted would be for all classes: that is faktory.on("exhausted", ...), '
                "or use it on a class of your own."
            )
        if "_exhausted_handlers" not in vars(cls):
            cls._exhausted_handlers = []
        cls._exhausted_handlers.append(validation.check_handler(handler))
        return handler

    @classmethod
    def every(
        cls,
        when: str | Duration,
        *,
        tz: str | tzinfo | None = None,
        args: Arguments | None = None,
        name: str | None = None,
    ) -> type[Self]:
        """Have each worker push the job at its times; see `Push.every`."""
        return schedule_job(cls, when, tz, args, name)

    @classmethod
    def perform_bulk(
        cls,
        rows: Iterable[Sequence[object]],
        at: Instant | None = None,
        over: Duration | None = None,
    ) -> list[str]:
        """Push a job for each row of arguments; see `Push.perform_bulk`."""
        return _push_of(cls).perform_bulk(rows, at, over)

    @classmethod
    async def aperform_bulk(
        cls,
        rows: Iterable[Sequence[object]],
        at: Instant | None = None,
        over: Duration | None = None,
    ) -> list[str]:
        """Push a job for each row of arguments, on an event loop; see `Push.aperform_bulk`."""
        return await _push_of(cls).aperform_bulk(rows, at, over)

    @classmethod
    def clear(cls) -> None:
        """In a test mode: forget the jobs of this type."""
        _push_of(cls).clear()

    @classmethod
    def drain(cls) -> int:
        """In a test mode: run the jobs of this type, and those of it that they push."""
        return _push_of(cls).drain()

    @classmethod
    def perform_one(cls) -> None:
        """In a test mode: run the job of this type that waits longest."""
        _push_of(cls).perform_one()

    @property
    def logger(self) -> logging.Logger:
        """A logger named after the job's type."""
        return logging.getLogger(f"faktory.job.{_push_of(type(self)).jobtype}")

    def track_progress(
        self,
        percent: float,
        desc: str | None = None,
        *,
        reserve_until: datetime | str | float | None = None,
    ) -> None:
        """Report the job's progress; see `JobContext.track_progress`."""
        self._running().track_progress(percent, desc, reserve_until=reserve_until)

    @property
    def _payload(self) -> dict[str, Any]:
        return self._running().payload

    def _running(self) -> JobContext:
        return self._context or current_job()


elsewhere.add_hints(Job, elsewhere.PUSHES)


class _ClassJob:
    """Runs jobs of a class: a new instance for each."""

    def __init__(
        self, cls: type[Job], time_limit: float | None, policy: retries.Policy | None
    ) -> None:
        self._class = cls
        self.is_async = is_async(cls.perform)  # type: ignore[attr-defined]
        self.time_limit = time_limit
        self.policy = policy

    @property
    def origin(self) -> str:
        return _origin(self._class)

    @property
    def exhausted_handlers(self) -> list[ExhaustedHandler]:
        """Those of its bases first."""
        bases = [vars(base) for base in reversed(self._class.__mro__)]
        return [handler for base in bases for handler in base.get("_exhausted_handlers", ())]

    @property
    def queue(self) -> str:
        return _push_of(self._class).queue

    def run(self, context: JobContext) -> object:
        instance: Any = self._class()
        object.__setattr__(instance, "_context", context)  # for a frozen dataclass, too
        push = _push_of(self._class)
        args = push.typed_args(context.args)
        try:
            return instance.perform(*args)
        except TypeError as error:
            check_call(error, instance.perform, args, push.jobtype)
            raise


def without_perform() -> list[type[Job]]:
    """Return the classes below `Job` that have no `perform`, and no class below them."""
    found: list[type[Job]] = []
    left = Job.__subclasses__()
    while left:
        cls = left.pop()
        below = cls.__subclasses__()
        left += below
        if cls._push is None and not below:
            found.append(cls)
    return sorted(found, key=lambda cls: (cls.__module__, cls.__qualname__))


def _push_of(owner: type) -> Push[Any]:
    push: Push[Any] | None = owner._push  # type: ignore[attr-defined]
    if push is None:
        raise _HasNoPerform(
            f"{owner.__name__} has no perform method, so it cannot be pushed."
            f"{validation.meant_perform(owner)}"
        )
    return push


def _origin(definition: Any) -> str:
    """Return the file, not that of a decorator, and the qualified name of a function or class."""
    definition = inspect.unwrap(definition)
    module = definition.__module__
    module_file = getattr(sys.modules.get(module), "__file__", None)
    try:
        file: str | None = inspect.getfile(definition)
    except (TypeError, OSError):
        file = None
    # Code of a prompt or of `exec` belongs to the module that it runs in. So does a cell of a
    # notebook, for which each run makes another file.
    if file is None or file.startswith("<") or (module == "__main__" and module_file is None):
        file = module_file
    return f"{os.path.realpath(file) if file else module}:{definition.__qualname__}"

"""Messages: jobs with their arguments and options, to be pushed later; chains of them.

Rules: a message does not change, and neither does what it was made of. Each push makes a job with a
jid of its own, unless the options set one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from ..client import Pool, Producer
from ..exceptions import FaktoryPayloadError
from ..proto import encode_push
from ..wire.payload import prepare
from ..wire.validate import brief, clip
from . import chains
from . import options as job_options


class PushedJob(Protocol):
    """What a message is of: a job type with options, see `push.py`."""

    @property
    def jobtype(self) -> str: ...

    @property
    def options(self) -> dict[str, Any]: ...

    @property
    def pool(self) -> Pool | Producer | None: ...

    def payload_of(self, bound: list[Any]) -> dict[str, Any]: ...

    def complete(self, payload: dict[str, Any]) -> None: ...

    def push_payload(self, payload: dict[str, Any]) -> str: ...

    async def apush_payload(self, payload: dict[str, Any]) -> str: ...

    def _check_no_pool(self) -> None: ...

    def push_payload_to(self, producer: Producer, payload: dict[str, Any]) -> Future[str]: ...

    def run_middleware(self, payload: dict[str, Any], keep: Callable[..., object]) -> object: ...

    async def arun_middleware(
        self, payload: dict[str, Any], keep: Callable[..., Awaitable[object]]
    ) -> object: ...

    def check_enterprise(self, pool: Pool | Producer | None) -> None: ...

    async def acheck_enterprise(self) -> None: ...


@dataclass(frozen=True, eq=False, repr=False)
class Message:
    """A job with its arguments and options, made by `job.message(...)`; it cannot be changed.

    Two are equal if their job type, arguments, options and pool are.
    """

    _job: PushedJob
    args: tuple[Any, ...]
    """The arguments by position, as they are sent."""

    @property
    def jobtype(self) -> str:
        """The job's type on the server."""
        return self._job.jobtype

    @property
    def options(self) -> Mapping[str, Any]:
        """The options of the job and of `set`, without the default options of all jobs."""
        return job_options.read_only(self._job.options)  # type: ignore[no-any-return]

    def push(self) -> str:
        """Push the job; return its jid, as `perform_async` does."""
        return self._job.push_payload(self.payload())

    async def apush(self) -> str:
        """Push the job on the running event loop; return its jid, as `aperform` does."""
        return await self._job.apush_payload(self.payload())

    def push_to(self, producer: Producer) -> Future[str]:
        """Push the job through a Producer: for `Producer.push`."""
        return self._job.push_payload_to(producer, self.payload())

    def to_dict(self) -> dict[str, Any]:
        """Return a wire dict, for `Client.push`; another one, with another jid, each time.

        `expires_in` counts from now, or from the job's `at`.
        """
        payload = self.payload()
        self._job.complete(payload)
        return payload

    def payload(self) -> dict[str, Any]:
        """Return a wire dict that is pushed later, as middleware gets it: it has `expires_in`."""
        return self._job.payload_of(job_options.copy_of(list(self.args)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        mine, others = self._job, other._job
        return (mine.jobtype, self.args, mine.options, mine.pool) == (
            others.jobtype,
            other.args,
            others.options,
            others.pool,
        )

    def __hash__(self) -> int:
        try:
            return hash((self.jobtype, self.args))
        except TypeError:  # a list or dict in it
            return hash((self.jobtype, len(self.args)))

    def __repr__(self) -> str:
        args = ", ".join(map(brief, self.args))
        options = "".join(f" {name}={brief(value)}" for name, value in self._job.options.items())
        return f"<faktory.Message {self.jobtype}({clip(args, 200)}){options}>"


@dataclass(frozen=True, repr=False)
class JobChain:
    """Jobs of which each is pushed when the one before it has succeeded; see `chain`."""

    messages: tuple[Message, ...]

    def __repr__(self) -> str:
        jobs = ", ".join(message.jobtype for message in self.messages)
        return f"<faktory chain: {clip(jobs, 200)}>"

    def push(self) -> str:
        """Push the first job, which carries the others; return its jid.

        Middleware runs for each job now. If one stops a job, nothing is pushed, and its return
        value is returned.
        """
        payload, stopped = self._made()
        return self._first.push_payload(payload) if payload else stopped  # type: ignore[return-value]

    async def apush(self) -> str:
        """Push the first job on the running event loop; return its jid, as `push` does."""
        self._first._check_no_pool()
        payload, stopped = await self._amade()
        return await self._first.apush_payload(payload) if payload else stopped  # type: ignore[return-value]

    def push_to(self, producer: Producer) -> Future[str]:
        """Push it through a Producer: for `Producer.push`."""
        payload, stopped = self._made(producer)
        if payload:
            return self._first.push_payload_to(producer, payload)
        ended: Future[Any] = Future()
        ended.set_result(stopped)
        return ended

    def to_dict(self) -> dict[str, Any]:
        """Return a wire dict of the first job, with those of the others in its `custom`.

        `expires_in` of the first one counts from now, that of each other from its own push.
        """
        return self._with_others(self.messages[0].to_dict())

    def payload(self) -> dict[str, Any]:
        """Return the same, to be pushed later: the first one has its `expires_in`, too."""
        return self._with_others(self.messages[0].payload())

    def _with_others(self, first: dict[str, Any]) -> dict[str, Any]:
        others = [prepare(message.payload()) for message in self.messages[1:]]
        return _with_following(first, others)

    @property
    def _first(self) -> PushedJob:
        return self.messages[0]._job

    def _made(self, producer: Producer | None = None) -> tuple[dict[str, Any] | None, object]:
        """Return the payload of the first job, or None and what the middleware returned."""
        following = _Following()
        pool = producer or self._first.pool
        for number, message in enumerate(self.messages[1:], 2):
            with following.errors_of(number):
                returned = message._job.run_middleware(message.payload(), following.keep)
            if following.lacks(number):
                return None, returned
            message._job.check_enterprise(pool)
        return _with_following(self.messages[0].payload(), following.jobs), None

    async def _amade(self) -> tuple[dict[str, Any] | None, object]:
        """Do the same on an event loop."""
        following = _Following()
        for number, message in enumerate(self.messages[1:], 2):
            with following.errors_of(number):
                returned = await message._job.arun_middleware(message.payload(), following.akeep)
            if following.lacks(number):
                return None, returned
            await message._job.acheck_enterprise()
        return _with_following(self.messages[0].payload(), following.jobs), None


class _Following:
    """The jobs of a chain behind the first one, as they come out of the middleware."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []

    def keep(self, payload: dict[str, Any]) -> str:
        """Take a job in the place of its push; return its jid."""
        sent: dict[str, Any] = job_options.copy_of(prepare(payload))
        encode_push(sent)  # its error has the path in this job, not that in the chain
        self.jobs.append(sent)
        return sent["jid"]  # type: ignore[no-any-return]

    async def akeep(self, payload: dict[str, Any]) -> str:
        """Do the same where a push is awaited."""
        return self.keep(payload)

    def lacks(self, number: int) -> bool:
        """Return whether the middleware has stopped the job of this number."""
        return len(self.jobs) < number - 1

    @contextmanager
    def errors_of(self, number: int) -> Iterator[None]:
        """Say of which job an error of its contents is."""
        try:
            yield
        except FaktoryPayloadError as error:
            raise FaktoryPayloadError(f"job {number} of the chain: {error}") from None


def chain(*messages: Message | JobChain) -> JobChain:
    """Return a chain of jobs: `chain(a.message(1), b.message(2)).push()`.

    Each job is pushed by the worker that ran the one before it, once that has succeeded. It goes to
    the first one's pool; a chain in a chain is a part of it.
    """
    steps: list[Message] = []
    for each in messages:
        if isinstance(each, JobChain):
            steps += each.messages
        elif isinstance(each, Message):
            steps.append(each)
        else:
            raise TypeError(
                f"a chain has messages, not {brief(each)}: chain(resize.message(1), ...)."
            )
    if not steps:
        raise ValueError("the chain is empty: pass one message at least, like resize.message(1).")
    numbers: dict[str, int] = {}
    for number, message in enumerate(steps, 1):
        _check_step(message, number, steps[0])
        jid = message._job.options.get("jid")
        if jid is not None and numbers.setdefault(jid, number) != number:
            raise FaktoryPayloadError(
                f"job {number} of the chain, {message.jobtype}, has the jid of job {numbers[jid]}, "
                f"{jid!r}, and is pushed while the one before it is reserved: each needs a jid of "
                "its own, or set(jid=None)."
            )
    return JobChain(tuple(steps))


def _check_step(message: Message, number: int, first: Message) -> None:
    options = message._job.options
    what = f"job {number} of the chain, {message.jobtype},"
    if "debounce" in options:
        raise FaktoryPayloadError(
            f"{what} is debounced, so that it may be another chain's, too: set(debounce=None)."
        )
    if message._job.pool not in (None, first._job.pool):
        raise ValueError(
            f"{what} has a pool of its own, and the worker pushes it to the server of the job "
            "before it: set the pool of the first one only."
        )


def _with_following(first: dict[str, Any], following: list[dict[str, Any]]) -> dict[str, Any]:
    if following:
        first["custom"] = {**(first.get("custom") or {}), chains.KEY: following}
    return first

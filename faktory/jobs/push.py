"""Pushing jobs of one type: arguments bound to a signature, options, and where to.

Rules: wrong arguments fail here, where they are pushed. Every job passes through
`client_middleware` as it will go out; many of one type are rendered from one template while
nothing but what is built in stands there. What only Faktory Enterprise has is not sent to a
server without it, which would ignore it in silence.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final, Generic, ParamSpec, Unpack
from weakref import WeakSet

from ..client import Client, Pool, defaults, network
from ..client.bulk import push_chunk
from ..exceptions import (
    FaktoryBulkError,
    FaktoryEnterpriseRequired,
    FaktoryError,
    FaktoryPayloadError,
)
from ..proto import JobTemplate, dump_json, encode_push_bulk, new_jid
from ..wire import commands
from ..wire.payload import prepare
from ..wire.validate import check_duration, check_instant, clip
from . import options as job_options
from .middleware import client_middleware
from .options import Options

P = ParamSpec("P")
Instant = datetime | str | float
Duration = float | timedelta

BULK_CHUNK = 1000
"""Jobs in one PUSHB: enough to forget the round trip, far from the server's 5 s for it."""

_NOTHING_MADE: Final[tuple[int, dict[str, Any], list[str]]] = (-1, {}, [])

_enterprise: WeakSet[Pool] = WeakSet()
"""Pools whose server is known to be a Faktory Enterprise."""


class Signature:
    """What a job's function takes: binds arguments and makes positions of them."""

    def __init__(self, function: Callable[..., Any], *, method: bool = False) -> None:
        self._signature = inspect.signature(function)
        parameters = list(self._signature.parameters.values())
        if method and not parameters:
            raise TypeError(f"{function.__qualname__} takes no self, so no instance can run it.")
        if method and parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
            parameters = parameters[1:]
            self._signature = self._signature.replace(parameters=parameters)
        for parameter in parameters:
            if parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD):
                raise TypeError(
                    f"{function.__qualname__} takes {parameter} by keyword only, and a job's "
                    "arguments are a list: make it positional, or take a dict."
                )
        positional = [p for p in parameters if p.kind is not p.VAR_POSITIONAL]
        self.least = sum(p.default is p.empty for p in positional)
        self.most = len(positional) if len(positional) == len(parameters) else None
        self._positional = [
            (None if p.kind is p.POSITIONAL_ONLY else p.name, p.default) for p in positional
        ]

    def bind(self, args: Sequence[object], kwargs: Mapping[str, Any]) -> list[Any]:
        """Return the arguments as positions; TypeError where the function would not take them.

        Defaults fill the gaps between what was given, and no more: the worker has its own.
        """
        positions = [*args]
        found = 0
        if kwargs:
            for name, default in self._positional[len(args) :]:
                if name is not None and name in kwargs:
                    positions.append(kwargs[name])
                    found += 1
                elif found == len(kwargs) or default is inspect.Parameter.empty:
                    break
                else:
                    positions.append(_in_gap(name, default))
        if found < len(kwargs) or not self.fits(len(positions)):
            self._signature.bind(*args, **kwargs)  # raises, and says what is wrong
        return positions

    def fits(self, count: int) -> bool:
        """Tell whether the function takes that many positions."""
        return self.least <= count and (self.most is None or count <= self.most)


def _in_gap(name: str | None, default: object) -> object:
    """Return a parameter's default if a job can carry it."""
    try:
        dump_json(default)
    except FaktoryPayloadError:
        raise TypeError(
            f"the default of {name or 'a parameter'}, {clip(repr(default))}, is nothing that a "
            "job can carry: pass a value for it, too."
        ) from None
    return default


class AnyArguments(Signature):
    """Of a job that another program runs and nobody described: whatever is given by position."""

    def __init__(self) -> None:
        self.least, self.most = 0, None

    def bind(self, args: Sequence[object], kwargs: Mapping[str, Any]) -> list[Any]:
        """Return the positions; TypeError for keywords, which have none that we know."""
        if kwargs:
            raise TypeError(
                f"what takes {next(iter(kwargs))!r} is not known here. Pass the arguments by "
                "position, or give external() a signature."
            )
        return [*args]

    def fits(self, count: int) -> bool:  # noqa: ARG002
        """Tell that any number will do."""
        return True


def declared(job: object) -> Push[Any] | None:
    """Return what pushes a job that was declared as a function, a class or for others."""
    push = job if isinstance(job, Push) else getattr(job, "_push", None)
    return push if isinstance(push, Push) else None


def check_pool(pool: object) -> None:
    """Raise TypeError if this cannot be where jobs are pushed to."""
    if pool is not None and not isinstance(pool, Pool):
        raise TypeError(
            f"pool is of type {type(pool).__name__}: pass a pool of clients, "
            'like faktory.Pool("tcp://other:7419").'
        )


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
        self._made = _NOTHING_MADE
        check_pool(pool)
        try:
            job_options.to_fields(options, jobtype)
        except FaktoryPayloadError as error:
            raise FaktoryPayloadError(f"the job {jobtype!r}: {error}") from None

    def __repr__(self) -> str:
        return f"<faktory job {self._jobtype}>"

    def __getstate__(self) -> dict[str, Any]:
        if self._pool is not None:
            raise TypeError(
                f"{self._jobtype} has a pool of its own, and connections cannot be pickled: "
                "use set(pool=...) in the process that pushes."
            )
        return {**vars(self), "_made": _NOTHING_MADE}  # made of this process's defaults

    @property
    def jobtype(self) -> str:
        """The type under which it goes to the server."""
        return self._jobtype

    def set(self, *, pool: Pool | None = None, **options: Unpack[Options]) -> Push[P]:
        """Return the same job with other options, or for another `pool` of clients."""
        job_options.check(options, f"{self._jobtype}.set()")
        merged = job_options.merge(self._options, options)
        return Push(self._jobtype, self._signature, merged, pool or self._pool)

    def perform_async(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Push the job with these arguments; return its jid.

        Where a middleware stops the push, what that one returned: None, as a rule.
        """
        return self._push(args, kwargs, None)

    def perform_in(self, delay: Duration, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Push the job to be run after `delay`, seconds or a timedelta; not later than now at once.

        Returns its jid.
        """
        wait = check_duration("the delay", delay)
        try:
            at = datetime.now(UTC) + timedelta(seconds=wait) if wait > 0 else None
        except OverflowError:
            raise FaktoryPayloadError(f"the delay is {delay!r}: no calendar goes so far.") from None
        return self._push(args, kwargs, at)

    def perform_at(self, when: Instant, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Push the job to be run at a point in time: an aware datetime, RFC 3339 or epoch seconds.

        One that is past is pushed at once. Returns its jid.
        """
        at = datetime.fromisoformat(check_instant("when", when))
        return self._push(args, kwargs, at if at > datetime.now(UTC) else None)

    def perform_bulk(self, rows: Iterable[Sequence[object]]) -> list[str]:
        """Push a job for each row of arguments, many at a time; return their jids.

        FaktoryBulkError where some did not go through: it says which, and why. Jobs that a
        middleware stops are left out; a jid is what `call_next` returns there, before the push.
        """
        pushed: list[str] = []
        refused: dict[str, str] = {}
        pool = self._pool or defaults.default_pool()
        encode = self._template() if client_middleware.is_plain else self._encode_each
        source = iter(rows)
        taken = 0
        while True:
            try:
                chunk = list(islice(source, BULK_CHUNK))
                line, jids = encode(chunk)
            except Exception as error:  # a row that cannot be sent, or what `rows` raised
                sent = len(pushed) + len(refused)
                if not sent:
                    raise
                raise FaktoryBulkError(
                    f"{sent} jobs were sent, then came trouble with the rows, "
                    f"counted from row {taken} on: {error}",
                    jids=pushed,
                    refused=refused,
                ) from error
            if not chunk:
                break
            taken += len(chunk)
            if not jids:
                continue
            try:
                with pool.client() as client:
                    self._meet(client, pool)
                    said_no = push_chunk(client.call, commands.push_bulk_line(line, jids))
            except FaktoryBulkError as broken:
                broken.jids, broken.refused = pushed, refused
                raise
            except FaktoryError as error:  # no client to be had, or not the server that it needs
                if (not pushed and not refused) or error._raised_by_job:
                    raise
                raise FaktoryBulkError(
                    f"{len(jids)} jobs were not queued: {error}",
                    jids=pushed,
                    refused=refused,
                    unsent=jids,
                ) from error
            refused.update(said_no)
            pushed.extend([jid for jid in jids if jid not in said_no] if said_no else jids)
        if refused:
            jid, reason = next(iter(refused.items()))
            raise FaktoryBulkError(
                f"the server refused {len(refused)} of {len(pushed) + len(refused)} jobs, "
                f"{jid} for example: {reason}",
                jids=pushed,
                refused=refused,
            )
        return pushed

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """In a test mode: the jobs of this type that wait, as wire dicts."""
        return network.memory().jobs_of(self._jobtype)

    def clear(self) -> None:
        """In a test mode: forget the jobs of this type."""
        network.memory().clear(self._jobtype)

    def drain(self) -> int:
        """In a test mode: run the jobs of this type, and those that they push of it."""
        return network.memory().drain(self._jobtype)

    def perform_one(self) -> None:
        """In a test mode: run the job of this type that waits longest."""
        network.memory().perform_one(self._jobtype)

    def payload(
        self, args: Sequence[object], kwargs: Mapping[str, object] | None = None
    ) -> dict[str, Any]:
        """Return the wire dict of a job with these arguments, with a jid of its own."""
        try:
            bound = self._signature.bind(args, kwargs or {})
        except TypeError as error:
            raise TypeError(f"{self._jobtype}: {error}") from None
        made = {"jid": new_jid(), "jobtype": self._jobtype, "args": bound, **self._fields()}
        if "custom" in made:
            made["custom"] = job_options.copied(made["custom"])
        return made

    def _push(
        self, args: Sequence[object], kwargs: Mapping[str, object], at: datetime | None
    ) -> str:
        payload = self.payload(args, kwargs)
        if at is not None:
            payload["at"] = check_instant("at", at)
        return client_middleware.run(self._send, payload)  # type: ignore[no-any-return]

    def _send(self, payload: dict[str, Any]) -> str:
        pool = self._pool or defaults.default_pool()
        with pool.client() as client:
            self._meet(client, pool)
            return client.push(payload)

    def _meet(self, client: Client, pool: Pool) -> None:
        """Raise FaktoryEnterpriseRequired where the server would ignore what is asked of it."""
        asked = self._made[2]
        # What a test mode knows must not be taken for what the pool's server does.
        if not asked or pool in _enterprise or network.current.in_process:
            return
        if "enterprise" not in str(client.info()["server"].get("description")).lower():
            raise FaktoryEnterpriseRequired(
                f"the job {self._jobtype} is not pushed: this server is no Faktory Enterprise and "
                f"would ignore {', '.join(asked)}. Leave that out, or set({asked[0]}=None)."
            )
        _enterprise.add(pool)

    def _fields(self) -> dict[str, Any]:
        """The wire fields that the options make, checked as those of a whole job."""
        defaults = job_options.default_job_options
        version = defaults.version
        if self._made[0] != version:
            options = job_options.merge(defaults, self._options)
            checked = job_options.to_fields(options, self._jobtype)
            asked = list(job_options.enterprise(options))
            self._made = version, checked, asked
        return self._made[1]

    def _template(self) -> Callable[[Sequence[Sequence[object]]], tuple[bytes, list[str]]]:
        fields = client_middleware.run(lambda fields: fields, dict(self._fields()))
        template = JobTemplate(self._jobtype, fields)
        least, most = self._signature.least, self._signature.most

        def encode(rows: Sequence[Sequence[object]]) -> tuple[bytes, list[str]]:
            try:
                return template.encode_bulk(rows, least, most)
            except FaktoryPayloadError:
                self._check_rows(rows)  # which knows the names of the arguments
                raise

        return encode

    def _encode_each(self, rows: Sequence[Sequence[object]]) -> tuple[bytes, list[str]]:
        """Lead each job through the middleware; return a PUSHB of those that come through."""
        jobs: list[dict[str, Any]] = []

        def keep(payload: dict[str, Any]) -> str:
            # A copy: what a middleware does behind `call_next` comes too late, as for a single job.
            jobs.append(job_options.copied(prepare(payload)))
            return jobs[-1]["jid"]  # type: ignore[no-any-return]

        self._check_rows(rows)
        for index, row in enumerate(rows):
            try:
                client_middleware.run(keep, self.payload(row))
            except FaktoryPayloadError as error:
                raise FaktoryPayloadError(f"rows[{index}]: {error}") from None
        return encode_push_bulk(jobs), [job["jid"] for job in jobs]

    def _check_rows(self, rows: Sequence[Sequence[object]]) -> None:
        """Refuse rows that are none, or that the job would not take, by their number."""
        for index, row in enumerate(rows):
            if not isinstance(row, (list, tuple)):
                raise FaktoryPayloadError(
                    f"rows[{index}] is of type {type(row).__name__}; a row is a tuple. "
                    "For a single argument: (value,)."
                )
            if not self._signature.fits(len(row)):
                try:
                    self.payload(row)
                except TypeError as error:
                    raise TypeError(f"rows[{index}]: {error}") from None

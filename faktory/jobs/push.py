"""Pushing jobs of one type: arguments, options, and the pool of clients they go through.

Rules: every job passes `client_middleware` as it will be sent; many jobs of one type are rendered
from one template while that chain has only built-in middleware. A job with Enterprise options is
not sent to an open-source server, which would ignore them without an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Generic, ParamSpec, Unpack
from weakref import WeakSet

from ..client import Client, Pool, defaults, network
from ..client.bulk import push_chunk
from ..exceptions import (
    FaktoryBulkError,
    FaktoryEnterpriseRequired,
    FaktoryError,
    FaktoryPayloadError,
)
from ..proto import JobTemplate, encode_push_bulk
from ..wire import commands
from ..wire.payload import prepare
from ..wire.validate import check_duration, check_instant
from . import options as job_options
from .middleware import client_middleware
from .options import Options
from .signature import Signature
from .spec import JobSpec
from .validation import check_pool

P = ParamSpec("P")

Instant = datetime | str | float
"""A point in time: an aware datetime, RFC 3339 with an offset, or epoch seconds."""

Duration = float | timedelta
"""Seconds, or a timedelta."""

BULK_CHUNK = 1000
"""Jobs in one PUSHB: the round trip hardly counts, and the server's 5 s for it are far."""

_enterprise: WeakSet[Pool] = WeakSet()
"""Pools whose server is known to be a Faktory Enterprise."""


class Push(JobSpec, Generic[P]):
    """A job type with options, ready to be pushed."""

    def __init__(
        self,
        jobtype: str,
        signature: Signature,
        options: Mapping[str, Any],
        pool: Pool | None = None,
    ) -> None:
        check_pool(pool)
        super().__init__(jobtype, signature, options)
        self._pool = pool

    def __getstate__(self) -> dict[str, Any]:
        if self._pool is not None:
            raise TypeError(
                f"{self._jobtype} has a pool of its own, and connections cannot be pickled: "
                "use set(pool=...) in the process that pushes."
            )
        return super().__getstate__()

    def set(self, *, pool: Pool | None = None, **options: Unpack[Options]) -> Push[P]:
        """Return the same job with other options, or for another `pool` of clients."""
        job_options.check(options, f"{self._jobtype}.set()")
        merged = job_options.merge(self._options, options)
        return Push(self._jobtype, self._signature, merged, pool or self._pool)

    def perform_async(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Push the job with these arguments; return its jid.

        If a middleware stops the push, the return value is that middleware's: None, as a rule.
        """
        return self._push(args, kwargs, None)

    def perform_in(self, delay: Duration, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Push the job to be run after `delay`, seconds or a timedelta; return its jid.

        With a delay of 0 or less the job can be run at once.
        """
        wait = check_duration("the delay", delay)
        try:
            at = datetime.now(UTC) + timedelta(seconds=wait) if wait > 0 else None
        except OverflowError:
            raise FaktoryPayloadError(
                f"the delay is {delay!r}: it ends after the year 9999."
            ) from None
        return self._push(args, kwargs, at)

    def perform_at(self, when: Instant, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Push the job to be run at a point in time; return its jid.

        `when` is an aware datetime, RFC 3339 with an offset or epoch seconds. If it is past, the
        job can be run at once.
        """
        at = datetime.fromisoformat(check_instant("when", when))
        return self._push(args, kwargs, at if at > datetime.now(UTC) else None)

    def perform_bulk(self, rows: Iterable[Sequence[object]]) -> list[str]:
        """Push a job for each row of arguments, many at a time; return their jids.

        FaktoryBulkError if some were not queued, with their jids and the reasons. Jobs that a
        middleware stops are left out. In a middleware `call_next` returns the jid before the push.
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
            except Exception as error:  # of a wrong row, or raised by `rows` itself
                sent = len(pushed) + len(refused)
                if not sent:
                    raise
                raise FaktoryBulkError(
                    f"{sent} jobs were sent before an error in the rows, "
                    f"here counted from row {taken} on: {error}",
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
                    self._check_enterprise(client, pool)
                    rejected = push_chunk(client.call, commands.push_bulk_line(line, jids))
            except FaktoryBulkError as broken:
                broken.jids, broken.refused = pushed, refused
                raise
            except FaktoryError as error:  # no client in time, or a server without Enterprise
                if (not pushed and not refused) or error._raised_by_job:
                    raise
                raise FaktoryBulkError(
                    f"{len(jids)} jobs were not queued: {error}",
                    jids=pushed,
                    refused=refused,
                    unsent=jids,
                ) from error
            refused.update(rejected)
            pushed.extend([jid for jid in jids if jid not in rejected] if rejected else jids)
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
        """In a test mode: the waiting jobs of this type, as wire dicts."""
        return network.memory().jobs_of(self._jobtype)

    def clear(self) -> None:
        """In a test mode: forget the jobs of this type."""
        network.memory().clear(self._jobtype)

    def drain(self) -> int:
        """In a test mode: run the jobs of this type, and those of it that they push."""
        return network.memory().drain(self._jobtype)

    def perform_one(self) -> None:
        """In a test mode: run the job of this type that waits longest."""
        network.memory().perform_one(self._jobtype)

    def _push(
        self, args: Sequence[object], kwargs: Mapping[str, object], at: datetime | None
    ) -> str:
        payload = self.payload(args, kwargs)
        if at is not None:
            payload["at"] = check_instant("at", at)
        try:
            return client_middleware.run(self._send, payload)  # type: ignore[no-any-return]
        except FaktoryPayloadError as error:
            better = self._signature.explain(error, payload.get("args"))
            if better is None or error._raised_by_job:
                raise
            raise better from None

    def _send(self, payload: dict[str, Any]) -> str:
        pool = self._pool or defaults.default_pool()
        with pool.client() as client:
            self._check_enterprise(client, pool)
            return client.push(payload)

    def _check_enterprise(self, client: Client, pool: Pool) -> None:
        """Raise FaktoryEnterpriseRequired if the job needs it and the server would ignore that."""
        needed = self._checked[2]
        # The answer of a test mode must not be remembered as that of the pool's server.
        if not needed or pool in _enterprise or network.current.in_process:
            return
        server: object = client.info().get("server")
        description = server.get("description") if isinstance(server, dict) else None
        if "enterprise" not in str(description).lower():
            raise FaktoryEnterpriseRequired(
                f"the job {self._jobtype} is not pushed: this server is not a Faktory Enterprise "
                f"and would ignore {', '.join(needed)}. Leave that out, or set({needed[0]}=None)."
            )
        _enterprise.add(pool)

    def _template(self) -> Callable[[Sequence[Sequence[object]]], tuple[bytes, list[str]]]:
        fields = client_middleware.run(lambda fields: fields, dict(self._fields()))
        template = JobTemplate(self._jobtype, fields)
        least, most = self._signature.least, self._signature.most

        def encode(rows: Sequence[Sequence[object]]) -> tuple[bytes, list[str]]:
            try:
                if self._signature.typed:
                    rows = self._rows_to_wire(rows)
                return template.encode_bulk(rows, least, most)
            except FaktoryPayloadError as error:
                self._check_rows(rows)  # its errors have the names of the arguments
                for row in rows:
                    if better := self._signature.explain(error, row):
                        raise better from None
                raise

        return encode

    def _encode_each(self, rows: Sequence[Sequence[object]]) -> tuple[bytes, list[str]]:
        """Run the middleware for each job; return a PUSHB of those that it did not stop."""
        jobs: list[dict[str, Any]] = []

        def keep(payload: dict[str, Any]) -> str:
            # A copy: a change after `call_next` comes too late, as it does for a single job.
            jobs.append(job_options.copy_of(prepare(payload)))
            return jobs[-1]["jid"]  # type: ignore[no-any-return]

        self._check_rows(rows)
        for index, row in enumerate(rows):
            try:
                client_middleware.run(keep, self.payload(row))
            except FaktoryPayloadError as error:
                raise FaktoryPayloadError(f"rows[{index}]: {error}") from None
        return encode_push_bulk(jobs), [job["jid"] for job in jobs]

"""Pushing jobs of one type: arguments and options, one job or many, now or later.

Rules: every job passes `client_middleware` as it will be sent (`sending.py`); many jobs of one type
are rendered from one template where each middleware has a form for many (`bulk`), which is called
once for each PUSHB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from datetime import datetime, timedelta, tzinfo
from itertools import islice
from typing import Any, Generic, ParamSpec, Self, TypeVar, Unpack

from ..client import Pool, Producer, defaults, network
from ..client.bulk import push_chunk
from ..exceptions import (
    FaktoryBulkError,
    FaktoryPayloadError,
)
from ..proto import JobTemplate, dump_json
from ..wire import commands
from ..wire.commands import Command
from ..wire.payload import prepare
from ..wire.validate import check_instant
from . import elsewhere, schedule
from . import options as job_options
from .bulk import BULK_CHUNK, BulkPush, Encode, check_shared
from .message import Message
from .middleware import client_middleware
from .options import PushOptions
from .schedule import OnePush, PlaceForTimes, Spread
from .sending import Sender, fix_expiry
from .ticks import Arguments, schedule_job

P = ParamSpec("P")

Instant = datetime | str | float
"""A point in time: an aware datetime, RFC 3339 with an offset, or epoch seconds."""

Duration = float | timedelta
"""Seconds, or a timedelta."""


Around = TypeVar("Around", bound=Callable[..., object])


class Push(Sender, Generic[P]):
    """A job type with options, ready to be pushed."""

    def __dir__(self) -> Iterable[str]:
        return [name for name in super().__dir__() if name not in elsewhere.METHODS]

    def set(
        self, *, pool: Pool | Producer | None = None, **options: Unpack[PushOptions]
    ) -> Push[P]:
        """Return the same job with other options, or for another `pool` of clients or Producer."""
        kept: dict[str, Any] = {**options}
        once: dict[str, Any] = {
            name: kept.pop(name) for name in job_options.OF_ONE_PUSH if name in kept
        }
        job_options.check(kept, f"{self._jobtype}.set()", job_options.OF_ONE_PUSH)
        merged = job_options.merge(self._options, kept)
        both = (self._once or OnePush()).merged(once, self._jobtype)
        pool = self._pool if pool is None else pool
        return Push(self._jobtype, self._signature, merged, pool, both if any(both) else None)

    def every(
        self,
        when: str | Duration,
        *,
        tz: str | tzinfo | None = None,
        args: Arguments | None = None,
        name: str | None = None,
    ) -> Self:
        """Have each worker push the job at its times: a cron expression or an interval.

        Returns the job. See `faktory.periodic`.
        """
        return schedule_job(self, when, tz, args, name)

    def message(self, /, *args: P.args, **kwargs: P.kwargs) -> Message:
        """Return the job with these arguments, to be pushed later: `message.push()`."""
        return Message(self, tuple(job_options.copy_of(self.payload(args, kwargs)["args"])))

    def perform_async(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Push the job with these arguments; return its jid.

        If a middleware stops the push, the return value is that middleware's: None, as a rule.
        Through a Producer this returns before the job is sent; what goes wrong then is logged.
        """
        return self._push(args, kwargs, None)

    def perform_in(self, delay: Duration, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Push the job to be run after `delay`, seconds or a timedelta; return its jid.

        With a delay of 0 or less the job can be run at once.
        """
        if self._once is not None:
            self._once.require_no_time(f"{self._jobtype}.perform_in")
        return self._push(args, kwargs, schedule.after(delay))

    def perform_at(self, when: Instant, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Push the job to be run at a point in time; return its jid.

        `when` is an aware datetime, RFC 3339 with an offset or epoch seconds. If it is past, the
        job can be run at once.
        """
        if self._once is not None:
            self._once.require_no_time(f"{self._jobtype}.perform_at")
        return self._push(args, kwargs, schedule.if_ahead(check_instant("when", when)))

    def perform_bulk(
        self,
        rows: Iterable[Sequence[object]],
        at: Instant | None = None,
        over: Duration | None = None,
    ) -> list[str]:
        """Push a job for each row of arguments, many at a time; return their jids.

        `at` is when the jobs are to run. `over` spreads them evenly over so many seconds, from `at`
        or now on; rows that have no length are made a list first.

        FaktoryBulkError if some were not queued, with their jids and the reasons. Jobs that a
        middleware stops are left out. In a middleware without `bulk`, `call_next` returns the jid
        before the push.
        Through a Producer this returns before the jobs are sent; what goes wrong then is logged.
        """
        rows, start, spread = self._spread(rows, at, over)
        pool = self._pool or defaults.default_pool()
        if isinstance(pool, Producer):
            return self._bulk_through(pool, rows, start, spread)
        bulk = BulkPush(rows)
        around = self._around_bulk(spread, client_middleware.bulk)
        fields, render = self._shared(start, spread)
        each = self._each(start, spread)

        def send(command: Command[dict[str, str]]) -> list[str]:
            if not command.jids:
                return []
            with bulk.sending(command.jids), pool.client() as client:
                self._check_enterprise(client, pool)
                refused = push_chunk(client.call, command)
            return bulk.sent(command.jids, refused)

        def push(fields: dict[str, Any], count: int) -> list[str]:  # noqa: ARG001
            return send(render(fields)(chunk, bulk.first))

        while True:
            with bulk.chunk():
                chunk = bulk.next_chunk()
                if not chunk:
                    return bulk.end()
                if around is None:
                    send(each(chunk, bulk.first))
                else:
                    around(push, job_options.copy_of(fields), len(chunk))

    async def aperform(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Push the job with these arguments on the running event loop; return its jid.

        All tasks of a loop share one AsyncClient, of the settings of `faktory.configure`, which is
        made when it is first needed and closes with the loop. For the rest see `perform_async`.
        """
        return await self._apush(args, kwargs, None)

    async def aperform_in(self, delay: Duration, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Push the job to be run after `delay`; see `aperform` and `perform_in`."""
        if self._once is not None:
            self._once.require_no_time(f"{self._jobtype}.aperform_in")
        return await self._apush(args, kwargs, schedule.after(delay))

    async def aperform_at(self, when: Instant, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Push the job to be run at a point in time; see `aperform` and `perform_at`."""
        if self._once is not None:
            self._once.require_no_time(f"{self._jobtype}.aperform_at")
        when = check_instant("when", when)
        return await self._apush(args, kwargs, schedule.if_ahead(when))

    async def aperform_bulk(
        self,
        rows: Iterable[Sequence[object]],
        at: Instant | None = None,
        over: Duration | None = None,
    ) -> list[str]:
        """Push a job for each row of arguments; see `aperform` and `perform_bulk`.

        Other tasks have a turn at least every 5 ms.
        """
        from .async_bulk import push_rows  # imports asyncio, which takes long

        self._check_no_pool()
        return await push_rows(self, *self._spread(rows, at, over))

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

    def _push(self, args: Sequence[object], kwargs: Mapping[str, object], at: str | None) -> str:
        payload = self.payload(args, kwargs)
        if at is not None:
            schedule.put_time(payload, at)
        return self.push_payload(payload)

    async def _apush(
        self, args: Sequence[object], kwargs: Mapping[str, object], at: str | None
    ) -> str:
        payload = self.payload(args, kwargs)
        if at is not None:
            schedule.put_time(payload, at)
        return await self.apush_payload(payload)

    def _around_bulk(self, spread: Spread | None, bulk: Around | None) -> Around | None:
        """Return what runs around each PUSHB; None where each job is made for itself.

        `bulk` is what the middleware has for many jobs, if it has.
        """
        debounced = self._once is not None and self._once.window is not None
        expires = "expires_in" in (self._fields().get("custom") or ())
        each_at_its_time = expires and spread is not None
        return None if debounced or each_at_its_time else bulk

    def _spread(
        self, rows: Iterable[Sequence[object]], at: Instant | None, over: Duration | None
    ) -> tuple[Iterable[Sequence[object]], str | None, Spread | None]:
        """Return the rows, when the first job is to run, and how the others are spread."""
        start = self._start_of_bulk(at, over)
        if over is None:
            return rows, start, None
        rows = rows if isinstance(rows, Sized) else list(rows)
        return rows, start, Spread(start, over, len(rows))

    def _start_of_bulk(self, at: Instant | None, over: Duration | None) -> str | None:
        """Return when the first job of many is to run; None for now."""
        if self._once is not None:
            self._once.require_no_jid(f"{self._jobtype}.perform_bulk")
            if at is not None:
                self._once.require_no_time(f"{self._jobtype}.perform_bulk(at=...)")
            if over is not None and self._once.window is not None:
                self._once.require_no_time(f"{self._jobtype}.perform_bulk(over=...)")
            if at is None:
                at = self._once.at
        if at is None:
            return None
        checked = check_instant("at", at)
        return checked if over is not None else schedule.if_ahead(checked)

    def _shared(
        self, at: str | None, spread: Spread | None
    ) -> tuple[dict[str, Any], Callable[[dict[str, Any]], Encode]]:
        """Return the fields that all jobs of a PUSHB share, and what renders jobs of such fields.

        Their template is made again when a middleware has changed them.
        """
        place = None if spread is None else schedule.PlaceForTimes()
        shared = {"jobtype": self._jobtype, **self._fields()}
        schedule.put_time(shared, at if place is None else place.text)
        if place is not None:
            del shared["at"]
        made: dict[bytes, Encode] = {}

        def render(fields: dict[str, Any]) -> Encode:
            fields = check_shared(fields, spread is not None)
            if "custom" in fields:
                fix_expiry(fields)
            key = dump_json(fields)
            if key not in made:
                made.clear()
                made[key] = self._template(fields, spread, place)
            return made[key]

        return shared, render

    def _template(
        self, fields: dict[str, Any], spread: Spread | None, place: PlaceForTimes | None
    ) -> Encode:
        """Return what renders rows at once, all with the same fields."""
        jobtype = fields.pop("jobtype")
        if place is not None:
            fields["at"] = place.text
        template = JobTemplate(jobtype, fields)
        least, most = self._signature.least, self._signature.most
        scheduled = commands.times_of((fields,))

        def encode(rows: Sequence[Sequence[object]], first: int) -> Command[dict[str, str]]:
            try:
                if self._signature.typed:
                    rows = self._rows_to_wire(rows)
                line, jids = template.encode_bulk(rows, least, most)
            except FaktoryPayloadError as error:
                self._check_rows(rows)  # its errors have the names of the arguments
                for row in rows:
                    if better := self._signature.explain(error, row):
                        raise better from None
                raise
            if spread is None or place is None:
                return commands.push_bulk_line(line, jids, scheduled)
            times = spread.times(first, len(jids))
            line = place.fill(line, times)
            return commands.push_bulk_line(line, jids, times[:1] if scheduled else ())

        return encode

    def _each(self, at: str | None, spread: Spread | None) -> Encode:
        """Return what runs the middleware for each job; it makes a PUSHB of those not stopped."""

        def encode(rows: Sequence[Sequence[object]], first: int) -> Command[dict[str, str]]:
            jobs: list[dict[str, Any]] = []

            def keep(payload: dict[str, Any]) -> str:
                self.complete(payload)
                # A copy: a change after `call_next` comes too late, as it does for a single job.
                jobs.append(job_options.copy_of(prepare(payload)))
                return jobs[-1]["jid"]  # type: ignore[no-any-return]

            self._run_rows(rows, first, at, spread, keep)
            return commands.push_bulk(jobs)

        return encode

    def _bulk_through(
        self,
        producer: Producer,
        rows: Iterable[Sequence[object]],
        at: str | None,
        spread: Spread | None,
    ) -> list[str]:
        """Give a job for each row to a producer; return the jids before the jobs are sent."""
        jids: list[str] = []

        def keep(payload: dict[str, Any]) -> str:
            jids.append(self._push_through(producer, payload))
            return jids[-1]

        source = iter(rows)
        first = 0
        try:
            while chunk := list(islice(source, BULK_CHUNK)):
                self._run_rows(chunk, first, at, spread, keep)
                first += len(chunk)
        except Exception as error:
            if not jids or getattr(error, "_raised_by_job", False):
                raise
            raise FaktoryBulkError(
                f"the producer has taken {len(jids)} jobs, and then there was an error: {error}",
                jids=jids,
            ) from error
        return jids

    def _run_rows(
        self,
        rows: Sequence[Sequence[object]],
        first: int,
        at: str | None,
        spread: Spread | None,
        keep: Callable[[dict[str, Any]], str],
    ) -> None:
        """Call `keep` with the payload of each row, inside of the middleware."""
        self._check_rows(rows)
        times = None if spread is None else spread.times(first, len(rows))
        for index, row in enumerate(rows):
            try:
                payload = self.payload(row)
                schedule.put_time(payload, at if times is None else times[index])
                client_middleware.run(keep, payload)
            except FaktoryPayloadError as error:
                raise FaktoryPayloadError(f"rows[{index}]: {error}") from None


elsewhere.add_hints(Push, elsewhere.METHODS)

"""Declared jobs as type checkers see them; for mypy and pyright only, never run.

A line with `# type: ignore[...]` must be an error: both complain about an ignore without effect.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, assert_type
from uuid import UUID

import faktory
from faktory import AsyncClient, Client, JobContext, Pool, Producer, testing
from faktory.client import BatchStatus, FetchedJob, JobPayload, JobProgress, ServerInfo
from faktory.jobs import (
    Callback,
    Chain,
    ClientMiddleware,
    Declared,
    DeclaredJob,
    Duration,
    FunctionJob,
    Instant,
    JobChain,
    Next,
    Options,
    Push,
    PushOptions,
    WorkerMiddleware,
)


@faktory.job
def bare(image: int, size: str = "thumb") -> bool:
    return True


@faktory.job(queue="images", retry=3, reserve_for=timedelta(minutes=1), custom={"a": 1}, name="X")
def with_options(image: int, *sizes: str) -> None: ...


class Resize(faktory.Job):
    faktory_options = {"queue": "images"}

    def perform(self, image: int, size: str = "thumb") -> None:
        assert_type(self.jid, str)
        assert_type(self.bid, str | None)
        assert_type(self.batch, faktory.Batch | None)
        assert_type(self.parent_batch, faktory.Batch | None)
        assert_type(self.custom, dict[str, Any])
        self.track_progress(10, "half way", reserve_until=datetime.now(UTC))
        self.track_progress("10")  # type: ignore[arg-type]


@dataclass
class Item:
    name: str
    price: Decimal


@faktory.job
def ship(item: Item, to: UUID | None = None, *days: date) -> None: ...


class Ship(faktory.Job):
    def perform(self, items: list[Item], after: timedelta = timedelta(0)) -> None: ...


def typed_arguments(item: Item, to: UUID) -> None:
    assert_type(ship.perform_async(item, to, date(2026, 1, 2)), str)
    assert_type(ship.set(queue="low").perform_in(60, item=item), str)
    assert_type(ship.perform_bulk([(item, to), (item,)]), list[str])
    assert_type(Ship.perform_async([item], after=timedelta(minutes=1)), str)
    assert_type(faktory.external("Ship", ship).perform_async(item), str)
    ship.perform_async({"name": "a", "price": "1"})  # type: ignore[arg-type]
    ship.perform_async(item, str(to))  # type: ignore[arg-type]
    Ship.perform_async(item)  # type: ignore[arg-type]


async def on_an_event_loop(client: AsyncClient, item: Item, to: UUID) -> None:
    assert_type(await bare.aperform(1, size="full"), str)
    assert_type(await bare.aperform_in(60, 1, "full"), str)
    assert_type(await bare.aperform_at(datetime.now(UTC), image=1), str)
    assert_type(await bare.aperform_bulk([(1, "full"), [2]], over=60), list[str])
    assert_type(await bare.set(queue="low").aperform(1), str)
    assert_type(await bare.message(1).apush(), str)
    assert_type(await faktory.chain(bare.message(1)).apush(), str)
    assert_type(await Ship.aperform([item], after=timedelta(minutes=1)), str)
    assert_type(await Ship.aperform_in(1.5, [item]), str)
    assert_type(await Ship.aperform_at("2030-01-01T00:00:00Z", [item]), str)
    assert_type(await Ship.aperform_bulk([([item],)]), list[str])
    assert_type(await faktory.external("Ship", ship).aperform(item, to), str)
    await bare.aperform("1")  # type: ignore[arg-type]
    await bare.aperform_in("60", 1)  # type: ignore[arg-type]
    await Ship.aperform(item)  # type: ignore[arg-type]
    async with client as same:
        assert_type(same, AsyncClient)
        assert_type(await same.push({"jobtype": "T", "args": []}), str)
        assert_type(await same.push_bulk(wire_dicts()), dict[str, str])
        assert_type(await same.fetch("default"), FetchedJob | None)
        assert_type(await same.info(), ServerInfo)
        await same.push_bulk(5)  # type: ignore[arg-type]


async def wire_dicts() -> AsyncIterator[dict[str, Any]]:
    yield {"jobtype": "T", "args": []}


async def timed(payload: dict[str, Any], call_next: Callable[[], Awaitable[Any]]) -> object:
    return await call_next()


def tag_many(fields: dict[str, Any], count: int, call_next: Callable[[], Any]) -> object:
    fields["queue"] = str(count)
    return call_next()


def twins(middleware: ClientMiddleware) -> None:
    assert_type(faktory.client_middleware.add(middleware, aio=timed), ClientMiddleware)
    faktory.client_middleware.add(middleware, aio=5)  # type: ignore[arg-type]
    assert_type(faktory.client_middleware.add(middleware, bulk=tag_many), ClientMiddleware)
    faktory.client_middleware.add(middleware, bulk=middleware)  # type: ignore[arg-type]


def functions(pool: Pool) -> None:
    assert_type(bare(1, size="full"), bool)
    assert_type(bare.perform_async(1, size="full"), str)
    assert_type(bare.perform_in(60, 1, "full"), str)
    assert_type(bare.perform_in(timedelta(minutes=1), image=1), str)
    assert_type(bare.perform_at(datetime.now(UTC), 1), str)
    assert_type(bare.perform_at("2030-01-01T00:00:00Z", 1), str)
    assert_type(bare.perform_bulk([(1, "full"), [2]]), list[str])
    assert_type(bare.set(queue="low", retry=0, pool=pool).perform_async(1), str)
    assert_type(bare.set(queue="low").set(retry=1).perform_in(1.5, 1), str)
    assert_type(bare.jobtype, str)
    assert_type(bare.set(queue=None, retry=None, reserve_for=None).perform_async(1), str)
    assert_type(bare.set(backtrace=None, custom=None, track=None).perform_async(1), str)
    assert_type(with_options.perform_async(1, "a", "b"), str)
    assert_type(bare.set(time_limit=timedelta(minutes=1)).perform_async(1), str)
    assert_type(bare.set(time_limit=None).set(time_limit=2.5).perform_async(1), str)


def options_of_one_push(producer: Producer) -> None:
    later = datetime.now(UTC)
    assert_type(bare.set(jid="order-0012", at=later).perform_async(1), str)
    assert_type(bare.set(jid=None, at=None, debounce=None, queue=None).perform_async(1), str)
    assert_type(bare.set(at="2030-01-01T00:00:00Z").set(debounce=30).perform_async(1), str)
    assert_type(bare.set(debounce=timedelta(minutes=1)).perform_async(1), str)
    assert_type(bare.set(pool=producer, at=1.5).perform_async(1), str)
    assert_type(bare.perform_bulk([(1,)], at=later, over=60), list[str])
    assert_type(Resize.set(jid="order-0012", pool=producer).perform_async(1), str)
    assert_type(Resize.perform_bulk([(1,)], "2030-01-01T00:00:00Z", timedelta(hours=1)), list[str])
    bare.set(jid=5)  # type: ignore[arg-type]
    bare.set(at=timedelta(1))  # type: ignore[arg-type]
    bare.set(debounce="30")  # type: ignore[arg-type]
    Resize.set(debounce="30")  # type: ignore[arg-type]
    bare.set(pool="tcp://other")  # type: ignore[arg-type]
    bare.perform_bulk([(1,)], over="60")  # type: ignore[arg-type]
    faktory.job(jid="order-0012")  # type: ignore[call-overload]
    faktory.external("Resize", debounce=30)  # type: ignore[call-overload]


def messages(producer: Producer) -> None:
    message = bare.set(queue="low").message(1, size="full")
    assert_type(message, faktory.Message)
    assert_type(message.jobtype, str)
    assert_type(message.args, tuple[Any, ...])
    assert_type(message.options, Mapping[str, Any])
    assert_type(message.to_dict(), dict[str, Any])
    assert_type(message.push(), str)
    assert_type(producer.push(message), Future[str])
    assert_type(Resize.message(1, "full"), faktory.Message)
    assert_type(faktory.external("Resize", described).message(image=1), faktory.Message)
    chain = faktory.chain(message, Resize.message(2))
    assert_type(chain, JobChain)
    assert_type(chain.messages, tuple[faktory.Message, ...])
    assert_type(faktory.chain(chain, message).push(), str)
    assert_type(producer.push(chain), Future[str])
    faktory.Batch(success=message, complete=chain)
    bare.message("1")  # type: ignore[arg-type]
    bare.message()  # type: ignore[call-arg]
    Resize.message(1, colour="red")  # type: ignore[call-arg]
    message.args = ()  # type: ignore[misc]
    faktory.chain(bare)  # type: ignore[arg-type]
    producer.push(bare)  # type: ignore[arg-type]


def shared_options_of_one_push(options: PushOptions) -> None:
    assert_type(bare.set(**options).perform_async(1), str)


def wrong_use_of_functions() -> None:
    bare("1")  # type: ignore[arg-type]
    bare.perform_async()  # type: ignore[call-arg]
    bare.perform_async("1")  # type: ignore[arg-type]
    bare.perform_async(1, size=2)  # type: ignore[arg-type]
    bare.perform_async(1, "full", 3)  # type: ignore[call-arg]
    bare.perform_async(1, colour="red")  # type: ignore[call-arg]
    bare.perform_in("60", 1)  # type: ignore[arg-type]
    bare.perform_in(60, "1")  # type: ignore[arg-type]
    bare.perform_at(timedelta(hours=1), 1)  # type: ignore[arg-type]
    bare.set(queue=1)  # type: ignore[arg-type]
    bare.set(colour="red")  # type: ignore[call-arg]
    bare.set(time_limit="30")  # type: ignore[arg-type]
    bare.set(queue="low").perform_async("1")  # type: ignore[arg-type]
    with_options.perform_async(1, 2)  # type: ignore[arg-type]
    faktory.job(retries=1)  # type: ignore[call-overload]


def described(image: int, size: str = "thumb") -> None: ...


def externals(pool: Pool) -> None:
    anything = faktory.external("Resize", queue="images", retry=3, time_limit=30)
    assert_type(anything.perform_async(1, "full", [2]), str)
    assert_type(anything.perform_in(60, 1), str)
    assert_type(anything.set(queue="low", pool=pool).perform_at("2030-01-01T00:00:00Z"), str)
    assert_type(anything.perform_bulk([(1,), ()]), list[str])
    known = faktory.external("Resize", described, queue="images")
    assert_type(known.perform_async(1, size="full"), str)
    assert_type(known.perform_in(timedelta(minutes=1), image=1), str)
    assert_type(known.set(retry=0).perform_at(datetime.now(UTC), 1, "full"), str)
    assert_type(faktory.external("Resize", bare).perform_async(1, size="full"), str)


def wrong_use_of_externals() -> None:
    faktory.external("Resize", retries=1)  # type: ignore[call-overload]
    faktory.external()  # type: ignore[call-overload]
    faktory.external("Resize", described, queue=1)  # type: ignore[call-overload]
    known = faktory.external("Resize", described)
    known.perform_async()  # type: ignore[call-arg]
    known.perform_async("1")  # type: ignore[arg-type]
    known.perform_async(1, colour="red")  # type: ignore[call-arg]
    known.perform_in(60, "1")  # type: ignore[arg-type]
    known.set(retry=0).perform_async("1")  # type: ignore[arg-type]
    known(1)  # type: ignore[operator]


def classes(pool: Pool) -> None:
    assert_type(Resize.perform_async(1, size="full"), str)
    assert_type(Resize.perform_in(60, 1, "full"), str)
    assert_type(Resize.perform_at(datetime.now(UTC), 1), str)
    assert_type(Resize.perform_bulk([(1, "full"), [2]]), list[str])
    assert_type(Resize.set(queue="low", pool=pool).perform_async(1), str)
    assert_type(Resize.set(queue="low").perform_in(60, 1, size="full"), str)
    assert_type(Resize.set(track=True, expires_at=datetime.now(UTC)).perform_at(0.5, 1), str)
    assert_type(Resize.set(queue=None, custom=None).perform_async(1), str)
    assert_type(Resize.set(unique_for=None).set(retry=1).perform_in(timedelta(1), 1), str)


def wrong_use_of_classes() -> None:
    Resize.perform_async()  # type: ignore[call-arg]
    Resize.perform_async("1")  # type: ignore[arg-type]
    Resize.perform_async(1, size=2)  # type: ignore[arg-type]
    Resize.perform_in(60, "1")  # type: ignore[arg-type]
    Resize.perform_at(timedelta(hours=1), 1)  # type: ignore[arg-type]
    Resize.set(colour="red")  # type: ignore[call-arg]
    Resize.set(queue="low").perform_async("1")  # type: ignore[arg-type]
    Resize.set(queue="low").perform_in(60, "1")  # type: ignore[arg-type]
    Resize.set(retry="1")  # type: ignore[arg-type]


def context() -> None:
    job = faktory.current_job()
    assert_type(job, faktory.JobContext)
    assert_type(job.attempt, int)
    assert_type(job.retries_remaining, int)
    assert_type(job.failures_left, int)  # the old name
    assert_type(job.deadline, datetime)
    assert_type(job.time_remaining(), float)
    assert_type(job.remaining(), float)  # the old name
    assert_type(job.batch, faktory.Batch | None)
    assert_type(job.stopping, bool)
    assert_type(job.on_stopping(cancel), Callable[[], int])
    job.on_stopping(lambda: None)
    job.on_stopping(described)  # type: ignore[type-var]
    job.on_stopping(5)  # type: ignore[type-var]
    job.track_progress(10)
    job.track_progress(99.9, "soon", reserve_until="2030-01-01T00:00:00Z")
    job.track_progress()  # type: ignore[call-arg]
    job.track_progress(10, reserve_until=timedelta(1))  # type: ignore[arg-type]


def cancel() -> int:
    return 1


def workers() -> None:
    worker = faktory.Worker(burst=True, time_limit=timedelta(minutes=5))
    assert_type(worker.is_drained, bool)
    faktory.Worker(time_limit="30")  # type: ignore[arg-type]
    faktory.Worker(burst="yes")  # type: ignore[arg-type]


def batches(pool: Pool) -> None:
    batch = faktory.Batch(description="images", success=bare, complete=Resize.set(queue="low"))
    with batch.jobs() as same:
        assert_type(same, faktory.Batch)
    batch.parent = faktory.Batch("b-1", pool=pool)
    batch.success = {"jobtype": "Done", "args": []}
    batch.complete = Resize
    assert_type(batch.bid, str | None)
    assert_type(batch.status(), BatchStatus)
    batch.complete = faktory.external("Done", described)
    batch.success = None
    batch.success = 5  # type: ignore[assignment]
    batch.success = described  # type: ignore[assignment]
    faktory.Batch(success=5)  # type: ignore[arg-type]
    faktory.Batch(parent=1)  # type: ignore[arg-type]
    faktory.Batch("b-1", name="images")  # type: ignore[call-arg]
    batch.bid = "b-1"  # type: ignore[misc]


def tenant(payload: dict[str, Any], call_next: Callable[[], Any]) -> Any:
    payload.setdefault("custom", {})["tenant"] = 7
    return call_next()


def in_tenant(job: JobContext, payload: dict[str, Any], call_next: Callable[[], Any]) -> Any:
    assert_type(job.custom, dict[str, Any])
    return call_next()


@faktory.client_middleware.add
def decorated(payload: dict[str, Any], call_next: Callable[[], Any]) -> Any:
    return call_next()


class Tenants:
    def __call__(self, payload: dict[str, Any], call_next: Callable[[], Any]) -> object:
        return call_next()


def middleware() -> None:
    faktory.client_middleware.add(tenant)
    faktory.client_middleware.prepend(Tenants())
    faktory.client_middleware.insert_before(tenant, decorated)
    faktory.client_middleware.remove(tenant)
    faktory.worker_middleware.add(in_tenant)
    faktory.worker_middleware.insert_after(in_tenant, lambda job, payload, call_next: call_next())
    faktory.client_middleware.add(in_tenant)  # type: ignore[arg-type]
    faktory.worker_middleware.add(tenant)  # type: ignore[arg-type]
    faktory.client_middleware.add(5)  # type: ignore[arg-type]


def passes_on(payload: dict[str, Any], call_next: Next) -> object:
    assert_type(call_next(), object)
    return call_next()


def chains() -> None:
    client: Chain[ClientMiddleware] = faktory.client_middleware
    worker: Chain[WorkerMiddleware] = faktory.worker_middleware
    client.add(passes_on)
    worker.add(passes_on)  # type: ignore[arg-type]


# The types of signatures, by their public paths.


def push_all(jobs: list[Push[[int]]], numbers: list[int], delay: Duration, when: Instant) -> None:
    for job in jobs:
        job.perform_async(1)
        job.perform_in(delay, 1)
        job.perform_at(when, 1)
        job.perform_async("1")  # type: ignore[arg-type]


def wrapped(job: FunctionJob[[int], bool]) -> bool:
    return job(1)


def with_shared_options(shared: Options, declared: Declared) -> Push[...]:
    faktory.job(**declared)(described)
    return faktory.external("Resize", **shared)


def batch_of(callback: Callback, job: DeclaredJob) -> faktory.Batch:
    return faktory.Batch(success=callback, complete=job)


def default_options() -> None:
    faktory.default_job_options["queue"] = "low"
    faktory.default_job_options.update(retry=3, custom={"tenant": 7}, time_limit=60)


def events() -> None:
    faktory.on("startup", lambda: None)
    faktory.on("exhausted", after_the_last_attempt)
    faktory.on("start", events)  # type: ignore[arg-type]
    faktory.Worker().on("quiet", events)


def after_the_last_attempt(job: JobContext, error: BaseException) -> None: ...


def tests() -> None:
    with testing.fake() as memory:
        assert_type(memory, testing.MemoryServer)
        assert_type(memory.jobs, list[dict[str, Any]])
        assert_type(memory.drain(), int)
    assert_type(testing.jobs, list[dict[str, Any]])
    assert_type(testing.queues, dict[str, list[dict[str, Any]]])
    assert_type(faktory.testing.jobs, list[dict[str, Any]])
    testing.assert_enqueued(bare, args=(1,), queue="images", at=datetime.now(UTC), count=1)
    testing.assert_enqueued(Resize, retry=3)
    testing.assert_not_enqueued(faktory.external("Resize"))
    testing.assert_not_enqueued("Resize")
    testing.assert_enqueued(described)  # type: ignore[arg-type]
    testing.assert_not_enqueued(5)  # type: ignore[arg-type]


def payloads(client: Client, producer: Producer, loaded: dict[str, Any]) -> None:
    literal: JobPayload = {"jobtype": "Resize", "args": [1, "thumb"], "retry": 3, "at": 1.5}
    assert_type(client.push(literal), str)
    assert_type(client.push({"jobtype": "Resize", "args": (1,), "custom": {"a": 1}}), str)
    assert_type(client.push(loaded), str)
    made = {"jobtype": "Resize", "args": [1], "queue": "images"}
    client.push(made)
    client.push_bulk([literal, loaded])
    client.push_bulk({"jobtype": "Resize", "args": [number]} for number in range(3))
    client.push_bulk([made] * 2)
    producer.push({"jobtype": "Resize", "args": []}).result()
    client.batch_new(success=literal, complete=loaded)
    client.push([1])  # type: ignore[arg-type]
    wrong: JobPayload = {"jobtype": "Resize"}  # type: ignore[typeddict-item]
    client.push(wrong)


def answers(client: Client) -> None:
    job = client.fetch("default")
    assert_type(job, FetchedJob | None)
    if job is not None:
        assert_type(job["args"], list[Any])
        assert_type(job["queue"], str)
        if "failure" in job:
            assert_type(job["failure"]["retry_count"], int)
        client.push(job)
        job["colour"]  # type: ignore[typeddict-item]
    assert_type(client.info(), ServerInfo)
    assert_type(client.info()["faktory"]["queues"], dict[str, int])
    assert_type(client.info()["server"]["faktory_version"], str)
    assert_type(client.batch_status("b-1")["pending"], int)
    assert_type(client.batch_status("b-1").get("description"), str | None)
    assert_type(client.track_get("12345678"), JobProgress)
    assert_type(client.track_get("12345678")["state"], str)


def makers_of_clients() -> None:
    assert_type(faktory.get_client("tcp://localhost", timeout=timedelta(seconds=5)), Client)
    assert_type(faktory.get_client(None, None, labels=["a"], worker_id="w", log=None), Client)
    with faktory.connection("tcp://localhost", at_least_once=True) as client:
        assert_type(client, Client)
    faktory.get_client(url="tcp://localhost")  # type: ignore[call-arg]
    faktory.get_client(7419)  # type: ignore[arg-type]
    faktory.connection(timeouts=5)  # type: ignore[call-arg]
    faktory.connection(timeout="5")  # type: ignore[arg-type]


class FakeConnection:
    """As tests written for faktory 1.0.0 have one."""

    def connect(self) -> bool:
        return True

    def disconnect(self) -> None: ...

    def reply(self, command: str, data: dict[str, Any] | None = None) -> None: ...

    def get_message(self) -> Iterator[str]:
        yield "OK"


def fake_connections() -> None:
    Client(connection=FakeConnection()).queue("resize", [1])
    with Client(connection=FakeConnection()) as client:
        assert_type(client, Client)
        assert_type(client.command("INFO"), str | bytes | int | None)
    Client(connection=object())  # type: ignore[arg-type]


def settings() -> None:
    faktory.configure(url="tcp://localhost", timeout=timedelta(seconds=5), enterprise=True)
    faktory.configure(enterprise="yes")  # type: ignore[arg-type]
    assert_type(faktory.pool(), Pool)
    with faktory.pool().client() as client:
        assert_type(client, Client)
    Client(timeout=5, tcp_keepalive=30)
    Client(timeout=None)  # type: ignore[arg-type]
    faktory.Worker(timeout=None)


@faktory.periodic("*/5 * * * *")
@faktory.job
def sweep() -> None: ...


@faktory.job
def report(day: str) -> None: ...


class Clean(faktory.Job):
    def perform(self) -> None: ...


def arguments(tick: datetime) -> tuple[str]:
    return (tick.date().isoformat(),)


def periodic_jobs() -> None:
    assert_type(sweep, FunctionJob[[], None])
    made = faktory.periodic("0 2 * * *", report, tz="Europe/Berlin", args=arguments)
    assert_type(made("2026-01-01"), None)
    made.perform_async(7)  # type: ignore[arg-type]
    faktory.periodic(every=timedelta(hours=1), job=sweep, name="sweep-hourly")
    faktory.periodic("@daily", job=report, args=lambda tick: [tick.date().isoformat()])
    assert_type(faktory.periodic("@weekly", Clean), type[Clean])
    assert_type(report.every("0 6 * * *", args=arguments, name="early")("2026-01-01"), None)
    low = report.set(queue="low").every(60, args=arguments)
    low.perform_async(7)  # type: ignore[arg-type]
    assert_type(Clean.every(timedelta(minutes=1)), type[Clean])
    assert_type(faktory.current_job().tick, datetime | None)
    assert_type(Clean().tick, datetime | None)
    faktory.periodic("@daily", arguments)  # type: ignore[call-overload]
    faktory.periodic("@daily", sweep, every=60)  # type: ignore[call-overload]
    faktory.periodic("@daily", report, args=("today",))  # type: ignore[call-overload]
    report.every("@daily", zone="UTC")  # type: ignore[call-arg]


def of_other_libraries() -> None:
    bare.delay(1)  # type: ignore[attr-defined]
    Resize.delay(1)  # type: ignore[attr-defined]

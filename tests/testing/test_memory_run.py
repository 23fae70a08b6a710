"""Running the jobs of fake mode: drain and perform_one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from threading import Thread
from time import process_time
from typing import Any

import pytest

import faktory
from faktory import Client, Discard, Worker, current_job, testing
from faktory.exceptions import FaktoryNotUnique
from faktory.testing import EmptyQueueError, MemoryServer


@pytest.fixture
def ran(fake: MemoryServer) -> list[Any]:
    """The names and arguments of the runs of `job(name)`."""
    return []


Declare = Callable[..., Any]


@pytest.fixture
def job(ran: list[Any]) -> Declare:
    """`job(name, then=None, **options)` declares a job that is noted in `ran` and calls `then`."""

    def declare(name: str, then: Callable[..., object] | None = None, **options: Any) -> Any:
        def run(*args: Any) -> object:
            ran.append((name, *args))
            return then(*args) if then is not None else None

        return faktory.job(name=name, **options)(run)

    return declare


def raises(error: BaseException) -> Callable[..., None]:
    def run(*_: object) -> None:
        raise error

    return run


def test_drain_runs_the_jobs_of_one_type_and_returns_how_many(job: Declare, ran: list[Any]) -> None:
    a, b = job("a"), job("b")
    for number in range(3):
        a.perform_async(number)
        b.perform_in(60, number)
    assert a.drain() == 3
    assert ran == [("a", 0), ("a", 1), ("a", 2)]
    assert a.jobs == []
    assert len(b.jobs) == 3
    assert testing.drain_all() == 3
    assert testing.drain_all() == 0


def test_drain_all_runs_in_the_order_of_pushes_over_all_queues(
    fake: MemoryServer, job: Declare, ran: list[Any]
) -> None:
    a, b = job("a", queue="one"), job("b", queue="two")
    for number in range(3):
        b.perform_in(100 - number, number)
        a.perform_async(number)
    assert testing.drain_all() == 6
    assert ran == [(name, number) for number in range(3) for name in ("b", "a")]


def test_jobs_that_were_pushed_by_jobs_are_drained_too(job: Declare, ran: list[Any]) -> None:
    def again(left: int) -> None:
        other.perform_async(left)
        if left:
            a.perform_in(60, left - 1)

    a, other = job("a", again), job("other")
    a.perform_async(3)
    assert a.drain() == 4
    assert ran == [("a", 3), ("a", 2), ("a", 1), ("a", 0)]
    assert testing.drain_all() == 4


def test_drain_raises_for_a_job_that_pushes_itself_without_end(
    fake: MemoryServer, job: Declare, ran: list[Any]
) -> None:
    fake.drain_limit = 10
    a = job("a", lambda: a.perform_async())
    a.perform_async()
    with pytest.raises(RuntimeError, match=r"11 jobs .* without end"):
        a.drain()
    assert len(ran) == 11
    assert len(a.jobs) == 1


def test_the_jobs_that_wait_when_drain_begins_do_not_count_for_its_limit(
    fake: MemoryServer, job: Declare, ran: list[Any]
) -> None:
    fake.drain_limit = 10
    a = job("a", lambda number: a.perform_async(20) if number < 10 else None)
    a.perform_bulk([(number,) for number in range(20)])
    assert a.drain() == 30


def test_perform_one_runs_the_job_that_came_first(job: Declare, ran: list[Any]) -> None:
    a, b = job("a"), job("b")
    b.perform_async(0)
    a.perform_in(60, 1)
    a.perform_async(2)
    a.perform_one()
    assert ran == [("a", 1)]
    a.perform_one()
    assert ran == [("a", 1), ("a", 2)]
    with pytest.raises(EmptyQueueError, match="'a'"):
        a.perform_one()
    assert len(b.jobs) == 1


def test_perform_one_without_a_job_raises_empty_queue_error(
    fake: MemoryServer, job: Declare
) -> None:
    job("a").perform_async()
    fake.perform_one()
    with pytest.raises(EmptyQueueError, match="no job waits"):
        fake.perform_one()
    assert issubclass(EmptyQueueError, LookupError)


def test_the_error_of_a_job_comes_out_and_the_other_jobs_stay(
    fake: MemoryServer, job: Declare, ran: list[Any]
) -> None:
    error = ValueError("no")
    a = job("a", lambda number: raises(error)() if number == 1 else None, retry=3)
    a.perform_bulk([(0,), (1,), (2,)])
    with pytest.raises(ValueError, match="no") as raised:
        a.drain()
    assert raised.value is error
    assert [kept["args"] for kept in a.jobs] == [[2]]
    fake.travel(3600)
    assert [kept["args"] for kept in a.jobs] == [[2], [1]]
    assert a.jobs[1]["failure"]["message"] == "no"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), faktory.FaktoryError("x")])
def test_any_exception_of_a_job_comes_out_as_it_is(job: Declare, error: BaseException) -> None:
    a = job("a", raises(error))
    a.perform_async()
    with pytest.raises(type(error)) as raised:
        a.drain()
    assert raised.value is error


def test_discard_ends_a_job_without_an_error(fake: MemoryServer, job: Declare) -> None:
    a = job("a", raises(Discard("enough")))
    a.perform_async()
    assert a.drain() == 1
    fake.travel(10_000)
    assert fake.jobs == []


def test_an_awaitable_that_nobody_awaits_is_an_error(job: Declare) -> None:
    async def later() -> None: ...

    a = job("a", later)
    a.perform_async()
    with pytest.raises(TypeError, match=r"asyncio\.run"):
        a.drain()
    asyncio.run(later())


def test_an_undeclared_job_type_is_an_error_with_the_declared_ones(
    fake: MemoryServer, job: Declare
) -> None:
    job("resize")
    Client().push({"jobtype": "resise", "args": []})
    with pytest.raises(LookupError, match=r"'resise'.*Did you mean 'resize'"):
        fake.drain()


def test_external_jobs_are_kept_and_never_run(fake: MemoryServer, job: Declare) -> None:
    abroad = faktory.external("abroad")
    abroad.perform_async()
    job("a").perform_async()
    assert testing.drain_all() == 1
    assert abroad.drain() == 0
    with pytest.raises(EmptyQueueError):
        abroad.perform_one()
    assert len(abroad.jobs) == 1


# The context of a job.


def test_a_job_sees_its_context(job: Declare) -> None:
    seen = []
    a = job("a", lambda *_: seen.append(current_job()), queue="low", custom={"tenant": 1})
    jid = a.perform_async("x")
    a.drain()
    (context,) = seen
    assert (context.jid, context.jobtype, context.queue, context.args) == (jid, "a", "low", ["x"])
    assert context.custom["tenant"] == 1
    assert context.attempt == 1
    with pytest.raises(RuntimeError):
        current_job()


def test_each_run_of_a_class_has_its_own_instance(fake: MemoryServer) -> None:
    seen = []

    class Work(faktory.Job):
        def perform(self, number: int) -> None:
            seen.append((self, self.jid, number))

    jids = Work.perform_bulk([(1,), (2,)])
    assert [kept["args"] for kept in Work.jobs] == [[1], [2]]
    Work.perform_one()
    assert Work.drain() == 1
    assert [entry[1] for entry in seen] == jids
    assert seen[0][0] is not seen[1][0]
    Work.perform_async(3)
    Work.clear()
    assert Work.jobs == []
    with pytest.raises(EmptyQueueError):
        Work.perform_one()


def test_progress_that_a_job_reports_can_be_asked_for(job: Declare) -> None:
    a = job("a", lambda: current_job().track_progress(40, "half"), track=True)
    jid = a.perform_async()
    assert Client().track_get(jid)["state"] == "enqueued"
    a.drain()
    progress = Client().track_get(jid)
    assert (progress["percent"], progress["desc"], progress["state"]) == (40, "half", "success")


def test_context_variables_set_by_a_job_do_not_reach_the_next_one(job: Declare) -> None:
    variable = ContextVar("variable", default=0)
    seen = []
    a = job("a", lambda: (seen.append(variable.get()), variable.set(1)))
    a.perform_bulk([(), ()])
    assert a.drain() == 2
    assert seen == [0, 0]


@pytest.mark.parametrize("middleware", [True, False])
def test_worker_middleware_runs_only_on_request(middleware: bool) -> None:
    seen = []

    @faktory.worker_middleware.add
    def around(job: Any, payload: dict[str, Any], call_next: Callable[[], Any]) -> Any:
        seen.append((job.jid, payload["jobtype"]))
        if payload["args"] == ["stop"]:
            raise Discard
        return call_next()

    with testing.fake(middleware=middleware):

        @faktory.job
        def work(what: str) -> None:
            seen.append(what)  # type: ignore[arg-type]

        jid = work.perform_async("go")
        work.drain()
        work.perform_async("stop")
        work.drain()
    assert seen[: 1 + middleware] == ([(jid, "work"), "go"] if middleware else ["go"])
    assert len(seen) == (3 if middleware else 2)


# Jobs that change the server while they run.


def meddle_clear() -> None:
    testing.clear_all()


def meddle_travel() -> None:
    testing.modes.network.current.travel(7200)  # type: ignore[attr-defined]


def meddle_ack() -> None:
    Client().ack(current_job().jid)


def meddle_disable() -> None:
    testing.disable()


@pytest.mark.parametrize("meddle", [meddle_clear, meddle_travel, meddle_ack, meddle_disable])
def test_the_error_of_a_job_comes_out_whatever_it_did_before(
    fake: MemoryServer, job: Declare, meddle: Callable[[], None]
) -> None:
    def run() -> None:
        meddle()
        raise ValueError("its own")

    job("a", run).perform_async()
    with pytest.raises(ValueError, match="its own"):
        fake.drain()


def test_a_job_that_drains_does_not_run_itself_again(job: Declare, ran: list[Any]) -> None:
    a = job("a", lambda number: a.drain())
    a.perform_bulk([(0,), (1,), (2,)])
    assert a.drain() == 1
    assert ran == [("a", 0), ("a", 1), ("a", 2)]


def test_a_unique_job_cannot_push_itself(job: Declare) -> None:
    a = job("a", lambda: a.perform_async(), unique_for=60)
    a.perform_async()
    with pytest.raises(FaktoryNotUnique):
        a.drain()


# Batches.


def test_the_callbacks_of_a_batch_are_pushed_when_its_jobs_are_done(
    job: Declare, ran: list[Any]
) -> None:
    a, done, complete = job("a"), job("done"), job("complete")
    batch = faktory.Batch(success=done, complete=complete)
    with batch.jobs():
        a.perform_bulk([(1,), (2,)])
    assert batch.status()["pending"] == 2
    a.perform_one()
    assert done.jobs == []
    a.perform_one()
    assert len(complete.jobs) == 1
    assert testing.drain_all() == 2
    assert ran[2:] == [("complete",), ("done",)]


def test_a_batch_with_a_job_that_fails_is_complete_without_success(
    fake: MemoryServer, job: Declare, ran: list[Any]
) -> None:
    a = job("a", raises(ValueError("no")), retry=0)
    batch = faktory.Batch(success=job("done"), complete=job("complete"))
    with batch.jobs():
        a.perform_async()
    with pytest.raises(ValueError, match="no"):
        fake.drain()
    assert fake.drain() == 1
    assert ran == [("a",), ("complete",)]


def test_jobs_pushed_by_a_job_join_its_batch_only_inside_a_block(
    fake: MemoryServer, job: Declare
) -> None:
    def run(joins: bool) -> None:
        batch = current_job().batch
        assert batch is not None
        b.perform_async("outside")
        if joins:
            with batch.jobs():
                b.perform_async("inside")

    a, b = job("a", run), job("b")
    batch = faktory.Batch(success=job("done"))
    with batch.jobs():
        a.perform_async(True)
        fake.drain("a")  # inside the block, which does not count for the job
    bids = {kept["args"][0]: (kept.get("custom") or {}).get("bid") for kept in b.jobs}
    assert bids == {"outside": None, "inside": batch.bid}


def test_batches_nest(job: Declare, ran: list[Any]) -> None:
    a = job("a")
    outer = faktory.Batch(success=job("outer"))
    with outer.jobs():
        inner = faktory.Batch(success=job("inner"), parent=outer)
        with inner.jobs():
            a.perform_async(1)
        a.perform_async(2)
    testing.drain_all()
    assert ran == [("a", 1), ("a", 2), ("inner",), ("outer",)]


@pytest.mark.parametrize("queue", ["default", "other"])
def test_the_callback_of_a_batch_whose_last_job_expires_is_run(
    fake: MemoryServer, job: Declare, ran: list[Any], queue: str
) -> None:
    batch = faktory.Batch(complete=job("complete", queue=queue))
    with batch.jobs():
        job("a", expires_in=60).perform_async()
    fake.travel(61)
    fake.perform_one()
    assert ran == [("complete",)]
    assert Client().info()["faktory"]["sets"]["working"] == 0
    assert fake.drain() == 0


# Many jobs and threads.


@pytest.mark.parametrize("delay", [0, 60], ids=["waiting", "scheduled"])
def test_five_thousand_jobs_behind_as_many_others_are_drained_quickly(
    fake: MemoryServer, job: Declare, ran: list[Any], delay: int
) -> None:
    a, b = job("a"), job("b")
    for which in (b, a):
        rows = [{"jobtype": which.jobtype, "args": [n]} for n in range(5000)]
        if delay:
            rows = [{**row, "at": "2999-01-01T00:00:00Z"} for row in rows]
        Client().push_bulk(rows)
    began = process_time()
    assert a.drain() == 5000
    # Some 0.5 s; looking at all jobs for each of them takes ten times as long.
    assert process_time() - began < 3
    assert [args for _, args in ran] == list(range(5000))
    assert len(b.jobs) == 5000


def test_threads_that_push_and_drain_at_once_run_each_job_once(
    fake: MemoryServer, job: Declare, ran: list[Any]
) -> None:
    a = job("a")
    errors: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for number in range(50):
                a.perform_async(thread, number)
                if number % 10 == 9:
                    a.drain()
        except BaseException as error:
            errors.append(error)

    threads = [Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    a.drain()
    assert errors == []
    assert len(ran) == len(set(ran)) == 800


def test_a_worker_runs_in_fake_mode(
    fake: MemoryServer, ran: list[Any], job: Declare, wait_until: Callable[..., object]
) -> None:
    a = job("a")
    worker = Worker(concurrency=3)
    thread = Thread(target=worker.run)
    thread.start()
    try:
        a.perform_bulk([(number,) for number in range(10)])
        wait_until(lambda: len(ran) == 10)
    finally:
        worker.stop()
        thread.join()
    assert sorted(ran) == [("a", number) for number in range(10)]
    assert Client().info()["faktory"]["total_processed"] == 10

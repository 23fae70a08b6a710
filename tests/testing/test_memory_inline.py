"""Inline mode runs each job where it is pushed."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread, get_ident
from time import process_time
from typing import Any

import pytest

import faktory
from faktory import Client, Discard, Pool, current_job, testing
from faktory.exceptions import FaktoryNotUnique, FaktoryServerError, FaktoryTimeout
from faktory.testing import MemoryServer


@pytest.fixture
def ran(inline: MemoryServer) -> list[Any]:
    """The arguments that `work` was run with."""
    return []


@pytest.fixture
def work(ran: list[Any]) -> Any:
    """A job that appends its argument to `ran`, and raises ValueError for "bad"."""

    @faktory.job
    def work(what: object) -> None:
        ran.append(what)
        if what == "bad":
            raise ValueError("a bad one")

    return work


def test_each_way_to_push_a_job_runs_it_at_once(work: Any, ran: list[Any]) -> None:
    client = Client()
    assert isinstance(work.perform_async(1), str)
    work.perform_in(60, 2)
    work.perform_at("2999-01-01T00:00:00Z", 3)
    work.perform_bulk([(4,), (5,)])
    work.set(pool=Pool(Client, size=1)).perform_async(6)
    client.push({"jobtype": "work", "args": [7]})
    assert client.push_bulk([{"jobtype": "work", "args": [n]} for n in range(8, 13)], 2) == {}
    assert client.queue("work", [13]) is True
    batch = faktory.Batch(success="done")
    faktory.external("done")
    with batch.jobs():
        work.perform_async(14)
    assert ran == list(range(1, 15))
    assert [job["jobtype"] for job in testing.jobs] == ["done"]


def test_a_producer_runs_jobs_until_it_is_flushed(work: Any, ran: list[Any]) -> None:
    with faktory.Producer() as producer:
        futures = [producer.push({"jobtype": "work", "args": [n]}) for n in range(3)]
        producer.flush(5)
        assert ran == [0, 1, 2]
        assert all(future.result(0) for future in futures)


def test_arguments_pass_through_json_and_all_checks(work: Any, ran: list[Any]) -> None:
    work.perform_async((1, (2,)))
    assert ran == [[1, [2]]]
    with pytest.raises(faktory.FaktoryPayloadError):
        work.perform_async(object())
    assert len(ran) == 1


def test_the_error_of_a_job_comes_out_where_it_is_pushed(inline: MemoryServer) -> None:
    error = ValueError("no")

    @faktory.job
    def work() -> None:
        raise error

    with pytest.raises(ValueError, match="no") as raised:
        work.perform_async()
    assert raised.value is error
    assert testing.jobs == []


@pytest.mark.parametrize(
    "error",
    [
        FaktoryServerError("ERR its own"),
        FaktoryNotUnique("NOTUNIQUE its own"),
        FaktoryTimeout("its own"),
        SystemExit(3),
        KeyboardInterrupt(),
        faktory.Shutdown(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_faktory_errors_and_interrupts_come_out_as_they_are(
    inline: MemoryServer, error: BaseException
) -> None:
    @faktory.job
    def work() -> None:
        raise error

    for push in (work.perform_async, lambda: Client().push({"jobtype": "work", "args": []})):
        with pytest.raises(type(error)) as raised:
            push()
        assert raised.value is error


def test_an_error_that_a_job_catches_does_not_come_out(work: Any, ran: list[Any]) -> None:
    @faktory.job
    def careful() -> None:
        with pytest.raises(ValueError, match="a bad one"):
            work.perform_async("bad")
        work.perform_async("good")

    careful.perform_async()
    assert ran == ["bad", "good"]


def test_discard_does_not_come_out(inline: MemoryServer) -> None:
    @faktory.job
    def work() -> None:
        raise Discard

    work.perform_async()
    inline.travel(10_000)
    assert testing.jobs == []


def test_an_awaitable_that_nobody_awaits_is_an_error(inline: MemoryServer) -> None:
    async def later() -> None: ...

    @faktory.job
    def work() -> object:
        return later()

    with pytest.raises(TypeError, match=r"asyncio\.run"):
        work.perform_async()


def test_an_undeclared_job_type_is_an_error(inline: MemoryServer) -> None:
    with pytest.raises(LookupError, match="no job of type 'nothing' is registered"):
        Client().push({"jobtype": "nothing", "args": []})


def test_external_jobs_are_kept_and_many_are_pushed_quickly(inline: MemoryServer) -> None:
    abroad = faktory.external("abroad")
    began = process_time()
    for number in range(3000):
        abroad.perform_async(number)
    # Some 0.3 s; looking at all kept jobs for each push takes ten times as long.
    assert process_time() - began < 2
    assert len(abroad.jobs) == 3000


@pytest.mark.parametrize("chunk", [1000, 2, 1])
def test_jobs_of_a_bulk_after_one_that_raises_are_not_run(
    work: Any, ran: list[Any], chunk: int
) -> None:
    jobs = [{"jobtype": "work", "args": [what]} for what in (1, 2, "bad", 4, 5, 6, 7)]
    with pytest.raises(ValueError, match="a bad one"):
        Client().push_bulk(jobs, chunk)
    assert ran == [1, 2, "bad"]
    work.perform_async(8)
    assert ran[3:] == [8]


def test_pushes_nest_deeper_than_the_pool_is_large(inline: MemoryServer) -> None:
    depths = []

    @faktory.job
    def deeper(left: int) -> None:
        jid = current_job().jid
        if left:
            deeper.perform_async(left - 1)
        depths.append(left)
        assert current_job().jid == jid

    faktory.configure(pool_size=2)
    deeper.perform_async(25)
    assert depths == list(range(26))


def test_a_job_runs_in_the_thread_that_pushes_it(inline: MemoryServer) -> None:
    threads = []

    @faktory.job
    def work() -> None:
        threads.append(get_ident())

    work.perform_async()
    thread = Thread(target=work.perform_async)
    thread.start()
    thread.join()
    assert threads == [get_ident(), thread.ident]


def test_threads_run_their_own_jobs_side_by_side(inline: MemoryServer) -> None:
    """No thread waits for the job of another one: the lock is not held while jobs run."""
    from threading import Barrier

    barrier = Barrier(4, timeout=10)

    @faktory.job
    def work() -> None:
        barrier.wait()

    threads = [Thread(target=work.perform_async) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not barrier.broken


def test_threads_that_push_at_once_run_each_job_once(work: Any, ran: list[Any]) -> None:
    def push(thread: int) -> None:
        for number in range(50):
            work.perform_async([thread, number])

    threads = [Thread(target=push, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ran) == [[thread, number] for thread in range(16) for number in range(50)]


def test_the_lock_of_a_unique_job_ends_with_its_run(inline: MemoryServer) -> None:
    ran = []

    @faktory.job(unique_for=60)
    def work(again: bool) -> None:
        ran.append(again)
        if again:
            work.perform_async(again)

    work.perform_async(False)
    work.perform_async(False)
    with pytest.raises(FaktoryNotUnique):
        work.perform_async(True)
    assert ran == [False, False, True]


def test_an_expired_job_is_dropped_and_counted_in_its_batch(work: Any, ran: list[Any]) -> None:
    @faktory.job
    def complete() -> None:
        ran.append("complete")

    batch = faktory.Batch(complete=complete)
    with batch.jobs():
        work.set(custom={"expires_at": "2020-01-01T00:00:00Z"}).perform_async(1)
        assert ran == []
    assert ran == ["complete"]


def test_a_job_that_clears_everything_clears_the_jobs_after_it_too(
    inline: MemoryServer,
) -> None:
    ran = []

    @faktory.job
    def work(number: int) -> None:
        ran.append(number)
        testing.clear_all()

    work.perform_bulk([(1,), (2,)])
    assert ran == [1]


def test_a_failed_job_is_run_again_at_its_time(inline: MemoryServer) -> None:
    attempts = []

    @faktory.job(retry=2)
    def work() -> None:
        attempts.append(current_job().attempt)
        if len(attempts) < 3:
            raise ValueError("not yet")

    with pytest.raises(ValueError, match="not yet"):
        work.perform_async()
    with pytest.raises(ValueError, match="not yet"):
        inline.travel(3600)
    inline.travel(3600)
    inline.travel(3600)
    assert attempts == [1, 2, 3]


def test_a_job_that_is_requeued_is_run_at_once(inline: MemoryServer) -> None:
    attempts = []

    @faktory.job
    def work() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("not yet")

    with pytest.raises(ValueError, match="not yet"):
        work.perform_async()
    Client().requeue("retries")
    assert len(attempts) == 2
    assert testing.jobs == []


# Batches.


def test_callbacks_run_when_the_batch_is_committed(inline: MemoryServer) -> None:
    ran = []

    def declare(name: str) -> Any:
        return faktory.job(name=name)(lambda: ran.append(name))

    outer = faktory.Batch(success=declare("outer"), complete=declare("complete"))
    with outer.jobs():
        inner = faktory.Batch(success=declare("inner"), parent=outer)
        with inner.jobs():
            declare("work").perform_async()
            ran.append("block")
        assert ran == ["work", "block", "inner"]
    assert ran == ["work", "block", "inner", "complete", "outer"]


def test_a_job_pushed_by_a_job_does_not_join_the_batch_around_the_first_push(
    inline: MemoryServer,
) -> None:
    second = faktory.external("second")

    @faktory.job
    def first() -> None:
        second.perform_async()

    batch = faktory.Batch(success=faktory.external("done"))
    with batch.jobs():
        first.perform_async()
        second.perform_async()
    bids = [(job.get("custom") or {}).get("bid") for job in second.jobs]
    assert bids == [None, batch.bid]
    assert batch.status()["total"] == 2


def test_a_job_of_a_batch_that_fails_lets_it_complete(inline: MemoryServer) -> None:
    ran = []

    @faktory.job(retry=0)
    def bad() -> None:
        raise ValueError("no")

    batch = faktory.Batch(
        success=faktory.external("success"),
        complete=faktory.job(name="complete")(lambda: ran.append("complete")),
    )
    with batch.jobs(), pytest.raises(ValueError, match="no"):
        bad.perform_async()
    assert ran == ["complete"]
    assert testing.jobs == []


@pytest.mark.parametrize("middleware", [True, False])
def test_client_middleware_runs_and_worker_middleware_only_on_request(
    no_sockets: None, middleware: bool
) -> None:
    seen: list[str] = []

    @faktory.client_middleware.add
    def pushed(payload: dict[str, Any], call_next: Callable[[], Any]) -> Any:
        seen.append("client")
        payload["args"] = [payload["args"][0] + 1]
        return call_next()

    @faktory.worker_middleware.add
    def run(job: Any, payload: dict[str, Any], call_next: Callable[[], Any]) -> Any:
        seen.append("worker")
        return call_next()

    @faktory.job
    def work(number: int) -> None:
        seen.append(f"job {number}")

    with testing.inline(middleware=middleware):
        work.perform_async(1)
    assert seen == (["client", "worker", "job 2"] if middleware else ["client", "job 2"])

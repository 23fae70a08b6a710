"""The error of a job in inline mode is not taken for a refusal or a broken connection."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Any

import pytest

import faktory
from faktory import Client, Pool, Producer, testing
from faktory.exceptions import (
    FaktoryConnectionError,
    FaktoryEnterpriseRequired,
    FaktoryNotUnique,
    FaktoryServerError,
    FaktoryTimeout,
)
from faktory.server import EmbeddedServer
from faktory.testing import MemoryServer

JOB = {"jobtype": "work", "args": []}


def by_producer() -> None:
    with Producer() as producer:
        producer.push(JOB)


PUSHES: dict[str, Callable[[], object]] = {
    "push_bulk": lambda: Client().push_bulk([JOB]),
    "push_bulk in chunks": lambda: Client().push_bulk([JOB] * 3, 1),
    "queue": lambda: Client().queue("work"),
    "producer": by_producer,
    "perform_bulk": lambda: WORK[0].perform_bulk([()]),
    "perform_bulk in chunks": lambda: WORK[0].perform_bulk([()] * 2500),
}
WORK: list[Any] = []


@pytest.mark.parametrize("push", PUSHES.values(), ids=PUSHES.keys())
@pytest.mark.parametrize(
    "error",
    [
        FaktoryServerError("ERR its own"),
        FaktoryNotUnique("NOTUNIQUE its own"),
        FaktoryTimeout("its own"),
        FaktoryConnectionError("its own"),
        ValueError("its own"),
        SystemExit(3),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_out_as_it_is(
    inline: MemoryServer, push: Callable[[], object], error: BaseException
) -> None:
    runs = []

    @faktory.job
    def work() -> None:
        runs.append(1)
        if len(runs) == 2 or push not in (PUSHES["push_bulk in chunks"],):
            raise error

    WORK[:] = [work]
    with pytest.raises(type(error)) as raised:
        push()
    assert raised.value is error
    assert len(runs) == (2 if push is PUSHES["push_bulk in chunks"] else 1)


def test_a_refusal_of_the_server_is_still_one(inline: MemoryServer) -> None:
    taken = faktory.external("taken", unique_for=60)
    taken.perform_async()
    again = {"jobtype": "taken", "args": [], "custom": {"unique_for": 60}}
    assert [*Client().push_bulk([again, {**again, "args": [1]}]).values()] == [
        "NOTUNIQUE Job not unique"
    ]
    assert Client().queue("taken", custom={"unique_for": 60}) is False
    with Producer() as producer:
        assert isinstance(producer.push(again).exception(0), FaktoryNotUnique)


def test_jobs_of_a_bulk_run_in_the_thread_that_pushes_them(inline: MemoryServer) -> None:
    threads = set()

    @faktory.job
    def work() -> None:
        threads.add(get_ident())

    assert Client().push_bulk([JOB] * 7, 2) == {}
    with Producer() as producer:
        producer.push(JOB)
    assert threads == {get_ident()}


def test_a_producer_pushes_at_once_in_a_test_mode(no_sockets: None) -> None:
    with testing.fake() as memory, Producer(linger=60) as producer:
        assert producer.push(JOB).done()
        assert len(memory.jobs) == 1
        producer.close()
        with pytest.raises(RuntimeError, match="closed"):
            producer.push(JOB)


def test_a_job_may_wait_for_a_job_that_it_pushes_through_the_same_producer(
    inline: MemoryServer,
) -> None:
    other = faktory.external("other")
    with Producer() as producer:

        @faktory.job
        def work() -> None:
            producer.push({"jobtype": "other", "args": []}).result(1)

        producer.push(JOB)
    assert len(other.jobs) == 1


@pytest.mark.parametrize("error", [FaktoryConnectionError("its own"), SystemExit(3)])
def test_a_producers_thread_survives_jobs_that_were_pushed_before_the_mode(
    error: BaseException, wait_until: Callable[..., object]
) -> None:
    ran = []

    @faktory.job
    def work(number: int) -> None:
        ran.append(number)
        raise error

    with EmbeddedServer() as server:
        producer = Producer(lambda: Client(server.url), linger=30, max_batch=1)
        server.hold("PUSHB")
        under_way = producer.push({"jobtype": "other", "args": []})
        wait_until(lambda: "PUSHB" in dict(server.commands))
        waiting = [producer.push({"jobtype": "work", "args": [number]}) for number in range(2)]
        with testing.inline():
            server.release("PUSHB")
            assert under_way.result(5)
            for future in waiting:
                assert isinstance(future.exception(5), faktory.FaktoryError)
            producer.close(5)
    assert ran == [0, 1]


def test_a_client_that_a_pool_gave_out_in_a_mode_is_closed_after_the_mode() -> None:
    with EmbeddedServer() as server:
        pool = Pool(lambda: Client(server.url))
        with testing.fake(), pool.client() as client:
            testing.disable()
            client.push(JOB)
            assert client.is_connected
        assert not client.is_connected


def test_the_edition_of_a_mode_is_not_remembered_as_that_of_the_pools_server() -> None:
    work = faktory.external("work", unique_for=60)
    with EmbeddedServer() as server:
        faktory.configure(url=server.url)
        with testing.fake():
            work.perform_async()
        with pytest.raises(FaktoryEnterpriseRequired):
            work.perform_async()
        faktory.configure()


def test_an_error_does_not_keep_the_variables_of_its_job_alive(inline: MemoryServer) -> None:
    from weakref import ref

    class Big: ...

    alive = []

    @faktory.job
    def work() -> None:
        big = Big()
        alive.append(ref(big))
        raise FaktoryServerError("ERR its own")

    with pytest.raises(FaktoryServerError):
        work.perform_async()
    import gc

    gc.collect()
    assert alive[0]() is None

"""Declared jobs through a Producer: middleware, batches, and what becomes of errors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

import faktory
from faktory import testing
from faktory.exceptions import (
    FaktoryBulkError,
    FaktoryEnterpriseRequired,
    FaktoryPayloadError,
    FaktoryServerError,
)

from ..support import wait_until
from .support import FakeServer


@faktory.job(queue="images")
def shrink(image: int, size: str = "thumb") -> None: ...


@pytest.fixture
def producer(server: FakeServer) -> Iterator[faktory.Producer]:
    with faktory.Producer(linger=0) as producer:
        yield producer


def test_perform_async_returns_the_jid_and_the_producer_sends_the_job(
    server: FakeServer, producer: faktory.Producer
) -> None:
    job = shrink.set(pool=producer)
    jids = [job.perform_async(1), job.perform_in(60, 2), job.set(queue="low").perform_async(3)]
    producer.flush()
    assert [each["jid"] for each in server.jobs] == jids
    assert [each["queue"] for each in server.jobs] == ["images", "images", "low"]
    assert "at" in server.jobs[1]
    assert "created_at" in server.jobs[1]


def test_jobs_pass_the_middleware_and_join_the_batch(
    server: FakeServer, producer: faktory.Producer
) -> None:
    @faktory.client_middleware.add
    def odd(payload: dict[str, Any], call_next: Callable[[], object]) -> object:
        payload["custom"]["tenant"] = 7
        return call_next() if payload["args"][0] % 2 else "stopped"

    job = shrink.set(pool=producer)
    with faktory.Batch(success="Done").jobs():
        assert job.perform_async(2) == "stopped"
        assert producer.push(shrink.message(4)).result(20) == "stopped"
        jids = [job.perform_async(1), producer.push(shrink.message(3)).result(20)]
        jids += job.perform_bulk([(5,), (6,), (7,)])
        producer.flush()
    assert [each["jid"] for each in server.jobs] == jids
    assert [each["args"] for each in server.jobs] == [[1], [3], [5], [7]]
    assert all(each["custom"] == {"bid": "b-1", "tenant": 7} for each in server.jobs)


def test_the_future_of_a_message_has_its_jid_or_its_error(
    server: FakeServer, producer: faktory.Producer
) -> None:
    future = producer.push(shrink.set(jid="order-0012").message(1))
    assert isinstance(future, Future)
    assert future.result(20) == "order-0012"
    server.refuse = lambda job: "no more room"
    assert isinstance(producer.push(shrink.message(1)).exception(20), FaktoryServerError)
    chain = faktory.chain(shrink.message(1), shrink.message(2))
    assert isinstance(producer.push(chain).exception(20), FaktoryServerError)
    with pytest.raises(FaktoryPayloadError, match=r"args\[0\] is a set"):
        producer.push(shrink.message({1}))  # type: ignore[arg-type]
    with pytest.raises(FaktoryPayloadError, match="a job is a dict"):
        producer.push(shrink)  # type: ignore[arg-type]


def test_an_error_that_nobody_waits_for_is_logged_with_the_jid(
    server: FakeServer, producer: faktory.Producer, caplog: pytest.LogCaptureFixture
) -> None:
    server.refuse = lambda job: "no more room"
    job = shrink.set(pool=producer)
    jids = [job.perform_async(1), *job.perform_bulk([(2,)])]
    wait_until(lambda: len(caplog.records) == 2)
    for record, jid in zip(caplog.records, jids, strict=True):
        assert record.name == "faktory.producer"
        assert record.levelno == logging.ERROR
        assert record.getMessage() == (
            f"shrink {jid}, which a Producer has taken, is not queued: no more room"
        )


def test_rows_are_taken_before_they_are_sent(
    server: FakeServer, producer: faktory.Producer
) -> None:
    jids = shrink.set(pool=producer).perform_bulk(((number,) for number in range(4)), over=40)
    producer.flush()
    assert [each["jid"] for each in server.jobs] == jids
    assert [each["args"] for each in server.jobs] == [[0], [1], [2], [3]]
    assert len({each["at"] for each in server.jobs}) == 4


def test_a_wrong_row_names_itself_and_the_jobs_that_were_taken(
    server: FakeServer, producer: faktory.Producer
) -> None:
    rows: list[Any] = [(1,), (2,), ({3},)]
    with pytest.raises(FaktoryBulkError, match=r"taken 2 jobs.* rows\[2\]: args\[0\]") as caught:
        shrink.set(pool=producer).perform_bulk(rows)
    producer.flush()
    assert [each["jid"] for each in server.jobs] == caught.value.jids
    with pytest.raises(TypeError, match=r"rows\[0\]: .*too many"):
        shrink.set(pool=producer).perform_bulk([(1, 2, 3)])


def test_enterprise_options_are_not_lost_on_an_open_source_server(
    server: FakeServer, producer: faktory.Producer
) -> None:
    job = shrink.set(pool=producer, unique_for=60)
    server.description = "Faktory"
    for push in (
        lambda: job.perform_async(1),
        lambda: job.perform_bulk([(1,)]),
        lambda: producer.push(shrink.set(unique_for=60).message(1)),
    ):
        with pytest.raises(FaktoryEnterpriseRequired, match="unique_for"):
            push()
    assert server.jobs == []
    server.description = "Faktory Enterprise"
    job.perform_async(1)
    job.perform_bulk([(2,)])
    producer.flush()
    assert server.other_commands.count("INFO") == 4  # once it is known, nobody asks
    assert len(server.jobs) == 2


def test_a_chain_goes_through_the_producer_of_its_first_job(
    server: FakeServer, producer: faktory.Producer
) -> None:
    jid = faktory.chain(shrink.set(pool=producer).message(1), shrink.message(2)).push()
    producer.flush()
    assert server.jobs[0]["jid"] == jid
    assert server.jobs[0]["custom"]["faktory_chain"][0]["args"] == [2]


def test_a_batch_cannot_be_made_through_a_producer(producer: faktory.Producer) -> None:
    with pytest.raises(TypeError, match="pool is of type Producer: pass a pool of clients"):
        faktory.Batch(success="Done", pool=producer)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="pass a pool of clients or a Producer"):
        shrink.set(pool="tcp://other:1")  # type: ignore[arg-type]


def test_in_a_test_mode_errors_come_at_once() -> None:
    @faktory.job
    def fails(number: int) -> None:
        raise LookupError(number)

    with faktory.Producer() as producer:
        with testing.fake():
            jid = fails.set(pool=producer).perform_async(1)
            assert [job["jid"] for job in fails.jobs] == [jid]
        with testing.inline(), pytest.raises(LookupError):
            fails.set(pool=producer).perform_async(1)

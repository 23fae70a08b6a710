"""Batches, tracking, unique and expiring jobs from end to end: a worker runs the pushed jobs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import faktory
from faktory import Worker
from faktory.client import defaults
from faktory.exceptions import FaktoryEnterpriseRequired, FaktoryNotUnique
from faktory.server import EmbeddedServer
from faktory.server.state import Timing
from faktory.testing.embedded import served

WaitUntil = Callable[..., object]


def serving(monkeypatch: pytest.MonkeyPatch, *, enterprise: bool) -> Iterator[EmbeddedServer]:
    timing = Timing(fetch_wait=0.1)
    with (
        EmbeddedServer(enterprise=enterprise, timing=timing) as server,
        defaults.configured(url=server.url),
    ):
        yield server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedServer]:
    """An embedded server with Enterprise features; this process pushes to it."""
    yield from serving(monkeypatch, enterprise=True)


@pytest.fixture
def plain_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedServer]:
    """An embedded server without Enterprise features; this process pushes to it."""
    yield from serving(monkeypatch, enterprise=False)


@pytest.fixture
def start(server: EmbeddedServer) -> Iterator[Callable[[], Worker]]:
    """`start()`: run a worker in a thread until the test ends."""
    threads: list[tuple[Worker, threading.Thread]] = []

    def start() -> Worker:
        worker = Worker(server.url, concurrency=2)
        thread = threading.Thread(target=worker.run)
        threads.append((worker, thread))
        thread.start()
        return worker

    yield start
    for worker, thread in threads:
        worker.disconnect(force=True)
        thread.join(15)
        assert not thread.is_alive()


Start = Callable[[], Worker]


@pytest.fixture
def ran() -> list[Any]:
    """The names that jobs write down."""
    return []


@pytest.fixture
def work(ran: list[Any]) -> faktory.jobs.definition.FunctionJob[[str], None]:
    """A job that writes its name down, and fails if that is "fail"."""

    @faktory.job(retry=1)
    def work(name: str) -> None:
        ran.append(name)
        if name == "fail" and faktory.current_job().attempt == 1:
            raise KeyError(name)

    return work


def callback(ran: list[Any], name: str) -> Any:
    @faktory.job(name=name)
    def run() -> None:
        ran.append(name)

    return run


def test_callbacks_run_after_all_jobs(
    server: EmbeddedServer, start: Start, ran: list[Any], work: Any, wait_until: WaitUntil
) -> None:
    batch = faktory.Batch(
        description="images", success=callback(ran, "success"), complete=callback(ran, "complete")
    )
    with batch.jobs():
        work.perform_async("a")
        work.perform_bulk([("b",), ("c",)])
    status = batch.status()
    assert (status["bid"], status["total"], status["pending"]) == (batch.bid, 3, 3)
    assert status["description"] == "images"
    start()
    wait_until(lambda: len(ran) == 5)
    assert sorted(ran[:3]) == ["a", "b", "c"]
    assert ran[3:] == ["complete", "success"]
    assert batch.status()["pending"] == 0


def test_success_waits_for_a_job_that_failed_and_complete_does_not(
    server: EmbeddedServer, start: Start, ran: list[Any], work: Any, wait_until: WaitUntil
) -> None:
    batch = faktory.Batch(success=callback(ran, "success"), complete=callback(ran, "complete"))
    with batch.jobs():
        work.perform_async("fail")
    start()
    wait_until(lambda: ran == ["fail", "complete"] and server.retries)
    server.travel(50)  # until its retry; the server forgets a silent worker after a minute
    wait_until(lambda: ran == ["fail", "complete", "fail", "success"])


def test_a_batch_waits_for_the_batches_in_it(
    server: EmbeddedServer, start: Start, ran: list[Any], wait_until: WaitUntil
) -> None:
    @faktory.job
    def look() -> None:
        job = faktory.current_job()
        ran.append((job.bid, job.parent_bid))

    outer = faktory.Batch(success=callback(ran, "outer"))
    with outer.jobs():
        inner = faktory.Batch(success=callback(ran, "inner"), parent=outer)
        with inner.jobs():
            look.perform_async()
    start()
    wait_until(lambda: len(ran) == 3)
    assert ran == [(inner.bid, outer.bid), "inner", "outer"]
    assert inner.status()["parent_bid"] == outer.bid


def test_a_job_may_add_others_to_its_own_batch(
    server: EmbeddedServer, start: Start, ran: list[Any], work: Any, wait_until: WaitUntil
) -> None:
    class Split(faktory.Job):
        def perform(self) -> None:
            batch = self.batch
            assert batch is not None
            with batch.jobs():
                work.perform_async("part")
                work.perform_async("part")
            ran.append(self.bid)

    batch = faktory.Batch(success=callback(ran, "success"))
    with batch.jobs():
        Split.perform_async()
    start()
    wait_until(lambda: "success" in ran)
    assert ran[-1] == "success"
    assert sorted(ran[:-1], key=str) == sorted([batch.bid, "part", "part"], key=str)
    assert batch.status()["total"] == 3


def test_a_block_that_raises_calls_no_callbacks(
    server: EmbeddedServer, start: Start, ran: list[Any], work: Any, wait_until: WaitUntil
) -> None:
    batch = faktory.Batch(success=callback(ran, "success"))
    with pytest.raises(TypeError), batch.jobs():
        work.perform_async(work.perform_async("a"), "one too many")
    start()
    wait_until(lambda: server.processed == 1)
    assert ran == ["a"]
    with batch.jobs():
        pass
    wait_until(lambda: ran == ["a", "success"])


def test_a_job_reports_progress_and_extends_its_reservation(
    server: EmbeddedServer, start: Start, ran: list[Any], wait_until: WaitUntil
) -> None:
    reported, go_on = threading.Event(), threading.Event()

    @faktory.job(track=True, reserve_for=60)
    def slow() -> None:
        job = faktory.current_job()
        job.track_progress(42.9, "half way", reserve_until=job.deadline.timestamp() + 3600)
        ran.append(job.remaining())
        reported.set()
        go_on.wait(10)

    jid = slow.perform_async()
    with faktory.Client(server.url) as client:
        assert client.track_get(jid)["state"] == "enqueued"
        start()
        assert reported.wait(10)
        track = client.track_get(jid)
        assert (track["percent"], track["desc"], track["state"]) == (42, "half way", "working")
        assert 3600 < ran[0] <= 3660
        server.travel(120)  # beyond its first reservation
        assert [job["jid"] for job in reserved(server)] == [jid]
        go_on.set()
        wait_until(lambda: client.track_get(jid)["state"] == "success")


def reserved(server: EmbeddedServer) -> list[dict[str, Any]]:
    """Return the jids of the reserved jobs."""
    return [entry.get("job", entry) for entry in server.working]


def test_a_job_is_unique_until_it_has_run(
    server: EmbeddedServer, start: Start, ran: list[Any], wait_until: WaitUntil
) -> None:
    @faktory.job(unique_for=60)
    def sync(user: int) -> None:
        ran.append(user)

    sync.perform_async(1)
    sync.perform_async(2)
    with pytest.raises(FaktoryNotUnique):
        sync.perform_async(1)
    with pytest.raises(faktory.FaktoryBulkError) as caught:
        sync.perform_bulk([(1,), (3,)])
    assert (len(caught.value.jids), len(caught.value.refused)) == (1, 1)
    start()
    wait_until(lambda: sorted(ran) == [1, 2, 3] and not server.working)
    sync.perform_async(1)
    wait_until(lambda: sorted(ran) == [1, 1, 2, 3])


def test_uniqueness_ends_with_its_time(server: EmbeddedServer) -> None:
    sync = faktory.external("sync", unique_for=60)
    sync.perform_async(1)
    with pytest.raises(FaktoryNotUnique):
        sync.perform_async(1)
    server.travel(61)
    sync.perform_async(1)


def test_an_expired_job_is_not_run(
    server: EmbeddedServer, start: Start, ran: list[Any], work: Any, wait_until: WaitUntil
) -> None:
    work.set(expires_in=60).perform_async("expired")
    work.set(expires_in=6000).perform_async("in time")
    server.travel(61)
    start()
    wait_until(lambda: ran == ["in time"])
    wait_until(lambda: server.queues.get("default", []) == [] and not server.working)
    assert ran == ["in time"]


def test_a_server_of_a_test_is_asked_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKTORY_ENTERPRISE", "1")
    with served(), pytest.raises(FaktoryEnterpriseRequired):
        faktory.external("work").set(track=True).perform_async()
    with served(enterprise=True):
        faktory.external("work").set(track=True).perform_async()


def test_nothing_of_enterprise_is_sent_to_an_open_source_server(
    plain_server: EmbeddedServer,
) -> None:
    job = faktory.external("work")
    for enterprise_job in (job.set(unique_for=60), job.set(track=True)):
        with pytest.raises(FaktoryEnterpriseRequired):
            enterprise_job.perform_async()
        with pytest.raises(FaktoryEnterpriseRequired):
            enterprise_job.perform_bulk([()])
    for batch in (faktory.Batch(success="done"), faktory.Batch("b-1")):
        with pytest.raises(FaktoryEnterpriseRequired), batch.jobs():
            job.perform_async()
    assert plain_server.queues.get("default", []) == []

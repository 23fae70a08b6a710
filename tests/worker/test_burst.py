"""`Worker(burst=True)`: it ends when its queues are empty and no job of it runs."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest

import faktory
from faktory import Client
from faktory.server import EmbeddedServer
from faktory.server.state import Timing as ServerTiming
from faktory.worker.burst import Burst
from faktory.worker.timing import Timing

from .conftest import (
    Held,
    Push,
    RunProgram,
    Start,
    WaitUntil,
    count,
    end_reservation,
    fail,
    make_worker,
    messages,
    reports,
    succeed,
)

SOON = Timing(backoff=lambda attempt, random: 0.02)


@contextmanager
def tree(url: str, queue: str = "default") -> Iterator[dict[str, Callable[[int], None]]]:
    """A job, `grow`, that pushes two of its kind, and each of these, down to depth 0."""
    pool = faktory.Pool(url, size=10)

    def grow(depth: int) -> None:
        if depth:
            with pool.client() as client:
                for _ in range(2):
                    client.push({"jobtype": "grow", "args": [depth - 1], "queue": queue})

    yield {"grow": grow}
    pool.close()


def waiting(server: EmbeddedServer) -> int:
    """Return how many jobs are queued or reserved."""
    return sum(len(jobs) for jobs in server.queues.values()) + len(server.working)


# Its end


def test_it_ends_at_once_if_the_queues_are_empty(
    start: Start, server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    running = start(concurrency=5, burst=True)
    running.join()
    assert running.worker.is_drained
    assert running.worker.abandoned == []
    assert count(server, "FETCH") == 5  # each thread waits after its first
    assert messages(caplog, "burst: ") == [
        "burst: no job waits in these queues, and none runs here"
    ]


@pytest.mark.parametrize("threads", [1, 10])
def test_jobs_that_push_jobs_are_all_run(
    start: Start, server: EmbeddedServer, push: Push, threads: int
) -> None:
    push("grow", 8)
    with tree(server.url) as tasks:
        start(tasks, concurrency=threads, burst=True).join()
    assert (server.processed, server.failures, waiting(server)) == (2**9 - 1, 0, 0)


def test_no_job_is_left_whenever_jobs_end_and_push(start: Start) -> None:
    chance = random.Random(7)

    def grow(depth: int) -> None:
        with pool.client() as client:
            for _ in range(chance.randint(0, 2) if depth else 0):
                queue = chance.choice("ab")
                client.push({"jobtype": "grow", "args": [depth - 1], "queue": queue})
                time.sleep(chance.choice([0.0, 0.0, 0.003]))

    for _ in range(30):
        timing = ServerTiming(fetch_wait=chance.choice([0.0005, 0.002, 0.01]))
        with EmbeddedServer(timing=timing) as server:
            pool = faktory.Pool(server.url, size=10)
            with pool.client() as client:
                client.push({"jobtype": "grow", "args": [6], "queue": "a"})
            threads = chance.choice([1, 2, 5, 10])
            options: dict[str, Any] = {"queues": ["a", "b"], "concurrency": threads, "burst": True}
            start(make_worker(server.url, {"grow": grow}, **options)).join()
            pool.close()
            assert waiting(server) == 0


@pytest.mark.soak
def test_ten_thousand_jobs_that_push_jobs_are_all_run(start: Start) -> None:
    with EmbeddedServer() as server, tree(server.url) as tasks:
        with Client(server.url) as client:
            client.push_bulk({"jobtype": "grow", "args": [1]} for _ in range(10_000))
        running = start(make_worker(server.url, tasks, concurrency=10, burst=True))
        running.thread.join(300)
        running.join()
        assert (server.processed, server.failures, waiting(server)) == (30_000, 0, 0)


@pytest.mark.skipif("FAKTORY_URL" not in os.environ, reason="needs a real server: set FAKTORY_URL")
def test_ten_thousand_jobs_that_push_jobs_are_all_run_on_a_real_server(start: Start) -> None:
    url, queue = os.environ["FAKTORY_URL"], f"burst-{uuid.uuid4().hex}"
    with Client(url) as client, tree(url, queue) as tasks:
        before = client.info()["faktory"]
        jobs = ({"jobtype": "grow", "args": [2], "queue": queue} for _ in range(1500))
        assert client.push_bulk(jobs) == {}
        running = start(make_worker(url, tasks, queues=[queue], concurrency=10, burst=True))
        running.thread.join(120)
        running.join()
        after = client.info()["faktory"]
        assert after["total_processed"] - before["total_processed"] == 7 * 1500
        assert after["queues"].get(queue, 0) == 0
        assert after["sets"]["working"] == before["sets"]["working"]


def test_a_job_that_runs_alone_and_pushes_another_has_help(
    start: Start, server: EmbeddedServer, push: Push
) -> None:
    helped = threading.Event()

    def first() -> None:
        for _ in range(3):  # in the end the others have found no job at least once
            before = count(server, "FETCH")
            while count(server, "FETCH") < before + 4:
                time.sleep(0.01)
        push("second")
        assert helped.wait(10)

    push("first")
    start({"first": first, "second": helped.set}, concurrency=4, burst=True).join()
    assert (server.processed, server.failures) == (2, 0)


def test_jobs_that_wait_for_a_time_or_in_a_paused_queue_do_not_count(
    start: Start, server: EmbeddedServer, push: Push
) -> None:
    push("fail")
    push("later", at="2100-01-01T00:00:00Z")
    push("paused", queue="slow")
    with Client(server.url) as client:
        client.pause_queues("slow")
    tasks = {"fail": fail, "later": succeed, "paused": succeed}
    start(tasks, queues=["default", "slow"], concurrency=3, burst=True).join()
    assert (len(server.retries), len(server.scheduled), len(server.queues["slow"])) == (1, 1, 1)


def test_a_job_of_another_worker_does_not_count(
    start: Start, server: EmbeddedServer, push: Push, held: Held
) -> None:
    push("work")
    other = start({"work": held.hold})
    assert held.began.wait(10)
    start(concurrency=2, burst=True).join()
    held.release()
    other.stop()


def test_a_job_past_its_reservation_is_not_waited_for(
    start: Start, server: EmbeddedServer, push: Push, held: Held
) -> None:
    def outlasts() -> None:
        end_reservation()
        held.hold()

    push("outlasts")
    quick = Timing(check_interval=0.02, shutdown_grace=0.1)
    running = start({"outlasts": outlasts}, burst=True, timing=quick)
    running.join()
    assert running.worker.is_drained
    assert len(running.worker.abandoned) == 1


# Other ends


def test_a_worker_that_is_quiet_ends_with_its_last_job(
    start: Start, server: EmbeddedServer, push: Push, held: Held
) -> None:
    jid = push("work")
    running = start({"work": held.hold}, concurrency=3, burst=True)
    assert held.began.wait(10)
    running.worker.quiet()
    held.release()
    running.join()
    assert not running.worker.is_drained
    assert reports(server, jid) == ["ACK"]


def test_stop_ends_it_earlier(start: Start, server: EmbeddedServer, push: Push, held: Held) -> None:
    jid = push("work")
    running = start({"work": held.hold}, concurrency=3, burst=True, disconnect_wait=20)
    assert held.began.wait(10)
    running.worker.stop()
    held.release()
    running.join()
    assert not running.worker.is_drained
    assert reports(server, jid) == ["ACK"]


# Without a server


def test_it_waits_for_a_server_that_cannot_be_reached(
    start: Start,
    server: EmbeddedServer,
    push: Push,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    jid = push("work")
    server.stop()
    running = start({"work": succeed}, concurrency=3, burst=True, timing=SOON)
    wait_until(lambda: messages(caplog, "cannot reach"))
    server.start()
    running.join()
    assert reports(server, jid) == ["ACK"]


def test_a_server_that_restarts_meanwhile_is_waited_for(
    start: Start, server: EmbeddedServer, push: Push, held: Held
) -> None:
    push("work")
    push("next")
    running = start({"work": held.hold, "next": succeed}, burst=True, timing=SOON)
    assert held.began.wait(10)
    server.stop()
    held.release()
    server.start()
    running.join()
    assert waiting(server) == 0
    assert server.failures == 0


# Where jobs run


def test_jobs_in_processes_that_push_jobs_are_all_run(
    server: EmbeddedServer, run_children: RunProgram, push: Push
) -> None:
    push("grow", 4)
    program = run_children(
        """
@faktory.job
def grow(depth):
    for _ in range(2 if depth else 0):
        grow.perform_async(depth - 1)
faktory.configure(url=URL)
work(concurrency=3, burst=True).run()
"""
    )
    assert program.process.wait(15) == 0
    assert (server.processed, server.failures, waiting(server)) == (2**5 - 1, 0, 0)


# The condition alone


QUEUES = ("default",)


@pytest.fixture
def burst() -> Burst:
    return Burst(lambda: None)


def waiter(burst: Burst, thread: Thread, asked_at: float, all_: list[Thread]) -> Thread:
    burst.found_empty(asked_at, QUEUES, all_)
    other = Thread(target=burst.waited, args=(thread, QUEUES, all_))
    other.start()
    return other


def test_nothing_is_over_without_processors(burst: Burst) -> None:
    assert not burst.is_over([])


def test_all_is_over_when_each_processor_waits(burst: Burst, wait_until: WaitUntil) -> None:
    one, two = all_ = [Thread(), Thread()]
    waits = [waiter(burst, one, time.monotonic(), all_)]
    wait_until(lambda: burst.is_over([one]))
    assert not burst.is_over(all_)
    waits.append(waiter(burst, two, time.monotonic(), all_))
    wait_until(lambda: burst.is_over(all_))
    burst.close()
    for each in waits:
        each.join(10)
        assert not each.is_alive()


def test_a_fetch_that_was_sent_before_a_job_ended_does_not_count(burst: Burst) -> None:
    one, two = all_ = [Thread(), Thread()]
    burst.begin(two)
    burst.found_empty(time.monotonic(), QUEUES, all_)  # two has a job
    assert not burst.waited(one, QUEUES, all_)
    asked_at = time.monotonic()
    burst.end(two)
    burst.found_empty(asked_at, QUEUES, all_)  # two may have pushed after that
    assert not burst.waited(one, QUEUES, all_)
    assert not burst.is_over([one])


def test_a_processor_waits_without_a_fetch_for_queues_that_are_known_to_be_empty(
    burst: Burst, wait_until: WaitUntil
) -> None:
    one, two = all_ = [Thread(), Thread()]
    wait = waiter(burst, one, time.monotonic(), all_)
    wait_until(lambda: burst.is_over([one]))
    assert not burst.waited(two, ("default", "other"), all_)
    known = Thread(target=burst.waited, args=(two, QUEUES, all_))
    known.start()
    wait_until(lambda: burst.is_over(all_))
    burst.begin(one)
    for each in (wait, known):
        each.join(10)
        assert not each.is_alive()
    assert not burst.waited(two, QUEUES, all_)
    burst.end(one)
    assert not burst.waited(two, QUEUES, all_)


def test_a_job_that_another_gets_ends_the_wait(burst: Burst, wait_until: WaitUntil) -> None:
    one, two = all_ = [Thread(), Thread()]
    wait = waiter(burst, one, time.monotonic(), all_)
    wait_until(lambda: burst.is_over([one]))
    burst.begin(two)
    wait.join(10)
    assert not wait.is_alive()
    assert not burst.is_over([one])


def test_a_processor_that_is_replaced_does_not_count(burst: Burst, wait_until: WaitUntil) -> None:
    overdue, other = Thread(), Thread()
    burst.begin(overdue)
    wait = waiter(burst, other, time.monotonic(), [other])
    wait_until(lambda: burst.is_over([other]))
    burst.close()
    wait.join(10)
    assert not wait.is_alive()


def test_with_a_limit_for_all_queues_only_so_many_threads_look_whether_they_are_empty(
    start: Start, server: EmbeddedServer
) -> None:
    running = start(queues={"api": faktory.Queue(limit=2)}, concurrency=20, burst=True)
    running.join()
    assert running.worker.is_drained
    assert 1 <= count(server, "FETCH") <= 4


def test_chains_through_queues_with_a_limit_are_run_to_their_ends(
    start: Start, server: EmbeddedServer
) -> None:
    ran: list[tuple[int, int]] = []
    running_now: list[int] = []
    most: list[int] = []

    @faktory.job(queue="narrow")
    def step(chain: int, number: int) -> None:
        running_now.append(chain)
        most.append(len(running_now))
        time.sleep(random.uniform(0, 0.002))
        ran.append((chain, number))
        running_now.remove(chain)

    pool = faktory.Pool(server.url)
    for chain in range(30):
        steps = [step.set(pool=pool).message(chain, number) for number in range(5)]
        faktory.chain(*steps).push()
    pool.close()
    queues = {"default": 1, "narrow": faktory.Queue(limit=2)}
    start(make_worker(server.url, queues=queues, concurrency=8, burst=True)).join()
    assert waiting(server) == 0
    assert max(most) <= 2
    assert len(ran) == 150
    for chain in range(30):
        assert [number for found, number in ran if found == chain] == [0, 1, 2, 3, 4]


def test_a_queue_whose_permit_an_overdue_job_has_is_not_taken_for_empty(
    start: Start, server: EmbeddedServer, held: Held, wait_until: WaitUntil
) -> None:
    """Nobody can fetch from it until that job ends."""
    ran: list[int] = []
    url = server.url

    def late() -> None:
        end_reservation()
        held.hold()

    with Client(url) as client:
        client.push({"jobtype": "held", "args": [], "queue": "api", "retry": 0})
        queues = {"default": 1, "api": faktory.Queue(limit=1)}
        tasks = {"held": late, "more": lambda: ran.append(1)}
        running = start(make_worker(url, tasks, queues=queues, concurrency=2, burst=True))
        assert held.began.wait(10)
        for _ in range(2):
            client.push({"jobtype": "more", "args": [], "queue": "api"})
        wait_until(lambda: running.worker.replaced)
        fetches = count(server, "FETCH")
        wait_until(lambda: count(server, "FETCH") > fetches + 2)
        assert not running.worker.is_drained
        held.release()
        running.join()
    assert ran == [1, 1]

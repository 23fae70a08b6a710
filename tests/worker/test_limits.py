"""Queues with a limit: `Worker(queues={"api": faktory.Queue(limit=2)})`."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import faktory
from faktory import Client, Worker, current_job
from faktory.server import EmbeddedServer
from faktory.worker.timing import Timing

from ..support import wait_until as until
from .conftest import (
    Held,
    Push,
    Reported,
    RunProgram,
    Start,
    WaitUntil,
    count,
    end_reservation,
    make_worker,
    reports,
    succeed,
)

TWO = faktory.Queue(limit=2)
ONE = faktory.Queue(limit=1)


class Running:
    """Jobs that say how many of their queue run, at most and now, and can be held."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.done: dict[str, int] = {}
        self.gate = threading.Semaphore(0)
        """A job of a queue in `held` ends when it gets through."""
        self.held: set[str] = set()

    def work(self, *_: object) -> None:
        queue = current_job().queue
        with self.lock:
            self.now[queue] = self.now.get(queue, 0) + 1
            self.most[queue] = max(self.most.get(queue, 0), self.now[queue])
        try:
            if queue in self.held:
                assert self.gate.acquire(timeout=30)
            else:
                time.sleep(0.002)
        finally:
            with self.lock:
                self.now[queue] -= 1
                self.done[queue] = self.done.get(queue, 0) + 1


def fill(url: str, queue: str, count: int, jobtype: str = "work") -> None:
    with Client(url) as client:
        client.push_bulk(
            {"jobtype": jobtype, "args": [number], "queue": queue} for number in range(count)
        )


def check_limit_among_twenty_threads(
    url: str, worker: Worker, running: Running, api: str, other: str
) -> None:
    """Two jobs of `api` are held, and the other 18 threads run the jobs of `other` meanwhile."""
    running.held = {api, other}
    until(lambda: running.now == {api: 2, other: 18})
    assert worker.busy == 20
    for _ in range(100):
        running.gate.release()
    until(lambda: sum(running.done.values()) == 100)
    running.held = set()
    for _ in range(20):
        running.gate.release()
    until(lambda: running.done == {api: 100, other: 100})
    assert running.most[api] == 2
    assert running.most[other] >= 18


def test_two_of_twenty_threads_run_a_queue_and_the_others_the_rest(
    server: EmbeddedServer, start: Start
) -> None:
    running = Running()
    fill(server.url, "api", 100)
    fill(server.url, "other", 100)
    queues = [{"api": TWO}, "other"]
    worker = start({"work": running.work}, queues=queues, concurrency=20).worker
    check_limit_among_twenty_threads(server.url, worker, running, "api", "other")


def test_a_real_server_gives_a_worker_no_more_than_its_limit(
    real_server_url: str, start: Start
) -> None:
    running = Running()
    api, other = (f"limits-{os.urandom(6).hex()}-{name}" for name in ("api", "other"))
    fill(real_server_url, api, 100)
    fill(real_server_url, other, 100)
    try:
        worker = make_worker(
            real_server_url,
            {"work": running.work},
            queues=[{api: TWO}, other],
            concurrency=20,
        )
        start(worker)
        check_limit_among_twenty_threads(real_server_url, worker, running, api, other)
    finally:
        with Client(real_server_url) as client:
            client.remove_queues(api, other)


@pytest.mark.parametrize(
    "queues",
    [{"api": TWO, "other": 3, "third": ONE}, ["other", {"api": TWO, "third": ONE}]],
)
def test_limits_hold_by_weight_and_in_groups(
    server: EmbeddedServer, start: Start, queues: Any
) -> None:
    running = Running()
    for name in ("api", "other", "third"):
        fill(server.url, name, 150)
    start({"work": running.work}, queues=queues, concurrency=12)
    until(lambda: running.done == {"api": 150, "other": 150, "third": 150})
    assert (running.most["api"] <= 2, running.most["third"]) == (True, 1)
    assert running.most["other"] > 2


def test_where_all_queues_are_limited_the_other_threads_wait_for_a_permit(
    server: EmbeddedServer, start: Start
) -> None:
    running = Running()
    for name in ("a", "b"):
        fill(server.url, name, 60)
    worker = start({"work": running.work}, queues={"a": ONE, "b": TWO}, concurrency=10).worker
    until(lambda: running.done == {"a": 60, "b": 60})
    assert running.most["a"] == 1
    assert running.most["b"] <= 2
    assert all(text for verb, text in server.commands if verb == "FETCH")
    assert len(worker._manager.processors) == 10


@pytest.mark.parametrize("order", ["stop", "quiet"])
def test_threads_that_wait_for_a_permit_end_with_the_worker(
    start: Start, push: Push, held: Held, order: str
) -> None:
    push("held", queue="a")
    running = start({"held": held.hold}, queues={"a": ONE}, concurrency=5)
    assert held.began.wait(20)
    began = time.monotonic()
    getattr(running.worker, order)()
    processors = running.worker._manager.processors
    until(lambda: len(processors) == 1)  # the one with the job
    assert time.monotonic() - began < 5
    held.release()
    running.stop()


def test_the_permit_of_a_job_is_free_when_its_report_is_sent(
    server: EmbeddedServer, start: Start, push: Push, reported: Reported
) -> None:
    jids = [push("work", queue="a") for _ in range(5)]
    start({"work": succeed}, queues={"a": ONE})
    reported(jids, *["ACK"] * 5)
    sent = [verb for verb, _ in server.commands if verb in ("FETCH", "ACK")]
    assert sent[:11] == ["FETCH", *["ACK", "FETCH"] * 5]


def test_the_permit_of_a_job_is_free_when_it_is_pushed_again(
    server: EmbeddedServer, start: Start, push: Push, reported: Reported
) -> None:
    def retry() -> None:
        raise faktory.Retry(after=60)

    again, other = push("retry", queue="a"), push("work", queue="a")
    server.hold("PUSHB")
    server.clear_commands()
    start({"retry": retry, "work": succeed}, queues={"a": ONE}, concurrency=2)
    reported(other, "ACK")  # by the other thread, while the first one waits for its answer
    assert (count(server, "PUSHB"), reports(server, again)) == (1, [])
    server.release("PUSHB")
    reported(again, "ACK")


def test_a_job_that_is_overdue_keeps_its_permit_until_it_ends(
    start: Start, push: Push, held: Held, reported: Reported, wait_until: WaitUntil
) -> None:
    def overdue(*_: object) -> None:
        end_reservation()
        held.hold()

    push("overdue", queue="a")
    tasks = {"overdue": overdue, "work": succeed}
    worker = start(
        tasks, queues=[{"a": ONE}, "b"], concurrency=2, timing=Timing(check_interval=0.01)
    ).worker
    wait_until(lambda: worker.replaced == 1)
    waits = push("work", queue="a")
    reported([push("work", queue="b") for _ in range(3)], *["ACK"] * 3)
    assert free_permits(worker) == {"a": 0}
    held.release()
    reported(waits, "ACK")
    wait_until(lambda: worker._manager.overdue == [])


def free_permits(worker: Worker) -> dict[str, int]:
    """Return how many permits are free."""
    limits = worker._manager.limits
    assert limits is not None
    return limits._free


def test_no_permit_is_lost_over_broken_connections_and_failures(
    server: EmbeddedServer, start: Start, wait_until: WaitUntil
) -> None:
    running = Running()

    def fails(number: int) -> None:
        running.work()
        raise ValueError(number)

    fill(server.url, "a", 60, "fails")
    fill(server.url, "b", 60, "fails")
    started = start(
        {"fails": fails},
        queues={"a": TWO, "b": TWO},
        concurrency=6,
        timing=Timing(backoff=lambda attempt, random: 0.0, refused_fetch_interval=0.0),
    )
    for done in (10, 40, 70):
        wait_until(lambda done=done: sum(running.done.values()) >= done)
        server.drop_before("FETCH", 3)
        server.drop_before("FAIL", 2)
        server.answer_error("FETCH", "ERR no", 3)
    wait_until(lambda: len(server.retries) == 120)
    started.stop()
    assert free_permits(started.worker) == {"a": 2, "b": 2}
    assert max(running.most.values()) <= 2


def test_get_queues_of_a_subclass_has_the_limits_of_the_names_it_returns(
    server: EmbeddedServer, start: Start, push: Push, held: Held, reported: Reported
) -> None:
    class Own(Worker):
        def get_queues(self) -> Sequence[str]:
            return ["a", "a", "b"]

    worker = Own(server.url, queues={"a": ONE}, concurrency=3)
    worker.register("held", held.hold)
    worker.register("work", succeed)
    push("held", queue="a")
    start(worker)
    assert held.began.wait(20)
    waits = push("work", queue="a")
    reported(push("work", queue="b"), "ACK")
    assert reports(server, waits) == []
    held.release()
    reported(waits, "ACK")


def test_limits_hold_in_an_executor(server: EmbeddedServer, start: Start) -> None:
    running = Running()
    for name in ("a", "b"):
        fill(server.url, name, 40)

    def work(*_: object) -> None:
        running.work()

    start({"work": work}, queues=[{"a": ONE}, "b"], concurrency=4, executor=ThreadPoolExecutor)
    until(lambda: running.done == {"a": 40, "b": 40})
    assert running.most["a"] == 1


PROGRAM = """
@faktory.job
def work(number):
    note(current_job().queue, "begins")
    time.sleep(0.01)
    note(current_job().queue, "ends")

@faktory.job
def dies(number):
    os._exit(3)

Worker(
    URL, queues=[{"a": faktory.Queue(limit=1)}, "b"], concurrency=4, use_threads=False
).run()
"""


def test_limits_hold_in_processes_also_when_one_dies(
    server: EmbeddedServer, run_program: RunProgram, wait_until: WaitUntil
) -> None:
    fill(server.url, "a", 10)
    fill(server.url, "a", 2, "dies")
    fill(server.url, "a", 10)
    fill(server.url, "b", 20)
    program = run_program(PROGRAM)
    wait_until(lambda: program.notes.count("a ends") == 20 and program.notes.count("b ends") == 20)
    of_a = [note for note in program.notes if note.startswith("a ")]
    assert of_a == ["a begins", "a ends"] * 20
    assert len(server.retries) == 2

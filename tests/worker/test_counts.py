"""What workers count: each run once, by its outcome."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import faktory
from faktory import Client, Discard, Retry, Worker
from faktory.client import pushes
from faktory.exceptions import FaktoryConnectionError, FaktoryOutcomeUnknown
from faktory.jobs.context import JobContext
from faktory.server import EmbeddedServer
from faktory.wire import commands
from faktory.worker import counts
from faktory.worker.counts import BUCKETS, MAX_SERIES, Counts, Page, read
from faktory.worker.delivery import Delivery
from faktory.worker.timing import Timing

from .conftest import Held, Push, RunProgram, Start, WaitUntil, end_reservation, fail

QUICK = Timing(check_interval=0.01)

Counted = Callable[[], dict[str, float]]


@pytest.fixture
def counted() -> Iterator[Counts]:
    """The counters of this process."""
    yield counts.enable()
    counts.disable()


@pytest.fixture
def outcomes(counted: Counts) -> Counted:
    """Return how often each outcome was counted, without those that were not."""

    def outcomes() -> dict[str, float]:
        found: dict[str, float] = {}
        for (_, _, outcome), number in read([counted.page]).jobs.items():
            if number:
                found[outcome] = found.get(outcome, 0) + number
        return found

    return outcomes


def discard() -> None:
    raise Discard("not needed")


def again() -> None:
    raise Retry(after=600)


async def wait() -> None:
    pass


async def wait_and_fail() -> None:
    raise KeyError("lost")


def declare(*functions: Callable[..., object]) -> None:
    """Declare jobs, one for each outcome, and these."""
    for function in (discard, again, fail, *functions):
        faktory.job(name=function.__name__)(function)
    faktory.job(name="lists")(lambda *_: None)
    faktory.job(name="bury", retry_on=ConnectionError)(fail)
    faktory.job(name="backs_off", backoff=faktory.backoff.constant(600))(fail)


@pytest.mark.parametrize("options", [{}, {"executor": ThreadPoolExecutor}])
def test_each_run_has_one_outcome_which_is_what_the_server_counts(
    server: EmbeddedServer,
    push: Push,
    start: Start,
    outcomes: Counted,
    wait_until: WaitUntil,
    options: dict[str, Any],
) -> None:
    declare(*(() if options else (wait, wait_and_fail)))
    for jobtype in ("lists", "lists", "discard", "again", "backs_off", "bury", "fail", "nothing"):
        push(jobtype)
    push("fail", retry=0)
    push("lists", custom={"expires_at": "2020-01-01T00:00:00Z"})
    if not options:
        push("wait")
        push("wait_and_fail", retry=-1)
    start(concurrency=2, **options)
    expected = {"done": 2, "discarded": 2, "retried": 2, "exhausted": 2, "failed": 2}
    if not options:
        expected |= {"done": 3, "exhausted": 3}
    wait_until(lambda: outcomes() == expected)
    failures = expected["failed"] + expected["exhausted"]
    assert (server.processed, server.failures) == (sum(expected.values()), failures)


def test_jobs_in_processes_are_counted_too(
    server: EmbeddedServer, push: Push, run_program: RunProgram, wait_until: WaitUntil
) -> None:
    jids = [push("fine"), push("bad"), push("bad", retry=0)]
    program = run_program(
        """
from faktory.worker import counts
counted = counts.enable()

@faktory.job
def fine(): pass

@faktory.job
def bad(): raise ValueError("bad")

Worker(URL, use_threads=False).run()
note(*sorted(key[2] for key, number in counts.read([counted.page]).jobs.items() if number == 1))
"""
    )
    wait_until(lambda: server.processed == len(jids))
    assert program.stop() == 0, program.log
    assert program.notes == ["done exhausted failed"]


def test_a_run_is_counted_under_queue_and_type_with_how_long_it_took_and_waited(
    server: EmbeddedServer, counted: Counts, start: Start, wait_until: WaitUntil
) -> None:
    with Client(server.url) as client:
        client.push({"jobtype": "work", "args": [], "queue": "mail"})
        client.push({"jobtype": "nobody's", "args": [], "queue": "mail"})
    start({"work": lambda: None}, queues=["mail"])
    wait_until(lambda: sum(read([counted.page]).jobs.values()) == 2)
    numbers = read([counted.page])
    assert {key for key, number in numbers.jobs.items() if number} == {
        ("mail", "work", "done"),
        ("mail", "other", "failed"),
    }
    assert numbers.seconds.number == numbers.wait.number == 2
    assert len(numbers.seconds.up_to) == len(BUCKETS)
    assert 0 < numbers.seconds.total < 60
    assert 0 < numbers.wait.total < 60
    assert numbers.running == 0
    assert numbers.beat_at is not None


def test_a_running_job_shows(
    counted: Counts, push: Push, start: Start, held: Held, wait_until: WaitUntil
) -> None:
    push("work")
    running = start({"work": held.hold})
    assert held.began.wait(10)
    assert read([counted.page]).running == 1
    held.release()
    wait_until(lambda: read([counted.page]).running == 0)
    running.stop()
    assert read([counted.page]).beat_at is None


def test_an_overdue_job_fails_and_the_counters_of_its_thread_go_on(
    counted: Counts,
    outcomes: Counted,
    push: Push,
    start: Start,
    held: Held,
    wait_until: WaitUntil,
) -> None:
    def work(how: str) -> None:
        if how == "hang":
            end_reservation()
            held.hold()

    for how in ("well", "hang", "well"):
        push("work", how)
    start({"work": work}, timing=QUICK)
    wait_until(lambda: outcomes() == {"done": 2, "failed": 1})
    numbers = read([counted.page])
    assert numbers.replaced == 1
    assert numbers.running == 0
    assert len(counted.page.rows) == 1  # that of the first thread
    held.release()
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "faktory-1"])
    assert outcomes() == {"done": 2, "failed": 1}


def test_an_abandoned_job_is_counted_as_it_is_reported(
    outcomes: Counted, push: Push, start: Start, held: Held
) -> None:
    push("work")
    running = start({"work": held.hold}, disconnect_wait=0, timing=Timing(shutdown_grace=0.05))
    assert held.began.wait(10)
    running.stop()
    assert outcomes() == {"failed": 1}


def test_a_report_that_is_sent_again_is_counted_once(
    server: EmbeddedServer, outcomes: Counted, push: Push, start: Start, wait_until: WaitUntil
) -> None:
    server.drop_after("ACK")
    push("work")
    push("work")
    start({"work": lambda: None})
    wait_until(lambda: outcomes() == {"done": 2})


def test_a_job_that_is_refused_again_fails(
    server: EmbeddedServer, outcomes: Counted, push: Push, start: Start, wait_until: WaitUntil
) -> None:
    push("again")
    server.answer_error("PUSHB", "no room")
    start({"again": again})
    wait_until(lambda: outcomes() == {"failed": 1})


def test_what_is_not_declared_makes_no_series_and_there_are_so_many_at_most(
    counted: Counts,
) -> None:
    counted.declare(dict.fromkeys(f"type{number}" for number in range(MAX_SERIES + 5)), ["q"])
    for number in range(1000):
        assert counted.first(f"queue{number}", f"nobody{number}") == counted.first("a", "b")
    for number in range(MAX_SERIES + 5):
        counted.first("q", f"type{number}")
    found = list(counted.page.pairs())
    assert len(found) == MAX_SERIES
    assert len(counted.firsts) == MAX_SERIES
    assert (0, "other", "other") in found


def test_a_long_name_is_cut_and_is_one_line(counted: Counts) -> None:
    name = "ä" * 500 + "\n"
    counted.declare({name: 1, "a\nb": 1}, ["q"])
    counted.first("q", name)
    counted.first("q", "a\nb")
    assert {jobtype for _, queue, jobtype in counted.page.pairs() if queue == "q"} == {
        "ä" * 60,
        "a b",
    }


def test_counting_waits_for_nothing_that_a_collection_of_garbage_calls(
    counted: Counts, outcomes: Counted, push: Push, start: Start, wait_until: WaitUntil
) -> None:
    """Where a lock was held then, what is called here would wait for itself."""

    def look(*_: object) -> None:
        read([counted.page])
        counted.first("default", "unknown")
        assert pushes.current is not None
        pushes.current.add(pushes.PUSHED, 1)

    before = gc.get_threshold()
    gc.callbacks.append(look)
    gc.set_threshold(5, 2, 2)
    try:
        for _ in range(50):
            push("work")
        start({"work": lambda: None}, concurrency=4)
        wait_until(lambda: outcomes() == {"done": 50})
    finally:
        gc.callbacks.remove(look)
        gc.set_threshold(*before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_begins_at_0_and_leaves_the_parents_numbers_alone(
    counted: Counts,
) -> None:
    assert pushes.current is not None
    pushes.current.add(pushes.PUSHED, 3)
    child = os.fork()
    if child == 0:
        pushes.current.add(pushes.PUSHED, 1)
        os._exit(int(read([counted.page]).pushes["pushed"]))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert read([counted.page]).pushes["pushed"] == 3


def test_nothing_is_counted_unless_something_reads_it(push: Push, start: Start) -> None:
    assert counts.current is None
    assert pushes.current is None
    running = start({"work": lambda: None})
    push("work")
    assert running.worker._manager.counts is None


# A process that dies


def job(jid: str = "11111111", **fields: Any) -> JobContext:
    queued = datetime.now(UTC) - timedelta(seconds=3)
    payload = {"jid": jid, "jobtype": "work", "args": [], "queue": "default", "retry": 25}
    return JobContext({**payload, "enqueued_at": queued.isoformat(), **fields})


ACK = Delivery(commands.ack("11111111"))


@pytest.fixture
def page() -> Page:
    return Page(2)


@pytest.fixture
def tally(page: Page) -> counts.Tally:
    counted = Counts(page)
    counted.declare({"work": 1}, ["default"])
    return counted.tally()


def of(page: Page) -> dict[str, float]:
    return {outcome: n for (_, _, outcome), n in read([page]).jobs.items() if n}


def add(page: Page, held: counts.Held, answer: str) -> dict[str, float]:
    page.add(held.if_reported if answer == "not found" else held.if_failed)
    return of(page)


def test_a_job_that_ran_when_its_process_died_fails(page: Page, tally: counts.Tally) -> None:
    tally.begin(job())
    held = page.count_dead(["11111111"])["11111111"]
    assert held.if_reported is None
    assert add(page, held, "OK") == {"failed": 1}
    assert read([page]).running == 0


def test_the_last_attempt_of_a_job_whose_process_died_is_exhausted(
    page: Page, tally: counts.Tally
) -> None:
    tally.begin(job(retry=0))
    assert add(page, page.count_dead(["11111111"])["11111111"], "OK") == {"exhausted": 1}


@pytest.mark.parametrize(("answer", "outcome"), [("OK", "failed"), ("not found", "done")])
def test_a_report_without_an_answer_counts_if_the_server_has_it(
    page: Page, tally: counts.Tally, answer: str, outcome: str
) -> None:
    tally.begin(job())
    tally.end("done", 0.1)
    tally.follow(ACK)
    assert add(page, page.count_dead(["11111111"])["11111111"], answer) == {outcome: 1}


def test_a_process_that_died_just_after_it_counted_is_not_counted_again(
    page: Page, tally: counts.Tally
) -> None:
    tally.begin(job())
    tally.end("done", 0.1)
    tally.row[tally._at] += 1  # the first step of `count`
    held = page.count_dead(["11111111"])["11111111"]
    assert held == counts.Held(None, None)
    assert of(page) == {"done": 1}


def test_a_job_that_waits_out_its_reservation_is_not_counted(
    page: Page, tally: counts.Tally
) -> None:
    tally.begin(job())
    assert page.count_dead([]) == {}
    assert of(page) == {}


def test_a_job_of_which_nothing_was_noted_is_another(page: Page) -> None:
    Counts(page)
    add(page, page.count_dead(["22222222"])["22222222"], "OK")
    assert read([page]).jobs[("other", "other", "failed")] == 1


def test_the_next_process_goes_on_with_the_numbers_of_the_one_before(
    page: Page, tally: counts.Tally
) -> None:
    tally.begin(job())
    tally.end("done", 0.1)
    tally.count()
    tally._counts.pushes.add(pushes.REFUSED, 2)
    page.count_dead([])
    successor = Counts(page)
    successor.declare({"work": 1}, ["default"])
    assert successor.first("default", "work") == tally._first
    other = successor.tally()
    other.begin(job())
    other.end("discarded", 0.1)
    other.count()
    successor.pushes.add(pushes.REFUSED, 1)
    assert of(page) == {"done": 1, "discarded": 1}
    assert read([page]).pushes["refused"] == 3


# Pushes


@pytest.fixture
def pushed(counted: Counts) -> Counted:
    return lambda: {name: n for name, n in read([counted.page]).pushes.items() if n}


def test_pushes_are_counted_by_outcome(
    server: EmbeddedServer, pushed: Counted, closed_port: int
) -> None:
    jobs = [{"jobtype": "work", "args": []}] * 5
    with Client(server.url) as client:
        client.push(jobs[0])
        client.push_bulk(jobs)
        assert client.queue("work", queue="default")
        assert pushed() == {"pushed": 7}
        server.answer_error("PUSH", "no room")
        with pytest.raises(faktory.FaktoryServerError):
            client.push(jobs[0])
        assert pushed() == {"pushed": 7, "refused": 1}
        server.drop_after("PUSH")
        with pytest.raises(FaktoryOutcomeUnknown):
            client.push(jobs[0])
    with pytest.raises(FaktoryConnectionError):
        Client(f"tcp://127.0.0.1:{closed_port}").push(jobs[0])
    assert pushed() == {"pushed": 7, "refused": 1, "unknown": 1, "failed": 1}


def test_pushes_of_a_producer_an_event_loop_and_declared_jobs_are_counted(
    server: EmbeddedServer, pushed: Counted
) -> None:
    work = faktory.job(name="work")(lambda *_: None)

    async def apush() -> None:
        async with faktory.AsyncClient(server.url) as client:
            await client.push({"jobtype": "work", "args": []})
            await client.push_bulk([{"jobtype": "work", "args": []}] * 3)

    asyncio.run(apush())
    with faktory.Producer(server.url) as producer:
        for _ in range(10):
            producer.push({"jobtype": "work", "args": []})
    pool = faktory.Pool(lambda: Client(server.url))
    work.set(pool=pool).perform_async()
    work.set(pool=pool).perform_bulk([(number,) for number in range(2500)])
    pool.close()
    assert pushed() == {"pushed": 4 + 10 + 1 + 2500}


def test_pushes_of_many_threads_are_all_counted(pushed: Counted) -> None:
    def push() -> None:
        for _ in range(2000):
            assert pushes.current is not None
            pushes.current.add(pushes.PUSHED, 3)

    threads = [threading.Thread(target=push) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pushes.current is not None
    pushes.current.add(pushes.PUSHED, 1)
    assert pushed() == {"pushed": 8 * 2000 * 3 + 1}


def test_a_push_between_counting_and_storing_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A total that went back would be a restart for Prometheus."""
    totals = memoryview(bytearray(8 * len(pushes.OUTCOMES))).cast("d")
    counted, value_of = pushes.Pushes(totals), pushes.value_of

    def interrupted(counter: Any) -> int:
        value = value_of(counter)
        monkeypatch.setattr(pushes, "value_of", value_of)
        counted.add(pushes.PUSHED, 1)
        return value

    monkeypatch.setattr(pushes, "value_of", interrupted)
    counted.add(pushes.PUSHED, 1)
    assert totals[pushes.PUSHED] == 2


def test_a_worker_made_before_is_counted_if_it_runs_after(
    server: EmbeddedServer, push: Push, start: Start, wait_until: WaitUntil
) -> None:
    worker = Worker(server.url)
    worker.register("work", lambda: None)
    counted = counts.enable()
    try:
        push("work")
        start(worker)
        wait_until(lambda: of(counted.page) == {"done": 1})
    finally:
        counts.disable()

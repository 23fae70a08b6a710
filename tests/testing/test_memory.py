"""The jobs that fake mode keeps."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Thread
from time import time
from typing import Any

import pytest

import faktory
from faktory import Client, Pool, Producer, testing
from faktory.exceptions import FaktoryNotUnique, FaktoryPayloadError, FaktoryServerError
from faktory.testing import MemoryServer

NOWHERE = "tcp://nowhere.invalid:1"


def args(jobs: list[dict[str, Any]]) -> list[Any]:
    return [job["args"] for job in jobs]


def through_producer(job: dict[str, Any]) -> None:
    with Producer() as producer:
        assert producer.push(job).result(5) == job["jid"]


def through_pool(job: dict[str, Any]) -> None:
    with Pool(lambda: Client(NOWHERE)).client() as client:
        client.push(job)


def through_context(job: dict[str, Any]) -> None:
    with Client(NOWHERE) as client, faktory.connection(NOWHERE) as other:
        assert client.is_connected
        other.push(job)


PUSHES: dict[str, Callable[[dict[str, Any]], object]] = {
    "push": lambda job: Client(NOWHERE).push(job),
    "push_bulk": lambda job: Client(NOWHERE).push_bulk([job]),
    "queue": lambda job: Client(NOWHERE).queue("work", job["args"], jid=job["jid"]),
    "pool": through_pool,
    "producer": through_producer,
    "connected": through_context,
}


@pytest.mark.parametrize("push", PUSHES.values(), ids=PUSHES.keys())
def test_a_job_is_kept_without_a_connection_however_a_client_pushes_it(
    fake: MemoryServer, push: Callable[[dict[str, Any]], object]
) -> None:
    push({"jid": "12345678", "jobtype": "work", "args": [1, "é"]})
    (job,) = fake.jobs
    assert (job["jid"], job["jobtype"], job["args"]) == ("12345678", "work", [1, "é"])
    assert job["queue"] == "default"


@pytest.mark.parametrize("pooled", [True, False])
def test_a_declared_job_is_kept_however_it_is_pushed(fake: MemoryServer, pooled: bool) -> None:
    @faktory.job(queue="low")
    def work(number: int) -> None: ...

    push = work.set(pool=Pool(lambda: Client(NOWHERE), size=1)) if pooled else work
    push.perform_async(1)
    push.perform_in(60, 2)
    push.perform_at(datetime.now(UTC) + timedelta(hours=1), 3)
    push.perform_bulk([(4,), (5,)])
    push.set(queue="high").perform_async(6)
    assert args(work.jobs) == [[1], [2], [3], [4], [5], [6]]
    assert args(fake.queues["high"]) == [[6]]
    assert args(fake.queues["low"]) == [[1], [2], [3], [4], [5]]
    assert fake.queues["none"] == []
    assert "none" not in fake.queues


def test_all_job_types_are_shown_in_the_order_of_their_pushes(fake: MemoryServer) -> None:
    names = [("a", "one"), ("b", "two"), ("a", "two"), ("c", "one")]
    with Client(NOWHERE) as client:
        for jobtype, queue in names:
            client.push({"jobtype": jobtype, "queue": queue, "args": []})
    assert [(job["jobtype"], job["queue"]) for job in testing.jobs] == names
    assert [job["jobtype"] for job in testing.queues["two"]] == ["b", "a"]
    assert list(testing.queues) == ["one", "two"]
    assert len(fake.jobs_of("a")) == 2


def test_jobs_of_one_push_bulk_in_several_queues_keep_their_order(fake: MemoryServer) -> None:
    queues = ["b", "a", "b", "c", "a"]
    jobs = [{"jobtype": "x", "queue": queue, "args": [n]} for n, queue in enumerate(queues)]
    assert Client(NOWHERE).push_bulk(jobs, batch_size=2) == {}
    assert [job["queue"] for job in fake.jobs] == queues


def test_jobs_with_the_same_jid_keep_their_order(fake: MemoryServer) -> None:
    done = []

    @faktory.job
    def work(number: int) -> None:
        done.append(number)

    for number, jid in enumerate(["same-jid", "other-jid", "same-jid"]):
        Client(NOWHERE).push({"jid": jid, "jobtype": "work", "args": [number]})
    assert args(work.jobs) == [[0], [1], [2]]
    assert fake.drain() == 3
    assert done == [0, 1, 2]


def test_a_job_has_its_times_as_a_worker_would_see_them(fake: MemoryServer) -> None:
    work = faktory.external("work")
    work.perform_async()
    work.perform_in(60)
    now, later = fake.jobs
    assert abs(datetime.fromisoformat(now["enqueued_at"]).timestamp() - time()) < 5
    assert "at" not in now
    assert "enqueued_at" not in later
    assert abs(datetime.fromisoformat(later["at"]).timestamp() - time() - 60) < 5
    assert now["created_at"]
    assert later["created_at"]


def test_arguments_pass_through_json(fake: MemoryServer) -> None:
    given = [1, {"a": (2, 3)}, None, 1.5, "\u2028\U0001f600"]
    faktory.external("work").perform_async((1, 2), given)
    given.append("later")
    (job,) = fake.jobs
    assert job["args"] == [[1, 2], [1, {"a": [2, 3]}, None, 1.5, "\u2028\U0001f600"]]
    job["args"].clear()
    assert fake.jobs[0]["args"]


def test_every_check_of_production_is_made(fake: MemoryServer) -> None:
    @faktory.job
    def work(number: int) -> None: ...

    with pytest.raises(FaktoryPayloadError, match="datetime"):
        work.perform_async(datetime.now(UTC))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="number"):
        work.perform_async()  # type: ignore[call-arg]
    with pytest.raises(FaktoryPayloadError, match="queue"):
        Client(NOWHERE).push({"jobtype": "work", "args": [], "queue": "no blanks"})
    with pytest.raises(FaktoryServerError, match="reasonable jid"):
        Client(NOWHERE).command("PUSH", json={"jid": "short", "jobtype": "x", "args": []})
    assert Client(NOWHERE).queue("work", [], queue="no blanks") is False
    assert fake.jobs == []


@pytest.mark.parametrize("url", ["nonsense://", "tcp://host:port"])
def test_a_wrong_address_is_an_error_as_in_production(
    fake: MemoryServer, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("FAKTORY_URL", url)
    with pytest.raises(ValueError, match="tcp"):
        faktory.external("work").perform_async()
    assert fake.jobs == []


def test_default_options_and_client_middleware_apply(fake: MemoryServer) -> None:
    faktory.default_job_options = {"queue": "all", "retry": 2}

    @faktory.client_middleware.add
    def tag(payload: dict[str, Any], call_next: Callable[[], Any]) -> Any:
        payload["custom"] = {"tag": payload["args"][0]}
        return None if payload["args"] == ["stop"] else call_next()

    work = faktory.external("work")
    assert work.perform_async("stop") is None
    work.perform_async("one")
    work.perform_bulk([("two",), ("stop",)])
    assert [job["custom"]["tag"] for job in fake.jobs] == ["one", "two"]
    assert {(job["queue"], job["retry"]) for job in fake.jobs} == {("all", 2)}


def test_the_server_answers_other_commands(fake: MemoryServer) -> None:
    client = Client(NOWHERE, worker_id="w")
    client.push({"jobtype": "work", "args": []})
    assert client.info()["faktory"]["queues"] == {"default": 1}
    assert client.beat() is None
    assert client.queue_latency("default")["default"] >= 0
    client.pause_queues("default")
    assert client.fetch("default") is None
    client.resume_queues("default")
    job = client.fetch("default")
    assert job is not None
    client.ack(job["jid"])
    assert fake.jobs == []
    assert client.info()["faktory"]["total_processed"] == 1
    assert repr(fake) == "<fake mode, 0 jobs>"


# Clearing.


def test_clear_forgets_the_jobs_of_one_type_scheduled_ones_too(fake: MemoryServer) -> None:
    one, two = faktory.external("one"), faktory.external("two")
    for job in (one, two):
        job.perform_async()
        job.perform_in(60)
    one.clear()
    assert one.jobs == []
    assert len(two.jobs) == 2
    testing.clear_all()
    assert testing.jobs == []
    assert testing.queues == {}


@pytest.mark.parametrize("way", ["drain", "clear", "clear_all", "travel", "perform_one"])
def test_the_lock_of_a_unique_job_is_released_with_the_job(fake: MemoryServer, way: str) -> None:
    @faktory.job(unique_for=60)
    def work(number: int) -> None: ...

    work.perform_async(1)
    work.perform_async(2)
    with pytest.raises(FaktoryNotUnique):
        work.perform_async(1)
    if way == "clear_all":
        testing.clear_all()
    elif way == "travel":
        fake.travel(61)
    else:
        getattr(work, way)()
    work.perform_async(1)
    with pytest.raises(FaktoryNotUnique):
        work.perform_async(1)


def test_clear_of_another_type_keeps_the_lock(fake: MemoryServer) -> None:
    work = faktory.external("work", unique_for=60)
    work.perform_async()
    faktory.external("other").clear()
    with pytest.raises(FaktoryNotUnique):
        work.perform_async()


def test_cleared_jobs_are_not_drained(fake: MemoryServer) -> None:
    ran = []

    @faktory.job
    def work(number: int) -> None:
        ran.append(number)
        if number == 1:
            testing.clear_all()

    work.perform_bulk([(1,), (2,)])
    work.perform_in(60, 3)
    assert fake.drain() == 1
    assert ran == [1]


# Time.


def test_travel_makes_scheduled_jobs_due_in_the_order_of_their_time(fake: MemoryServer) -> None:
    work = faktory.external("work")
    for seconds in (30, 10, 20, 1000):
        work.perform_in(seconds, seconds)
    assert args(fake.jobs) == [[30], [10], [20], [1000]]
    fake.travel(100)
    assert args(fake.jobs) == [[1000], [10], [20], [30]]
    assert [bool(job.get("enqueued_at")) for job in fake.jobs] == [False, True, True, True]
    with pytest.raises(ValueError, match="forward"):
        fake.travel(-1)


def test_only_travel_passes_time(fake: MemoryServer, wait_until: Callable[..., object]) -> None:
    @faktory.job(queue="other")
    def work() -> None: ...

    due = datetime.now(UTC) + timedelta(seconds=0.5)
    work.perform_at(due)
    wait_until(lambda: datetime.now(UTC) > due)
    assert Client(NOWHERE).fetch("other") is None
    fake.travel(0)
    assert Client(NOWHERE).fetch("other") is not None


@pytest.mark.parametrize("seconds", [59, 61])
def test_a_job_that_has_expired_is_not_run(fake: MemoryServer, seconds: int) -> None:
    ran = []

    @faktory.job(expires_in=60)
    def work() -> None:
        ran.append(1)

    work.perform_async()
    fake.travel(seconds)
    assert work.drain() == (seconds == 59) == len(ran)
    assert fake.jobs == []


# Threads and forked children.


def test_threads_that_run_already_see_the_mode(no_sockets: None) -> None:
    with testing.fake() as memory:
        threads = [
            Thread(target=lambda: faktory.external("work").perform_bulk([(n,) for n in range(50)]))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(memory.jobs) == 400


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_its_own_copy_of_the_jobs(fake: MemoryServer) -> None:
    work = faktory.external("work")
    work.perform_async(1)
    with fake._lock:  # as if by another thread of the parent
        pid = os.fork()
        if not pid:
            try:
                pushed = Thread(target=lambda: work.perform_async(2))
                pushed.start()
                pushed.join(5)
                os._exit(0 if args(work.jobs) == [[1], [2]] else 1)
            finally:
                os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert args(work.jobs) == [[1]]

from __future__ import annotations

import logging
import os
import threading
import time
from datetime import timedelta
from typing import Any

import pytest

import faktory
from faktory import Client, FaktoryAuthenticationError, Worker
from faktory.server import EmbeddedServer
from faktory.worker import Task
from faktory.worker.manager import CannotStart
from faktory.worker.processor import Processor

from .conftest import (
    Push,
    Reported,
    Start,
    WaitUntil,
    count,
    make_worker,
    reports,
    spin,
    succeed,
    threads_left,
)

# Which function runs a job


def test_jobs_of_both_kinds_are_run(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    seen: list[object] = []

    @faktory.job
    def resize(image: int, size: str = "thumb") -> None:
        seen.append((image, size, faktory.current_job().jid))

    class Greet(faktory.Job):
        def perform(self, name: str) -> None:
            seen.append((name, self.jid))

    jids = [push("resize", 1), push("resize", 2, "full"), push("Greet", "Ada")]
    running = start()
    wait_until(lambda: server.processed == 3)
    running.stop()
    assert seen == [(1, "thumb", jids[0]), (2, "full", jids[1]), ("Ada", jids[2])]
    assert (server.failures, server.working) == (0, [])


def test_functions_are_registered_and_forgotten(server: EmbeddedServer) -> None:
    worker = Worker(server.url)
    worker.register("plain", print)
    worker.register("bound", print, bind=True)
    assert worker.get_registered_task("plain") == Task("plain", print, False)
    assert worker.get_registered_task("bound") == Task("bound", print, True)
    worker.register("plain", repr)
    assert worker.get_registered_task("plain").func is repr
    worker.deregister("plain")
    worker.deregister("never there")
    with pytest.raises(ValueError, match="'plain' is not a registered task"):
        worker.get_registered_task("plain")
    with pytest.raises(ValueError, match="task func is not callable"):
        worker.register("wrong", "no function")  # type: ignore[arg-type]


def test_a_registered_function_runs_with_the_jid_first_if_it_is_bound(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    seen: list[object] = []
    worker = make_worker(server.url, {"plain": lambda *args: seen.append(args)})
    worker.register("bound", lambda *args: seen.append(args), bind=True)
    push("plain", 1, 2)
    jid = push("bound", 1, 2)
    start(worker)
    wait_until(lambda: server.processed == 2)
    assert seen == [(1, 2), (jid, 1, 2)]


def test_a_function_registered_on_the_worker_wins_over_a_declared_one(
    start: Start, push: Push, reported: Reported
) -> None:
    seen: list[str] = []
    faktory.job(name="work")(lambda: seen.append("declared"))
    running = start({"work": lambda: seen.append("registered")})
    reported(push("work"), "ACK")
    running.worker.deregister("work")
    reported(push("work"), "ACK")
    assert seen == ["registered", "declared"]


def test_an_unknown_job_fails_with_the_closest_name_and_the_list(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    faktory.job(name="resize")(spin)
    start({"greet": spin})
    push("resise")
    wait_until(lambda: server.retries)
    failure = server.retries[0]["failure"]
    assert failure["errtype"] == "UnknownJob"
    assert "Did you mean 'resize'? Registered: greet, resize." in failure["message"]


def test_a_job_may_push_another(start: Start, push: Push) -> None:
    ran = threading.Event()
    push("first")
    start({"first": lambda: push("second"), "second": ran.set})
    assert ran.wait(20)


def test_a_failed_job_comes_back_as_the_next_attempt(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    attempts: list[int] = []

    def flaky() -> None:
        attempts.append(faktory.current_job().attempt)
        if len(attempts) < 3:
            raise ValueError("not yet")

    start({"flaky": flaky})
    push("flaky", backtrace=3)
    for _ in range(2):
        wait_until(lambda: server.retries)
        failure = server.retries[0]["failure"]
        assert failure["backtrace"][-1] == "ValueError: not yet"
        server.travel(300)
    wait_until(lambda: server.processed - server.failures == 1)
    assert attempts == [1, 2, 3]


def test_jobs_run_at_the_same_time(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    together = threading.Barrier(5)
    for _ in range(10):
        push("wait")
    start({"wait": lambda: together.wait(10)}, concurrency=5)
    wait_until(lambda: server.processed == 10)
    assert server.failures == 0


def test_queues_are_fetched_in_order_or_as_a_subclass_returns_them(
    server: EmbeddedServer, start: Start, wait_until: WaitUntil
) -> None:
    class Ours(Worker):
        send_heartbeat_every = 0.01

        def get_queues(self) -> list[str]:
            return ["of", "ours"]

        def get_worker_id(self) -> str:
            return "our-wid"

    for worker, queues in (
        (Worker(server.url, queues=["a", "b"]), {"a b"}),
        (Worker(server.url, queues={"a": 1, "b": 1}), {"a b", "b a"}),
        (Ours(server.url), {"of ours"}),
    ):
        server.clear_commands()
        running = start(worker)
        wait_until(lambda: count(server, "FETCH"))
        running.stop()
        assert {text for verb, text in server.commands if verb == "FETCH"} <= queues
    assert worker.worker_id == "our-wid"
    beats = [text for verb, text in server.commands if verb == "BEAT"]
    assert len(beats) > 1
    assert all('"our-wid"' in text for text in beats)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": 0}, "concurrency is 0: it must be a whole number of 1 or more"),
        ({"concurrency": "2"}, "concurrency is '2'"),
        ({"concurrency": 1.5}, "concurrency is 1.5"),
        ({"concurrency": True}, "concurrency is True"),
        ({"labels": "abc"}, r"labels is the text 'abc': pass a list, \['abc'\]"),
        ({"labels": ["\udcff"]}, r"the label '\\udcff' holds a character"),
        ({"worker_id": "a\nb"}, r"the worker_id 'a\\nb' holds a character"),
        ({"disconnect_wait": -1}, "disconnect_wait is -1"),
        ({"disconnect_wait": float("nan")}, "disconnect_wait is nan"),
        ({"queues": []}, "queues is empty: a worker needs one queue or more"),
        ({"queues": ["a b"]}, "the queue is 'a b'"),
        ({"queues": None}, "queues is None: pass a list of names"),
        ({"burst": "yes"}, "burst is 'yes': it is True or False"),
        ({"burst": None}, "burst is None"),
        ({"give_back": 1}, "give_back is 1: it is True or False"),
        ({"ssl_context": 3}, "ssl_context is 3: pass an ssl.SSLContext"),
        ({"faktory": "localhost"}, "not a Faktory address"),
    ],
)
def test_an_option_with_a_wrong_value_is_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Worker(**options)


def test_a_grace_period_may_be_a_timedelta() -> None:
    assert Worker(disconnect_wait=timedelta(minutes=1)).disconnect_wait == 60


# Passwords


@pytest.mark.parametrize("user", ["", ":wrong@"])
def test_a_wrong_password_is_raised_at_once(user: str) -> None:
    with EmbeddedServer(password="right") as server:
        worker = Worker(f"tcp://{user}{server.address.place}", concurrency=3)
        started = time.monotonic()
        with pytest.raises(FaktoryAuthenticationError, match="password"):
            worker.run()
        assert time.monotonic() - started < 5
        assert threads_left() == []


def test_the_right_password_works(wait_until: WaitUntil, start: Start) -> None:
    with EmbeddedServer(password="r:ght/@ö") as server:
        with Client(server.url) as client:
            client.push({"jobtype": "work", "args": []})
        running = start(make_worker(server.url, {"work": succeed}))
        wait_until(lambda: server.processed == 1)
        server.disconnect()  # so that nothing waits for a FETCH
        running.stop()


# The heartbeat


def test_the_server_sees_the_worker_from_the_start(
    server: EmbeddedServer, start: Start, wait_until: WaitUntil
) -> None:
    start(labels=["blue", "python"], worker_id="wid-of-ours")
    wait_until(lambda: count(server, "BEAT"))
    wait_until(lambda: server.workers[0]["rss_kb"])
    (seen,) = server.workers
    assert (seen["wid"], seen["pid"], seen["labels"]) == (
        "wid-of-ours",
        os.getpid(),
        ["blue", "python"],
    )
    assert seen["state"] == "running"
    assert 1_000 < seen["rss_kb"] < 10_000_000


def test_a_worker_that_the_server_does_not_know_says_hello_again_at_once(
    server: EmbeddedServer, start: Start, wait_until: WaitUntil
) -> None:
    server.answer_error("BEAT", "unknown worker 123")
    start()  # the second beat by the interval would come after 15 seconds
    wait_until(lambda: count(server, "BEAT") == 2)
    wait_until(lambda: count(server, "HELLO") == 3)


def test_a_worker_whose_connections_were_all_cut_reconnects(
    server: EmbeddedServer, start: Start, push: Push, wait_until: WaitUntil
) -> None:
    worker = make_worker(server.url, {"work": succeed}, concurrency=2)
    worker.send_heartbeat_every = 0.05
    start(worker)
    wait_until(lambda: server.workers and server.workers[0]["connections"] == 3)
    for _ in range(3):
        server.disconnect(worker.worker_id)
        push("work")
        wait_until(lambda: not server.queues.get("default") and not server.working)
    wait_until(lambda: server.workers and server.workers[0]["connections"] == 3)


# Errors in the worker itself


def test_an_error_of_get_queues_is_raised_when_jobs_are_reported(
    server: EmbeddedServer, start: Start, push: Push
) -> None:
    class Ours(Worker):
        asked = 0

        def get_queues(self) -> list[str]:
            self.asked += 1
            if self.asked > 1:
                raise LookupError("no queues today")
            return ["default"]

    worker = Ours(server.url)
    worker.register("work", succeed)
    jid = push("work")
    running = start(worker)
    with pytest.raises(LookupError, match="no queues today"):
        running.join()
    assert reports(server, jid) == ["ACK"]


def test_a_system_without_more_threads_ends_the_worker_with_an_error(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if len(started) == 2 and thread.name.startswith("faktory-"):
            raise RuntimeError("can't start new thread")
        started.append(thread.name)
        real(thread)

    monkeypatch.setattr(Processor, "start", start)
    message = "only 2 of 5 threads for jobs could be started: can't start new thread"
    with pytest.raises(CannotStart, match=message) as caught:
        Worker(server.url, concurrency=5).run()
    assert caught.value.started == 2
    assert started == ["faktory-1", "faktory-2"]
    assert threads_left() == []


def test_the_queues_in_the_log_are_those_that_are_fetched(
    server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    class Own(Worker):
        def get_queues(self) -> list[str]:
            return ["own"]

    caplog.set_level(logging.INFO)
    for worker in (Worker(server.url, queues=["a", "b"]), Own(server.url)):
        worker.stop()
        worker.run()
    logged = [message for message in caplog.messages if message.startswith("Queues: ")]
    assert logged == ["Queues: a, b", "Queues: as get_queues() says"]


def test_an_error_in_the_thread_that_runs_it_ends_every_thread(
    server: EmbeddedServer, wait_until: WaitUntil
) -> None:
    def fail() -> None:
        raise KeyError("odd")

    worker = Worker(server.url, concurrency=3)
    worker._inbox.put(lambda: worker._inbox.put(fail))
    with pytest.raises(KeyError):
        worker.run()
    wait_until(lambda: threads_left() == [])

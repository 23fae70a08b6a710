"""Many threads push through one producer; every future ends once, with the right outcome."""

from __future__ import annotations

import logging
import multiprocessing
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from threading import Event, Thread

import pytest

from faktory.client import Client
from faktory.client import producer as module
from faktory.client.producer import Producer
from faktory.exceptions import (
    FaktoryAuthenticationError,
    FaktoryConnectionError,
    FaktoryNotUnique,
    FaktoryOutcomeUnknown,
    FaktoryPayloadError,
    FaktoryProtocolError,
    FaktoryServerError,
    FaktoryTimeout,
)
from faktory.server import EmbeddedServer
from faktory.wire.recovery import Backoff

from .conftest import job


class Impatient(Producer):
    """Tries again without a delay."""

    _backoff = Backoff(0.0, 0.0)


class Server:
    """A fake client: answers each PUSHB by the next of `answers`, then by {}.

    `gate` holds back every answer while it is not set.
    """

    def __init__(self, *answers):
        self.chunks = []
        self.gate = Event()
        self.gate.set()
        self.closed = False
        self._answers = list(answers)

    def call(self, command):
        self.chunks.append(list(command.jids))
        assert self.gate.wait(20)
        answer = self._answers.pop(0) if self._answers else {}
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self):
        self.closed = True


def test_a_futures_result_is_the_jid():
    server = Server()
    with Producer(lambda: server) as producer:
        assert producer.push(job(1)).result(20) == "job-0001"
        assert len(producer.push({"jobtype": "work", "args": []}).result(20)) == 24
    assert server.closed


def test_waiting_jobs_are_sent_together_up_to_max_batch():
    server = Server()
    server.gate.clear()
    with Producer(lambda: server, max_batch=3, linger=0) as producer:
        futures = [producer.push(job(n)) for n in range(8)]
        server.gate.set()
        assert [future.result(20) for future in futures] == [job(n)["jid"] for n in range(8)]
    assert [jid for chunk in server.chunks for jid in chunk] == [job(n)["jid"] for n in range(8)]
    assert all(len(chunk) <= 3 for chunk in server.chunks)
    assert len(server.chunks) < 8


def test_waiting_jobs_are_sent_together_up_to_max_bytes():
    server = Server()
    with Producer(lambda: server, max_bytes=2000, linger=5) as producer:
        futures = [producer.push(job(n, args=["x" * 900])) for n in range(6)]
        producer.flush(20)
        wait(futures, 20)
    assert max(map(len, server.chunks)) <= 3


def test_linger_waits_for_more_and_flush_does_not():
    server = Server()
    with Producer(lambda: server, linger=60) as producer:
        futures = [producer.push(job(n)) for n in range(5)]
        producer.flush(20)
        assert all(future.done() for future in futures)
    assert server.chunks == [[job(n)["jid"] for n in range(5)]]


def test_a_rejection_fails_its_own_future_alone():
    server = Server({"job-0001": "NOTUNIQUE Job not unique", "job-0002": "jobs must be nice"})
    with Producer(lambda: server, linger=60) as producer:
        futures = [producer.push(job(n)) for n in range(3)]
        producer.flush(20)
    assert futures[0].result() == "job-0000"
    with pytest.raises(FaktoryNotUnique):
        futures[1].result()
    with pytest.raises(FaktoryServerError, match="be nice"):
        futures[2].result()


def test_a_job_that_cannot_be_sent_is_refused_at_once():
    with Producer(Server) as producer:
        with pytest.raises(FaktoryPayloadError, match=r"args\[0\] is a set"):
            producer.push(job(1, args=[{1}]))
        with pytest.raises(FaktoryPayloadError, match="retry"):
            producer.push(job(1, retry="x"))
        assert producer.pending == 0


@pytest.mark.parametrize("fault", [FaktoryOutcomeUnknown("broke"), ZeroDivisionError("ours")])
def test_an_unknown_outcome_has_the_jid_of_each_job(fault):
    server = Server(fault)
    with Producer(lambda: server, linger=60) as producer:
        futures = [producer.push(job(n)) for n in range(2)]
        producer.flush(20)
        for number, future in enumerate(futures):
            with pytest.raises(FaktoryOutcomeUnknown) as caught:
                future.result()
            assert caught.value.jids == [job(number)["jid"]]
        later = producer.push(job(3))
        producer.flush(20)
        assert later.result(20) == "job-0003"


def test_a_batch_that_was_not_sent_is_tried_again_until_it_is(caplog):
    server = Server(*[FaktoryConnectionError("nothing listens")] * 3)
    with Impatient(lambda: server) as producer:
        assert producer.push(job(1)).result(20) == "job-0001"
    assert len(server.chunks) == 4
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        "jobs wait until the server is back: nothing listens"
    ]


def test_a_batch_is_tried_again_after_a_protocol_error():
    with Impatient(lambda: Server(FaktoryProtocolError("unsolicited"))) as producer:
        assert producer.push(job(1)).result(20) == "job-0001"


def test_a_wrong_password_is_not_tried_again():
    with Producer(lambda: Server(FaktoryAuthenticationError("wrong"))) as producer:
        future = producer.push(job(1))
        with pytest.raises(FaktoryAuthenticationError):
            future.result(20)


def test_close_gives_up_jobs_that_cannot_be_sent_and_counts_them():
    producer = Producer(lambda: Server(*[FaktoryConnectionError("nothing listens")] * 99))
    future = producer.push(job(1))
    with pytest.raises(FaktoryTimeout, match="1 jobs are not pushed"):
        producer.close(0.5)
    with pytest.raises(FaktoryConnectionError, match="nothing listens"):
        future.result(20)
    with pytest.raises(RuntimeError, match="closed"):
        producer.push(job(2))


def test_a_push_into_a_full_producer_fails_or_waits():
    server = Server()
    server.gate.clear()
    with Producer(lambda: server, max_pending=2, patience=0) as producer:
        futures = [producer.push(job(n)) for n in range(2)]
        with pytest.raises(FaktoryTimeout, match="2 jobs wait to be pushed"):
            producer.push(job(2))
        producer._push_timeout = None
        late = []
        thread = Thread(target=lambda: late.append(producer.push(job(3)).result(20)))
        thread.start()
        server.gate.set()
        thread.join(20)
        assert late == ["job-0003"]
        assert [future.result(20) for future in futures] == ["job-0000", "job-0001"]


def test_a_cancelled_job_is_not_sent():
    server = Server()
    with Producer(lambda: server, linger=60) as producer:
        futures = [producer.push(job(n)) for n in range(2)]
        assert futures[0].cancel()
        producer.flush(20)
        assert producer.pending == 0
    assert server.chunks == [["job-0001"]]


def test_many_threads_lose_nothing():
    with EmbeddedServer() as server, Producer(lambda: Client(server.url)) as producer:
        futures = []

        def push(start):
            futures.extend(producer.push(job(n)) for n in range(start, start + 200))

        threads = [Thread(target=push, args=(start * 200,)) for start in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        producer.flush(10)
        assert {future.result() for future in futures} == {job(n)["jid"] for n in range(1600)}
        assert len(server.queues["default"]) == 1600


def test_every_future_ends_though_the_server_restarts():
    with EmbeddedServer() as server:
        with Producer(lambda: Client(server.url), max_batch=10, linger=0) as producer:
            futures = [producer.push(job(n)) for n in range(300)]
            server.stop()
            futures += [producer.push(job(n)) for n in range(300, 400)]
            server.start()
            producer.flush(20)
        queued = {entry["jid"] for entry in server.queues["default"]}
        for number, future in enumerate(futures):
            if isinstance(future.exception(), FaktoryOutcomeUnknown):
                continue
            assert future.result() in queued, number


def test_a_child_starts_empty_and_the_parent_keeps_its_jobs(in_child):
    with EmbeddedServer() as server, Producer(lambda: Client(server.url), linger=60) as producer:
        future = producer.push(job(1))

        def act():
            pending = producer.pending
            pushed = producer.push(job(2))
            producer.flush(20)
            return [pending, pushed.result(20)]

        assert in_child(act) == [0, "job-0002"]
        producer.flush(20)
        assert future.result(20) == "job-0001"


def test_the_interpreter_exits_after_pushing_the_jobs_that_wait():
    with EmbeddedServer() as server:
        script = (
            "from faktory.client.producer import Producer\n"
            "from faktory.client import Client\n"
            f"producer = Producer(lambda: Client({server.url!r}), linger=60)\n"
            "producer.push({'jobtype': 'work', 'args': [1]})\n"
        )
        subprocess.run([sys.executable, "-c", script], check=True, timeout=20)
        assert len(server.queues["default"]) == 1


@pytest.mark.parametrize("limit", ["max_batch", "max_bytes", "max_pending"])
def test_limits_are_1_or_more(limit):
    with pytest.raises(ValueError, match=f"{limit} is 0"):
        Producer(Server, **{limit: 0})


# Faults after which futures could stay without an end.


def test_a_push_raises_if_the_sending_thread_cannot_start(monkeypatch):
    with pytest.raises(ValueError, match="not a Faktory address"):
        Producer("localhost:7419")
    producer = Producer("tcp://127.0.0.1:1")

    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start"):
        producer.push(job(1))
    assert producer.pending == 0
    producer.close(0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("linger", -1), ("patience", -1), ("max_batch", 1.5), ("max_pending", 0), ("max_bytes", "x")],
)
def test_a_bad_argument_is_named(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        Producer("tcp://127.0.0.1:1", **{name: value})


def test_durations_can_be_timedeltas():
    server = Server()
    durations = {"linger": timedelta(milliseconds=2), "patience": timedelta(seconds=1)}
    producer = Producer(lambda: server, **durations)
    assert producer.push(job(1)).result(20) == "job-0001"
    producer.flush(timedelta(seconds=20))
    producer.close(timedelta(seconds=20))


def test_every_future_ends_though_the_sending_thread_breaks(monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    server = Server()
    server.gate.clear()
    producer = Producer(lambda: server, max_batch=2, linger=0)
    futures = [producer.push(job(n)) for n in range(4)]
    futures[0].set_result("ended already")  # so that the thread fails to
    server.gate.set()
    for number in (1, 2, 3):
        with pytest.raises(FaktoryOutcomeUnknown, match="the producer's thread broke"):
            futures[number].result(20)
    with pytest.raises(RuntimeError, match="closed"):
        producer.push(job(5))
    producer.close(20)
    assert producer.pending == 0


def test_a_flush_does_not_count_a_cancelled_job_as_answered(wait_until):
    server = Server()
    server.gate.clear()
    producer = Producer(lambda: server, linger=60)
    first, second = producer.push(job(1)), producer.push(job(2))
    assert second.cancel()
    with ThreadPoolExecutor(1) as threads:
        flushed = threads.submit(producer.flush, 20)
        wait_until(lambda: server.chunks)
        assert producer.pending == 2
        server.gate.set()
        flushed.result(20)
    assert first.done()
    assert producer.pending == 0
    producer.close(20)


def test_an_interrupted_flush_counts_no_more(monkeypatch):
    server = Server()
    server.gate.clear()
    producer = Producer(lambda: server)
    producer.push(job(1))
    wait_for = producer._changed.wait_for

    def interrupted(*args):
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        return wait_for(*args)

    with monkeypatch.context() as patch:
        patch.setattr(producer._changed, "wait_for", interrupted)
        with pytest.raises(KeyboardInterrupt):
            producer.flush()
    assert producer._flushing == 0
    server.gate.set()
    producer.close(20)


def test_at_exit_all_producers_are_closed_though_one_fails(monkeypatch, caplog):
    class Broken:
        def close(self, _timeout):
            raise ZeroDivisionError("ours")

    server = Server()
    good = Producer(lambda: server, linger=60)
    future = good.push(job(1))
    monkeypatch.setattr(module, "_producers", [Broken(), good])
    module._close_all()
    assert future.result(0) == "job-0001"
    assert "a producer cannot be closed" in caplog.text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # that there are threads
def test_a_child_of_multiprocessing_pushes_its_jobs_before_it_ends():
    with EmbeddedServer() as server, Producer(server.url, linger=60) as producer:
        context = multiprocessing.get_context("fork")
        child = context.Process(target=producer.push, args=(job(1),))
        child.start()
        child.join(20)
        assert child.exitcode == 0
        assert len(server.queues["default"]) == 1


def test_a_flush_waits_only_for_the_jobs_before_it():
    with EmbeddedServer() as server, Producer(server.url) as producer:
        first = producer.push(job(1))
        stop = threading.Event()

        def go_on():
            while not stop.is_set():
                producer.push(job(1))

        with ThreadPoolExecutor(1) as threads:
            threads.submit(go_on)
            producer.flush(10)
            assert first.done()
            stop.set()


def test_a_callback_that_would_wait_for_its_own_thread_is_refused():
    server = Server()
    server.gate.clear()
    producer = Producer(lambda: server, max_pending=1)
    errors = []

    def again(future):
        for waits in (producer.flush, lambda: producer.push(job(2))):
            with pytest.raises(RuntimeError) as caught:
                waits()
            errors.append(str(caught.value).split(" would")[0])

    future = producer.push(job(1))
    future.add_done_callback(again)
    server.gate.set()
    future.result(10)
    producer.close(10)
    assert errors == ["flush", "push into a full producer"]


def test_close_takes_no_longer_than_its_timeout():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        producer = Producer(lambda: Client(url, timeout=20))
        producer.push(job(1))
        began = time.monotonic()
        with pytest.raises(FaktoryTimeout):
            producer.close(0.5)
        assert time.monotonic() - began < 10  # much less than the client's timeout


def test_a_future_that_closes_its_producer_gets_an_error_and_no_deadlock() -> None:
    errors: list[BaseException] = []
    closed = threading.Event()

    def close(_: object) -> None:
        try:
            producer.close()
        except RuntimeError as error:
            errors.append(error)
        closed.set()

    with EmbeddedServer() as server, Producer(server.url) as producer:
        producer.push({"jobtype": "Resize", "args": []}).add_done_callback(close)
        assert closed.wait(20)
        assert "close would wait for itself" in str(errors[0])
        assert producer.push({"jobtype": "Resize", "args": []}).result(20)

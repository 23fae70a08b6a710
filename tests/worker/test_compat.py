"""Workers as programs for faktory 1.0.0 make them."""

from __future__ import annotations

import inspect
import logging
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from faktory import Worker
from faktory.worker import Task

from .conftest import count


def test_the_arguments_of_1_0_0_are_accepted():
    log = logging.getLogger("mine")
    worker = Worker(
        "tcp://:secret@somewhere:7500",
        queues=["a", "b"],
        concurrency=3,
        disconnect_wait=5,
        log=log,
        labels=["one", "two"],
        worker_id="w-12345678",
        use_threads=True,
        timeout=60,
        buffer_size=8192,
    )
    assert worker.get_queues() == ["a", "b"]
    assert (worker.concurrency, worker.disconnect_wait, worker.log) == (3, 5, log)
    assert (worker.labels, worker.worker_id) == (["one", "two"], "w-12345678")
    assert (worker.faktory.host, worker.faktory.port) == ("somewhere", 7500)


def test_the_defaults_are_those_of_1_0_0():
    worker = Worker("tcp://somewhere")
    assert worker.get_queues() == ["default"]
    assert (worker.concurrency, worker.disconnect_wait) == (1, 15)
    assert (worker.log.name, worker.labels) == ("faktory.worker", ["python"])
    assert len(worker.worker_id) == 32
    assert worker.send_heartbeat_every == 15
    assert not worker.is_quiet
    assert not worker.is_disconnecting
    waits = inspect.signature(worker.disconnect).parameters
    assert (waits["force"].default, waits["wait"].default) == (False, 30)


@pytest.mark.parametrize(
    "options",
    [{"use_threads": False}, {"executor": ProcessPoolExecutor}, {"executor": ThreadPoolExecutor}],
)
def test_processes_and_executors_are_chosen_as_in_1_0_0(options):
    assert Worker("tcp://somewhere", **options).busy == 0


def test_labels_may_be_none():
    assert Worker("tcp://somewhere", labels=None).labels == []


def test_an_unknown_argument_is_a_type_error():
    with pytest.raises(TypeError):
        Worker("tcp://somewhere", concurency=2)


def test_a_worker_may_be_built_in_any_thread():
    built: list[Worker] = []
    thread = threading.Thread(target=lambda: built.append(Worker("tcp://somewhere")))
    thread.start()
    thread.join()
    assert len(built) == 1


def test_tasks_are_registered_replaced_and_forgotten():
    worker = Worker("tcp://somewhere")
    worker.register("add", max)
    worker.register("add", min, bind=True)
    assert worker.get_registered_task("add") == Task(name="add", func=min, bind=True)
    worker.deregister("add")
    worker.deregister("add")
    with pytest.raises(ValueError, match="'add' is not a registered task"):
        worker.get_registered_task("add")
    with pytest.raises(ValueError, match="task func is not callable"):
        worker.register("add", "no function")


class Mine(Worker):
    """Overrides the methods that may be overridden in 1.0.0."""

    send_heartbeat_every = 0.05
    calls = 0

    def get_worker_id(self) -> str:
        return f"mine-{self.get_queues()[0]}-{self.concurrency}-{self.labels[0]}"

    def get_queues(self):
        self.calls += 1
        return ["other"]


def test_the_hooks_of_1_0_0_may_be_overridden_and_run_returns(server, push, start, wait_until):
    ran: list[object] = []
    jids = [push("add", 1, 2, queue="other"), push("add", 3, queue="other")]
    worker = Mine(server.url)
    assert worker.worker_id == "mine-other-1-python"
    worker.register("add", lambda *args: ran.append(args), bind=True)
    running = start(worker)
    wait_until(lambda: len(ran) == 2)
    assert ran == [(jids[0], 1, 2), (jids[1], 3)]
    # FETCH waits 0.1 s here; the second heartbeat of 1.0.0 would come after 15 s.
    wait_until(lambda: count(server, "BEAT") > 2)
    assert worker.calls > 2
    worker.disconnect()
    running.join()
    assert worker.is_quiet
    assert worker.is_disconnecting

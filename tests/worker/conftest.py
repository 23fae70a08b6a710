"""An embedded server that does not keep FETCH waiting for long, and workers that are ended."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from faktory import Client, Worker
from faktory.jobs import registry
from faktory.server import EmbeddedServer
from faktory.server.state import Timing

# What makes processes cannot be imported on a system that has no fork.
collect_ignore = [] if hasattr(os, "fork") else ["test_fork_server.py", "test_children.py"]

Push = Callable[..., str]
Start = Callable[[Worker], "Running"]
WaitUntil = Callable[..., object]


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    """A server whose FETCH waits 0.1 s for a job, not 2."""
    with EmbeddedServer(timing=Timing(fetch_wait=0.1)) as server:
        yield server


@pytest.fixture
def push(server: EmbeddedServer) -> Callable[..., str]:
    """`push(jobtype, *args, **fields)`: queue a job in "default", return its jid."""

    def push(jobtype: str, *args: Any, **fields: Any) -> str:
        with Client(server.url) as client:
            return client.push({"jobtype": jobtype, "args": list(args), **fields})

    return push


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test declares is unknown to the next one."""
    monkeypatch.setattr(registry, "_jobs", {})


class Running:
    """A worker that runs in a thread of its own, and what `run` ended with."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="test-run")
        self.thread.start()

    def _run(self) -> None:
        try:
            self.worker.run()
        except BaseException as error:
            self.error = error

    def join(self) -> None:
        """Wait for `run` to return; raise what it raised."""
        self.thread.join(15)
        assert not self.thread.is_alive()
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        """Stop the worker and see that it stops."""
        self.worker.stop()
        self.join()


@pytest.fixture
def start() -> Iterator[Callable[[Worker], Running]]:
    """`start(worker)`: run it in a thread; after the test nothing of it may be left."""
    running: list[Running] = []

    def start(worker: Worker) -> Running:
        running.append(Running(worker))
        return running[-1]

    yield start
    for each in running:
        each.worker.disconnect(force=True)
        each.thread.join(15)
        assert not each.thread.is_alive()
    assert threads_left() == []
    running.clear()
    gc.collect()  # a socket that was not closed complains now, which is an error


def threads_left() -> list[str]:
    """The worker's threads that are alive."""
    return [
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith("faktory-") and thread.name != "faktory-server"
    ]


def reports(server: EmbeddedServer, jid: str) -> list[str]:
    """The verbs of all reports that the server got for a job."""
    return [verb for verb, text in server.commands if verb in ("ACK", "FAIL") and jid in text]


def messages(caplog: pytest.LogCaptureFixture, part: str) -> list[str]:
    """What was logged with this part in it."""
    return [message for message in caplog.messages if part in message]


def spin(*_: object) -> None:
    """Run until interrupted, in Python."""
    while True:
        time.sleep(0.001)

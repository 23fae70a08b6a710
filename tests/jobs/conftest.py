"""A registry and a server's stand-in of its own for each test of the jobs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

import faktory
from faktory.client import defaults, network
from faktory.exceptions import FaktoryConnectionResetError, FaktoryServerError
from faktory.jobs import registry
from faktory.jobs.middleware import client_middleware
from faktory.wire.commands import Command
from faktory.wire.recovery import ConnectionBroken
from faktory.wire.session import Answer

from ..support import FakeNetwork


class Line:
    """Takes the place of a server: keeps what is pushed, as it was on the line.

    `refuse` gives the reason for refusing a job, `break_after` the number of pushes after which
    the line breaks in the middle of one. What is no push is kept in `said`; batches are made as
    b-1, b-2 and so on, if the server is one that `knows_batches`.
    """

    def __init__(self) -> None:
        self.description = "Faktory Enterprise"
        self.knows_batches = True
        self.batches = 0
        self.said: list[str] = []
        self.jobs: list[dict[str, Any]] = []
        self.sizes: list[int] = []
        self.refuse: Callable[[dict[str, Any]], str | None] = lambda job: None
        self.break_after: int | None = None
        self.opened: list[str] = []

    def exchange(self, sent: Sequence[Command[Any]]) -> list[Answer]:
        if self.break_after == len(self.sizes):
            cause = FaktoryConnectionResetError("the line broke")
            raise ConnectionBroken([], sum(len(command.data) for command in sent), cause)
        return [self._answer(command) for command in sent]

    def _answer(self, command: Command[Any]) -> Answer:
        verb, _, text = command.data.decode().rstrip().partition(" ")
        if verb not in ("PUSH", "PUSHB"):
            return self._answer_other(command, f"{verb} {text}".rstrip())
        jobs = json.loads(text) if verb == "PUSHB" else [json.loads(text)]
        self.sizes.append(len(jobs))
        refused = {job["jid"]: why for job in jobs if (why := self.refuse(job))}
        self.jobs += [job for job in jobs if job["jid"] not in refused]
        if verb == "PUSHB":
            return Answer(command, command.read(refused), None)
        if refused:
            return Answer(command, None, FaktoryServerError.of(f"ERR {refused[jobs[0]['jid']]}"))
        return Answer(command, command.read("OK"), None)

    def _answer_other(self, command: Command[Any], said: str) -> Answer:
        self.said.append(said)
        if not self.knows_batches and said.startswith("BATCH"):
            why = "ERR batch subsystem is only available in Faktory Enterprise"
            return Answer(command, None, FaktoryServerError.of(why))
        reply: object = "OK"
        if said == "INFO":
            reply = {"server": {"description": self.description}}
        elif said.startswith("BATCH NEW"):
            self.batches += 1
            reply = f"b-{self.batches}"
        elif said.startswith("BATCH STATUS"):
            reply = {"bid": said.split()[-1], "total": 3, "pending": 1}
        return Answer(command, command.read(reply), None)

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """What this process's pushes arrive at."""
    line = Line()

    def connect(address: Any, *_: object) -> Line:
        line.opened.append(address.place)
        return line

    monkeypatch.setattr(network, "current", FakeNetwork(connect))
    monkeypatch.setattr(defaults, "_settings", {})
    defaults.configure(url="tcp://stand-in:1")
    yield line
    defaults.configure()


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test declares, and says of all jobs, is unknown to the next one."""
    monkeypatch.setattr(registry, "_jobs", {})
    monkeypatch.setattr(faktory, "default_job_options", {})
    before = list(client_middleware)
    yield
    client_middleware.clear()
    for middleware in before:
        client_middleware.add(middleware)

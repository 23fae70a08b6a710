"""Helpers for the tests of the jobs and of the testing kit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

import faktory
from faktory.client import defaults, network
from faktory.exceptions import FaktoryConnectionResetError, FaktoryServerError
from faktory.jobs import JobContext, client_middleware, registry, worker_middleware
from faktory.wire.commands import Command
from faktory.wire.recovery import ConnectionBroken
from faktory.wire.session import Answer

from ..support import FakeNetwork


class FakeServer:
    """Takes the place of every connection, and keeps the pushed jobs as they were sent.

    `refuse` returns the reason for refusing a job, or None. After `break_after` pushes the
    connection breaks in the middle of the next one. Commands other than pushes are kept in
    `other_commands`. Batches are created as b-1, b-2 and so on, unless `has_batches` is False.
    """

    def __init__(self) -> None:
        self.description = "Faktory Enterprise"
        self.has_batches = True
        self.batches = 0
        self.other_commands: list[str] = []
        self.jobs: list[dict[str, Any]] = []
        self.sizes: list[int] = []
        self.refuse: Callable[[dict[str, Any]], str | None] = lambda job: None
        self.break_after: int | None = None
        self.opened: list[str] = []

    def exchange(self, sent: Sequence[Command[Any]]) -> list[Answer]:
        if self.break_after == len(self.sizes):
            cause = FaktoryConnectionResetError("the connection broke")
            raise ConnectionBroken([], sum(len(command.data) for command in sent), cause)
        return [self._answer(command) for command in sent]

    def _answer(self, command: Command[Any]) -> Answer:
        verb, _, text = command.data.decode().rstrip().partition(" ")
        if verb not in ("PUSH", "PUSHB"):
            return self._answer_other(command, f"{verb} {text}".rstrip())
        jobs = json.loads(text) if verb == "PUSHB" else [json.loads(text)]
        self.sizes.append(len(jobs))
        refused = {job["jid"]: reason for job in jobs if (reason := self.refuse(job))}
        self.jobs += [job for job in jobs if job["jid"] not in refused]
        if verb == "PUSHB":
            return Answer(command, command.read(refused), None)
        if refused:
            return Answer(command, None, FaktoryServerError.of(f"ERR {refused[jobs[0]['jid']]}"))
        return Answer(command, command.read("OK"), None)

    def _answer_other(self, command: Command[Any], text: str) -> Answer:
        self.other_commands.append(text)
        if not self.has_batches and text.startswith("BATCH"):
            reason = "ERR batch subsystem is only available in Faktory Enterprise"
            return Answer(command, None, FaktoryServerError.of(reason))
        reply: object = "OK"
        if text == "INFO":
            reply = {"server": {"description": self.description}}
        elif text.startswith("BATCH NEW"):
            self.batches += 1
            reply = f"b-{self.batches}"
        elif text.startswith("BATCH STATUS"):
            reply = {"bid": text.split()[-1], "total": 3, "pending": 1}
        return Answer(command, command.read(reply), None)

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


@contextmanager
def faked_server() -> Iterator[FakeServer]:
    """Have this process push to a fake server."""
    server = FakeServer()

    def connect(address: Any, *_: object) -> FakeServer:
        server.opened.append(address.place)
        return server

    with pytest.MonkeyPatch.context() as patch, defaults.configured(url="tcp://fake:1"):
        patch.setattr(network, "current", FakeNetwork(connect))
        yield server


@contextmanager
def new_process() -> Iterator[None]:
    """Begin as a new process does: nothing is declared, configured or put around jobs."""
    chains = (client_middleware, worker_middleware)
    before = [list(chain) for chain in chains]
    with pytest.MonkeyPatch.context() as patch, registry.isolated():
        for name in ("FAKTORY_URL", "FAKTORY_PROVIDER"):
            patch.delenv(name, raising=False)
        patch.setattr(faktory, "default_job_options", {})
        with defaults.configured():
            yield
    for chain, entries in zip(chains, before, strict=True):
        chain.clear()
        for middleware in entries:
            chain.add(middleware)  # type: ignore[arg-type]


def run(jobtype: str, *args: object, jid: str = "12345678") -> object:
    """Run a job of this type as a worker would."""
    job = registry.find(jobtype)
    assert job is not None
    return job.run(JobContext({"jid": jid, "jobtype": jobtype, "args": list(args)}))

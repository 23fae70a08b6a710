"""The contract with a server, spoken by an async client, on each kind of loop.

The commands of the contract's tests go through one AsyncClient a connection; what has a method of
its own goes by that. Its tests with threads are here with tasks; its random commands, which compare
two servers, are left out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from math import inf
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

import faktory
from faktory.exceptions import (
    FaktoryConnectionError,
    FaktoryOutcomeUnknown,
    FaktoryPayloadError,
    FaktoryServerError,
)
from faktory.jobs import schedule
from faktory.proto import new_jid
from faktory.server import EmbeddedServer
from faktory.server.state import Timing
from faktory.wire.address import parse
from faktory.wire.commands import Command

from ..client.proxy import Proxy
from ..contract import test_failure_contract, test_push_contract, test_server_contract
from ..contract.conftest import RawClient, dialer, name, true_waits  # noqa: F401
from ..contract.test_repeated_pushes import BREAKS, count_jobs, press, random_fault
from ..jobs.support import new_process
from .support import Adapter, run_in

NOT_THE_ASYNC_CLIENTS = {
    "test_hello_needs_no_field": "the handshake as bytes",
    "test_an_invalid_hello_is_answered_with_a_close": "the handshake as bytes",
    "test_a_client_without_a_hello_is_disconnected_after_two_seconds": "the handshake as bytes",
    "test_fetch_waits_two_seconds_and_returns_nil": "the server's time, as for any client",
    "test_end_closes_without_a_reply": "nobody answers END",
    "test_an_unknown_command_is_named_by_its_bytes": "its errors are text",
    "test_a_bare_newline_ends_a_command_and_a_raw_one_inside_splits_it": "more answers than lines",
}

found: dict[str, object] = {}
for module in (test_server_contract, test_push_contract, test_failure_contract):
    found |= {each: test for each, test in vars(module).items() if each.startswith("test_")}
globals().update({each: found[each] for each in found if each not in NOT_THE_ASYNC_CLIENTS})


class AsyncRawClient(RawClient):
    """Sends command lines through an AsyncClient; shows its answers as they are on the wire."""

    def __init__(self, url: str, wid: str | None = None) -> None:
        self.adapter = Adapter(url, timeout=10, worker_id=wid)
        self.client = self.adapter._client
        self.waiting: deque[asyncio.Task[Any]] = deque()
        self.socket: Any = SimpleNamespace(close=self.adapter.close)

    def shake_hands(self) -> None:
        self.adapter.connect()

    def send(self, *lines: str | bytes) -> None:
        for line in lines:
            data = (line.encode() if isinstance(line, str) else line) + b"\r\n"
            verb = data.split()[0].decode("latin-1") if data.strip() else ""
            wait = inf if verb == "FETCH" else 0.0
            command = Command(verb, data, lambda reply: reply, idempotent=False, min_timeout=wait)
            self.waiting.append(self.adapter.loop.create_task(self.client.call(command)))
        self.adapter._run(asyncio.sleep(0))
        self.adapter._run(asyncio.sleep(0))  # uvloop writes at the end of a turn

    def reply(self, timeout: float = 10) -> Any:
        self.adapter._run(asyncio.wait({self.waiting[0]}, timeout=timeout))
        if not self.waiting[0].done():
            raise TimeoutError
        return self.answer(self.waiting.popleft().result)

    def push(self, jid: str, queue: str, **fields: object) -> Any:
        job: Any = {"jid": jid, "queue": queue, "jobtype": "T", "args": [], "retry": 25, **fields}
        try:
            return self.answer(lambda: self.adapter.push(job) and "OK")
        except FaktoryPayloadError:  # refused here: the server shall say what it says
            return super().push(jid, queue, **fields)

    def fetch(self, *queues: str) -> Any:
        return self.adapter.fetch(*queues)

    def answer(self, ask: Any) -> Any:
        """Return the bytes of an answer, without the length of a bulk reply."""
        try:
            value = ask()
        except FaktoryServerError as error:
            return b"-" + str(error).encode("utf-8", "surrogateescape")
        return b"+" + value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


@pytest.fixture(scope="module", autouse=True)  # before sockets are counted
def embedded():
    with EmbeddedServer(timing=Timing(fetch_wait=0.05)) as server:
        yield server.url


@pytest.fixture(params=["embedded", "real"])
def url(request, adapter):
    """The address of each server in turn; one embedded server does for all tests, as a real one."""
    if request.param == "real":
        yield request.getfixturevalue("real_server_url")
    elif "true_waits" not in request.fixturenames:
        yield request.getfixturevalue("embedded")
    else:
        with EmbeddedServer() as server:
            yield server.url


@pytest.fixture
def dial(url):
    yield from dialer(url, AsyncRawClient)


def test_what_is_left_out_is_there():
    assert NOT_THE_ASYNC_CLIENTS.keys() <= found.keys()


# Many tasks push while their connection breaks, see test_repeated_pushes.py.

TASKS = 32


@pytest.fixture
def proxy(url):
    chance = Random(20)
    proxy = Proxy(parse(url).port)
    proxy.plan_each(lambda: random_fault(chance))
    with new_process():
        faktory.configure(url=f"tcp://127.0.0.1:{proxy.port}", timeout=30)
        yield proxy
    proxy.stop()


async def until_pushed(push):
    """Repeat a push until it succeeds; return its value, and the jids in doubt before."""
    doubtful = []
    for _ in range(BREAKS):
        try:
            return await push(), doubtful
        except FaktoryOutcomeUnknown as error:
            doubtful += error.jids
        except FaktoryConnectionError:
            pass
    pytest.fail("no connection held for the length of a push")


def in_tasks(kind, push):
    """Push from each of many tasks, by their numbers; return the jids, and those in doubt."""

    async def main():
        ended = await asyncio.gather(
            *(until_pushed(partial(push, number)) for number in range(TASKS))
        )
        return [jid for jid, _ in ended], {each for _, doubtful in ended for each in doubtful}

    return run_in(kind, main())


def test_a_debounced_job_that_many_tasks_push_over_a_broken_connection_is_there_once(
    kind, url, proxy, monkeypatch
):
    monkeypatch.setattr(schedule, "time", lambda: 2e9)  # no window ends meanwhile
    jobtype = new_jid()
    job = faktory.job(name=jobtype, queue=jobtype)(press).set(debounce=1000)
    jids, _ = in_tasks(kind, lambda _: job.aperform(1))
    assert proxy.opened > 5, "hardly a connection broke"
    assert count_jobs(url, jobtype, jobtype) == {jids[0]: 1}
    assert set(jids) == {jids[0]}


def test_scheduled_jobs_of_many_tasks_over_a_broken_connection_are_there_once_each(
    kind, url, proxy
):
    jobtype = new_jid()
    job = faktory.job(name=jobtype, queue=jobtype)(press)
    jids, doubtful = in_tasks(kind, lambda number: job.aperform_in(3600, number))
    assert proxy.opened > 5, "hardly a connection broke"
    there = count_jobs(url, jobtype, jobtype)
    assert set(there.values()) == {1}
    assert set(jids) <= there.keys() <= set(jids) | doubtful

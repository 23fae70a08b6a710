"""A connection is cut, or a worker killed, at every byte by which a job is pushed again or a chain
goes on: no job is lost, none is counted twice, and none stays twice.

FAKTORY_SERVER_COMMAND starts the real server: see `real.RealFaktory`.
"""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import faktory
from faktory import Client, Retry
from faktory.jobs.context import JobContext
from faktory.server import EmbeddedServer
from faktory.server.state import Timing
from faktory.wire.commands import Command
from faktory.wire.log import Log
from faktory.wire.session import Answer
from faktory.worker import Task
from faktory.worker import timing as worker_timing
from faktory.worker.delivery import Delivery
from faktory.worker.heartbeat import Heartbeat

from ..client.proxy import Fault, Proxy, Way
from .conftest import Start, WaitUntil, make_manager, make_worker, succeed
from .real import RealFaktory, Server, serving

LOG = logging.getLogger("test.retry_faults")
QUICK = worker_timing.Timing(backoff=lambda attempt, random: 0.0)
JOBS = 1500
"""More than there are bytes to cut at."""
RESERVED, LATER = 1800, 3600
"""Seconds of a reservation, and what is longer than that."""


@pytest.fixture(params=["embedded", "real"])
def server(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    wait_until: WaitUntil,
) -> Iterator[Server]:
    # Bytes are counted on the connection that was opened last: the processor's is the only one.
    monkeypatch.setattr(Heartbeat, "start", lambda self: None)
    with serving(request.param, tmp_path, wait_until) as running:
        yield running


def retry_later(*_: object) -> None:
    raise Retry("later", after=LATER)


# The connection is cut


def test_a_retry_that_is_cut_at_any_byte_leaves_one_job(
    server: Server, start: Start, wait_until: WaitUntil
) -> None:
    job = {"jobtype": "work", "args": [], "retry": 3}
    ran, faults = cut_everywhere(server, start, wait_until, retry_later, job)
    with Client(server.url) as client:
        sets = client.info()["faktory"]["sets"]
        assert (sets["retries"], sets["dead"]) == (0, 0)
        assert sets["scheduled"] == len(ran)
        assert_only_fetches_are_lost(sets["working"], JOBS - len(ran), faults)
        client.requeue("scheduled")
        jobs = drain(client, "default")
    assert Counter(job["jid"] for job in jobs) == ran
    counts = {(job["failure"]["retry_count"], job["failure"]["remaining"]) for job in jobs}
    assert counts == {(0, 3)}


def test_a_burial_that_is_cut_at_any_byte_is_done_once(
    server: Server, start: Start, wait_until: WaitUntil
) -> None:
    @faktory.job(retry_on=KeyError)
    def work() -> None:
        ran()
        raise ValueError("never again")

    ran: Callable[[], None] = succeed

    def run(count: Callable[[], None]) -> None:
        nonlocal ran
        ran = count

    job = {"jobtype": "work", "args": [], "retry": 3}
    found, faults = cut_everywhere(server, start, wait_until, succeed, job, run)
    with Client(server.url) as client:
        sets = client.info()["faktory"]["sets"]
        # The real server may still be at the FAIL of the old connection when the MUTATE of the new
        # one comes: such a job is tried once more.
        spared = sets["retries"]
        assert spared == 0 or (spared < 20 and isinstance(server, RealFaktory))
        assert (sets["dead"], sets["scheduled"]) == (len(found) - spared, 0)
        assert_only_fetches_are_lost(sets["working"], JOBS - len(found), faults)
        client.requeue("dead")
        client.requeue("retries")
        jobs = drain(client, "default")
    assert Counter(job["jid"] for job in jobs) == found
    assert {job["failure"]["retry_count"] for job in jobs} == {0}


def test_a_chain_that_is_cut_at_any_byte_goes_on(
    server: Server, start: Start, wait_until: WaitUntil
) -> None:
    after = {"jobtype": "after", "args": [], "queue": "later"}
    numbers = iter(range(JOBS))

    def job() -> dict[str, Any]:
        jid = f"after-{next(numbers):04}"
        custom = {"faktory_chain": [{**after, "jid": jid}]}
        return {"jobtype": "work", "args": [], "jid": f"work-{jid[-4:]}", "custom": custom}

    ran, faults = cut_everywhere(server, start, wait_until, succeed, job)
    with Client(server.url) as client:
        sets = client.info()["faktory"]["sets"]
        assert (sets["retries"], sets["dead"], sets["scheduled"]) == (0, 0, 0)
        assert_only_fetches_are_lost(sets["working"], JOBS - len(ran), faults)
        pushed = Counter(job["jid"] for job in drain(client, "later"))
    assert {jid[-4:] for jid in pushed} == {jid[-4:] for jid in ran}
    assert max(ran.values()) == 1
    assert max(pushed.values()) <= 2  # a cut before the answer: it is pushed once more
    assert sum(count == 2 for count in pushed.values()) <= sum(
        fault.way == "reply" or fault.offset > 0 for fault in faults
    )


def cut_everywhere(
    server: Server,
    start: Start,
    wait_until: WaitUntil,
    end: Callable[[], None],
    job: dict[str, Any] | Callable[[], dict[str, Any]],
    runs: Callable[[Callable[[], None]], None] | None = None,
) -> tuple[Counter[str], list[Fault]]:
    """Run jobs, each of which has the exchange after it cut at the next byte.

    Return how often each has run, and the faults. With `runs` the declared job calls what that is
    given, else each ends with `end`.
    """
    ways: tuple[Way, ...] = ("request", "reply")
    faults: list[Fault] = []
    planned = 0
    ran: Counter[str] = Counter()
    proxy = Proxy(server.port)

    def note() -> None:
        nonlocal planned
        ran[faktory.current_job().jid] += 1
        if len(ran) == 2:  # between the first job and this one there was one full exchange
            faults.extend(
                Fault("cut", way, at) for way in ways for at in range(len(proxy.moved[way]) + 1)
            )
        if planned < len(faults):
            proxy.plan(faults[planned])
            planned += 1
        elif not faults:
            proxy.plan(None)

    def work() -> None:
        note()
        end()

    if runs is not None:
        runs(note)
    tasks = {} if runs is not None else {"work": work}
    with Client(server.url) as client:
        jobs = [job() if callable(job) else job for _ in range(JOBS)]
        assert client.push_bulk(jobs) == {}
        running = start(make_worker(f"tcp://127.0.0.1:{proxy.port}", tasks, timing=QUICK))
        wait_until(lambda: len(faults) and planned == len(faults), timeout=60)
        wait_until(lambda: not client.info()["faktory"]["queues"].get("default"), timeout=60)
        running.stop()
    proxy.stop()
    assert len(faults) > 200
    assert planned < JOBS
    assert set(ran.values()) == {1}
    return ran, faults


def assert_only_fetches_are_lost(reserved: int, missing: int, faults: list[Fault]) -> None:
    """Only a FETCH that the server received reserves a job that did not run."""
    assert reserved == missing
    assert missing <= 1 + sum(fault.way == "reply" for fault in faults)


def drain(client: Client, queue: str) -> list[dict[str, Any]]:
    """Fetch and acknowledge all jobs of a queue."""
    jobs: list[dict[str, Any]] = []
    while (job := client.fetch(queue)) is not None:
        jobs.append(dict(job))
        client.ack(job["jid"])
    return jobs


# The worker is killed


class Doomed:
    """A worker that runs one job and is killed when it has sent so many bytes of its report."""

    def __init__(self, server: EmbeddedServer, fails: Callable[..., None], **fields: Any) -> None:
        self._server = server
        self._processor = make_manager({"work": Task("work", fails, False)}, LOG).make_processor(
            "faktory-1"
        )
        self._fields = {"jobtype": "work", "args": [], "retry": 3, **fields}

    def fetch(self, client: Client) -> JobContext:
        """Push and fetch a job."""
        jid = client.push({**self._fields})
        payload = client.fetch("default")
        assert payload is not None
        assert payload["jid"] == jid
        return JobContext(dict(payload))

    def die(self, client: Client, after: int) -> tuple[str, bool, int]:
        """Return the jid, whether the first step arrived and the last did not, and the bytes."""
        job = self.fetch(client)
        self._processor._manager.server_clock.learn(None, 0.0)  # or it would be asked first
        report = self._processor.run_job(job)
        total = 0
        steps = 0
        with socket.create_connection(("127.0.0.1", self._server.port)) as sock:
            stream = sock.makefile("rb")
            stream.readline()
            sock.sendall(b'HELLO {"v":2}\r\n')
            assert stream.readline() == b"+OK\r\n"
            while report is not None:
                data = report.commands[0].data
                total += len(data)
                if after >= len(data):
                    sock.sendall(data)
                    answer = b"$2\r\n" if data.startswith(b"PUSHB") else b"+OK\r\n"
                    assert stream.readline() == answer
                    assert answer != b"$2\r\n" or stream.readline() == b"{}\r\n"
                    after -= len(data)
                    steps += 1
                elif after >= 0:
                    sock.sendall(data[:after])
                    after = -1  # it is dead: the rest is not sent, and only counted
                report = self._answered(report)
        return job.jid, steps == 1, total

    def _answered(self, report: Delivery) -> Delivery | None:
        command: Command[None] = report.commands[0]
        return report.on_answers([Answer(command, None, None)], Log(LOG))


def kill_everywhere(
    server: EmbeddedServer, fails: Callable[..., None], **fields: Any
) -> dict[str, bool]:
    """Kill a worker at each byte of a report; return each jid, and whether between two steps."""
    doomed = Doomed(server, fails, **fields)
    found: dict[str, bool] = {}
    with Client(server.url) as client:
        jid, between, total = doomed.die(client, 0)
        found[jid] = between
        for after in range(1, total + 1):
            jid, between, _ = doomed.die(client, after)
            found[jid] = between
    assert len(found) == total + 1
    assert 20 < sum(found.values()) < total
    return found


def run_all(server: EmbeddedServer, jump: int) -> list[tuple[str, int]]:
    """Move the clock, and run what is due: each jid, and which attempt it was."""
    server.travel(jump)
    with Client(server.url) as client:
        return [(job["jid"], JobContext(job).attempt) for job in drain(client, "default")]


def assert_empty(server: EmbeddedServer) -> None:
    server.travel(10 * LATER)
    assert not any(server.queues.values())
    assert [*server.scheduled, *server.retries, *server.dead, *server.working] == []


@pytest.fixture
def embedded() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(timing=Timing(fetch_wait=0.02)) as server:
        yield server


@pytest.mark.parametrize("counted", [True, False])
def test_a_job_whose_worker_is_killed_at_any_byte_of_a_retry_runs_once_more(
    embedded: EmbeddedServer, counted: bool
) -> None:
    def fails() -> None:
        raise Retry(after=60, count=counted)

    killed = kill_everywhere(embedded, fails)
    ran = run_all(embedded, 61)  # those that were pushed again
    assert len(ran) >= sum(killed.values())
    assert {attempt for _, attempt in ran} == {2 if counted else 1}
    late = run_all(embedded, RESERVED + 100)  # the reservations end
    assert {attempt for _, attempt in late} == {2}  # the server has counted these
    assert Counter(jid for jid, _ in ran + late) == Counter(killed.keys())
    assert_empty(embedded)


def test_a_job_whose_worker_is_killed_between_push_and_ack_runs_twice_at_most(
    embedded: EmbeddedServer,
) -> None:
    """The next run is later than the end of the reservation: the server tries it again as well."""
    killed = kill_everywhere(embedded, retry_later)
    ran = run_all(embedded, RESERVED + 100)
    assert {jid for jid, between in killed.items() if between} <= {jid for jid, _ in ran}
    ran += run_all(embedded, LATER)
    assert {attempt for _, attempt in ran} == {2}  # neither counts what the other has counted
    counts = Counter(jid for jid, _ in ran)
    assert counts == {jid: 1 + between for jid, between in killed.items()}
    assert_empty(embedded)


def test_a_chain_whose_worker_is_killed_at_any_byte_goes_on(embedded: EmbeddedServer) -> None:
    after = {"jobtype": "after", "args": [], "queue": "later", "jid": "after-it"}
    killed = kill_everywhere(embedded, succeed, custom={"faktory_chain": [after]})
    with Client(embedded.url) as client:
        pushed = len(drain(client, "later"))
        embedded.travel(RESERVED + 100)
        again = drain(client, "default")
    # The bytes of ACK are the same in each, and all but the last was killed before they ended.
    assert pushed == sum(killed.values()) + 1
    assert Counter(job["jid"] for job in again) == Counter([*killed][:-1])
    assert all(job["custom"]["faktory_chain"][0]["jid"] == "after-it" for job in again)
    assert_empty(embedded)

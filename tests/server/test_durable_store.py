"""The file mirrors the store: whatever commands have done, a server that opens it has the same."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from faktory.server.commands import execute
from faktory.server.disk.state import DurableState
from faktory.server.disk.store import DurableStore
from faktory.server.go.time import SECOND, read
from faktory.server.workers import ClientRecord

from .durable import contents, copy

Open = Callable[..., DurableState]


class Clock:
    def __init__(self) -> None:
        self.now = read("2026-01-01T00:00:00Z")

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(tmp_path: Path, clock: Clock) -> Iterator[Open]:
    """`opened(path)`: a state with this file, closed with the test."""
    states = []

    def opened(path: Path = tmp_path / "jobs.db", **options: Any) -> DurableState:
        state = DurableState(str(path), "normal", now=clock, **options)
        state.open()
        states.append(state)
        return state

    yield opened
    for state in states:
        state.close()


WORKER = ClientRecord({"wid": "w1"})


def call(state: DurableState, line: str) -> Any:
    reply = execute(state, WORKER, line.encode())
    if not isinstance(reply, bytes) or not reply.startswith(b"$"):
        return reply
    return reply.partition(b"\r\n")[2][:-2]


def push(state: DurableState, jid: str, **fields: object) -> None:
    job = {"jid": jid, "jobtype": "T", "args": [], **fields}
    assert call(state, "PUSH " + json.dumps(job)) == b"+OK\r\n", fields


def check(state: DurableState, opened: Open, to: Path) -> None:
    """Commit, and compare with what another server finds in a copy of the file."""
    state.store.sample()
    state.commit()
    enterprise = "batches" in contents(state.store)
    other = opened(copy(Path(state.path), to), enterprise=enterprise)
    assert contents(other.store) == contents(state.store)
    assert other.store.next_due() == state.store.next_due()
    other.close()


# Random commands.


class Traffic:
    """Random commands, of few jids, queues and types, so that they get in each other's way."""

    def __init__(self, state: DurableState, clock: Clock, seed: int, enterprise: bool) -> None:
        self.state = state
        self.clock = clock
        self.random = random.Random(seed)
        self.numbers = count()
        self.bids: list[str] = []
        self.enterprise = enterprise

    def step(self) -> None:
        ways = [self.push] * 6 + [self.bulk] + [self.fetch] * 6 + [self.ack] * 3 + [self.fail] * 3
        ways += [self.queue, self.mutate, self.forward]
        if self.random.random() < 0.01:
            ways = [self.flush]
        if self.enterprise:
            ways += [self.batch] * 3 + [self.track]
        self.random.choice(ways)()

    def job(self) -> dict[str, object]:
        choose = self.random.choice
        job: dict[str, object] = {
            # Some twice: two copies of a job share a reservation.
            "jid": f"job-{next(self.numbers) if choose((1, 1, 1, 0)) else choose(range(20)):06}",
            "jobtype": choose("AB"),
            "queue": choose(("default", "q1", "q2")),
            "args": choose(([], [1, 2.5, "\u00e4<>"], [{"b": [None], "a": 1e30}])),
            "retry": choose((25, 25, 1, 0, -1)),
        }
        if choose((0, 0, 1)):
            years = choose((0, 0, 0, 300, 7000))
            at = self.clock.now + self.random.randrange(-10, 1000) * SECOND
            job["at"] = f"{2026 + years}-01-{1 + at // SECOND % 28:02}T00:00:00.5Z"
        if choose((0, 0, 0, 1)):
            job["failure"] = {"retry_count": choose((0, 3, 70_000)), "message": "m"}
        if self.enterprise:
            custom: dict[str, object] = {}
            if choose((0, 1)):
                custom["unique_for"] = choose((1, 100))
                custom["unique_until"] = choose(("start", "success"))
            if choose((0, 1)):
                custom["track"] = 1
            if choose((0, 0, 1)):
                custom["expires_in"] = choose((1, 1000))
            if self.bids and choose((0, 1)):
                custom["bid"] = choose(self.bids)
            job["custom"] = custom
        return job

    def push(self) -> None:
        call(self.state, "PUSH " + json.dumps(self.job()))

    def bulk(self) -> None:
        call(self.state, "PUSHB " + json.dumps([self.job() for _ in range(30)]))

    def fetch(self) -> None:
        call(self.state, "FETCH q1 default q2")

    def reserved(self) -> str:
        jids = list(self.state.store.reservations)
        return self.random.choice(jids) if jids else "none"

    def ack(self) -> None:
        call(self.state, f'ACK {{"jid":"{self.reserved()}"}}')

    def fail(self) -> None:
        call(self.state, f'FAIL {{"jid":"{self.reserved()}","message":"boom","backtrace":["l"]}}')

    def queue(self) -> None:
        what = self.random.choice(("PAUSE", "RESUME", "PAUSE", "RESUME", "REMOVE"))
        call(self.state, f"QUEUE {what} {self.random.choice(('q1', 'q2', 'nope', '*'))}")

    def mutate(self) -> None:
        choose = self.random.choice
        operation = {"cmd": choose(("kill", "requeue", "discard", "clear"))}
        operation["target"] = choose(("scheduled", "retries", "dead"))
        if operation["cmd"] != "clear":
            operation["filter"] = {"jobtype": choose("AB")}
        call(self.state, "MUTATE " + json.dumps(operation, separators=(",", ":")))

    def forward(self) -> None:
        self.clock.now += self.random.choice((1, 60, 60, 2000, 90_000)) * SECOND
        self.state.store.sweep()

    def flush(self) -> None:
        call(self.state, "FLUSH")

    def batch(self) -> None:
        choose = self.random.choice
        callback = {"jobtype": "C", "args": [], "queue": "q2"}
        options: dict[str, object] = {choose(("success", "complete")): callback}
        options[choose(("success", "complete"))] = {**callback, "custom": {"track": 1}}
        if self.bids and choose((0, 1)):
            options["parent_bid"] = choose(self.bids)
        if choose((0, 1)) or not self.bids:
            bid = call(self.state, "BATCH NEW " + json.dumps(options))
            if not bid.startswith(b"-"):
                self.bids = [*self.bids[-4:], bid.decode()]
        else:
            call(self.state, f"BATCH COMMIT {choose(self.bids)}")

    def track(self) -> None:
        until = f"{2026 + self.random.randrange(2)}-01-02T00:00:00Z"
        progress = {"jid": self.reserved(), "percent": 50, "desc": "half", "reserve_until": until}
        call(self.state, "TRACK SET " + json.dumps(progress))


@pytest.mark.parametrize("enterprise", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_after_random_commands_the_file_has_what_the_memory_has(
    opened: Open, clock: Clock, tmp_path: Path, seed: int, enterprise: bool
) -> None:
    state = opened(enterprise=enterprise)
    traffic = Traffic(state, clock, seed, enterprise)
    for number in range(12):
        for _ in range(40):
            traffic.step()
            if traffic.random.random() < 0.3:
                state.commit()
        check(state, opened, tmp_path / f"copy-{number}.db")


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 140))
def test_after_many_random_commands_the_file_has_what_the_memory_has(
    opened: Open, clock: Clock, tmp_path: Path, seed: int
) -> None:
    state = opened(enterprise=bool(seed % 2))
    traffic = Traffic(state, clock, seed, bool(seed % 2))
    for number in range(30):
        for _ in range(100):
            traffic.step()
            if traffic.random.random() < 0.3:
                state.commit()
        check(state, opened, tmp_path / f"copy-{number}.db")


# One by one, what random commands may not reach.


def test_the_acknowledged_copy_of_a_job_does_not_come_back_by_the_older_one(
    opened: Open, clock: Clock, tmp_path: Path
) -> None:
    state = opened()
    for _ in range(2):
        push(state, "job-0001")
    for _ in range(2):
        call(state, "FETCH default")
    for _ in range(2):
        call(state, 'ACK {"jid":"job-0001"}')
    state.commit()
    other = opened(copy(Path(state.path), tmp_path / "copy.db"))
    clock.now += 3600 * SECOND
    for store in (state.store, other.store):
        store.sweep()
        assert (len(store.retries), len(store.working), store.processed) == (0, 0, 1)


def test_counters_alone_are_kept(opened: Open, clock: Clock, tmp_path: Path) -> None:
    state = opened()
    push(state, "job-0001")
    call(state, "FETCH default")
    call(state, "FLUSH")
    state.commit()
    call(state, 'ACK {"jid":"job-0001"}')  # after FLUSH there is no job, but it counts
    assert state.must_commit
    check(state, opened, tmp_path / "copy.db")


def test_flush_of_an_empty_server_forgets_the_counters(
    opened: Open, clock: Clock, tmp_path: Path
) -> None:
    state = opened()
    push(state, "job-0001")
    call(state, "FETCH default")
    call(state, 'ACK {"jid":"job-0001"}')
    state.commit()
    call(state, "FLUSH")
    assert state.must_commit
    check(state, opened, tmp_path / "copy.db")


def test_of_the_dead_ten_thousand_are_kept(opened: Open, clock: Clock, tmp_path: Path) -> None:
    state = opened()
    store = state.store
    for number in range(10_010):
        clock.now += 1
        store.dead.add(clock.now, b'{"jid":"job-%06d","args":[]}' % number, _job(number))
    assert len(store.dead) == 10_000
    state.commit()
    other = opened(copy(Path(state.path), tmp_path / "copy.db"))
    assert next(iter(other.store.dead))[1] == b'{"jid":"job-000010","args":[]}'
    assert len(other.store.dead) == 10_000


def _job(number: int) -> Any:
    from faktory.server.job import StoredJob

    job = StoredJob({"jid": f"job-{number:06}", "jobtype": "T", "args": []})
    job.payload = b'{"jid":"job-%06d","args":[]}' % number
    return job


def test_many_changes_leave_a_small_file(opened: Open, clock: Clock) -> None:
    state = opened()
    for number in range(300):
        jobs = [{"jid": f"job-{number:03}-{n:03}", "jobtype": "T", "args": []} for n in range(100)]
        call(state, "PUSHB " + json.dumps(jobs))
        state.commit()
        for job in jobs:
            call(state, "FETCH default")
            call(state, f'ACK {{"jid":"{job["jid"]}"}}')
            if job["jid"].endswith("0"):
                state.commit()
        state.commit()
    size = sum(each.stat().st_size for each in Path(state.path).parent.iterdir())
    assert size < 18_000_000  # 30,000 jobs have passed; the new pages alone take up to 16 MB
    state.close()
    assert Path(state.path).stat().st_size < 200_000
    assert not Path(f"{state.path}-wal").exists()


def test_jobs_that_were_accepted_count_for_the_limit_of_memory_and_are_kept(
    opened: Open, tmp_path: Path
) -> None:
    state = opened(max_memory=10 << 20)
    for number in range(20):
        push(state, f"job-{number:04}", args=["x" * 100_000])
    state.commit()
    other = opened(copy(Path(state.path), tmp_path / "copy.db"), max_memory=1 << 20)
    assert len(other.store.queues["default"]) == 20
    assert b"no memory for this job" in call(
        other, 'PUSH {"jid":"job-9999","jobtype":"T","args":[]}'
    )
    assert other.store.quota.used == pytest.approx(state.store.quota.used, rel=0.01)


def test_a_stopped_server_without_enterprise_keeps_what_enterprise_has(
    opened: Open, tmp_path: Path
) -> None:
    path = tmp_path / "jobs.db"
    state = opened(path, enterprise=True)
    bid = call(state, 'BATCH NEW {"success":{"jobtype":"C","args":[]}}').decode()
    state.commit()
    state.close()
    plain = opened(path)
    push(plain, "job-0001")
    plain.commit()
    plain.close()
    again = opened(path, enterprise=True)
    assert isinstance(again.store, DurableStore)
    assert json.loads(call(again, f"BATCH STATUS {bid}"))["bid"] == bid

"""What the page does to jobs: single jobs of queues, whole queues, jobs of sets by their keys."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from faktory.server import operations
from faktory.server.disk.sets import DurableQueue
from faktory.server.disk.state import DurableState
from faktory.server.errors import CommandError
from faktory.server.go import time as go_time
from faktory.server.go.time import SECOND
from faktory.server.job import StoredJob
from faktory.server.operations import DEAD_FOR
from faktory.server.slices import Steps, finish
from faktory.server.state import ServerState
from faktory.server.store import Store

from .conftest import Clock
from .durable import contents, copy

NewJob = Callable[..., StoredJob]


@pytest.fixture(params=["memory", "enterprise", "file", "file with enterprise"])
def store(request: pytest.FixtureRequest, clock: Clock, tmp_path: Path) -> Iterator[Store]:
    """A store; what its file has, if there is one, is compared with it at the end."""
    enterprise = "enterprise" in request.param
    if "file" not in request.param:
        yield ServerState(now=clock, enterprise=enterprise).store
        return
    state = DurableState(str(tmp_path / "jobs.db"), "normal", now=clock, enterprise=enterprise)
    state.open()
    yield state.store
    state.store.sample()
    state.commit()
    copied = copy(tmp_path / "jobs.db", tmp_path / "copy.db")
    other = DurableState(str(copied), "normal", now=clock, enterprise=enterprise)
    other.open()
    assert contents(other.store) == contents(state.store)
    other.close()
    state.close()


def jids(store: Store, name: str = "default") -> list[str]:
    return [job.jid for job in store.queues[name]]


def commit(store: Store) -> None:
    if hasattr(store, "_journal"):
        store._journal.commit()


# Queues.


def test_single_jobs_of_a_queue_are_deleted(store: Store, new_job: NewJob) -> None:
    for number in range(10):
        store.push(new_job(f"job-000{number}"))
    store.push(new_job("job-0003"))
    store.push(new_job("job-0003", queue="other"))
    commit(store)
    gone = ("job-0000", "job-0003", "job-0009", "job-nope")
    assert finish(store.delete_queued("default", gone)) == 4
    assert jids(store) == [f"job-000{number}" for number in (1, 2, 4, 5, 6, 7, 8)]
    assert jids(store, "other") == ["job-0003"]
    assert finish(store.delete_queued("nope", gone)) == 0
    assert "nope" not in store.queues
    assert store.fetch("w", ["default"]) == store.working.page(0, 1)[0][2].job.payload


def test_single_jobs_of_a_long_queue_are_deleted_while_others_are_fetched(
    store: Store, new_job: NewJob
) -> None:
    for number in range(12_000):
        store.push(new_job(f"job-{number:06}"))
    commit(store)
    gone = {f"job-{number:06}" for number in (0, 4998, 4999, 5000, 7000, 9999, 11_999)}
    steps = store.delete_queued("default", gone)
    fetched = 0
    for _ in steps:
        for _ in range(50):
            assert store.fetch("w", ["default"])
            fetched += 1
    found = jids(store)
    assert gone.isdisjoint(found)
    assert found == sorted(found)
    assert len(found) == 12_000 - len(gone) - fetched


def test_jobs_in_the_middle_of_a_long_queue_are_deleted_as_fast_as_at_its_head(
    store: Store, new_job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faktory.server.lookup._CHUNK", 100)
    for number in range(1000):
        store.push(new_job(f"job-{number:06}"))
    commit(store)
    deleted: list[int] = []

    def watched(kind: type[Any]) -> type[Any]:
        class Watched(kind):  # type: ignore[misc]
            def __delitem__(self, index: Any, /) -> None:
                deleted.append(index)
                super().__delitem__(index)

        return Watched

    queue = store.queues["default"]
    if isinstance(queue, DurableQueue):
        queue.__class__ = watched(DurableQueue)
    else:
        store.queues["default"] = watched(deque)(queue)
    gone = {f"job-{number:06}" for number in range(480, 530)}
    assert finish(store.delete_queued("default", gone)) == 50
    assert max(deleted) < 100
    assert jids(store) == [f"job-{number:06}" for number in range(1000) if not 480 <= number < 530]


def test_a_queue_is_emptied_and_stays_with_its_pause(store: Store, new_job: NewJob) -> None:
    for number in range(1200):
        store.push(new_job(f"job-{number:06}"))
    store.pause("default")
    commit(store)
    steps = store.clear_queue("default")
    next(steps)
    assert jids(store) == []
    store.push(new_job("job-new1"))
    assert finish(steps) == 1200
    assert jids(store) == ["job-new1"]
    assert store.active(["default"]) == []
    assert finish(store.clear_queue("nope")) == 0
    assert list(store.queues) == ["default"]


def test_how_many_jobs_a_queue_had_is_returned(store: Store, new_job: NewJob) -> None:
    for number in range(1200):
        store.push(new_job(f"job-{number:06}"))
    assert finish(store.clear_queue("default")) == 1200
    assert finish(store.clear_queue("default")) == 0


# Sets.


def fill(store: Store, new_job: NewJob, clock: Clock) -> list[tuple[int, str]]:
    """Schedule jobs, five for each second; return their keys."""
    keys = []
    for number in range(50):
        at = clock.now + (1 + number // 5) * SECOND
        store.push(new_job(f"job-{number:04}", at=go_time.write(at)))
        keys.append((at, f"job-{number:04}"))
    commit(store)
    return keys


MOVED = {
    "discard": lambda store: [],
    "kill": lambda store: [job.jid for _, _, job in store.dead],
    "retry": jids,
    "requeue": jids,
}


@pytest.mark.parametrize("operation", MOVED)
def test_jobs_of_a_set_are_named_by_score_and_jid(
    store: Store, clock: Clock, new_job: NewJob, operation: str
) -> None:
    keys = fill(store, new_job, clock)
    wrong = [(keys[0][0], "job-0049"), (keys[0][0] + 1, "job-0001"), (-1, "job-0001"), (0, "")]
    chosen = [keys[7], keys[0], keys[49], keys[6], *wrong]
    assert finish(getattr(store, operation)("scheduled", chosen)) == 4
    left = [job.jid for _, _, job in store.scheduled]
    moved = [keys[each][1] for each in (0, 6, 7, 49)]
    assert left == [jid for _, jid in keys if jid not in moved]
    if operation != "discard":
        assert sorted(MOVED[operation](store)) == moved
    assert finish(getattr(store, operation)("scheduled", chosen)) == 0


@pytest.mark.parametrize("operation", MOVED)
def test_all_jobs_of_a_set_are_counted(
    store: Store, clock: Clock, new_job: NewJob, operation: str
) -> None:
    fill(store, new_job, clock)
    assert finish(getattr(store, operation)("scheduled", None)) == 50
    assert len(store.scheduled) == 0
    with pytest.raises(CommandError, match="invalid target"):
        finish(getattr(store, operation)("working", None))


def test_jobs_are_found_by_their_keys_without_a_pass_over_the_set(
    store: Store, clock: Clock, new_job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = fill(store, new_job, clock)
    looked_at = []

    def members(jobs: Any, wanted: Any) -> Any:
        since = jobs.since

        def counted(score: int) -> Any:
            for each in since(score):
                looked_at.append(each[2].jid)
                yield each

        monkeypatch.setattr(jobs, "since", counted)
        return real(jobs, wanted)

    real = operations.members_of
    monkeypatch.setattr(operations, "members_of", members)
    assert finish(store.discard("scheduled", [keys[20]])) == 1
    assert looked_at == [f"job-{number:04}" for number in range(20, 26)]


def test_a_job_that_is_tried_again_is_as_if_pushed_now(
    store: Store, clock: Clock, new_job: NewJob
) -> None:
    keys = fill(store, new_job, clock)
    clock.forward(0.5)
    finish(store.retry("scheduled", keys[:1]))
    (job,) = store.queues["default"]
    assert job.enqueued_at == go_time.write(clock.now)
    assert f'"enqueued_at":"{job.enqueued_at}"'.encode() in job.payload
    assert store.latency("default") == 0.0


def test_a_dead_job_that_is_tried_again_keeps_its_failure(
    store: Store, clock: Clock, new_job: NewJob
) -> None:
    store.push(new_job("job-0001", retry=-1))
    store.fetch("w", ["default"])
    store.fail("job-0001", "E", "boom", [])
    commit(store)
    ((score, _, job),) = store.dead
    assert finish(store.kill("dead", [(score, "job-0001")])) == 1
    clock.forward(1)
    assert finish(store.kill("dead", None)) == 1
    assert [at for at, _, _ in store.dead] == [clock.now + DEAD_FOR * SECOND]
    assert finish(store.retry("dead", None)) == 1
    assert store.queues["default"][0] is job
    assert job.failure is not None
    assert b"boom" in job.payload


def test_a_job_for_an_impossible_queue_stays_and_is_named(
    store: Store, clock: Clock, new_job: NewJob
) -> None:
    keys = fill(store, new_job, clock)
    store.push(new_job("job-odd1", at=go_time.write(clock.now + SECOND), queue="a b"))
    with pytest.raises(CommandError, match=r'50 jobs were queued, and not all: .*"a b" queue'):
        finish(store.retry("scheduled", None))
    assert [job.jid for _, _, job in store.scheduled] == ["job-odd1"]
    assert jids(store) == [jid for _, jid in keys]


def test_jobs_that_others_take_meanwhile_are_not_counted(
    store: Store, clock: Clock, new_job: NewJob
) -> None:
    keys = fill(store, new_job, clock)
    steps: Steps[int] = store.discard("scheduled", keys)
    next(steps)
    clock.forward(100)
    store.sweep()
    assert finish(steps) == 5
    assert len(store.queues["default"]) == 45

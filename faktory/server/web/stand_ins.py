"""What the store and the server will give themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from itertools import islice
from typing import Any, TypeVar

from ..calls import Call
from ..embedded import EmbeddedServer
from ..go.time import SECOND
from ..job import StoredJob
from ..slices import Steps, finish
from ..state import ServerState
from ..store import DEAD_FOR, Store
from ..workers import ClientRecord

T = TypeVar("T")


def perform(server: EmbeddedServer, work: Callable[[ServerState], Steps[T]]) -> Future[T]:
    future: Future[T] = Future()
    try:
        future.set_result(server._call(lambda state: finish(work(state))))
    except Exception as error:
        future.set_exception(error)
    return future


def members(
    jobs: Any, start: int, count: int, reverse: bool = False
) -> list[tuple[int, bytes, Any]]:
    every = list(jobs)
    if reverse:
        every.reverse()
    return every[start : start + count]


def queued(jobs: Iterable[StoredJob], start: int, count: int) -> list[StoredJob]:
    return list(islice(jobs, start, start + count))


def find(store: Store, jid: str) -> list[tuple[str, int, Any]]:
    found: list[tuple[str, int, Any]] = []
    for jobs in store.queues.values():
        found += [("queue", 0, job) for job in jobs if job.jid == jid]
    for place, members_ in (
        ("retries", store.retries),
        ("scheduled", store.scheduled),
        ("dead", store.dead),
    ):
        found += [(place, score, job) for score, _, job in members_ if job.jid == jid]
    found += [("busy", score, each) for score, _, each in store.working if each.job.jid == jid]
    return found


def search(store: Store, text: str, limit: int) -> list[tuple[str, int, Any]]:
    wanted = text.encode().lower()
    found: list[tuple[str, int, Any]] = []
    for jobs in store.queues.values():
        found += [("queue", 0, job) for job in jobs if wanted in job.payload.lower()]
    for place, members_ in (
        ("retries", store.retries),
        ("scheduled", store.scheduled),
        ("dead", store.dead),
    ):
        found += [
            (place, score, job) for score, _, job in members_ if wanted in job.payload.lower()
        ]
    found += [
        ("busy", score, each)
        for score, _, each in store.working
        if wanted in each.job.payload.lower()
    ]
    return found[:limit]


def delete_queued(store: Store, name: str, jids: list[str]) -> int:
    queue = store.queues.get(name)
    if queue is None:
        return 0
    kept = [job for job in queue if job.jid not in jids]
    gone = len(queue) - len(kept)
    store.queues[name] = queue = store._new_queue(name)
    for job in kept:
        queue.append(job)
    return gone


def clear_queue(store: Store, name: str) -> int:
    queue = store.queues.get(name)
    if queue is None:
        return 0
    count = len(queue)
    while queue:
        queue.pop()
    return count


def of_keys(store: Store, target: str, keys: list[tuple[int, str]]) -> list[StoredJob]:
    wanted = set(keys)
    return [job for score, _, job in store._set(target) if (score, job.jid) in wanted]


def act(store: Store, target: str, action: str, keys: list[tuple[int, str]] | None) -> int:
    jobs = store._set(target)
    chosen = [job for _, _, job in jobs] if keys is None else of_keys(store, target, keys)
    for job in chosen:
        if action == "requeue":
            queue = store._queue(job.queue)
            jobs.remove(job.payload)
            queue.append(job)
            if job.queue in store._waiting:
                store.unserved.append(job.queue)
        else:
            jobs.remove(job.payload)
            if action == "kill":
                store.dead.add(store.clock() + DEAD_FOR * SECOND, job.payload, job)
    return len(chosen)


def information(state: ServerState) -> Steps[bytes]:
    from ..administration import info

    reply = yield from info(Call(state, ClientRecord({}), b"INFO", 0))
    assert isinstance(reply, bytes)
    return reply.split(b"\r\n", 1)[1][:-2]

"""Scheduled and debounced jobs that many threads push while their connections break: each is there
once, whatever was repeated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from threading import Thread
from time import time

import pytest

import faktory
from faktory import Client, Pool, Producer
from faktory.exceptions import FaktoryBulkError, FaktoryConnectionError, FaktoryOutcomeUnknown
from faktory.jobs import registry, schedule
from faktory.proto import new_jid
from faktory.wire.address import parse

from ..client.proxy import Fault, Proxy

THREADS = 64

PRESSES = 5
"""Pushes of each thread."""

BREAKS = 1000
"""More errors than one thread gets."""


def press(image: int) -> None: ...


def random_fault(chance: Random) -> Fault:
    """Return a fault at a random byte, of a request or of a reply."""
    kind = chance.choice(["cut", "reset"])
    if chance.random() < 0.5:
        return Fault(kind, "request", chance.randrange(1000))
    return Fault(kind, "reply", chance.randrange(60))


@pytest.fixture
def proxy(url: str) -> Iterator[Proxy]:
    """A way to the server on which every connection breaks, at a random byte."""
    chance = Random(20)
    proxy = Proxy(parse(url).port)
    proxy.plan_each(lambda: random_fault(chance))
    yield proxy
    proxy.stop()


@pytest.fixture
def pool(proxy: Proxy) -> Iterator[Pool]:
    address = f"tcp://127.0.0.1:{proxy.port}"
    pool = Pool(lambda: Client(address, timeout=30), size=16, timeout=60)
    yield pool
    pool.close()


@pytest.fixture(autouse=True)
def own_jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No job type is known afterwards, and no window ends in the middle of a test."""
    began = time()
    monkeypatch.setattr(schedule, "time", lambda: began)
    with registry.isolated():
        yield


def in_threads(act: Callable[[int], None]) -> None:
    """Call `act` with the number of each thread; raise what one raised."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            act(number)
        except BaseException as error:
            errors.append(error)

    threads = [Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def until_pushed(push: Callable[[], object]) -> list[str]:
    """Repeat a push until it succeeds, as a user would; return the jids in doubt before."""
    doubtful: list[str] = []
    for _ in range(BREAKS):
        try:
            push()
            return doubtful
        except FaktoryOutcomeUnknown as error:
            doubtful += error.jids
        except (FaktoryConnectionError, FaktoryBulkError):
            pass
    pytest.fail("no connection held for the length of a push")


def count_jobs(url: str, jobtype: str, queue: str) -> Counter[str]:
    """Queue the scheduled jobs of a type, take all of a queue; return how often each jid came."""
    found: Counter[str] = Counter()
    with Client(url) as client:
        client.requeue("scheduled", jobtype=jobtype)
        for _ in range(client.info()["faktory"]["queues"].get(queue, 0)):
            job = client.fetch(queue)
            assert job is not None
            found[job["jid"]] += 1
            client.ack(job["jid"])
        client.remove_queues(queue)
    return found


def test_a_debounced_job_that_64_threads_push_over_broken_connections_is_there_once(
    url: str, proxy: Proxy, pool: Pool
) -> None:
    name = new_jid()
    job = faktory.job(name=name, queue=name)(press).set(debounce=1000, pool=pool)
    jids: set[str] = set()

    def push(_: int) -> None:
        for _ in range(PRESSES):
            until_pushed(lambda: jids.add(job.perform_async(1)))

    in_threads(push)
    assert proxy.opened > THREADS, "hardly a connection broke"
    (jid,) = jids
    assert count_jobs(url, name, name) == {jid: 1}


def test_a_scheduled_job_that_64_threads_push_over_broken_connections_is_there_once(
    url: str, proxy: Proxy, pool: Pool
) -> None:
    name = new_jid()
    job = faktory.job(name=name, queue=name)(press).set(jid=name, at=time() + 3600)
    same = job.message(1).to_dict()

    def push(_: int) -> None:
        for _ in range(PRESSES):
            with pool.client() as client:
                until_pushed(lambda: client.push(same))
                until_pushed(lambda: client.push_bulk([same] * 2))

    in_threads(push)
    assert proxy.opened > THREADS, "hardly a connection broke"
    assert count_jobs(url, name, name) == {name: 1}


def test_scheduled_jobs_of_64_threads_over_broken_connections_are_there_once_each(
    url: str, proxy: Proxy, pool: Pool
) -> None:
    name = new_jid()
    job = faktory.job(name=name, queue=name)(press).set(pool=pool)
    pushed: set[str] = set()
    doubtful: set[str] = set()

    def push(number: int) -> None:
        for _ in range(PRESSES):
            doubtful.update(until_pushed(lambda: pushed.add(job.perform_in(3600, number))))

    in_threads(push)
    assert len(pushed) == THREADS * PRESSES
    found = count_jobs(url, name, name)
    assert set(found.values()) == {1}
    assert pushed <= found.keys() <= pushed | doubtful


def test_a_producer_repeats_scheduled_jobs_over_broken_connections(url: str, proxy: Proxy) -> None:
    name = new_jid()
    job = faktory.job(name=name, queue=name)(press)
    message = job.set(at=time() + 3600).message(1)
    with Producer(f"tcp://127.0.0.1:{proxy.port}", linger=0.0001, max_batch=3) as producer:
        futures = [producer.push(message) for _ in range(100)]
        producer.flush()
    unknown = [future for future in futures if future.exception() is not None]
    pushed = {future.result() for future in futures if future not in unknown}
    found = count_jobs(url, name, name)
    assert set(found.values()) == {1}
    assert pushed <= found.keys()
    assert len(unknown) < len(futures) / 2, "most batches were not repeated"

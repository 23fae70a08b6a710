"""An async client under load: its server is killed; it pushes a million jobs beside another task.

FAKTORY_SERVER_COMMAND starts the server that is killed: see `real.RealFaktory`.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from faktory import AsyncClient, Client
from faktory.exceptions import FaktoryConnectionError, FaktoryOutcomeUnknown, FaktoryServerError
from faktory.proto import new_jid
from faktory.server import EmbeddedServer

from ..aio.support import KINDS, run_in
from ..worker.real import RealFaktory

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]

TASKS, PUSHES, KILLS = 50, 200, 5

MILLION, OF_A_QUEUE = 1_000_000, 100_000

PUSHES_A_MILLION = """
import asyncio, gc, importlib, json, sys, time
import faktory
from faktory.worker.heartbeat import rss_kb

kind, queue, count, of_a_queue = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

async def jobs():
    for number in range(count):
        name = f"{queue}-{number // of_a_queue}"
        yield {"jobtype": "T", "args": [number, "text", {"ratio": 1.5}], "queue": name}
        if number % 50_000 == 10_000:
            resident.append(rss_kb())

async def main():
    async with faktory.AsyncClient() as client:
        pushing = asyncio.create_task(client.push_bulk(jobs()))
        turns, longest = 0, 0.0
        while not pushing.done():
            began = time.thread_time()
            await asyncio.sleep(0)  # all that is ready has run, once, when this returns
            longest = max(longest, time.thread_time() - began)
            turns += 1
        return {"refused": pushing.result(), "turns": turns, "longest": longest}

resident = []
gc.freeze()  # a collection takes as long as the program is large: up to 12 ms for this one
loop_factory = importlib.import_module(kind).new_event_loop
with asyncio.Runner(loop_factory=loop_factory) as runner:
    print(json.dumps({**runner.run(main()), "resident": resident}))
"""


@pytest.mark.parametrize("kind", KINDS)
def test_each_push_ends_as_queued_refused_or_unknown_while_the_server_is_killed(
    kind: str, tmp_path: Path, wait_until: Callable[..., object]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    server = RealFaktory(folder, wait_until)
    ended: Counter[str] = Counter()
    queued: set[str] = set()
    unknown: set[str] = set()
    not_queued: set[str] = set()

    async def push(client: AsyncClient, task: int) -> None:
        for number in range(PUSHES):
            jid = f"task-{task:03}-{number:04}"
            job = {"jid": jid, "jobtype": "T", "args": [], "queue": "killed"}
            try:
                assert await client.push(job) == jid
                queued.add(jid)
                ended["queued"] += 1
            except FaktoryOutcomeUnknown as error:
                unknown.update(error.jids)
                ended["unknown"] += 1
            except (FaktoryConnectionError, FaktoryServerError) as error:
                not_queued.add(jid)
                ended[type(error).__name__] += 1
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.002)

    async def kill() -> None:
        for _ in range(KILLS):
            await asyncio.sleep(0.4)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)

    async def main() -> set[str]:
        async with AsyncClient(server.url, timeout=5) as client:
            killing = asyncio.create_task(kill())
            await asyncio.gather(*[push(client, task) for task in range(TASKS)])
            await killing
        there: list[str] = []
        async with AsyncClient(server.url) as client:
            while (job := await client.fetch("killed")) is not None:
                there.append(job["jid"])
                await client.ack(job["jid"])
        assert len(there) == len(set(there)), "a job is queued twice"
        return set(there)

    server.start()
    try:
        there = run_in(kind, main())
    finally:
        with suppress(Exception):
            server.stop()
    print(ended)
    assert sum(ended.values()) == TASKS * PUSHES
    assert ended["unknown"] + ended["FaktoryConnectionError"], "no kill hit a push"
    assert queued <= there
    assert not not_queued & there
    assert there - queued <= unknown


@pytest.fixture(params=["embedded", "real"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "real":
        yield request.getfixturevalue("real_server_url")
        return
    with EmbeddedServer() as server:
        yield server.url


@pytest.mark.parametrize("kind", KINDS)
def test_a_million_jobs_of_an_async_generator_hold_neither_memory_nor_the_loop(
    kind: str, url: str
) -> None:
    """The longest time between two turns of another task, as CPU time of the loop's thread: what
    else the machine does is not in it.
    """
    if kind == "uvloop":
        pytest.importorskip("uvloop", reason="needs uvloop, a wheel of the extra `test`")
    queue = f"million-{new_jid()}"
    numbers = map(str, (MILLION, OF_A_QUEUE))
    process = subprocess.Popen(
        [sys.executable, "-c", PUSHES_A_MILLION, kind, queue, *numbers],
        env={**os.environ, "FAKTORY_URL": url, "FAKTORY_PROVIDER": "FAKTORY_URL"},
        stdout=subprocess.PIPE,
        text=True,
    )
    output, pushed = "", 0
    with Client(url) as client:
        try:
            while pushed < MILLION:
                ended = process.poll() is not None
                queues = client.info()["faktory"]["queues"]
                whole = [
                    name
                    for name, size in queues.items()
                    if name.startswith(queue) and size == OF_A_QUEUE
                ]
                for name in whole:  # a server does not have to hold them all
                    client.remove_queues(name)
                    pushed += OF_A_QUEUE
                assert whole or not ended, f"{pushed} jobs, and {queues}"
                time.sleep(0.1)
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
            process.communicate()
            client.remove_queues(*(f"{queue}-{number}" for number in range(10)))
    assert process.returncode == 0
    found = json.loads(output)
    resident = found["resident"]
    print(
        f"{found['longest'] * 1000:.1f} ms of CPU between two of {found['turns']:,} turns; "
        f"resident {resident[0] // 1024} MB, at most {max(resident) // 1024} MB"
    )
    assert found["refused"] == {}
    assert found["turns"] > MILLION / 1000
    assert found["longest"] < 0.020
    assert max(resident) - resident[0] < 8 * 1024

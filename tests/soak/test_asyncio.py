"""The real server is killed while the tasks of an async client push and fetch.

FAKTORY_SERVER_COMMAND starts the real server: see `real.RealFaktory`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from faktory import AsyncClient
from faktory.exceptions import FaktoryConnectionError, FaktoryOutcomeUnknown, FaktoryServerError

from ..aio.support import KINDS, run_in
from ..worker.real import RealFaktory

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]

TASKS, PUSHES, KILLS = 50, 200, 5


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

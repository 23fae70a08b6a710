"""Tests that take minutes: a server is killed under load, and a million jobs run.

FAKTORY_SERVER_COMMAND starts the real server: see `real.RealFaktory`.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

import faktory
from faktory import Client
from faktory.server import EmbeddedServer
from faktory.worker.heartbeat import rss_kb

from .conftest import Start, WaitUntil, make_worker, messages, succeed, threads_left
from .real import RealFaktory

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]

THREADS = 10
JOBS = 10_000


@pytest.mark.parametrize("kind", ["embedded", "real"])
def test_a_server_that_is_killed_under_load_loses_only_jobs_in_flight(
    kind: str, tmp_path: Path, start: Start, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    """The real server pops a job and reserves it in two steps: one for each thread may be lost.

    Reserved jobs come back, or are in its working set. The embedded server is stopped and started.
    """
    caplog.set_level(logging.INFO)
    server = EmbeddedServer() if kind == "embedded" else RealFaktory(tmp_path, wait_until)
    kill = server.stop if isinstance(server, EmbeddedServer) else server.kill
    ran: Counter[str] = Counter()

    def work() -> None:
        ran[faktory.current_job().jid] += 1
        time.sleep(0.001)

    try:
        server.start()
        with Client(server.url) as client:
            for _ in range(JOBS // 1000):
                assert client.push_bulk({"jobtype": "work", "args": []} for _ in range(1000)) == {}
        running = start(make_worker(server.url, {"work": work}, concurrency=THREADS))
        wait_until(lambda: len(ran) > JOBS / 3, timeout=60)
        kill()
        wait_until(lambda: messages(caplog, "lost the connection"))
        server.start()
        with Client(server.url) as client:
            wait_until(lambda: not client.info()["faktory"]["queues"].get("default"), timeout=120)
            running.stop()
            reserved = client.info()["faktory"]["sets"]["working"]
    finally:
        kill()
        if isinstance(server, RealFaktory):
            server.end()
    missing = JOBS - len(ran) - reserved
    print(f"{kind}: {len(ran)} ran, {reserved} in flight, {missing} missing")
    assert 0 <= missing <= (THREADS if kind == "real" else 0)
    assert reserved <= THREADS
    assert max(ran.values()) == 1
    assert len(messages(caplog, "lost the connection")) == 1
    assert len(messages(caplog, "the server is back")) == 1
    assert all(record.exc_info is None for record in caplog.records)
    troubled = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    fetches = [text for text in troubled if text.startswith("FETCH was sent and not answered")]
    assert len(fetches) <= THREADS
    assert len(troubled) - len(fetches) == 1, troubled


def test_a_million_empty_jobs_leave_no_threads_files_or_memory(
    start: Start, wait_until: WaitUntil
) -> None:
    log = logging.getLogger("test.soak.silent")
    log.setLevel(logging.ERROR)
    seen: list[int] = []
    with EmbeddedServer() as server, Client(server.url) as client:

        def round_of(number: int) -> None:
            jobs = ({"jobtype": "work", "args": []} for _ in range(number))
            assert client.push_bulk(jobs) == {}
            before = done()
            wait_until(lambda: idle() and done() >= before, timeout=600)
            server.clear_commands()
            gc.collect()
            memory = rss_kb()
            assert memory is not None
            seen.append(memory)

        def done() -> int:
            return int(client.info()["faktory"]["total_processed"])

        def idle() -> bool:
            info = client.info()["faktory"]
            return not info["queues"].get("default") and not info["sets"]["working"]

        worker = make_worker(server.url, {"work": succeed}, concurrency=4, log=log)
        threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
        running = start(worker)
        for _ in range(20):
            round_of(50_000)
        assert server.processed == 1_000_000
        running.stop()
        assert threads_left() == []
        wait_until(lambda: threading.active_count() <= threads)
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= files)
    print(f"resident after each 50,000, MB: {[kb // 1024 for kb in seen]}")
    assert max(seen[10:]) - max(seen[:10]) < 16 * 1024

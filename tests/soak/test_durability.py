"""What docs/durability.md says of the real server, tried, with the script that it shows.

FAKTORY_SERVER_COMMAND starts the real server: see `real.RealFaktory`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from faktory import Client
from faktory.exceptions import FaktoryConnectionError

from ..worker.real import RealFaktory

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]

PAGE = Path(__file__).parents[2] / "docs" / "durability.md"
JOBS = 1000
THREADS = 4


@pytest.fixture
def server(tmp_path: Path, wait_until: Callable[..., object]) -> Iterator[RealFaktory]:
    folder = tmp_path / "data"
    folder.mkdir()
    server = RealFaktory(folder, wait_until)
    yield server
    server.end()


@pytest.fixture
def durable(tmp_path: Path) -> Path:
    """A folder with the page's redis-server."""
    (script,) = re.findall(r"```text\n(#!/bin/sh\n.*?)```", PAGE.read_text("utf-8"), re.S)
    real = shutil.which("redis-server")
    if real is None:
        pytest.skip("needs redis-server")
    assert "exec /usr/bin/redis-server " in script
    path = tmp_path / "durable" / "redis-server"
    path.parent.mkdir()
    path.write_text(script.replace("/usr/bin/redis-server", real))
    path.chmod(0o755)
    return path.parent


def push(server: RealFaktory, jobs: int = JOBS) -> None:
    with Client(server.url) as client:
        for _ in range(jobs):
            client.push({"jobtype": "work", "args": []})


def queued(server: RealFaktory) -> int:
    with Client(server.url) as client:
        return client.info()["faktory"]["queues"].get("default", 0)


def snapshot(server: RealFaktory) -> Path:
    return server.folder / "faktory.rdb"


def test_a_server_as_it_is_installed_forgets_what_no_snapshot_has(server: RealFaktory) -> None:
    server.start()
    push(server)
    server.kill_all()
    server.start()
    assert queued(server) == 0
    push(server)
    server.stop()
    server.start()
    assert queued(server) == JOBS


def test_after_a_crash_finished_jobs_of_the_snapshot_are_queued_again(
    server: RealFaktory, wait_until: Callable[..., object]
) -> None:
    server.start()
    push(server)
    began = time.monotonic()
    wait_until(snapshot(server).exists, timeout=60)
    assert time.monotonic() - began > 20  # save 30 5
    wait_until(lambda: not list(server.folder.glob("temp-*")))
    with Client(server.url) as client:
        for _ in range(JOBS // 2):
            job = client.fetch("default")
            assert job is not None
            client.ack(job["jid"])
    server.kill_all()
    server.start()
    assert queued(server) == JOBS


def test_with_the_append_only_file_a_crash_loses_nothing_that_was_answered(
    server: RealFaktory, durable: Path
) -> None:
    server.first_in_path = durable
    server.start()
    answered = [0] * THREADS

    def keep_pushing(number: int) -> None:
        with suppress(FaktoryConnectionError), Client(server.url, timeout=2) as client:
            while True:
                client.push({"jobtype": "work", "args": []})
                answered[number] += 1

    threads = [threading.Thread(target=keep_pushing, args=(each,)) for each in range(THREADS)]
    for thread in threads:
        thread.start()
    time.sleep(3)
    server.kill_all()
    for thread in threads:
        thread.join()
    server.start()
    assert min(answered) > 0
    assert sum(answered) <= queued(server) <= sum(answered) + THREADS


def test_the_script_does_not_start_where_redis_would_forget_the_snapshot(
    server: RealFaktory, durable: Path, wait_until: Callable[..., object]
) -> None:
    server.start()
    push(server)
    server.stop()
    before = snapshot(server).read_bytes()
    server.first_in_path = durable
    server.start_only()
    assert wait_until(server.has_ended, timeout=60)
    assert "crashed: exit status 1" in server.log()
    assert "no append-only file" in (server.folder / "redis.log").read_text()
    assert snapshot(server).read_bytes() == before


def test_the_steps_of_the_page_keep_the_jobs_of_a_running_server(
    server: RealFaktory, durable: Path, wait_until: Callable[..., object]
) -> None:
    if shutil.which("redis-cli") is None:
        pytest.skip("needs redis-cli")

    def redis(*words: str) -> str:
        command = ["redis-cli", "-s", str(server.folder / "redis.sock"), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    server.start()
    push(server)
    assert redis("config", "set", "appendonly", "yes") == "OK\n"
    wait_until(lambda: "aof_rewrite_in_progress:0" in redis("info", "persistence"))
    assert "aof_last_bgrewrite_status:ok" in redis("info", "persistence")
    server.stop()
    server.first_in_path = durable
    server.start()
    push(server, 10)
    server.kill_all()
    server.start()
    assert queued(server) == JOBS + 10

"""Tests of a minute: memory that stays flat, and a pool that many threads share."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from time import monotonic

import pytest

from faktory import Client, Pool
from faktory.server import EmbeddedServer
from faktory.worker.heartbeat import rss_kb

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


@pytest.fixture
def sink():
    """The URL of a server that greets one client and answers every line by {}."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(b'+HI {"v":2}\r\n')
                sock.recv(4096)
                sock.sendall(b"+OK\r\n")
                with suppress(ConnectionError):  # the client does not read the answer to END
                    while data := sock.recv(1 << 20):
                        sock.sendall(b"$2\r\n{}\r\n" * data.count(b"\n"))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(10)


def test_ten_million_jobs_from_a_generator_leave_memory_flat(sink):
    seen = []

    def jobs():
        for number in range(10_000_000):
            if number % 1_000_000 == 500_000:
                seen.append(rss_kb())
            yield {"jobtype": "work", "args": [number, "text", {"more": 1.5}]}

    with Client(sink) as client:
        assert client.push_bulk(jobs()) == {}
    print(f"resident after each million, MB: {[kb // 1024 for kb in seen]}")
    assert max(seen[1:]) - seen[0] < 16 * 1024


def test_64_threads_share_a_pool_of_8_for_a_minute():
    errors = []
    pushed = [0] * 64
    ends = monotonic() + 60

    def work(number: int) -> None:
        try:
            while monotonic() < ends:
                with pool.client() as client:
                    client.push({"jobtype": "work", "args": [number], "queue": "pool"})
                    pushed[number] += 1
        except BaseException as error:
            errors.append(error)

    with EmbeddedServer() as server:
        pool = Pool(lambda: Client(server.url), size=8, timeout=30)
        threads = [threading.Thread(target=work, args=(number,)) for number in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pool.close()
        assert errors == []
        with Client(server.url) as client:
            assert client.info()["faktory"]["queues"]["pool"] == sum(pushed)
    print(f"{sum(pushed):,} jobs pushed, between {min(pushed):,} and {max(pushed):,} a thread")
    assert min(pushed) > 0

from __future__ import annotations

import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace

import pytest

from faktory.client import Client, Pool
from faktory.exceptions import FaktoryTimeout
from faktory.server import EmbeddedServer


class FakeClient:
    """Counts how often it was closed."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class Maker:
    """Makes clients and keeps them in `made`."""

    def __init__(self) -> None:
        self.made: list[FakeClient] = []

    def __call__(self) -> FakeClient:
        self.made.append(FakeClient(len(self.made)))
        return self.made[-1]


@pytest.fixture
def make() -> Maker:
    return Maker()


def test_clients_are_made_when_they_are_needed(make):
    pool = Pool(make, size=5)
    assert make.made == []
    with pool.client() as first:
        assert make.made == [first]
        with pool.client() as second:
            assert make.made == [first, second]


def test_by_default_clients_use_the_address_of_the_environment(monkeypatch):
    monkeypatch.delenv("FAKTORY_PROVIDER", raising=False)
    monkeypatch.setenv("FAKTORY_URL", "tcp://example.com:99")
    pool = Pool()
    assert (pool.size, pool.timeout) == (20, 5.0)
    with pool.client() as client:
        assert type(client) is Client
        assert client.faktory.place == "example.com:99"


def test_the_client_released_last_is_acquired_first(make):
    pool = Pool(make)
    with pool.client() as first, pool.client() as second:
        pass  # the second goes back before the first
    for _ in range(3):
        with pool.client() as again:
            assert again is first
    with pool.client() as one, pool.client() as other:
        assert (one, other) == (first, second)
    assert len(make.made) == 2


def test_a_client_is_released_after_any_exception(make):
    pool = Pool(make, size=1, timeout=0)
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), pool.client():
            raise error
    with pool.client():
        assert len(make.made) == 1
        assert make.made[0].closed == 0


def test_a_client_that_cannot_be_made_does_not_count(make):
    answers = iter([ValueError, None])

    def fail_once():
        if error := next(answers):
            raise error
        return make()

    pool = Pool(fail_once, size=1, timeout=0)
    with pytest.raises(ValueError), pool.client():  # noqa: PT011
        pass
    with pool.client() as client:
        assert client is make.made[0]


def test_waiting_too_long_for_a_client_is_a_timeout_with_the_remedy(make):
    pool = Pool(make, size=1, timeout=0.5)
    with pool.client():
        with pytest.raises(FaktoryTimeout, match="of the pool's 1 clients was released") as late:
            pool.client().__enter__()
        assert "within 0.5 s" in str(late.value)
        assert "Make the pool larger" in str(late.value)
    with pool.client():
        assert len(make.made) == 1


def test_a_waiting_thread_gets_the_client_that_is_released(make):
    pool = Pool(make, size=1, timeout=20)
    with ThreadPoolExecutor(1) as threads:

        def acquire():
            with pool.client() as client:
                return client

        with pool.client() as client:
            waiting = threads.submit(acquire)
        assert waiting.result(20) is client


def test_no_client_is_used_by_two_threads_at_once(make):
    pool = Pool(make, size=3, timeout=20)
    busy: set[int] = set()
    lock = threading.Lock()
    start = threading.Barrier(8)

    def work(_):
        start.wait()
        for _ in range(200):
            with pool.client() as client:
                with lock:
                    assert client.number not in busy
                    busy.add(client.number)
                with lock:
                    busy.remove(client.number)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert 1 <= len(make.made) <= 3


def test_a_timeout_is_seconds_or_a_timedelta(make):
    assert Pool(make, timeout=timedelta(seconds=2)).timeout == 2
    with pytest.raises(ValueError, match="timeout is None"):
        Pool(make, timeout=None)


@pytest.mark.parametrize("timeout", [-1, timedelta(seconds=-1), 1e20])
def test_a_pools_timeout_is_neither_negative_nor_huge(make, timeout):
    with pytest.raises(ValueError, match=r"timeout is .* 0 seconds or more, and 1,000,000 at most"):
        Pool(make, timeout=timeout)


@pytest.mark.parametrize("size", [0, -1, True, 1.5])
def test_a_pools_size_is_at_least_one(make, size):
    with pytest.raises(ValueError, match=f"the pool's size is {size}"):
        Pool(make, size=size)


def test_close_disconnects_idle_clients_at_once_and_others_when_they_are_released(make):
    pool = Pool(make)
    with pool.client() as held:
        with pool.client() as idle:
            pass
        pool.close()
        assert (idle.closed, held.closed) == (1, 0)
    assert (idle.closed, held.closed) == (1, 1)
    pool.close()
    assert (idle.closed, held.closed) == (1, 1)


def test_a_closed_pool_makes_a_client_for_the_block_alone(make):
    pool = Pool(make, size=1, timeout=0)
    pool.close()
    for number in range(2):
        with pool.client() as client:
            assert client.number == number
        assert client.closed == 1


def test_the_thread_that_waits_longest_is_served_first(make, wait_until):
    pool = Pool(make, size=1, timeout=20)
    served = []

    def wait(number):
        with pool.client():
            served.append(number)

    threads = []
    with pool.client():
        for number in range(5):
            threads.append(threading.Thread(target=wait, args=(number,)))
            threads[-1].start()
            wait_until(lambda number=number: len(pool._waiters) == number + 1)
    with pool.client():  # a new request waits for those before it
        for thread in threads:
            thread.join()
        assert served == [0, 1, 2, 3, 4]


def test_a_thread_that_timed_out_waits_no_more(make):
    pool = Pool(make, size=1, timeout=0)
    with pool.client() as first, pytest.raises(FaktoryTimeout), pool.client():
        pass
    with pool.client() as again:
        assert again is first


def test_a_waiting_thread_may_make_the_client_that_another_could_not(wait_until):
    gate, made = threading.Event(), []

    def make():
        made.append(None)
        if len(made) == 1:
            assert gate.wait(20)
            raise ValueError("no client today")
        return SimpleNamespace(close=lambda: None)

    pool = Pool(make, size=1, timeout=20)
    faults = []

    def fail():
        with pytest.raises(ValueError, match="no client today"), pool.client():
            pass
        faults.append(1)

    thread = threading.Thread(target=fail)
    thread.start()
    wait_until(lambda: made)
    second = threading.Thread(target=lambda: pool.client().__enter__())
    second.start()
    wait_until(lambda: pool._waiters)
    gate.set()
    thread.join(20)
    second.join(20)
    assert faults == [1]
    assert len(made) == 2


def echo(pool: Pool, text: str) -> str:
    with pool.client() as client:
        return client.command("ECHO", text)


def test_a_forked_child_starts_with_an_empty_pool_of_its_own(scripted, in_child):
    server = scripted([":greet", ":echo"], [":greet", ":echo"])
    pool = Pool(lambda: Client(server.url), size=1, timeout=20)
    assert echo(pool, "before") == "before"

    def act():
        answer = echo(pool, "child")
        pool.close()
        return answer

    assert in_child(act) == "child"
    assert echo(pool, "after") == "after"
    pool.close()
    for ended in server.ended:
        assert ended.wait(20)
    assert server.verbs(0) == ["HELLO", "ECHO", "ECHO", "END"]
    assert server.verbs(1) == ["HELLO", "ECHO", "END"]


def test_a_child_can_acquire_all_clients_though_the_parents_are_in_use(scripted, in_child):
    server = scripted([":greet", ":echo"], [":greet", ":echo"])
    pool = Pool(lambda: Client(server.url), size=1, timeout=20)

    def act():
        answer = echo(pool, "child")
        pool.close()
        return answer

    with pool.client() as held:
        assert held.command("ECHO", "a") == "a"
        assert in_child(act) == "child"
        assert held.command("ECHO", "b") == "b"
    pool.close()


def test_a_fork_inside_the_block_leaves_nothing_open_in_the_child(scripted, in_child):
    server = scripted([":greet", ":echo"], [":greet", ":echo"], [":greet", ":echo"])
    pool = Pool(lambda: Client(server.url), size=1, timeout=20)
    block = pool.client()
    held = block.__enter__()
    assert held.command("ECHO", "parent") == "parent"

    def act():
        said = held.command("ECHO", "held")
        block.__exit__(None, None, None)
        said += echo(pool, "again")
        pool.close()
        return [said, held.is_connected]

    assert in_child(act) == ["heldagain", False]
    block.__exit__(None, None, None)
    assert echo(pool, "after") == "after"
    pool.close()
    assert server.ended[0].wait(20)
    assert server.verbs(0) == ["HELLO", "ECHO", "ECHO", "END"]


def test_a_pool_takes_an_address():
    with EmbeddedServer() as server:
        pool = Pool(server.url, size=1)
        with pool.client() as client:
            assert client.info()["faktory"]["queues"] == {}
        pool.close()
    for wrong in (5, None):
        with pytest.raises(TypeError, match=f"{wrong} is not an address"):
            Pool(wrong)
    with pytest.raises(ValueError, match="not a Faktory address"):
        Pool("localhost")


def test_an_interrupted_wait_loses_no_client(wait_until):
    class Interrupt(BaseException):
        pass

    def interrupt(*_):
        raise Interrupt

    pool = Pool(lambda: Client("tcp://127.0.0.1:1"), size=1, timeout=20)
    held = threading.Event()
    main = threading.get_ident()

    def hold():
        with pool.client():
            held.set()
            wait_until(lambda: sys._current_frames()[main].f_code is Pool._wait.__code__)
            signal.pthread_kill(main, signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with ThreadPoolExecutor(1) as threads:
            holding = threads.submit(hold)
            assert held.wait(20)
            with pytest.raises(Interrupt), pool.client():
                pass
            holding.result(20)
    finally:
        signal.signal(signal.SIGALRM, before)
    with pool.client():
        pass

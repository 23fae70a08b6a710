from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace

import pytest

from faktory.client import Client, Pool
from faktory.exceptions import FaktoryTimeout
from faktory.server import EmbeddedServer


class Lent:
    """Stands in for a client."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class Maker:
    """Makes clients and remembers them."""

    def __init__(self) -> None:
        self.made: list[Lent] = []

    def __call__(self) -> Lent:
        self.made.append(Lent(len(self.made)))
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


def test_by_default_clients_go_where_the_environment_says(monkeypatch):
    monkeypatch.delenv("FAKTORY_PROVIDER", raising=False)
    monkeypatch.setenv("FAKTORY_URL", "tcp://example.com:99")
    pool = Pool()
    assert (pool.size, pool.timeout) == (20, 5.0)
    with pool.client() as client:
        assert type(client) is Client
        assert client.faktory.place == "example.com:99"


def test_the_client_that_came_back_last_goes_out_first(make):
    pool = Pool(make)
    with pool.client() as first, pool.client() as second:
        pass  # the second goes back before the first
    for _ in range(3):
        with pool.client() as again:
            assert again is first
    with pool.client() as one, pool.client() as other:
        assert (one, other) == (first, second)
    assert len(make.made) == 2


def test_a_client_comes_back_whatever_happens(make):
    pool = Pool(make, size=1, timeout=0)
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), pool.client():
            raise error
    with pool.client():
        assert len(make.made) == 1
        assert make.made[0].closed == 0


def test_a_client_that_cannot_be_made_takes_no_place(make):
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


def test_waiting_too_long_for_a_client_is_a_timeout_that_says_what_to_do(make):
    pool = Pool(make, size=1, timeout=0.01)
    with pool.client():
        with pytest.raises(FaktoryTimeout, match="none of the pool's 1 clients came back") as late:
            pool.client().__enter__()
        assert "within 0.01 s" in str(late.value)
        assert "Make the pool larger" in str(late.value)
    with pool.client():
        assert len(make.made) == 1


def test_a_thread_that_waits_gets_the_client_that_comes_back(make):
    pool = Pool(make, size=1, timeout=5)
    with ThreadPoolExecutor(1) as threads:

        def take():
            with pool.client() as client:
                return client

        with pool.client() as client:
            waiting = threads.submit(take)
        assert waiting.result(5) is client


def test_no_client_is_lent_to_two_threads_at_once(make):
    pool = Pool(make, size=3, timeout=5)
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
def test_a_pool_cannot_wait_for_less_than_nothing_nor_for_ever(make, timeout):
    with pytest.raises(ValueError, match=r"timeout is .* 0 seconds or more, and 1,000,000 at most"):
        Pool(make, timeout=timeout)


@pytest.mark.parametrize("size", [0, -1, True, 1.5])
def test_a_pool_has_room_for_a_client_at_least(make, size):
    with pytest.raises(ValueError, match=f"the pool's size is {size}"):
        Pool(make, size=size)


def test_close_disconnects_the_clients_at_once_and_those_that_are_lent_when_they_return(make):
    pool = Pool(make)
    with pool.client() as lent:
        with pool.client() as idle:
            pass
        pool.close()
        assert (idle.closed, lent.closed) == (1, 0)
    assert (idle.closed, lent.closed) == (1, 1)
    pool.close()
    assert (idle.closed, lent.closed) == (1, 1)


def test_a_closed_pool_lends_a_client_for_the_block_alone(make):
    pool = Pool(make, size=1, timeout=0)
    pool.close()
    for number in range(2):
        with pool.client() as client:
            assert client.number == number
        assert client.closed == 1


def test_who_waits_longest_is_served_first(make, wait_until):
    pool = Pool(make, size=1, timeout=10)
    served = []

    def wait(number):
        with pool.client():
            served.append(number)

    threads = []
    with pool.client():
        for number in range(5):
            threads.append(threading.Thread(target=wait, args=(number,)))
            threads[-1].start()
            wait_until(lambda number=number: len(pool._queue) == number + 1)
    with pool.client():  # who comes later waits, though it was here last
        for thread in threads:
            thread.join()
        assert served == [0, 1, 2, 3, 4]


def test_who_waited_in_vain_leaves_no_place_behind(make):
    pool = Pool(make, size=1, timeout=0.01)
    with pool.client() as first, pytest.raises(FaktoryTimeout), pool.client():
        pass
    with pool.client() as again:
        assert again is first


def test_room_for_a_client_that_could_not_be_made_goes_to_who_waits(wait_until):
    gate, made = threading.Event(), []

    def make():
        made.append(None)
        if len(made) == 1:
            assert gate.wait(5)
            raise ValueError("no client today")
        return SimpleNamespace(close=lambda: None)

    pool = Pool(make, size=1, timeout=10)
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
    wait_until(lambda: pool._queue)
    gate.set()
    thread.join(5)
    second.join(5)
    assert faults == [1]
    assert len(made) == 2


def echo(pool: Pool, text: str) -> str:
    with pool.client() as client:
        return client.command("ECHO", text)


def test_a_forked_child_starts_with_an_empty_pool_of_its_own(scripted, in_child):
    server = scripted([":greet", ":echo"], [":greet", ":echo"])
    pool = Pool(lambda: Client(server.url), size=1, timeout=1)
    assert echo(pool, "before") == "before"

    def act():
        answer = echo(pool, "child")
        pool.close()
        return answer

    assert in_child(act) == "child"
    assert echo(pool, "after") == "after"
    pool.close()
    for ended in server.ended:
        assert ended.wait(5)
    assert server.verbs(0) == ["HELLO", "ECHO", "ECHO", "END"]
    assert server.verbs(1) == ["HELLO", "ECHO", "END"]


def test_a_child_has_all_the_places_though_the_parents_are_taken(scripted, in_child):
    server = scripted([":greet", ":echo"], [":greet", ":echo"])
    pool = Pool(lambda: Client(server.url), size=1, timeout=1)

    def act():
        answer = echo(pool, "child")
        pool.close()
        return answer

    with pool.client() as lent:
        assert lent.command("ECHO", "a") == "a"
        assert in_child(act) == "child"
        assert lent.command("ECHO", "b") == "b"
    pool.close()


def test_a_fork_inside_the_block_leaves_nothing_open_in_the_child(scripted, in_child):
    server = scripted([":greet", ":echo"], [":greet", ":echo"], [":greet", ":echo"])
    pool = Pool(lambda: Client(server.url), size=1, timeout=1)
    block = pool.client()
    lent = block.__enter__()
    assert lent.command("ECHO", "parent") == "parent"

    def act():
        said = lent.command("ECHO", "lent")
        block.__exit__(None, None, None)
        said += echo(pool, "again")
        pool.close()
        return [said, lent.is_connected]

    assert in_child(act) == ["lentagain", False]
    block.__exit__(None, None, None)
    assert echo(pool, "after") == "after"
    pool.close()
    assert server.ended[0].wait(5)
    assert server.verbs(0) == ["HELLO", "ECHO", "ECHO", "END"]


def test_an_address_will_do():
    with EmbeddedServer() as server:
        pool = Pool(server.url, size=1)
        with pool.client() as client:
            assert client.info()["faktory"]["queues"] == {}
        pool.close()
    for wrong in (5, None):
        with pytest.raises(TypeError, match=f"{wrong} is no address"):
            Pool(wrong)
    with pytest.raises(ValueError, match="no Faktory address"):
        Pool("localhost")


def test_who_is_interrupted_while_he_waits_takes_no_client_along():
    class Interrupt(BaseException):
        pass

    def interrupt(*_):
        raise Interrupt

    pool = Pool(lambda: Client("tcp://127.0.0.1:1"), size=1, timeout=10)
    lent, done = threading.Event(), threading.Event()

    def hold():
        with pool.client():
            lent.set()
            done.wait(10)

    with ThreadPoolExecutor(1) as threads:
        threads.submit(hold)
        lent.wait(10)
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            with pytest.raises(Interrupt), pool.client():
                pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            done.set()
    with pool.client():
        pass

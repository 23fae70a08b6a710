"""Each wait of a socket ends: with data, at the peer's end, or at its deadline."""

from __future__ import annotations

import errno
import select
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from math import inf
from threading import Event, Thread
from time import monotonic

import pytest

from faktory.client import sockets, waiting
from faktory.client.waiting import DeadlinePassed, TimedSocket

SOON = 0.5
"""Seconds for a wait that is to end at its deadline."""

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def timed(
    sock: socket.socket, *, tls: bool = False, timeout: float = SOON, **options: float
) -> TimedSocket:
    made = TimedSocket(sock, tls=False, **options)
    if tls:  # nothing but its waiting is meant here
        made.kernel_waits = made._waits_for_more = False
        sock.settimeout(0)
    made.start(timeout)
    return made


def receive(made: TimedSocket, more_than: int = 0) -> bytes:
    """Receive until there is something."""
    room = bytearray(100)
    while (count := made.receive(memoryview(room), more_than)) is None:
        pass
    return bytes(room[:count])


def receive_all(made: TimedSocket) -> None:
    """Receive what comes, and begin to wait again for more."""
    while receive(made):
        made.deadline = None


def receive_late(made: TimedSocket) -> None:
    with pytest.raises(DeadlinePassed):
        receive(made)


waits_in_python = pytest.mark.parametrize("tls", [False, True], ids=["kernel", "Python"])


@waits_in_python
def test_what_is_there_is_received_and_the_end_is_empty(pair: Pair, tls: bool) -> None:
    made = timed(pair[0], tls=tls, timeout=20)
    pair[1].sendall(b"abc")
    assert made.can_read()
    assert receive(made) == b"abc"
    pair[1].close()
    assert receive(made) == b""


@waits_in_python
def test_nothing_in_time_is_a_deadline_that_has_passed(pair: Pair, tls: bool) -> None:
    made = timed(pair[0], tls=tls)
    assert not made.can_read()
    receive_late(made)


@waits_in_python
def test_what_has_arrived_is_read_after_the_deadline_too(pair: Pair, tls: bool) -> None:
    made = timed(pair[0], tls=tls)
    made.deadline = monotonic() - 100  # this process was stopped meanwhile
    pair[1].sendall(b"late")
    assert receive(made) == b"late"
    began = monotonic()
    receive_late(made)
    assert monotonic() - began < SOON


@waits_in_python
def test_without_a_timeout_only_the_peer_ends_a_wait(pair: Pair, tls: bool) -> None:
    made = timed(pair[0], tls=tls, timeout=inf)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(receive, made)
        with pytest.raises(TimeoutError):
            future.result(SOON)
        pair[1].sendall(b"at last")
        assert future.result(20) == b"at last"


def test_a_thread_that_waits_can_be_woken(pair: Pair) -> None:
    made = timed(pair[0], timeout=inf)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(receive, made)
        sockets.end_reading(pair[0])
        assert future.result(20) == b""


def test_what_has_arrived_is_read_before_the_end_of_reading(pair: Pair) -> None:
    pair[1].sendall(b"abc")
    sockets.end_reading(pair[0])
    made = timed(pair[0], timeout=inf)
    assert receive(made) == b"abc"
    assert receive(made) == b""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what is acknowledged")
@waits_in_python
def test_what_the_peer_acknowledges_is_progress(pair: Pair, tls: bool) -> None:
    made = timed(pair[0], tls=tls, timeout=SOON)
    counts = count(1000, -1)
    made._unacknowledged = lambda: next(counts)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(receive, made)
        with pytest.raises(TimeoutError):
            future.result(2 * SOON)
        pair[1].sendall(b"abc")
        assert future.result(20) == b"abc"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what is acknowledged")
def test_what_is_sent_and_not_read_is_not_acknowledged(pair: Pair) -> None:
    made = timed(pair[0])
    assert made._unacknowledged() == 0
    made.send(b"x" * 1000)
    assert made._unacknowledged() >= 1000
    pair[1].recv(1000)
    assert made._unacknowledged() == 0


def test_an_answer_that_trickles_ends_all_the_same(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "MAX_TIMEOUTS", 3)
    made = timed(pair[0])
    stop = Event()

    def trickle() -> None:
        while not stop.wait(0.05):
            pair[1].send(b"x")

    thread = Thread(target=trickle)
    thread.start()
    try:
        with pytest.raises(DeadlinePassed):
            receive_all(made)
        assert made.is_at_limit
    finally:
        stop.set()
        thread.join()


@waits_in_python
def test_a_peer_that_reads_nothing_is_a_deadline_that_has_passed(pair: Pair, tls: bool) -> None:
    made = timed(pair[0], tls=tls)

    def send_more_than_there_is_room_for() -> None:
        while made.send(b"x" * 100_000) is not None:
            pass

    with pytest.raises(DeadlinePassed):
        send_more_than_there_is_room_for()


@pytest.mark.parametrize("error", [BlockingIOError(), TimeoutError()], ids=repr)
def test_an_error_without_an_errno_is_a_signal_handlers_and_comes_out(
    pair: Pair, error: OSError
) -> None:
    class Interrupted:
        def send(self, _: bytes) -> int:
            raise error

        def recv_into(self, _: memoryview) -> int:
            raise error

    made = timed(pair[0])
    made._socket = Interrupted()  # type: ignore[assignment]
    for wait in (
        lambda: made.send(b"x"),
        lambda: made.receive(memoryview(bytearray(9))),
    ):
        with pytest.raises(type(error)) as caught:
            wait()
        assert caught.value is error


def test_what_is_there_now_is_received_without_waiting(pair: Pair) -> None:
    made = timed(pair[0])
    room = memoryview(bytearray(9))
    assert made.receive_now(room) is None
    pair[1].sendall(b"abc")
    assert made.receive_now(room) == 3
    pair[1].close()
    assert made.receive_now(room) == 0


def test_a_system_without_poll_waits_all_the_same(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(select, "poll")  # as on Windows
    made = timed(pair[0])
    assert not made.can_read()
    receive_late(made)
    pair[1].sendall(b"abc")
    assert made.can_read()
    assert receive(made) == b"abc"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux waits for more than a byte")
def test_a_reader_that_waits_for_more_gets_it_in_one_piece(pair: Pair) -> None:
    made = timed(pair[0], timeout=20, kernel_wait=20.0)
    pair[1].sendall(b"+OK\r\n")
    pair[1].sendall(b"$-1\r\n")
    assert receive(made, more_than=5) == b"+OK\r\n$-1\r\n"
    pair[1].sendall(b"x")
    assert receive(made) == b"x"


def test_a_system_that_cannot_wait_for_more_waits_for_any(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Plain(socket.socket):
        def setsockopt(self, level: int, option: int, *value: object) -> None:  # type: ignore[override]
            if option == socket.SO_RCVLOWAT:
                raise OSError(errno.ENOPROTOOPT, "Protocol not available")
            super().setsockopt(level, option, *value)  # type: ignore[arg-type]

    with Plain(fileno=pair[0].detach()) as sock:
        made = timed(sock)
        pair[1].sendall(b"+OK\r\n")
        assert receive(made, more_than=5) == b"+OK\r\n"

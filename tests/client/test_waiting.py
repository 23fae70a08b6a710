"""Each wait of a socket ends: with data, at the peer's end, or at its deadline."""

from __future__ import annotations

import errno
import select
import socket
import sys
from collections.abc import Iterator
from time import monotonic

import pytest

from faktory.client.waiting import DeadlinePassed, TimedSocket

SOON = 0.5
"""Seconds for a wait that is to end at its deadline."""

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def timed(sock: socket.socket, *, tls: bool = False, **options: float) -> TimedSocket:
    made = TimedSocket(sock, tls=tls, **options)
    if not made.kernel_waits:
        made.set_timeout(SOON)
    return made


def receive(made: TimedSocket, more_than: int = 0) -> bytes:
    """Receive until there is something."""
    room = bytearray(100)
    deadline = monotonic() + 20
    while (count := made.receive(memoryview(room), deadline, more_than)) is None:
        pass
    return bytes(room[:count])


waits_in_python = pytest.mark.parametrize("tls", [False, True], ids=["kernel", "Python"])
"""Of TLS nothing but the waiting is meant here."""


@waits_in_python
def test_what_is_there_is_received_and_the_end_is_empty(pair: Pair, tls: bool) -> None:
    made = timed(pair[0], tls=tls)
    pair[1].sendall(b"abc")
    assert made.can_read()
    assert receive(made) == b"abc"
    pair[1].close()
    assert receive(made) == b""


@waits_in_python
def test_nothing_in_time_is_a_deadline_that_has_passed(pair: Pair, tls: bool) -> None:
    made = timed(pair[0], tls=tls)
    assert not made.can_read()
    with pytest.raises(DeadlinePassed):
        made.receive(memoryview(bytearray(9)), monotonic() + SOON)


def test_a_deadline_that_has_passed_already_is_not_waited_for(pair: Pair) -> None:
    pair[1].sendall(b"late")
    with pytest.raises(DeadlinePassed):
        timed(pair[0]).receive(memoryview(bytearray(9)), monotonic() - 1)


@waits_in_python
def test_a_peer_that_reads_nothing_is_a_deadline_that_has_passed(pair: Pair, tls: bool) -> None:
    made = timed(pair[0], tls=tls)
    deadline = monotonic() + SOON

    def send_more_than_there_is_room_for() -> None:
        while made.send(b"x" * 100_000, deadline) is not None:
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
        lambda: made.send(b"x", monotonic() + 20),
        lambda: made.receive(memoryview(bytearray(9)), monotonic() + 20),
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


def test_without_poll_there_may_always_be_something_to_read(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(select, "poll")  # as on Windows
    assert timed(pair[0]).can_read()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux waits for more than a byte")
def test_a_reader_that_waits_for_more_gets_it_in_one_piece(pair: Pair) -> None:
    made = timed(pair[0], kernel_wait=20.0)
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

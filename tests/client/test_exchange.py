"""The first try of an exchange: both implementations, on a pair of sockets of the system."""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any

import pytest

from faktory.client.waiting import TimedSocket, is_plain
from faktory.proto import NEED_DATA, ReplyParser
from faktory.wire import commands
from faktory.wire.commands import Command
from faktory.wire.session import Answer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no socket blocks for a moment")

PUSH = commands.push({"jid": "12345678", "jobtype": "Resize", "args": []})
INFO = commands.info()
OK = b"+OK\r\n"
ROOM = 4096
LONG = 20.0
"""Seconds that a socket blocks where the test does not wait for the end of that."""


@pytest.fixture(params=["_exchange_py", "_exchange"])
def kind(request: pytest.FixtureRequest) -> Any:
    """The class Exchange of each implementation in turn."""
    try:
        return import_module(f"faktory.{request.param}").Exchange
    except ModuleNotFoundError as error:
        if error.name != f"faktory.{request.param}":
            raise
        pytest.skip("the compiled core was not built")


class Ends:
    """Both ends of a connection over TCP, and an exchange at ours."""

    def __init__(self, kind: Any, kernel_wait: float = 0.005) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.ours = socket.create_connection(listener.getsockname())
            self.theirs, _ = listener.accept()
        for sock in (self.ours, self.theirs):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.timed = TimedSocket(self.ours, tls=False, kernel_wait=kernel_wait)
        self.parser = ReplyParser()
        self.exchange = kind(self.ours, self.timed.can_read, self.parser)

    def run(self, *sent: Command[Any]) -> Any:
        return self.exchange.run(list(sent))

    def reset(self) -> None:
        self.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.theirs.close()

    def wait_until_readable(self) -> None:
        self.timed.start(LONG)
        assert self.timed._ready(False, LONG)

    def received(self) -> bytes:
        self.theirs.setblocking(False)
        with suppress(BlockingIOError):
            return self.theirs.recv(100_000)
        return b""


@pytest.fixture
def ends(kind: Any) -> Iterator[Callable[..., Ends]]:
    made: list[Ends] = []

    def make(**options: float) -> Ends:
        made.append(Ends(kind, **options))
        return made[-1]

    yield make
    for each in made:
        each.ours.close()
        each.theirs.close()


def answering(each: Ends, *steps: bytes | Callable[[], object]) -> threading.Thread:
    """Read a line at their end, then send or call these."""

    def play() -> None:
        line = b""
        while not line.endswith(b"\n"):
            line += each.theirs.recv(100_000)
        for step in steps:
            if isinstance(step, bytes):
                each.theirs.sendall(step)
            else:
                step()

    thread = threading.Thread(target=play, daemon=True)
    thread.start()
    return thread


def test_an_ok_is_the_answer_itself(ends):
    each = ends(kernel_wait=LONG)
    thread = answering(each, OK)
    (answer,) = each.run(PUSH)
    thread.join()
    assert type(answer) is Answer
    assert answer == (PUSH, None, None)
    assert len(each.parser) == 0


@pytest.mark.parametrize(
    "reply",
    [b"-ERR no\r\n", b"+OK\r\n+OK\r\n", b"+OK\r\n+", b"+O", b"+", b"$-1\r\n", b"junk", b"$9\r\n{"],
)
def test_anything_else_is_for_the_parser(ends, reply):
    each = ends(kernel_wait=LONG)
    thread = answering(each, reply)
    assert each.run(PUSH) == len(PUSH.data)
    thread.join()
    assert len(each.parser) == len(reply)


def test_an_ok_that_the_command_reads_in_its_own_way_is_for_the_parser(ends):
    each = ends(kernel_wait=LONG)
    thread = answering(each, OK)
    assert each.run(INFO) == len(INFO.data)
    thread.join()
    assert each.parser.next() == "OK"


def test_of_a_long_answer_only_the_beginning_is_received(ends):
    each = ends(kernel_wait=LONG)
    reply = b"$10000\r\n" + b"x" * 10_000 + b"\r\n"
    thread = answering(each, reply)
    assert each.run(INFO) == len(INFO.data)
    thread.join()
    assert 0 < len(each.parser) <= ROOM
    assert each.parser.next() is NEED_DATA
    while (value := each.parser.next()) is NEED_DATA:
        each.parser.feed(each.ours.recv(100_000))
    assert value == b"x" * 10_000


def test_without_an_answer_in_time_the_count_of_what_was_sent_is_returned(ends):
    each = ends()
    assert each.run(PUSH) == len(PUSH.data)
    assert each.received() == PUSH.data
    assert len(each.parser) == 0


@pytest.mark.parametrize("end", ["closed", "reset", "stray"])
def test_nothing_is_sent_unless_the_connection_is_open_and_silent(ends, end):
    each = ends()
    if end == "stray":
        each.theirs.sendall(b"+")
    elif end == "closed":
        each.theirs.shutdown(socket.SHUT_WR)
    else:
        each.reset()
    each.wait_until_readable()
    assert each.run(PUSH) is None
    if end != "reset":
        assert each.received() == b""
    assert len(each.parser) == 0


def test_nothing_is_sent_while_the_parser_has_what_nobody_took(ends):
    each = ends()
    each.parser.feed(b"+O")
    assert each.run(PUSH) is None
    assert each.received() == b""


def test_several_commands_are_left_to_the_ordinary_way(ends):
    each = ends()
    assert each.run(PUSH, PUSH) is None
    assert each.received() == b""


def test_a_peer_that_closes_instead_of_answering_is_left_to_the_ordinary_way(ends):
    each = ends(kernel_wait=LONG)
    thread = answering(each, each.theirs.close)
    assert each.run(PUSH) == len(PUSH.data)
    thread.join()
    assert each.ours.recv(1) == b""


def test_a_reset_instead_of_an_answer_is_returned_as_the_systems_error(ends):
    each = ends(kernel_wait=LONG)
    thread = answering(each, each.reset)
    error = each.run(PUSH)
    thread.join()
    assert type(error) is ConnectionResetError
    assert (error.errno, error.strerror) == (errno.ECONNRESET, os.strerror(errno.ECONNRESET))


def test_what_does_not_fit_is_not_sent_and_the_count_says_how_much_was(ends):
    each = ends()
    large = Command("LARGE", b"x" * 50_000_000 + b"\r\n", lambda reply: reply, False)
    counts = list(iter(lambda: each.run(large), 0))  # until there is no room left
    assert 0 < sum(counts) < len(large.data)


def test_nothing_is_sent_on_a_socket_that_was_closed(ends):
    each = ends()
    each.ours.close()
    assert each.run(PUSH) is None


def test_sending_on_a_socket_whose_other_direction_has_ended_raises(ends):
    each = ends()
    each.ours.shutdown(socket.SHUT_WR)
    with pytest.raises(BrokenPipeError) as caught:
        each.run(PUSH)
    assert caught.value.errno == errno.EPIPE


class Mine(Exception):
    """What a signal handler raises."""


@pytest.fixture
def handler() -> Iterator[Callable[[Callable[..., object]], None]]:
    before = signal.getsignal(signal.SIGALRM)
    yield lambda handle: signal.signal(signal.SIGALRM, handle)
    signal.signal(signal.SIGALRM, before)


def interrupt() -> None:
    ident = threading.main_thread().ident
    assert ident is not None
    signal.pthread_kill(ident, signal.SIGALRM)


def test_a_signal_handlers_error_comes_out_of_the_wait(ends, handler):
    def raise_mine(*_: object) -> None:
        raise Mine

    handler(raise_mine)
    each = ends(kernel_wait=LONG)
    thread = answering(each, interrupt)
    with pytest.raises(Mine):
        each.run(PUSH)
    thread.join()


def test_a_signal_whose_handler_returns_does_not_lose_the_answer(ends, handler):
    calls: list[int] = []
    each = ends(kernel_wait=LONG)

    def handle(*_: object) -> None:
        calls.append(1)
        each.theirs.sendall(OK)

    handler(handle)
    thread = answering(each, interrupt)
    result = each.run(PUSH)
    thread.join()
    assert calls == [1]
    assert isinstance(result, list) or (result, each.ours.recv(9)) == (len(PUSH.data), OK)


def test_other_threads_run_while_it_waits(ends):
    each = ends(kernel_wait=LONG)
    done: list[int] = []
    thread = answering(each, lambda: done.append(sum(range(1000))), OK)
    assert isinstance(each.run(PUSH), list)
    assert done
    thread.join()


def test_a_socket_with_methods_of_its_own_is_not_plain():
    class Wrapped(socket.socket):
        def send(self, *args: Any) -> int:
            return super().send(*args)

    with socket.socket() as plain, Wrapped() as wrapped:
        assert is_plain(plain)
        assert not is_plain(wrapped)


ANSWERS = [OK, b"-ERR no\r\n", b"$2\r\n{}\r\n", b"$-1\r\n", b":5\r\n", b"+QUEUED\r\n", b"junk\r\n"]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_peer_does_both_implementations_say_the_same(seed):
    pytest.importorskip("faktory._exchange")
    outcomes = []
    for name in ("_exchange_py", "_exchange"):
        made = random.Random(seed)
        each = Ends(import_module(f"faktory.{name}").Exchange, kernel_wait=LONG)
        seen: list[object] = []
        try:
            for _ in range(6):
                answer = made.choice(ANSWERS) * made.choice([1, 1, 1, 2])
                answer = answer[: made.choice([len(answer), made.randrange(1, len(answer) + 1)])]
                end = made.choice(["", "", "", "close", "reset"])
                steps: list[Any] = [each.reset] if end == "reset" else [answer]
                steps += [each.theirs.close] if end == "close" else []
                thread = answering(each, *steps)
                result = each.run(PUSH)
                thread.join(LONG)
                seen.append(repr(result) if isinstance(result, OSError) else result)
                seen.append(len(each.parser))
                if end:
                    break
                each.parser = ReplyParser()
                each.exchange = type(each.exchange)(each.ours, each.timed.can_read, each.parser)
        finally:
            each.ours.close()
            with suppress(OSError):
                each.theirs.shutdown(socket.SHUT_RDWR)
            each.theirs.close()
        outcomes.append(seen)
    assert outcomes[0] == outcomes[1]

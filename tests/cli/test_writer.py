from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from faktory.cli.worker import turns
from faktory.cli.worker import writer as module
from faktory.cli.worker.writer import MAX_ENTRIES, Writer

from .support import WaitUntil

Make = Callable[[int], Writer]


class Pipe:
    """A pipe that is read only when a test does so."""

    def __init__(self) -> None:
        self.reader, self.descriptor = os.pipe()
        os.set_blocking(self.reader, False)
        self.got = b""

    def read(self) -> list[str]:
        """Return all whole lines that have come up to now."""
        with suppress(BlockingIOError):
            while piece := os.read(self.reader, 1 << 20):
                self.got += piece
        return self.got.decode().split("\n")[:-1]

    def close(self) -> None:
        for descriptor in (self.reader, self.descriptor):
            with suppress(OSError):
                os.close(descriptor)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.read()
    pipe.close()


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, wait_until: WaitUntil) -> Iterator[Make]:
    """Make a writer with short times; afterwards it writes to no descriptor of another test."""
    made: list[Writer] = []
    monkeypatch.setattr(module, "MAX_WAIT", 0.1)
    monkeypatch.setattr(module, "RETRY_INTERVAL", 0.05)

    def make(descriptor: int) -> Writer:
        writer = Writer(descriptor, lambda count, why: f"{count} lines were dropped: {why}")
        writer.run_in_background()
        made.append(writer)
        return writer

    yield make
    for writer in made:
        writer._descriptor = os.open(os.devnull, os.O_WRONLY)
        writer._socket = 0
        wait_until(lambda writer=writer: writer._lines.empty() and writer._since is None)
        os.close(writer._descriptor)


def fill(descriptor: int) -> None:
    """Fill a pipe, so that a write to it would wait."""
    os.set_blocking(descriptor, False)
    with suppress(BlockingIOError):
        while True:
            os.write(descriptor, b"." * 4095 + b"\n")
    os.set_blocking(descriptor, True)


def stick(writer: Writer, wait_until: WaitUntil) -> None:
    """Let a writer take a line that it cannot write."""
    writer.put("stuck")
    wait_until(lambda: writer._since is not None)


def test_lines_are_written_in_order_and_once(make: Make, pipe: Pipe) -> None:
    writer = make(pipe.descriptor)
    for number in range(3000):
        writer.put(str(number))
        if number % 500 == 0:
            pipe.read()
    writer.flush(20)
    assert pipe.read() == [str(number) for number in range(3000)]


@pytest.mark.parametrize("moment", ["sleep", "monotonic"])
def test_a_queue_that_had_room_meanwhile_is_waited_for_again(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The writer's thread notes that there is room at any moment, and others take it at once."""
    writer = Writer(pipe.descriptor, lambda count, why: f"{count} lines were dropped: {why}")
    for _ in range(MAX_ENTRIES):
        writer._lines.put(b"")
    times = iter(range(5))
    real = time.monotonic()

    def step(*_: float) -> float:
        number = next(times)
        if number == 2:
            writer._full_since = None
        elif number == 4:
            writer._lines.get()
        return real

    monkeypatch.setattr(module, moment, step)
    if moment == "monotonic":
        monkeypatch.setattr(module, "sleep", lambda _: None)
    assert writer._has_room()


def test_lines_of_many_threads_are_whole(make: Make, pipe: Pipe, wait_until: WaitUntil) -> None:
    writer = make(pipe.descriptor)

    def log(letter: str) -> None:
        for _ in range(30):
            writer.put(letter * 3000)

    threads = [threading.Thread(target=log, args=(letter,)) for letter in "abcdefgh"]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(pipe.read()) == 240)
    assert sorted(pipe.read()) == [letter * 3000 for letter in "abcdefgh" for _ in range(30)]


def test_a_line_that_is_waited_for_is_there(make: Make, pipe: Pipe) -> None:
    writer = make(pipe.descriptor)
    for number in range(20):
        writer.put("and the one before")
        writer.put("now", wait=True)
        assert pipe.read()[-2:] == ["and the one before", "now"]
        assert len(pipe.read()) == 2 * number + 2


@pytest.mark.parametrize("blocking", [True, False])
def test_lines_that_nobody_reads_are_dropped_counted_and_the_count_is_said(
    make: Make, pipe: Pipe, wait_until: WaitUntil, blocking: bool
) -> None:
    fill(pipe.descriptor)
    os.set_blocking(pipe.descriptor, blocking)
    writer = make(pipe.descriptor)
    stick(writer, wait_until)
    for number in range(MAX_ENTRIES + 500):
        writer.put(str(number))
    started = time.monotonic()
    for _ in range(100):
        writer.put("dropped", wait=True)
    assert time.monotonic() - started < 10  # far less: 0.1 s at most, of all
    wait_until(lambda: {"600 lines were dropped: they were not read in time"} < {*pipe.read()})
    wait_until(lambda: str(MAX_ENTRIES - 1) in pipe.read())
    lines = [line for line in pipe.read() if line[0] != "." and "dropped" not in line]
    assert lines == ["stuck", *map(str, range(MAX_ENTRIES))]
    writer.put("after")
    wait_until(lambda: pipe.read()[-1] == "after")


def test_no_line_is_waited_for_behind_many_others(
    make: Make, pipe: Pipe, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(pipe.descriptor)
    writer = make(pipe.descriptor)
    stick(writer, wait_until)
    for number in range(MAX_ENTRIES // 2):
        writer.put(str(number))
    monkeypatch.setattr(writer, "flush", lambda: pytest.fail("it waits"))
    writer.put("an error", wait=True)


def test_a_short_while_without_a_reader_loses_nothing(
    make: Make, pipe: Pipe, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAIT", 20)
    fill(pipe.descriptor)
    writer = make(pipe.descriptor)
    stick(writer, wait_until)
    for number in range(MAX_ENTRIES):
        writer.put(str(number))
    waiting = threading.Thread(target=writer.put, args=("last",))
    waiting.start()
    wait_until(lambda: writer._full_since is not None)
    wait_until(lambda: pipe.read()[-1] == "last")
    waiting.join()
    assert not any("dropped" in line for line in pipe.read())


def test_what_waits_is_bounded_in_bytes(make: Make, pipe: Pipe, wait_until: WaitUntil) -> None:
    fill(pipe.descriptor)
    writer = make(pipe.descriptor)
    stick(writer, wait_until)
    for _ in range(200):
        writer.put("x" * 100_000)
    assert next(writer._drops) == 200 - (MAX_ENTRIES // 98 + 1)
    wait_until(lambda: any("lines were dropped" in line for line in pipe.read()))


def test_a_line_is_not_torn_where_a_pipe_is_full(
    make: Make, pipe: Pipe, wait_until: WaitUntil
) -> None:
    os.set_blocking(pipe.descriptor, False)
    writer = make(pipe.descriptor)
    for _ in range(2000):
        writer.put("x" * 99)
    wait_until(lambda: writer._rest and not select.select([], [pipe.descriptor], [], 0)[1])
    lines = pipe.read()  # and nothing of the next one
    assert pipe.got.endswith(b"\n")
    assert {len(line) for line in lines} == {99}
    wait_until(lambda: len(pipe.read()) == 2000)


def test_a_reader_that_is_gone_is_survived(make: Make, pipe: Pipe, wait_until: WaitUntil) -> None:
    os.close(pipe.reader)
    writer = make(pipe.descriptor)
    writer.put("lost")
    wait_until(lambda: writer._failing)
    for _ in range(2 * MAX_ENTRIES):
        writer.put("lost")
    writer.put("an error", wait=True)
    writer.close()
    assert isinstance(writer._error, BrokenPipeError)
    pipe.reader, other = os.pipe()
    os.set_blocking(pipe.reader, False)
    os.dup2(other, pipe.descriptor)  # another reader takes its place
    os.close(other)
    wait_until(lambda: any("lines were dropped" in line for line in pipe.read()))
    assert pipe.read()[0] == "lost"
    assert pipe.read()[-1].endswith("they could not be written: Broken pipe")


def test_a_full_disk_is_survived_and_what_waits_is_written_when_there_is_room(
    make: Make, pipe: Pipe, wait_until: WaitUntil
) -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    writer = make(descriptor)
    writer.put("first")
    wait_until(lambda: writer._failing)
    assert isinstance(writer._error, OSError)
    assert writer._error.errno == errno.ENOSPC
    writer.put("second")
    os.dup2(pipe.descriptor, descriptor)
    wait_until(lambda: pipe.read() == ["first", "second"])
    os.close(descriptor)


def test_a_line_that_breaks_off_is_ended_and_counted(
    make: Make, pipe: Pipe, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make(pipe.descriptor)
    write, answers = os.write, iter([4, OSError(errno.ENOSPC, "full")])

    def breaks(descriptor: int, data: bytes) -> int:
        answer: Any = next(answers, None) if descriptor == pipe.descriptor else None
        if isinstance(answer, OSError):
            raise answer
        return write(descriptor, data[:answer])

    monkeypatch.setattr(os, "write", breaks)
    writer.put("broken off")
    wait_until(lambda: writer._dropped or "lines were dropped" in "".join(pipe.read()))
    writer.put("whole")
    wait_until(lambda: "whole" in pipe.read() and "dropped" in "".join(pipe.read()))
    assert pipe.read()[0] == "brok"
    assert "1 lines were dropped: they could not be written: full" in pipe.read()


def test_a_connection_that_gets_the_number_of_a_closed_log_is_not_written_to(
    make: Make, wait_until: WaitUntil
) -> None:
    descriptor = os.open(os.devnull, os.O_WRONLY)
    writer = make(descriptor)
    ours, theirs = socket.socketpair()
    os.dup2(theirs.fileno(), descriptor)
    writer.put("secret")
    wait_until(lambda: writer._failing)
    assert select.select([ours], [], [], 0)[0] == []
    os.close(descriptor)
    ours.close()
    theirs.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes take turns where there is fork")
def test_a_file_that_gets_the_number_of_the_lock_file_is_not_locked(
    make: Make, pipe: Pipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job has closed all descriptors, and opened a database."""
    import fcntl

    writer = make(pipe.descriptor)
    locked: list[int] = []
    lockf = fcntl.lockf

    def record(number: int, *how: int) -> None:
        if number == writer._turns.descriptor:  # not a writer of another test
            locked.append(number)
        lockf(number, *how)

    monkeypatch.setattr(fcntl, "lockf", record)
    writer.put("alone", wait=True)
    assert locked == []  # no other process writes here
    assert in_child(lambda: None) == 0
    writer.put("first", wait=True)
    assert set(locked) == {writer._turns.descriptor}
    locked.clear()
    with open(tmp_path / "database", "wb") as file:
        os.dup2(file.fileno(), writer._turns.descriptor or -1)
        writer.put("second", wait=True)
    assert pipe.read() == ["alone", "first", "second"]
    assert locked == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes take turns where there is fork")
def test_from_a_fork_on_a_process_takes_turns_also_in_the_middle_of_what_it_writes(
    make: Make, pipe: Pipe, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    writer = make(pipe.descriptor)
    calls: list[str] = []
    lockf, write = fcntl.lockf, os.write

    def forks(descriptor: int, data: bytes) -> int:
        if descriptor == pipe.descriptor:
            calls.append("write")
            writer._reset_before_fork()
        return write(descriptor, data)

    monkeypatch.setattr(
        fcntl, "lockf", lambda number, how: calls.append("lock") or lockf(number, how)
    )
    monkeypatch.setattr(module.os, "write", forks)
    writer._lines.put(b"".join(b"%d\n" % number for number in range(2000)))
    writer.flush(20)
    assert pipe.read() == [str(number) for number in range(2000)]
    assert calls[:2] == ["write", "lock"]
    assert calls[-1] == "lock"
    assert calls.count("write") > 2
    assert calls.count("lock") == 2


def test_what_waits_goes_to_a_file_at_once(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    write = os.write
    with open(tmp_path / "log", "wb") as file:
        writer = make(file.fileno())

        def count(descriptor: int, data: bytes) -> int:
            if descriptor == file.fileno():
                sizes.append(len(data))
            return write(descriptor, data)

        monkeypatch.setattr(module.os, "write", count)
        writer._lines.put(b"line\n" * 10_000)
        writer.flush(20)
        assert sizes == [50_000]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes take turns where there is fork")
def test_a_process_that_keeps_its_turn_silences_no_other(make: Make, pipe: Pipe) -> None:
    import fcntl

    writer = make(pipe.descriptor)

    def keep_the_turn() -> None:
        fcntl.lockf(writer._turns.descriptor or -1, fcntl.LOCK_EX)
        os.write(ready[1], b"x")
        os.read(go_on[0], 1)

    ready, go_on = os.pipe(), os.pipe()
    child = Thread(target=in_child, args=(keep_the_turn,))
    child.start()
    os.read(ready[0], 1)
    writer.put("written", wait=True)
    writer.flush(timeout=20)
    assert pipe.read() == ["written"]
    os.write(go_on[1], b"x")
    child.join()
    for descriptor in (*ready, *go_on):
        os.close(descriptor)


def test_a_log_that_is_a_socket_from_the_start_is_written_to(make: Make) -> None:
    ours, theirs = socket.socketpair()  # as of systemd
    writer = make(theirs.fileno())
    writer.put("line", wait=True)
    assert ours.recv(100) == b"line\n"
    ours.close()
    theirs.close()


def in_child(function: Callable[[], object]) -> int:
    """Call a function in a forked child; return its exit code."""
    pid = os.fork()
    if not pid:
        try:
            function()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_writes_its_own_lines_and_none_of_its_parents(
    make: Make, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module.Thread, "start", lambda _: None)
        writer = make(pipe.descriptor)
    writer.put("queued")

    def child() -> None:
        writer.put("of the child")
        writer.put("and another")  # and it ends, at once

    assert in_child(child) == 0
    assert pipe.read() == ["of the child", "and another"]
    threading.Thread(target=writer._run, daemon=True).start()
    writer.flush(20)
    assert pipe.read()[2:] == ["queued"]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_waits_a_second_at_most_for_a_log_that_nobody_reads(make: Make, pipe: Pipe) -> None:
    writer = make(pipe.descriptor)
    fill(pipe.descriptor)
    assert in_child(lambda: [writer.put("text") for _ in range(1000)]) == 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_long_lines_of_several_processes_do_not_mix(
    make: Make, pipe: Pipe, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAIT", 20.0)  # after that a process writes without its turn
    writer = make(pipe.descriptor)
    os.set_blocking(pipe.descriptor, True)
    pids = []
    for letter in "abc":
        pids.append(os.fork())
        if not pids[-1]:
            writer.run_in_background()
            for _ in range(100):
                writer.put(letter * 20_000)
            writer.flush(30)
            os._exit(0)
    wait_until(lambda: len(pipe.read()) == 300)
    for pid in pids:
        os.waitpid(pid, 0)
    assert {len(line) for line in pipe.read()} == {20_000}
    assert {len(set(line)) for line in pipe.read()} == {1}


def test_without_a_thread_lines_are_written_all_the_same(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module.Thread, "start", no_thread)
    writer = Writer(pipe.descriptor, lambda *_: "")
    writer.run_in_background()
    writer.put("first")
    writer.put("second", wait=True)
    writer.close()
    assert pipe.read() == ["first", "second"]


def test_no_folder_to_write_in_is_needed(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(turns, "TemporaryFile", full)
    writer = Writer(pipe.descriptor, lambda *_: "")
    writer.put("line", wait=True)
    assert pipe.read() == ["line"]

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from faktory.exceptions import Shutdown
from faktory.worker import interrupts

from .conftest import WaitUntil


class Thread:
    """A thread that runs a function, and the exception that ended it."""

    def __init__(self, target: Callable[[], object]) -> None:
        self.target = target
        self.ended_by: type[BaseException] | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.target()
        except BaseException as error:
            self.ended_by = type(error)

    def interrupt(self) -> bool:
        assert self.thread.ident is not None
        return interrupts.raise_in(self.thread.ident, Shutdown)


class Gate:
    """A lock whose `acquire` is a function in Python, as locks of `threading` and `logging` are."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()
        self.waits = False

    def acquire(self) -> None:
        self.waits = True
        self.lock.acquire()


@pytest.fixture
def handler() -> Iterator[logging.Handler]:
    handler = logging.NullHandler()
    handler.lock = threading.RLock()
    logging.getLogger("test.interrupts").addHandler(handler)
    yield handler
    logging.getLogger("test.interrupts").removeHandler(handler)


def at(thread: threading.Thread) -> str:
    """Return the name of the function that a thread is in."""
    assert thread.ident is not None
    frame = sys._current_frames().get(thread.ident)
    return "" if frame is None else frame.f_code.co_name


def test_an_exception_is_raised_in_another_thread(wait_until: WaitUntil) -> None:
    over = threading.Event()

    def loop() -> None:
        while not over.is_set():
            pass

    thread = Thread(loop)
    wait_until(thread.interrupt)
    thread.thread.join(10)
    over.set()
    assert thread.ended_by is Shutdown


def test_a_thread_that_acquires_a_lock_is_not_interrupted(wait_until: WaitUntil) -> None:
    gate = Gate()
    thread = Thread(gate.acquire)
    wait_until(lambda: gate.waits)
    assert [thread.interrupt() for _ in range(10)] == [False] * 10
    gate.lock.release()
    thread.thread.join(10)
    assert thread.ended_by is None


@pytest.mark.skipif(sys.version_info < (3, 14), reason="before 3.14 nothing is raised there")
def test_a_thread_that_waits_for_the_lock_of_a_with_is_not_interrupted(
    wait_until: WaitUntil,
) -> None:
    lock = threading.Lock()
    lock.acquire()

    def wait() -> None:
        with lock:
            pass

    thread = Thread(wait)
    wait_until(lambda: at(thread.thread) == "wait")
    assert [thread.interrupt() for _ in range(10)] == [False] * 10
    lock.release()
    thread.thread.join(10)
    assert (thread.ended_by, lock.locked()) == (None, False)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="since 3.14 it is raised there")
def test_an_exception_that_was_not_raised_yet_can_be_raised(wait_until: WaitUntil) -> None:
    lock = threading.Lock()
    lock.acquire()
    raised: list[bool] = []

    def wait() -> None:
        with lock:  # Python 3.11 to 3.13 do not look for an exception here
            try:
                interrupts.absorb()
            except Shutdown:
                raised.append(True)

    thread = Thread(wait)
    wait_until(lambda: at(thread.thread) == "wait")
    assert thread.interrupt()
    lock.release()
    thread.thread.join(10)
    assert (raised, thread.ended_by, lock.locked()) == ([True], None, False)
    sys.setprofile(lambda *_: None)  # Python 3.11 hangs here if it still looks for an exception
    try:
        assert threading.get_ident()
        wait_until(lambda: True)
    finally:
        sys.setprofile(None)


def test_a_thread_releases_the_locks_of_the_log_that_it_holds(handler: logging.Handler) -> None:
    assert handler.lock is not None
    handler.acquire()
    handler.acquire()
    interrupts.release_locks()
    other = Thread(lambda: handler.acquire())
    other.thread.join(10)
    assert not other.thread.is_alive()
    assert other.ended_by is None
    interrupts.release_locks()  # the other thread has it now, and keeps it
    assert not handler.lock.acquire(blocking=False)

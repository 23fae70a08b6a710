"""Signals within a block, and as they were after it."""

from __future__ import annotations

import os
import signal
from threading import Thread

from faktory.worker.signals import handled

NAMES = ("SIGTERM", "SIGINT", "SIGTSTP", "SIGTTIN")


def test_each_signal_is_answered_by_its_own_within_the_block_and_as_before_after_it() -> None:
    before = [signal.getsignal(getattr(signal, name)) for name in NAMES]
    calls: list[str] = []
    with handled({name: lambda name=name: calls.append(name) for name in NAMES}):  # type: ignore[misc]
        for name in NAMES:
            os.kill(os.getpid(), getattr(signal, name))
        assert calls == list(NAMES)
    assert [signal.getsignal(getattr(signal, name)) for name in NAMES] == before


def test_a_signal_that_the_platform_lacks_is_left_out() -> None:
    calls: list[int] = []
    with handled({"SIGNEVER": lambda: None, "SIGTERM": lambda: calls.append(1)}):
        os.kill(os.getpid(), signal.SIGTERM)
    assert calls == [1]


def test_another_thread_leaves_signals_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def look() -> None:
        with handled({"SIGTERM": lambda: None}):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]

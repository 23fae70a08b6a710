"""Signal handlers within a block, which are restored after it."""

from __future__ import annotations

import os
import signal
from threading import Thread

from faktory.worker.signals import handled

NAMES = ("SIGTERM", "SIGINT", "SIGTSTP", "SIGTTIN")


def test_each_signal_calls_its_function_within_the_block_and_its_old_handler_after_it() -> None:
    before = [signal.getsignal(getattr(signal, name)) for name in NAMES]
    calls: list[str] = []
    with handled({name: lambda name=name: calls.append(name) for name in NAMES}):  # type: ignore[misc]
        for name in NAMES:
            os.kill(os.getpid(), getattr(signal, name))
        assert calls == list(NAMES)
    assert [signal.getsignal(getattr(signal, name)) for name in NAMES] == before


def test_a_signal_that_the_platform_does_not_have_is_ignored() -> None:
    calls: list[int] = []
    with handled({"SIGNEVER": lambda: None, "SIGTERM": lambda: calls.append(1)}):
        os.kill(os.getpid(), signal.SIGTERM)
    assert calls == [1]


def test_another_thread_leaves_signals_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def handle() -> None:
        with handled({"SIGTERM": lambda: None}):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = Thread(target=handle)
    thread.start()
    thread.join()
    assert seen == [before]

"""Signals answered for as long as something runs, and after that as they were before."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def answered(answers: Mapping[str, Callable[[], object]]) -> Iterator[None]:
    """Call what belongs to a signal, by its name (`SIGTERM`), when it comes within the block.

    Outside the main thread this does nothing; signals that the platform lacks are left out. What
    is called runs between any two steps of the main thread, so it must take no lock that this may
    hold: `SimpleQueue.put` is safe, `Event.set` is not.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for name, answer in answers.items():
        number = getattr(signal, name, None)
        if number is not None:
            before[number] = signal.signal(number, lambda *_, answer=answer: answer())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

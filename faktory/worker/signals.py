"""Signal handlers that are in place while a block runs, and restored after it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def handled(handlers: Mapping[str, Callable[[], object]]) -> Iterator[None]:
    """Call the handler of a signal, by its name (`SIGTERM`), when it comes within the block.

    Outside the main thread this does nothing; signals that the platform lacks are left out. A
    handler runs between any two steps of the main thread, so it must acquire no lock that this
    may hold: `SimpleQueue.put` is safe, `Event.set` is not.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for name, handler in handlers.items():
        number = getattr(signal, name, None)
        if number is not None:
            before[number] = signal.signal(number, lambda *_, handler=handler: handler())
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, signal.SIG_DFL if previous is None else previous)

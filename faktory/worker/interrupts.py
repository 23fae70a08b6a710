"""An exception raised in another thread, without leaving a lock taken behind it.

Python raises it where that thread stands. If that is between the taking of a lock and the `try`
that would give it back, everybody who wants the lock waits for ever: the log's, say, and then the
worker itself never ends. So nothing is raised there, and the log's locks are looked after anyway.
Since Python 3.14 a `with` has such a place too, and a thread goes on a little before it is struck.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from opcode import opmap
from threading import RLock
from time import sleep
from types import FrameType
from typing import Final

_AT_A_LOCK: Final = frozenset(
    {"acquire", "release", "__enter__", "__exit__", "_acquireLock", "_releaseLock"}
)
"""Functions in Python that take a lock or give it back: of `logging`, `threading` and others."""

_ENTERS_WITH: Final = (opmap.get("LOAD_SPECIAL"), opmap["CALL"])
"""How a `with` calls `__enter__` since Python 3.14: struck there, it does not call `__exit__`."""


def raise_in(thread: int, exception: type[BaseException]) -> bool:
    """Raise in another thread (C API: SetAsyncExc).

    Tell whether that was done: not where it could leave a lock taken, so try again later.
    """
    import ctypes  # costly, and few jobs are interrupted

    sleep(0)  # begin a turn of the interpreter, so that the thread stays where it is seen
    frame = sys._current_frames().get(thread)
    if frame is not None and _at_a_lock(frame):
        return False
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(exception))
    return True


def _at_a_lock(frame: FrameType) -> bool:
    code, at = frame.f_code, frame.f_lasti
    return code.co_name in _AT_A_LOCK or (code.co_code[at - 2], code.co_code[at]) == _ENTERS_WITH


def let_strike() -> None:
    """Be where an exception strikes that was raised in this thread and has not struck yet.

    Python looks for one where a function begins. To take it back, as SetAsyncExc can, would make
    3.11 look for it for ever, at every step: it gets slow, and under a profiler it hangs.
    """


def let_go(*locks: RLock) -> None:
    """Give back these locks and the log's, as far as this thread holds them: it should hold none.

    For a thread that did not stay where it was seen, or stood at a lock that shows in no frame.
    """
    loggers = [logging.root, *logging.root.manager.loggerDict.copy().values()]
    handlers = {handler for logger in loggers for handler in getattr(logger, "handlers", ())}
    for lock in (*locks, *(handler.lock for handler in handlers)):
        if lock is not None:
            with suppress(RuntimeError):  # it is not ours
                while True:
                    lock.release()

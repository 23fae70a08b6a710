"""The stacks of threads, for the log: where a job that does not end is."""

from __future__ import annotations

import sys
import traceback
from threading import Thread

from ..wire.log import Lines


def stack(thread: Thread) -> Lines:
    """Return the stack of a thread as a traceback shows it, the innermost call last."""
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None:
        return Lines("  (it runs no Python code)")
    return Lines("".join(traceback.format_stack(frame)).rstrip())

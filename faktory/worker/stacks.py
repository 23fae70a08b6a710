"""Where threads stand: what the log shows of a job that does not end."""

from __future__ import annotations

import sys
import traceback
from threading import Thread


def stack(thread: Thread) -> str:
    """Return where a thread stands, as a traceback has it, the innermost call last."""
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None:
        return "  (it runs no Python code)"
    return "".join(traceback.format_stack(frame)).rstrip()

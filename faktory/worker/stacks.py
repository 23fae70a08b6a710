"""The stacks of threads, for the log: where a job that does not end is."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from threading import Thread
from types import FrameType

from ..wire.log import Lines


def stack(thread: Thread) -> Lines:
    """Return the stack of a thread as a traceback shows it, the innermost call last."""
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None:
        return Lines("  (it runs no Python code)")
    return Lines("".join(traceback.format_stack(frame)).rstrip())


def coroutine_stack(coroutine: object) -> Lines:
    """Return where a coroutine stands, with those that it awaits, the innermost call last.

    It begins with the program's own code.
    """
    summary = traceback.StackSummary.extract(_frames(coroutine))
    return Lines("".join(summary.format()).rstrip() or "  (it runs no Python code)")


def _frames(coroutine: object) -> Iterator[tuple[FrameType, int]]:
    step: object = coroutine
    while step is not None:
        kind = next((each for each in ("cr", "ag", "gi") if hasattr(step, f"{each}_frame")), None)
        frame: FrameType | None = getattr(step, f"{kind}_frame", None)
        if frame is None:  # a future, say; or it has ended
            return
        if not str(frame.f_globals.get("__name__")).startswith("faktory."):
            yield frame, frame.f_lineno
        step = getattr(step, "gi_yieldfrom" if kind == "gi" else f"{kind}_await", None)

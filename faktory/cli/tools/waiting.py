"""How far the server is with a command that changes many jobs: on a terminal, while it runs.

Rules: a second connection asks for the sizes, once a second, from the second second on. What goes
wrong with that is not shown, and the command does not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import TYPE_CHECKING

from ...exceptions import FaktoryError
from ..exits import ExitError
from . import output

if TYPE_CHECKING:
    from ...client import Client

INTERVAL = 1.0
"""Seconds between two questions."""


@contextmanager
def shown(url: str | None, doing: str, total: int, left: Callable[[Client], int]) -> Iterator[None]:
    """Show how many of `total` jobs are done; `left` asks the server how many are not."""
    if not output.is_live():
        yield
        return
    over = Event()
    with output.progress(doing) as advance:
        thread = Thread(target=_ask, args=(url, total, left, advance, over), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(INTERVAL)


def _ask(
    url: str | None,
    total: int,
    left: Callable[[Client], int],
    advance: output.Advance,
    over: Event,
) -> None:
    from ...client import Client

    if over.wait(INTERVAL):
        return
    with suppress(FaktoryError, ExitError, OSError, ValueError), Client(url) as client:
        while not over.is_set():
            done = max(0, total - left(client))
            if not over.is_set():
                advance(done, min(1.0, done / total) if total else None)
            over.wait(INTERVAL)

"""What `ps` shows of a worker: who it is and how busy, if setproctitle is installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from ... import __version__
from ...worker import Worker

EVERY = 5.0
"""Seconds between two looks."""


def title(worker: Worker, tag: str) -> str:
    """Return the title: `faktory-worker 0.1.0 shop [3 of 10 busy] quiet`."""
    state = "stopping" if worker.is_disconnecting else "quiet" if worker.is_quiet else ""
    busy = f"[{worker.busy} of {worker.concurrency} busy]"
    return " ".join(part for part in ("faktory-worker", __version__, tag, busy, state) if part)


def show_supervisor(tag: str, count: int) -> None:
    """Show the supervisor of `count` workers: `faktory-worker 0.1.0 shop parent of 4`."""
    try:
        from setproctitle import setproctitle
    except ImportError:
        return
    parts = ("faktory-worker", __version__, tag, f"parent of {count}")
    setproctitle(" ".join(part for part in parts if part))


@contextmanager
def shown(worker: Worker, tag: str) -> Iterator[None]:
    """Keep the process's title up to date for a `with` block."""
    try:
        from setproctitle import getproctitle, setproctitle
    except ImportError:
        yield
        return
    before = getproctitle()
    over = Event()

    def show() -> None:
        setproctitle(title(worker, tag))
        while not over.wait(EVERY):
            setproctitle(title(worker, tag))

    thread = Thread(target=show, name="faktory-title", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # a system that is out of threads; the worker will say so
        yield
        return
    try:
        yield
    finally:
        over.set()
        thread.join()
        setproctitle(before)

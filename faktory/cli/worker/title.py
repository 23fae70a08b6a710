"""The title of the process, which `ps` shows, if setproctitle is installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from ... import __version__
from ...wire.validate import fit
from ...worker import Worker


def title(worker: Worker, tag: str) -> str:
    """Return the title: `faktory-worker 0.1.0 shop [3 of 10 busy] quiet`."""
    state = "stopping" if worker.is_disconnecting else "quiet" if worker.is_quiet else ""
    busy = f"[{worker.busy} of {worker.concurrency} busy]"
    parts = ("faktory-worker", __version__, fit(tag), busy, state)
    return " ".join(part for part in parts if part)


def show_supervisor(tag: str, count: int) -> None:
    """Set the title of the parent of `count` workers: `faktory-worker 0.1.0 shop parent of 4`."""
    try:
        from setproctitle import setproctitle
    except ImportError:
        return
    parts = ("faktory-worker", __version__, fit(tag), f"parent of {count}")
    setproctitle(" ".join(part for part in parts if part))


@contextmanager
def shown(worker: Worker, tag: str, update_interval: float = 5.0) -> Iterator[None]:
    """Keep the title up to date within a `with` block."""
    try:
        from setproctitle import getproctitle, setproctitle
    except ImportError:
        yield
        return
    before = getproctitle()
    over = Event()

    def show() -> None:
        setproctitle(title(worker, tag))
        while not over.wait(update_interval):
            setproctitle(title(worker, tag))

    thread = Thread(target=show, name="faktory-title", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the system has no more threads, and starting the worker will fail, too
        yield
        return
    try:
        yield
    finally:
        over.set()
        thread.join()
        setproctitle(before)

"""The settings of this process, and the pool that it pushes through.

The default pool is made with the first push, of `faktory.configure`, the variables of that moment
and the defaults. A forked child pushes to the same server as its parent, over connections of its
own.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from threading import Lock
from typing import TYPE_CHECKING, Any

from ..wire.address import parse
from ..wire.validate import check_timeout
from . import network, settings
from .client import Client
from .pool import Pool, check_size
from .sockets import check_keepalive

if TYPE_CHECKING:
    from ssl import SSLContext

_lock = Lock()
_pool: Pool | None = None


def configure(
    *,
    url: str | None = None,
    pool_size: int | None = None,
    pool_timeout: float | timedelta | None = None,
    timeout: float | timedelta | None = None,
    ssl_context: SSLContext | None = None,
    tcp_keepalive: float | timedelta | None = None,
    enterprise: bool | None = None,
) -> None:
    """Set what counts wherever it is not passed; arguments that are None change nothing.

    It counts for `perform_async` and its like, for every client, pool, producer and worker that is
    made without an address, and for the commands that load the program. A client or worker keeps
    what it was made with. A call drops the default pool; pushes in progress end on the old one.

    Each but `ssl_context` is also a variable, which counts unless it is set here: FAKTORY_URL (or
    the one that FAKTORY_PROVIDER names), FAKTORY_POOL_SIZE, FAKTORY_POOL_TIMEOUT, FAKTORY_TIMEOUT,
    FAKTORY_TCP_KEEPALIVE, FAKTORY_ENTERPRISE. ValueError for a bad value.

    Args:
        url: The server's address.
        pool_size: Connections of the default pool at most (20).
        pool_timeout: Seconds to wait for a free one of them (5).
        timeout: Seconds for connecting and for each answer (10).
        ssl_context: For an address with TLS.
        tcp_keepalive: Seconds without traffic after which the system asks whether the server is
            there (15).
        enterprise: With True the server is taken to know the options of Faktory Enterprise; else it
            is asked before the first job with such options.
    """
    if enterprise is not None and not isinstance(enterprise, bool):
        raise ValueError(f"enterprise is {enterprise!r}: it is True or False.")
    given: dict[str, Any] = {
        "url": None if url is None else parse(url).url,
        "pool_size": None if pool_size is None else check_size(pool_size),
        "pool_timeout": None
        if pool_timeout is None
        else check_timeout("pool_timeout", pool_timeout),
        "timeout": None if timeout is None else check_timeout("timeout", timeout, allow_zero=False),
        "ssl_context": settings.check_context(ssl_context),
        "tcp_keepalive": None
        if tcp_keepalive is None
        else check_keepalive("tcp_keepalive", tcp_keepalive),
        "enterprise": enterprise,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    _use(lambda before: replace(before, **changes))


@contextmanager
def configured(**given: Any) -> Iterator[None]:
    """Use these settings, and no others, for a `with` block; see `configure`."""
    before = _use(lambda _: settings.Settings())
    try:
        configure(**given)
        yield
    finally:
        _use(lambda _: before)


def _use(change: Callable[[settings.Settings], settings.Settings]) -> settings.Settings:
    """Change the settings and drop the default pool; return the settings before."""
    global _pool
    with _lock:
        before = settings.current
        settings.current = change(before)
        old, _pool = _pool, None
    if old is not None:
        old.close()
    return before


def pool() -> Pool:
    """Return the pool that `perform_async` and its like push through, for commands of your own.

    `with faktory.pool().client() as client:` acquires one of its clients. `configure` drops the
    pool, so ask for it each time.
    """
    return default_pool()


def default_pool() -> Pool:
    """Return the pool that this process pushes through."""
    global _pool
    pool = _pool
    if pool is None:
        in_process = network.current.in_process  # before: a test mode may end meanwhile
        with _lock:
            pool = _pool or _make_pool()
            if not in_process:  # a test mode leaves nothing behind
                _pool = pool
    return pool


@contextmanager
def kept() -> Iterator[None]:
    """Drop at the end of a `with` block the default pool that was made inside of it."""
    global _pool
    before = _pool
    try:
        yield
    finally:
        with _lock:
            made = None if _pool is before else _pool
            if made is not None:
                _pool = None
        if made is not None:
            made.close()


def _close() -> None:
    """At the interpreter's exit: let the server see END, not a dead connection."""
    if _pool is not None:
        _pool.close()


atexit.register(_close)


def _reset_after_fork() -> None:
    """In a forked child: make a new lock, as a thread of the parent may have held the old one."""
    global _lock
    _lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


def _make_pool() -> Pool:
    using = settings.current
    url, timeout, keepalive = using.find_url(), using.find_timeout(), using.find_tcp_keepalive()
    context = using.ssl_context
    return Pool(
        lambda: Client(url, timeout=timeout, ssl_context=context, tcp_keepalive=keepalive),
        size=using.find_pool_size(),
        timeout=using.find_pool_timeout(),
    )
